"""The schema lists every error with its path, and agrees with the fast decoder on whatever mutation finds."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from oci_runtime.bundle import schema
from oci_runtime.bundle.check import MAX_PROBLEMS, check_bundle, check_spec
from oci_runtime.bundle.decode import decode_spec
from oci_runtime.bundle.default import default_spec
from oci_runtime.bundle.features import features
from oci_runtime.errors import InvalidInput, Unsupported

DATA = Path(__file__).parent.parent / "data"
GOLDEN = {path.stem: json.loads(path.read_text()) for path in sorted((DATA / "configs").glob("*config*.json"))}
COMPLETE: dict[str, Any] = json.loads((DATA / "bundle" / "complete.json").read_text())


def decodes(raw: Any) -> bool:
    try:
        decode_spec(raw, "config.json")
    except (InvalidInput, Unsupported):
        return False
    return True


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values below the root."""
    found: list[tuple[Any, ...]] = []
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, child in steps:
        found.append((*path, step))
        found += places(child, (*path, step))
    return found


COMPLETE_PLACES = places(COMPLETE)
GOLDEN_PLACES = {name: places(raw) for name, raw in GOLDEN.items()}
INTERESTING: list[Any] = [
    *(None, True, False, 0, -1, 1, 5, 7, 8, 9, 10, 1000, 1001, -1001, 1.0, 0.5, 2**16, 2**31, 2**32, 2**32 - 1, 10**30),
    *(2**63, -(2**63), -(2**63) - 1, 2**64, 2**64 - 1),
    *("", "x", "/", "/a", "a/b", "../x", ".", "..", "\0", "a\0", "\n", "/\n", "²", "é"),
    *("1.2.0", "1.2.0\n", "1.4.0", "1.3.99-dev", "0-3", "0-3\n", "rwm", "2MB", "0MB", "3MB", "512KB", "1KB\n"),
    *("pid", "ipc", "boottime", "RLIMIT_CORE", "RLIMIT_NOFILE", "SCMP_ACT_LOG", "SCMP_ARCH_", "SCMP_ARCH_X86"),
    *("SCHED_FLAG_A", "SECCOMP_FILTER_FLAG_é"),
    *([], {}, [None], [""], [[]], [{}], {"": ""}, {"a": None}, {"a": "b"}, {"a/b": "c"}, {"a\0": "b"}),
    *([{"type": "pid"}] * 2, [{"type": "RLIMIT_AS", "hard": 1, "soft": 2}] * 2),
]


def slim(path: tuple[Any, ...]) -> dict[str, Any]:
    """The complete spec without the properties beside `path`, unless the specification requires them."""
    result = copy.deepcopy(COMPLETE)
    place: Any = result
    for step in path[: 3 if path[:2] == ("linux", "resources") else 2]:
        if not isinstance(place, dict):
            break
        for name in [name for name in place if name not in (step, "ociVersion", "root", "args", "cwd")]:
            if place is not result["root"]:
                del place[name]
        place = place[step]
    return result


def put(raw: dict[str, Any], path: tuple[Any, ...], action: str, value: Any) -> dict[str, Any]:
    """A changed copy. It shares with `raw` what does not lie on the path; nobody writes to either."""
    result = copy.copy(raw)
    place: Any = result
    for step in path[:-1]:
        place[step] = copy.copy(place[step])
        place = place[step]
    if action == "remove":
        del place[path[-1]]
    elif action == "insert" and isinstance(place, list):
        place.insert(path[-1], value)
    elif action == "repeat" and isinstance(place, list):
        place.append(place[path[-1]])
    elif action == "rename" and isinstance(place, dict):
        place[str(value)] = place.pop(path[-1])
    else:
        place[path[-1]] = value
    return result


ACTIONS = st.sampled_from(["set", "set", "set", "remove", "insert", "repeat", "rename"])
VALUES = st.one_of(st.sampled_from(INTERESTING), st.integers(), st.text(max_size=5), st.floats(allow_nan=False))


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(schema.CONFIG)
    json.dumps(schema.CONFIG)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_configurations_have_no_problem(name: str) -> None:
    assert check_spec(GOLDEN[name]) == ()
    assert Draft202012Validator(schema.CONFIG).is_valid(GOLDEN[name])


def test_complete_and_default_specs_have_no_problem() -> None:
    assert check_spec(COMPLETE) == ()
    assert check_spec(default_spec()) == ()


def test_exec_process_has_no_problem() -> None:
    raw = json.loads((DATA / "configs" / "cri-o-exec-process.json").read_text())
    assert check_spec({**COMPLETE, "process": raw}) == ()
    assert [str(problem) for problem in check_spec({**COMPLETE, "process": {"args": ["x"], "cwd": "x"}})] == [
        '$.process.cwd must be an absolute path, not "x"'
    ]


