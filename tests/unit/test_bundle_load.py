"""Reading bundles from disk: every way in which the file, its JSON or the root file system can be broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.bundle.default import default_spec
from oci_runtime.bundle.load import (
    MAX_CONFIG_BYTES,
    MAX_DEPTH,
    load_bundle,
    load_resources,
    parse_json_object,
    read_json_object,
)
from oci_runtime.errors import HostError, InvalidInput, NotFound, Unsupported

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(default_spec()))
    return tmp_path


def write(bundle: Path, **changes: Any) -> None:
    (bundle / "config.json").write_text(json.dumps({**default_spec(), **changes}))


def test_a_good_bundle(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(bundle.parent)
    loaded = load_bundle(bundle.name)
    assert loaded.path == str(bundle)
    assert loaded.rootfs == str(bundle / "rootfs")
    assert loaded.raw == default_spec()
    assert loaded.spec.hostname == "vmpod"


def test_root_paths_count_from_the_bundle(bundle: Path) -> None:
    (bundle / "other").mkdir()
    write(bundle, root={"path": "./x/../other/"})
    assert load_bundle(str(bundle)).rootfs == str(bundle / "other")
    write(bundle, root={"path": str(bundle / "rootfs")})
    assert load_bundle(str(bundle)).rootfs == str(bundle / "rootfs")


def test_missing_parts(bundle: Path) -> None:
    with pytest.raises(NotFound, match="bundle .*/nothing does not exist or is not a directory"):
        load_bundle(str(bundle / "nothing"))
    (bundle / "rootfs").rmdir()
    with pytest.raises(NotFound, match="root file system .*/rootfs of bundle .* does not exist"):
        load_bundle(str(bundle))
    assert load_bundle(str(bundle), check_rootfs=False).rootfs == str(bundle / "rootfs")
    (bundle / "config.json").unlink()
    with pytest.raises(NotFound, match="/config.json does not exist"):
        load_bundle(str(bundle))


def test_a_hostile_root_path_stays_on_one_short_line(bundle: Path) -> None:
    write(bundle, root={"path": "x\n" + "y" * 100_000})
    with pytest.raises(NotFound) as caught:
        load_bundle(str(bundle))
    assert caught.value.message.isprintable()
    assert len(caught.value.message) < 1000


def test_a_root_may_be_an_image_file_but_no_other_thing(bundle: Path) -> None:
    write(bundle, root={"path": "config.json"})
    assert load_bundle(str(bundle)).rootfs == str(bundle / "config.json")
    os.mkfifo(bundle / "pipe")
    write(bundle, root={"path": "pipe"})
    with pytest.raises(NotFound, match="is not a directory or disk"):
        load_bundle(str(bundle))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not JSON: line 1 column 1"),
        (b'{"a": 1,\n "b"}', "is not JSON: line 2 column 5"),
        (b'{"a": \xff}', "is not UTF-8: byte 6 is 0xff"),
        (b"[]", "must hold a JSON object, not an array"),
        (b'"x"', 'must hold a JSON object, not "x"'),
        (b'{"a": {"b": 1, "c": 2, "b": 3}}', 'the key "b" occurs twice in one object'),
        (b'{"a": NaN}', "NaN is not JSON"),
        (b'{"a": -Infinity}', "-Infinity is not JSON"),
        (b'{"a": [1e999]}', "the number 1e999 is too large"),
        (b'{"a": -1e999}', "the number -1e999 is too large"),
        (b'{"a": ' + b"1" * 5000 + b"}", "Exceeds the limit"),
        (b'{"x": ["\\ud800"]}', "$.x[0] holds half of a surrogate pair"),
        (b'{"x\\uDC00": 1}', "$ holds half of a surrogate pair"),
        (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "nests deeper than 64 levels"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nests deeper than 64 levels"),
        (b'\xef\xbb\xbf{"a": 1}', "is not JSON: line 1 column 1"),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_broken_json(content: bytes, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_json_object(content, "config.json")
    assert message in caught.value.message
    assert caught.value.message.startswith("config.json")
    assert "\n" not in caught.value.message


def test_good_json_is_left_alone() -> None:
    assert parse_json_object(b'{"a": "\\ud83d\\ude00", "b": "\\\\ud800"}', "x") == {"a": "\U0001f600", "b": "\\ud800"}
    assert parse_json_object(b'{"a": 1.5e3}', "x") == {"a": 1500.0}
    deep = b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH
    assert parse_json_object(deep, "x")["a"]


def test_only_regular_files_of_bounded_size(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="is not a regular file"):
        read_json_object(str(tmp_path))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InvalidInput, match="is not a regular file"):
        read_json_object(str(tmp_path / "fifo"))
    (tmp_path / "big").write_bytes(b" " * (MAX_CONFIG_BYTES + 1))
    with pytest.raises(InvalidInput, match=f"is larger than {MAX_CONFIG_BYTES} bytes"):
        read_json_object(str(tmp_path / "big"))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(HostError, match="Too many levels of symbolic links"):
        read_json_object(str(tmp_path / "loop"))


def test_the_error_of_a_bundle_carries_all_errors(bundle: Path) -> None:
    write(bundle, hostname=5, mounts={}, annotations={"a": 1})
    with pytest.raises(InvalidInput) as caught:
        load_bundle(str(bundle))
    assert "$.hostname must be a string, not 5" in caught.value.message
    assert caught.value.message.endswith(f" (and 2 more: vmpod spec check {bundle})")
    assert caught.value.detail.splitlines() == [
        "$.hostname must be a string, not 5",
        "$.mounts must be an array, not an object",
        "$.annotations.a must be a string, not 1",
    ]
    write(bundle, ociVersion="2.0.0")
    with pytest.raises(Unsupported, match='not "2.0.0"$'):
        load_bundle(str(bundle))


def test_resource_files(tmp_path: Path) -> None:
    file = tmp_path / "resources.json"
    file.write_text(json.dumps({"pids": {"limit": 7}}))
    assert load_resources(str(file))[0].pids_limit == 7
    reader, writer = os.pipe()
    os.write(writer, file.read_bytes())
    os.close(writer)
    try:
        assert load_resources("standard input", reader)[0].pids_limit == 7
    finally:
        os.close(reader)


def test_loading_a_bundle_imports_little(bundle: Path) -> None:
    program = (
        "import __future__, errno, json, sys; before = set(sys.modules); "
        "from oci_runtime.bundle.load import load_bundle; load_bundle(sys.argv[1]); "
        "print(sorted(name for name in set(sys.modules) - before if not name.startswith('oci_runtime')))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(bundle)], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout == "[]\n"
