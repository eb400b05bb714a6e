"""Finding an image at each boot: what is accepted, when it is hashed, what is imported for it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from oci_runtime.errors import InvalidInput, NotFound, OciRuntimeError
from oci_runtime.image import digest
from oci_runtime.image.command import run_image
from oci_runtime.image.store import find_image, list_images
from tests.image_lab import write_image

ROOT = Path(__file__).parents[2]


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are hashed from now on."""
    names: list[str] = []
    original = digest.sha256_file

    def record(path: str | os.PathLike[str]) -> str:
        names.append(os.path.basename(path))
        return original(path)

    monkeypatch.setattr(digest, "sha256_file", record)
    return names


def test_finds_an_image_by_name_and_by_hash(tmp_path: Path) -> None:
    directory = write_image(tmp_path)
    by_name, by_hash = find_image(tmp_path, "default"), find_image(str(tmp_path), "0123456789abcdef")
    assert by_name.kernel == by_hash.kernel == f"{directory}/kernel"
    assert (by_name.initrd, by_name.rootfs) == (f"{directory}/initrd", f"{directory}/rootfs")
    assert by_name.image_bytes == 6000
    assert by_name.kernel_parameters == ("quiet", "panic=-1")
    assert (by_name.hash, by_name.kernel_release, by_name.has_9p) == ("0123456789abcdef", "6.1.0-test", False)


def test_hashes_once_and_again_only_what_may_have_changed(tmp_path: Path, hashed: list[str]) -> None:
    directory = write_image(tmp_path)
    find_image(tmp_path)
    assert hashed == ["kernel", "initrd", "rootfs"]
    find_image(tmp_path)
    assert len(hashed) == 3, "nothing changed: the stamp is enough"
    os.utime(directory / "rootfs", ns=(1, 1))
    find_image(tmp_path)
    assert len(hashed) == 6
    find_image(tmp_path)
    assert len(hashed) == 6


@pytest.mark.parametrize("asset", ["kernel", "initrd", "rootfs"])
def test_a_changed_file_is_refused_each_time(tmp_path: Path, asset: str) -> None:
    directory = write_image(tmp_path)
    find_image(tmp_path)
    content = (directory / asset).read_bytes()
    (directory / asset).write_bytes(content[:-1] + b"!")
    for _ in range(2):
        with pytest.raises(InvalidInput, match=rf"corrupt guest image: .*/{asset} has SHA-256 .* vmpod image build"):
            find_image(tmp_path)


def test_a_replaced_file_with_old_times_is_noticed(tmp_path: Path) -> None:
    """The change time cannot be set back."""
    directory = write_image(tmp_path)
    find_image(tmp_path)
    kernel = directory / "kernel"
    before = kernel.stat()
    kernel.write_bytes(b"K" * before.st_size)
    os.utime(kernel, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(InvalidInput, match="corrupt guest image"):
        find_image(tmp_path)


@pytest.mark.parametrize("stamp", [b"", b"{", b"[]", b'{"kernel": 1}', b"\xff\xfe"])
def test_a_broken_stamp_only_costs_a_hash(tmp_path: Path, hashed: list[str], stamp: bytes) -> None:
    directory = write_image(tmp_path)
    (directory / "stamp.json").write_bytes(stamp)
    find_image(tmp_path)
    find_image(tmp_path)
    assert len(hashed) == 3


def test_a_missing_image_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(
        NotFound, match=rf"no guest image at {tmp_path}/other; build it: vmpod image build --name other$"
    ):
        find_image(tmp_path, "other")
    with pytest.raises(NotFound, match=rf"no guest image at {tmp_path}/default; build it: vmpod image build$"):
        find_image(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    directory = write_image(tmp_path)
    (directory / "initrd").unlink()
    with pytest.raises(NotFound, match="lacks .*/initrd; build it again: vmpod image build --force"):
        find_image(tmp_path)


@pytest.mark.parametrize("name", ["", "../default", "a/b", ".trees", "Default", "a" * 65, "a b", "a\n"])
def test_bad_names_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInput, match="bad image name"):
        find_image(tmp_path, name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON"),
        ("[]", "of another version of vmpod"),
        ('{"format": 2}', "of another version of vmpod"),
        ('{"format": 1}', "is broken"),
        ('{"format": 1, "assets": {"rootfs": {"bytes": "many"}}, "hash": "x"}', "is broken"),
        ('{"format": 1, "assets": [], "hash": "x"}', "is broken"),
    ],
)
def test_a_broken_manifest_is_an_error_with_a_remedy(tmp_path: Path, text: str, message: str) -> None:
    directory = write_image(tmp_path)
    (directory / "manifest.json").write_text(text)
    with pytest.raises(InvalidInput, match=rf"{message}.*vmpod image build"):
        find_image(tmp_path)


