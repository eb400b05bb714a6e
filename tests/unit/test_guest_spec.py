"""What the agent makes of a spec: the plan alone, without crun."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oci_runtime.errors import InvalidInput, Unsupported
from oci_runtime.guest.resources import plan_cgroup_files, plan_resources
from oci_runtime.guest.spec import GuestFacts, plan_container

MIB = 1 << 20
FACTS = GuestFacts(
    cpus=frozenset({0, 1}),
    nodes=frozenset({0}),
    nr_open=1 << 20,
    controllers=frozenset({"cpu", "cpuset", "io", "memory", "pids", "hugetlb"}),
    files=frozenset({"io.max", "io.weight", "memory.high", "cpu.idle"}),
    hugepage_sizes=frozenset({"2MB"}),
    block_devices=frozenset({(254, 0)}),
)
GOLDEN = sorted(Path(__file__).parent.parent.glob("data/configs/*config*.json"))


def document(**linux: Any) -> dict[str, Any]:
    return {"ociVersion": "1.2.0", "process": {"args": ["true"]}, "root": {"path": "/r"}, "linux": linux}


def kinds(namespaces: list[dict[str, str]]) -> dict[str, str]:
    return {entry["type"]: entry.get("path", "") for entry in namespaces}


@pytest.mark.parametrize(
    ("given_namespaces", "options", "wanted"),
    [
        ([], {}, {"pid": ""}),
        ([("pid", ""), ("mount", ""), ("network", "/x"), ("ipc", "/x"), ("uts", "/x")], {}, {"pid": ""}),
        ([("pid", ""), ("ipc", ""), ("uts", ""), ("network", "")], {}, {"pid": "", "ipc": "", "uts": ""}),
        ([("pid", ""), ("ipc", ""), ("uts", "")], {"in_pod_ipc": True}, {"pid": "", "uts": ""}),
        ([("pid", ""), ("ipc", ""), ("uts", "")], {"in_pod_uts": True}, {"pid": "", "ipc": ""}),
        ([("pid", "/proc/9/ns/pid")], {}, {"pid": ""}),
        ([("pid", "")], {"pid_namespace_path": "/proc/5/ns/pid"}, {"pid": "/proc/5/ns/pid"}),
        ([("pid", ""), ("time", ""), ("cgroup", "/x")], {}, {"pid": ""}),
    ],
)
def test_namespaces(given_namespaces: list[tuple[str, str]], options: dict[str, Any], wanted: dict[str, str]) -> None:
    """mount and cgroup are always private: on cgroup v2 a container would see the whole pod's cgroups."""
    entries = [{"type": kind} | ({"path": path} if path else {}) for kind, path in given_namespaces]
    plan = plan_container(document(namespaces=entries), "c", FACTS, **options)
    assert kinds(plan.spec["linux"]["namespaces"]) == wanted | {"mount": "", "cgroup": ""}


def test_the_hosts_processes_are_out_of_reach_and_said_to_be() -> None:
    assert any("pid namespace" in text for text in plan_container(document(), "c", FACTS).warnings)
    assert plan_container(document(namespaces=[{"type": "pid"}]), "c", FACTS).warnings == []


def test_names_are_kept_with_a_private_uts_namespace_only() -> None:
    source = document(namespaces=[{"type": "uts"}, {"type": "pid"}]) | {"hostname": "h", "domainname": "d"}
    spec = plan_container(source, "c", FACTS).spec
    assert (spec["hostname"], spec["domainname"]) == ("h", "d")
    spec = plan_container(source, "c", FACTS, in_pod_uts=True).spec
    assert "hostname" not in spec
    assert "domainname" not in spec


def test_version_cgroup_and_hooks() -> None:
    source = document(cgroupsPath="/kubepods/x") | {
        "hooks": {"prestart": [{"path": "/a"}], "createRuntime": [{"path": "/a"}], "startContainer": [{"path": "/b"}]}
    }
    before = copy.deepcopy(source)
    spec = plan_container(source, "name", FACTS).spec
    assert source == before
    assert spec["ociVersion"] == "1.0.2"
    assert spec["linux"]["cgroupsPath"] == "/vmpod/name"
    assert spec["hooks"] == {"startContainer": [{"path": "/b"}]}


def test_sysctls_of_shared_namespaces_are_the_agents() -> None:
    sysctl = {
        "net.ipv4.ip_forward": "1", "net/core/somaxconn": "5", "kernel.shmmax": "7", "fs.mqueue.msg_max": "9",
        "kernel.domainname": "d", "vm.swappiness": "1",
    }  # fmt: skip
    source = document(namespaces=[{"type": "ipc"}], sysctl=sysctl)
    plan = plan_container(source, "c", FACTS)
    assert plan.sysctls == {"net.ipv4.ip_forward": "1", "net/core/somaxconn": "5", "kernel.domainname": "d"}
    assert set(plan.spec["linux"]["sysctl"]) == {"kernel.shmmax", "fs.mqueue.msg_max", "vm.swappiness"}
    assert set(plan_container(source, "c", FACTS, in_pod_ipc=True).spec["linux"]["sysctl"]) == {"vm.swappiness"}