@pytest.mark.parametrize("path", COMPLETE_PLACES, ids=lambda path: ".".join(map(str, path)))
def test_decoder_and_schema_agree_on_every_interesting_value_at_every_place(path: tuple[Any, ...]) -> None:
    base = slim(path)
    assert decodes(base)
    for value in INTERESTING:
        raw = put(base, path, "set", value)
        assert decodes(raw) == (not check_spec(raw)), (path, value, check_spec(raw))


@settings(max_examples=250, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_decoder_and_schema_agree_on_mutated_golden_configurations(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(GOLDEN)))
    raw = GOLDEN[name]
    for _ in range(data.draw(st.integers(1, 3))):
        paths = places(raw)
        raw = put(raw, data.draw(st.sampled_from(paths)), data.draw(ACTIONS), data.draw(VALUES))
    assert decodes(raw) == (not check_spec(raw)), check_spec(raw)


@settings(max_examples=300, derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(path=st.sampled_from(COMPLETE_PLACES), action=ACTIONS, value=VALUES)
@example(path=("linux", "namespaces", 0), action="repeat", value=None)
@example(path=("process", "rlimits", 0), action="repeat", value=None)
@example(path=("root",), action="remove", value=None)
@example(path=("annotations", "empty"), action="rename", value="")
def test_decoder_and_schema_agree_on_the_mutated_complete_spec(path: tuple[Any, ...], action: str, value: Any) -> None:
    raw = put(COMPLETE, path, action, value)
    assert decodes(raw) == (not check_spec(raw)), check_spec(raw)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(
    raw=st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner))
)
def test_decoder_survives_any_json(raw: Any) -> None:
    assert decodes(raw) == (not check_spec(raw))
    document = {**COMPLETE, "process": raw}
    assert decodes(document) == (not check_spec(document))


def test_all_errors_are_listed() -> None:
    raw = {
        "ociVersion": "1.9.0",
        "root": {"path": ""},
        "process": {
            "args": [],
            "cwd": "x",
            "user": {"uid": -1},
            "rlimits": [{"type": "RLIMIT_AS", "hard": 1, "soft": True}],
        },
        "annotations": {"": None, "a.b": 1},
        "linux": {"namespaces": [{"type": "pid"}, {"type": "pid"}, {}]},
    }
    assert [str(problem) for problem in check_spec(raw)] == [
        '$.ociVersion must be a supported version, 1.0.0 to 1.3.0, not "1.9.0"',
        '$.root.path must be a string that is not empty and has no NUL, not ""',
        "$.process.args must have at least 1 item",
        '$.process.cwd must be an absolute path, not "x"',
        "$.process.user misses the property gid",
        "$.process.user.uid must be from 0 to 4294967295, not -1",
        "$.process.rlimits[0].soft must be a whole number, not true",
        '$.annotations has a key that must be a string that is not empty and has no NUL, not ""',
        '$.annotations[""] must be a string, not null',
        '$.annotations["a.b"] must be a string, not 1',
        "$.linux.namespaces[2] misses the property type",
        "$.linux.namespaces[1] must not repeat the type pid",
    ]


def test_the_list_of_errors_is_bounded() -> None:
    raw = {**COMPLETE, "mounts": [{}] * 10_000}
    assert len(check_spec(raw)) == MAX_PROBLEMS


def test_a_bundle_is_checked_as_a_whole(tmp_path: Path) -> None:
    assert [problem.reason for problem in check_bundle(str(tmp_path))] == [f"{tmp_path}/config.json does not exist"]
    (tmp_path / "config.json").write_text("{")
    assert check_bundle(str(tmp_path))[0].reason.startswith(f"{tmp_path}/config.json is not JSON: line 1 column 2: ")
    (tmp_path / "config.json").write_text(json.dumps({**default_spec(), "hostname": 5}))
    assert [str(problem) for problem in check_bundle(str(tmp_path))] == [
        "$.hostname must be a string, not 5",
        f"$.root.path leads to {tmp_path}/rootfs, which is not a directory or disk",
    ]
    (tmp_path / "config.json").write_text(json.dumps(default_spec()))
    (tmp_path / "rootfs").mkdir()
    assert check_bundle(str(tmp_path)) == ()


def test_features_name_what_the_decoder_accepts() -> None:
    shown = features()
    for version in (shown["ociVersionMin"], shown["ociVersionMax"]):
        assert check_spec({**default_spec(), "ociVersion": version}) == ()
    hooks = {name: [{"path": "/bin/true"}] for name in shown["hooks"]}
    decoded = decode_spec({**default_spec(), "hooks": hooks}, "x").hooks
    assert all(len(kind) == 1 for kind in decoded.as_mapping().values())
    assert len(shown["linux"]["capabilities"]) == 41
    namespaces = [{"type": name} for name in shown["linux"]["namespaces"]]
    assert check_spec({**default_spec(), "linux": {"namespaces": namespaces}}) == ()
    json.dumps(shown)
