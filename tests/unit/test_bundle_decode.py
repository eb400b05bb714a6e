"""The fast decoder: what engines write, what the specification offers, and one exact error for what is wrong."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.bundle import linux, model
from oci_runtime.bundle.decode import decode_process, decode_resources, decode_spec
from oci_runtime.bundle.default import default_spec
from oci_runtime.bundle.ids import is_valid_id, validate_id
from oci_runtime.bundle.linux import DeviceRule, HugepageLimit, IdMapping, Namespace, TimeOffset
from oci_runtime.errors import InvalidInput, Unsupported
from oci_runtime.record import Record

DATA = Path(__file__).parent.parent / "data"
GOLDEN = sorted((DATA / "configs").glob("*config*.json"))
COMPLETE: dict[str, Any] = json.loads((DATA / "bundle" / "complete.json").read_text())


def minimal() -> dict[str, Any]:
    return {"ociVersion": "1.0.0", "root": {"path": "rootfs"}}


def change(path: str, value: object, base: dict[str, Any] | None = None) -> dict[str, Any]:
    """A copy of the complete spec with one place changed; `path` like linux.namespaces.0.type."""
    result = copy.deepcopy(COMPLETE if base is None else base)
    *parents, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    place: Any = result
    for step in parents:
        place = place[step]
    place[last] = value
    return result


def test_there_are_golden_configurations_of_every_engine() -> None:
    assert {path.name.split("-config")[0] for path in GOLDEN} == {"cri", "cri-o", "ctr", "docker", "podman"}


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_what_engines_write_is_accepted(path: Path) -> None:
    raw = json.loads(path.read_text())
    spec = decode_spec(raw, path.name)
    assert spec.oci_version == raw["ociVersion"]
    assert spec.process is not None
    assert list(spec.process.args) == raw["process"]["args"]
    assert len(spec.mounts) == len(raw["mounts"])
    assert spec.annotations == raw.get("annotations", {})
    assert dict(spec.namespaces) == {entry["type"]: entry.get("path", "") for entry in raw["linux"]["namespaces"]}
    assert len(spec.linux.devices) == len(raw["linux"].get("devices", []))
    assert spec.linux.cgroups_path == raw["linux"]["cgroupsPath"]


def test_process_of_an_exec_is_accepted() -> None:
    raw = json.loads((DATA / "configs" / "cri-o-exec-process.json").read_text())
    process = decode_process(raw, "process.json")
    assert process.args == ("id",)
    assert process.cwd == "/tmp"
    assert process.user == model.User(uid=0, gid=0, additional_gids=(0,))
    assert process.oom_score_adj == 500


def test_every_property_arrives() -> None:
    spec = decode_spec(COMPLETE, "complete.json")
    process = spec.process
    assert process is not None
    assert process.console_size == model.ConsoleSize(height=24, width=80)
    assert process.user == model.User(uid=1, gid=2, umask=18, additional_gids=(3, 4))
    assert process.rlimits[0] == model.Rlimit(type="RLIMIT_NOFILE", hard=2**64 - 1, soft=1)
    assert process.capabilities is not None and process.capabilities.inheritable == ("CAP_TEST",)
    assert process.io_priority == model.IoPriority(priority_class="IOPRIO_CLASS_BE", priority=7)
    assert process.scheduler is not None and process.scheduler.deadline == 2
    assert process.exec_cpu_affinity == model.ExecCpuAffinity(initial="0-3,7")
    assert spec.mounts[1].destination == "/relative"
    assert spec.mounts[1].uid_mappings == (IdMapping(container_id=0, host_id=1000, size=65536),)
    assert spec.hooks.prestart == (model.Hook(path="/bin/a", args=("a",), env=("K=v",), timeout=5),)
    assert spec.hooks.poststop == (model.Hook(path="/bin/f"),)
    assert spec.linux.namespaces[1] == Namespace(type="network", path="/run/netns/x")
    assert spec.linux.devices[0].file_mode == 438
    assert spec.linux.net_devices == ("eth0", "eth2")
    resources = spec.resources
    assert resources.devices[1] == DeviceRule(allow=True, type="b", major=-1, minor=0)
    assert resources.memory.kernel == -(2**63)
    assert resources.cpu.idle == 1 and resources.cpu.mems == "0\n"
    assert resources.pids_limit == 100
    assert resources.block_io.throttle_write_iops_device[0].rate == 4
    assert resources.hugepage_limits == (HugepageLimit(page_size="2MB", limit=9223372036854772000),)
    assert resources.network.priorities[0].name == "eth0"
    assert resources.rdma["mlx5_1"].hca_objects == 10000
    assert resources.unified == {"memory.high": "1000"}
    assert spec.linux.seccomp is not None and spec.linux.seccomp.syscalls[0].args[0].value == 8
    assert spec.linux.time_offsets == {"boottime": TimeOffset(secs=-1, nanosecs=5), "monotonic": TimeOffset()}
    assert spec.linux.personality is not None and spec.linux.personality.domain == "LINUX32"
    assert spec.linux.intel_rdt is not None and spec.linux.intel_rdt.enable_cmt


def fields_set(value: object) -> set[str]:
    """The fields that a decoder gave a value, anywhere in a tree of records."""
    if isinstance(value, Record):
        own = {f"{type(value).__name__}.{name}" for name in vars(value)}
        return own.union(*(fields_set(field) for field in vars(value).values()))
    children = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ()
    return set().union(*(fields_set(child) for child in children))


def test_no_field_of_the_models_is_left_out_by_the_decoder() -> None:
    every = {
        f"{cls.__name__}.{name}"
        for module in (model, linux)
        for cls in vars(module).values()
        if isinstance(cls, type) and issubclass(cls, Record)
        for name in cls._names
    }
    assert every - fields_set(decode_spec(COMPLETE, "complete.json")) == set()


def test_default_spec_is_accepted() -> None:
    spec = decode_spec(default_spec(), "config.json")
    assert spec.root == model.Root(path="rootfs", readonly=True)
    assert default_spec() is not default_spec()


def test_absent_and_null_are_the_same() -> None:
    nulls = {name: None for name in COMPLETE if name not in ("ociVersion", "root")}
    assert decode_spec({**minimal(), **nulls}, "x") == decode_spec(minimal(), "x")


def test_unknown_properties_are_ignored() -> None:
    assert decode_spec({**minimal(), "windows": 1, "linux": {"memoryPolicy": []}}, "x") == decode_spec(minimal(), "x")


WRONG: list[tuple[str, object, str]] = [
    ("ociVersion", 1, "$.ociVersion must be a string, not 1"),
    ("ociVersion", "1.2", '$.ociVersion must be a semantic version such as 1.2.0, not "1.2"'),
    ("ociVersion", "1.2.0-", '$.ociVersion must be a semantic version such as 1.2.0, not "1.2.0-"'),
    ("ociVersion", "1.02.0", '$.ociVersion must be a semantic version such as 1.2.0, not "1.02.0"'),
    ("ociVersion", "1.2.0\n", '$.ociVersion must be a semantic version such as 1.2.0, not "1.2.0\\n"'),
    ("root", None, "$ misses the property root"),
    ("root", [], "$.root must be an object, not an array"),
    ("root.path", "", "$.root.path must not be empty"),
    ("root.path", "a\0b", '$.root.path must not contain NUL, as in "a\\x00b"'),
    ("root.readonly", 1, "$.root.readonly must be true or false, not 1"),
    ("process.args", [], "$.process.args must have at least 1 item"),
    ("process.args.1", None, "$.process.args[1] must be a string, not null"),
    ("process.cwd", "tmp", '$.process.cwd must be an absolute path, not "tmp"'),
    ("process.user.uid", -1, "$.process.user.uid must be from 0 to 4294967295, not -1"),
    ("process.user.uid", True, "$.process.user.uid must be a whole number, not true"),
    ("process.user.uid", 1.0, "$.process.user.uid must be a whole number, not 1.0"),
    ("process.user.gid", 2**32, "$.process.user.gid must be from 0 to 4294967295, not 4294967296"),
    ("process.rlimits.1.type", "RLIMIT_NOFILE", "$.process.rlimits[1] must not repeat the type RLIMIT_NOFILE"),
    ("process.rlimits.0.type", "RLIMIT_TEST", '$.process.rlimits[0].type must be one of "RLIMIT_AS", '),
    ("process.oomScoreAdj", 1001, "$.process.oomScoreAdj must be from -1000 to 1000, not 1001"),
    ("process.ioPriority.class", None, "$.process.ioPriority misses the property class"),
    ("process.ioPriority.priority", 8, "$.process.ioPriority.priority must be from 0 to 7, not 8"),
    ("process.scheduler.flags.0", "SCHED_FLAG_", "$.process.scheduler.flags[0] must be a SCHED_FLAG_ name"),
    ("process.execCPUAffinity.initial", "0;1", "$.process.execCPUAffinity.initial must be a list of CPUs"),
    ("mounts.0.destination", "", "$.mounts[0].destination must not be empty"),
    ("mounts.1.options.0", 5, "$.mounts[1].options[0] must be a string, not 5"),
    ("hooks.prestart.0.path", "a", '$.hooks.prestart[0].path must be an absolute path, not "a"'),
    ("hooks.prestart.0.timeout", 0, "$.hooks.prestart[0].timeout must be greater than 0, not 0"),
    ("annotations", {"a.b": 1}, '$.annotations["a.b"] must be a string, not 1'),
    ("annotations", {"": "x"}, '$.annotations[""] must not have an empty key or one that contains NUL'),
    ("linux.namespaces.0.type", "net", "$.linux.namespaces[0].type must be one of "),
    ("linux.namespaces.0.type", "ipc", '$.linux.namespaces[3] must not repeat the type "ipc"'),
    ("linux.namespaces.1.path", "netns", '$.linux.namespaces[1].path must be an absolute path, not "netns"'),
    ("linux.devices.0.type", "a", '$.linux.devices[0].type must be one of "b", "c", "p", "u", not "a"'),
    (
        "linux.resources.devices.0.access",
        "rx",
        '$.linux.resources.devices[0].access must be made of r, w and m, not "rx"',
    ),
    ("linux.resources.memory.limit", 2**63, "$.linux.resources.memory.limit must be from "),
    ("linux.resources.memory.limit", "1G", '$.linux.resources.memory.limit must be a whole number, not "1G"'),
    ("linux.resources.pids", 5, "$.linux.resources.pids must be an object, not 5"),
    (
        "linux.resources.hugepageLimits.0.pageSize",
        "02MB",
        "$.linux.resources.hugepageLimits[0].pageSize must be a page",
    ),
    ("linux.resources.hugepageLimits.0.pageSize", "3MB", "$.linux.resources.hugepageLimits[0].pageSize must be a page"),
    ("linux.resources.unified", {"../x": ""}, '$.linux.resources.unified["../x"] must be the name of a file'),
    ("linux.seccomp.syscalls.0.names", [], "$.linux.seccomp.syscalls[0].names must have at least 1 item"),
    ("linux.seccomp.syscalls.0.args.0.index", 6, "$.linux.seccomp.syscalls[0].args[0].index must be from 0 to 5"),
    ("linux.seccomp.defaultAction", "ALLOW", "$.linux.seccomp.defaultAction must be one of "),
    ("linux.maskedPaths.0", "proc", '$.linux.maskedPaths[0] must be an absolute path, not "proc"'),
    ("linux.intelRdt.closID", "..", '$.linux.intelRdt.closID must be a directory name, not ".."'),
    ("linux.timeOffsets", {"realtime": {}}, '$.linux.timeOffsets.realtime must be "boottime" or "monotonic"'),
    ("linux.rootfsPropagation", "public", "$.linux.rootfsPropagation must be one of "),
]


@pytest.mark.parametrize(
    ("path", "value", "message"), WRONG, ids=[f"{path}={value!r}"[:60] for path, value, _ in WRONG]
)
def test_one_exact_error_for_a_wrong_value(path: str, value: object, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        decode_spec(change(path, value), "config.json")
    assert caught.value.message.startswith(f"config.json: {message}")
    assert "\n" not in caught.value.message and "\0" not in caught.value.message


@pytest.mark.parametrize("version", ["1.0.0", "1.0.2-dev", "1.1.0-rc.1", "1.2.0", "1.2.1+x", "1.3.0-dev", "1.0.0-rc5"])
def test_versions_that_are_understood(version: str) -> None:
    assert decode_spec({**minimal(), "ociVersion": version}, "x").oci_version == version


@pytest.mark.parametrize("version", ["0.9.0", "1.4.0", "2.0.0", "1.10.0"])
def test_versions_that_are_not(version: str) -> None:
    with pytest.raises(Unsupported, match=r'must be of a supported version, 1\.0\.0 to 1\.3\.0, not "'):
        decode_spec({**minimal(), "ociVersion": version}, "x")


def test_mounts_say_what_they_are() -> None:
    def mount(**fields: Any) -> model.Mount:
        return model.Mount(destination="/x", **fields)

    assert mount(type="bind").is_bind
    assert mount(type="none", options=("rbind",)).is_bind
    assert not mount(type="tmpfs").is_bind
    assert mount(options=("rw", "ro")).readonly
    assert not mount(options=("ro", "rw")).readonly
    assert not mount().readonly


def test_resources_of_an_update() -> None:
    resources = decode_resources({"cpu": {"shares": 5}, "pids": None}, "-")
    assert resources.cpu.shares == 5
    assert resources.pids_limit is None
    with pytest.raises(InvalidInput, match=r"-: \$\.cpu\.shares must be a whole number"):
        decode_resources({"cpu": {"shares": "5"}}, "-")


@pytest.mark.parametrize("name", ["a", "0", "A" * 255, "a.b_c-d+e", "6cf8a4925c1ffda0", "a..b"])
def test_good_ids(name: str) -> None:
    assert is_valid_id(name)
    assert validate_id(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "-a", "_a", "+a", "a/b", "a b", "a\n", "a\0", "ä", "A" * 256, "/", "a%"]
)
def test_bad_ids(name: str) -> None:
    assert not is_valid_id(name)
    with pytest.raises(InvalidInput, match="invalid container id '"):
        validate_id(name)