def test_a_user_namespace_needs_mappings() -> None:
    with pytest.raises(Unsupported, match="/proc/1/ns/user"):
        plan_container(document(namespaces=[{"type": "user", "path": "/proc/1/ns/user"}]), "c", FACTS)
    mappings = [{"containerID": 0, "hostID": 1000, "size": 10}]
    source = document(
        namespaces=[{"type": "user", "path": "/proc/1/ns/user"}], uidMappings=mappings, gidMappings=mappings
    )
    assert kinds(plan_container(source, "c", FACTS).spec["linux"]["namespaces"])["user"] == ""


def test_labels_go_with_a_warning_unless_they_mean_nothing() -> None:
    source = document(mountLabel="l", memoryPolicy={"mode": "MPOL_BIND"}, namespaces=[{"type": "pid"}])
    source["process"] |= {"apparmorProfile": "unconfined", "selinuxLabel": "s"}
    source["mounts"] = [{"destination": "/d", "type": "tmpfs", "options": ["context=x", "mode=1"]}]
    plan = plan_container(source, "c", FACTS)
    words = sorted(text.split()[0] for text in plan.warnings)
    assert words == ["linux.memoryPolicy", "linux.mountLabel", "process.selinuxLabel"]
    assert plan.spec["mounts"][0]["options"] == ["mode=1"]
    assert not {"apparmorProfile", "selinuxLabel"} & set(plan.spec["process"])


@pytest.mark.parametrize(
    "broken",
    [
        {"linux": []},
        {"process": {"args": "true"}},
        {"process": {"args": []}},
        {"process": {"args": [1]}},
        {"process": None},
        {"mounts": ["x"]},
        {"mounts": 5},
        {"linux": {"namespaces": [{"path": "/x"}]}},
        {"linux": {"namespaces": ["pid"]}},
        {"linux": {"resources": []}},
        {"linux": {"resources": {"memory": 5}}},
        {"linux": {"resources": {"cpu": {"cpus": "many"}}}},
        {"linux": {"resources": {"blockIO": {"throttleReadBpsDevice": [5]}}}},
        {"linux": {"sysctl": [1]}},
        {"process": {"args": ["x"], "rlimits": [5]}},
    ],
)
def test_broken_values_are_invalid_input(broken: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        plan_container(document() | broken, "c", FACTS)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_what_engines_write_is_accepted(path: Path) -> None:
    plan = plan_container(json.loads(path.read_text()), "c", FACTS)
    assert kinds(plan.spec["linux"]["namespaces"])["mount"] == ""
    assert "network" not in kinds(plan.spec["linux"]["namespaces"])


def test_there_are_golden_specs() -> None:
    assert len(GOLDEN) >= 5


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["linux", "process", "args", "namespaces", "type", "path", "resources", "cpu", "cpus", "memory", "limit",
         "swap", "blockIO", "weight", "pids", "hugepageLimits", "unified", "mounts", "options", "sysctl", "rlimits"]
    ), inner, max_size=5),
    max_leaves=25,
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(["linux", "process", "mounts", "hooks", "root", "hostname"]), _JSON))
def test_any_json_gives_a_plan_or_invalid_input(source: dict[str, Any]) -> None:
    try:
        plan_container(source, "c", FACTS)
    except (InvalidInput, Unsupported):
        pass


# Resources