def test_a_manifest_without_hashes_verifies_nothing_as_good(tmp_path: Path) -> None:
    directory = write_image(tmp_path)
    manifest = json.loads((directory / "manifest.json").read_text())
    del manifest["assets"]["kernel"]["sha256"]
    (directory / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InvalidInput, match="corrupt guest image"):
        find_image(tmp_path)


def test_a_store_that_cannot_be_written_to_still_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_image(tmp_path)

    def refuse(*_: object) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(os, "rename", refuse)
    assert find_image(tmp_path).name == "default"
    assert sorted(path.name for path in (tmp_path / "default").iterdir()) == [
        "initrd", "kernel", "manifest.json", "rootfs",
    ]  # fmt: skip


def test_list_leaves_out_what_is_broken(tmp_path: Path) -> None:
    write_image(tmp_path, "a" * 16, "one")
    write_image(tmp_path, "b" * 16, "two")
    (tmp_path / "gone").symlink_to("c" * 16)
    assert [image.name for image in list_images(tmp_path)] == ["one", "two"]
    assert list_images(tmp_path / "nowhere") == []


def test_the_way_of_a_boot_imports_little(tmp_path: Path) -> None:
    """Hashing and building are not loaded when the stamp is enough."""
    write_image(tmp_path)
    find_image(tmp_path)
    script = (
        f"import sys; sys.path.append({str(ROOT)!r}); from oci_runtime.image.store import find_image;"
        f"find_image({str(tmp_path)!r}); print(*sys.modules)"
    )
    command = [sys.executable, "-I", "-S", "-c", script]
    loaded = set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    heavy = {"asyncio", "ctypes", "dataclasses", "hashlib", "json", "pathlib", "re", "shutil", "socket", "subprocess"}
    assert not loaded & heavy
    assert {name for name in loaded if name.startswith("oci_runtime")} == {
        "oci_runtime", "oci_runtime.errors", "oci_runtime.image", "oci_runtime.image.store",
        "oci_runtime.json_text", "oci_runtime.record",
    }  # fmt: skip


def test_commands_report_errors_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_image(["--store", str(tmp_path), "inspect"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("vmpod image: no guest image at") and error.count("\n") == 1
    assert run_image(["--store", str(tmp_path), "polish"]) == 2


def test_list_inspect_verify_and_prune(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = write_image(tmp_path)
    (tmp_path / ("f" * 16)).mkdir()
    for key in ("tree0", "tree1"):
        (tmp_path / ".trees" / key).mkdir(parents=True)
    store = ["--store", str(tmp_path)]
    assert run_image([*store, "list"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["default", "0123456789abcdef", "6.1.0-test"]
    assert run_image([*store, "inspect"]) == 0
    assert json.loads(capsys.readouterr().out)["directory"] == str(directory)
    assert run_image([*store, "prune"]) == 0
    assert capsys.readouterr().out.count("removed") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".trees", directory.name, "default"]
    assert [path.name for path in (tmp_path / ".trees").iterdir()] == ["tree0"]
    assert run_image([*store, "verify"]) == 0
    (directory / "kernel").write_bytes(b"other")
    assert run_image([*store, "verify"]) == 1


def test_verify_hashes_what_the_stamp_would_spare(tmp_path: Path, hashed: list[str]) -> None:
    write_image(tmp_path)
    find_image(tmp_path)
    run_image(["--store", str(tmp_path), "verify"])
    assert len(hashed) == 6


def test_the_command_line_comes_without_the_builder() -> None:
    script = "import sys; import oci_runtime.image.command; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert "oci_runtime.image.build" not in loaded.split()


def test_errors_are_of_one_family(tmp_path: Path) -> None:
    (tmp_path / "default").symlink_to("default")
    with pytest.raises(OciRuntimeError):
        find_image(tmp_path)