def planned(resources: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    linux = {"resources": copy.deepcopy(resources)}
    warnings: list[str] = []
    plan_resources(linux, FACTS, warnings)
    return linux["resources"], warnings


@pytest.mark.parametrize(
    ("resources", "kept", "word"),
    [
        ({"cpu": {"cpus": "0-1"}}, {"cpu": {"cpus": "0-1"}}, ""),
        ({"cpu": {"cpus": "1-9"}}, {"cpu": {"cpus": "1"}}, "cpu.cpus"),
        ({"cpu": {"cpus": "4"}}, {"cpu": {"cpus": "0-1"}}, "cpu.cpus"),
        ({"cpu": {"mems": "1"}}, {"cpu": {"mems": "0"}}, "cpu.mems"),
        ({"cpu": {"cpus": "", "shares": 2}}, {"cpu": {"shares": 2}}, ""),
        ({"memory": {"limit": 5, "swappiness": None}}, {"memory": {"limit": 5}}, ""),
        ({"memory": {"disableOOMKiller": False}}, {"memory": {}}, ""),
        ({"memory": {"kernelTCP": 5}}, {"memory": {}}, "kernelTCP"),
        ({"blockIO": {"weight": 100}}, {"blockIO": {"weight": 100}}, ""),
        ({"blockIO": {"weightDevice": [{"major": 1}]}}, {}, "weightDevice"),
        (
            {"blockIO": {"throttleWriteIOPSDevice": [{"major": 254, "minor": 0, "rate": 9}, {"major": 8, "minor": 0}]}},
            {"blockIO": {"throttleWriteIOPSDevice": [{"major": 254, "minor": 0, "rate": 9}]}},
            "8:0",
        ),
        (
            {"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]},
            {"hugepageLimits": [{"pageSize": "2MB", "limit": 1}]},
            "",
        ),
        ({"hugepageLimits": [{"pageSize": "1GB", "limit": 0}]}, {}, ""),
        ({"hugepageLimits": [{"pageSize": "1GB", "limit": 1}]}, {}, "1GB"),
        ({"network": {"classID": 1}, "rdma": {}}, {}, "network"),
        ({"cpu": None, "memory": None, "pids": None}, {}, ""),
    ],
)
def test_resources_meet_the_guest(resources: dict[str, Any], kept: dict[str, Any], word: str) -> None:
    result, warnings = planned(resources)
    assert result == kept
    assert len(warnings) == (1 if word else 0)
    assert all(word in warning for warning in warnings)


@pytest.mark.parametrize(
    ("resources", "current", "files"),
    [
        ({}, None, []),
        ({"memory": {"limit": 100, "swap": 150}}, None, [("memory.swap.max", "50"), ("memory.max", "100")]),
        ({"memory": {"swap": 150}}, 100, [("memory.swap.max", "50")]),
        ({"memory": {"limit": -1, "swap": -1}}, 5, [("memory.swap.max", "max"), ("memory.max", "max")]),
        ({"memory": {"limit": 0, "reservation": 7}}, None, [("memory.low", "7")]),
        ({"cpu": {"shares": 2}}, None, [("cpu.weight", "1")]),
        ({"cpu": {"shares": 1024}}, None, [("cpu.weight", "39")]),
        ({"cpu": {"shares": 262144}}, None, [("cpu.weight", "10000")]),
        ({"cpu": {"shares": 1 << 40}}, None, [("cpu.weight", "10000")]),
        ({"cpu": {"quota": 5000}}, None, [("cpu.max", "5000")]),
        ({"cpu": {"quota": -1, "period": 9000}}, None, [("cpu.max", "max 9000")]),
        ({"cpu": {"idle": 1, "burst": 0}}, None, [("cpu.max.burst", "0"), ("cpu.idle", "1")]),
        ({"pids": {"limit": 0}}, None, [("pids.max", "max")]),
        ({"pids": {"limit": 3}}, None, [("pids.max", "3")]),
        ({"blockIO": {"weight": 10}}, None, [("io.weight", "default 1")]),
        ({"blockIO": {"weight": 1000}}, None, [("io.weight", "default 10000")]),
        (
            {"blockIO": {"throttleReadBpsDevice": [{"major": 254, "minor": 0, "rate": 9}]}},
            None,
            [("io.max", "254:0 rbps=9")],
        ),
        (
            {"blockIO": {"throttleReadBpsDevice": [{"major": 254, "minor": 0, "rate": 0}]}},
            None,
            [("io.max", "254:0 rbps=max")],
        ),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 4}]}, None, [("hugetlb.2MB.max", "4")]),
        ({"unified": {"memory.high": "5"}}, None, [("memory.high", "5")]),
    ],
)
def test_cgroup_files(resources: dict[str, Any], current: int | None, files: list[tuple[str, str]]) -> None:
    assert plan_cgroup_files(resources, FACTS, current) == files


@pytest.mark.parametrize(
    ("resources", "word"),
    [
        ({"memory": {"limit": "1"}}, "memory.limit"),
        ({"memory": {"limit": True}}, "memory.limit"),
        ({"memory": {"limit": -2}}, "memory.limit"),
        ({"memory": {"swap": 5}}, "needs a memory limit"),
        ({"memory": {"limit": 10, "swap": 5}}, "less than the memory limit"),
        ({"unified": {"cgroup.procs": "1"}}, "no cgroup file"),
        ({"unified": {"../x": "1"}}, "no cgroup file"),
        ({"unified": {"memory.nope": "1"}}, "no cgroup file"),
    ],
)
def test_bad_values_of_an_update_are_named(resources: dict[str, Any], word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        plan_cgroup_files(resources, FACTS, None)


@pytest.mark.parametrize(
    ("kind", "in_pod", "expected"), [("user", True, "bind"), ("user", False, "mqueue"), ("uts", True, "mqueue")]
)
def test_message_queues_are_bound_where_a_user_namespace_may_not_mount_them(
    kind: str, in_pod: bool, expected: str
) -> None:
    source = document(namespaces=[{"type": "ipc"}, {"type": kind}]) | {
        "mounts": [{"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid"]}]
    }
    (mount,) = plan_container(source, "c", FACTS, in_pod_ipc=in_pod).spec["mounts"]
    assert mount["type"] == expected and "nosuid" in mount["options"]
