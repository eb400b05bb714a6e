"""Cgroups without touching any: the host's layout, where directories go, which limits become which writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oci_runtime.errors import InvalidInput
from oci_runtime.host.cgroup_limits import plan_limits
from oci_runtime.host.cgroups import Group, Hierarchy, Layout, plan_group, read_layout, sibling_path

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,release_agent=/x,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
"""
HYBRID_OWN = "9:name=systemd:/system.slice/a.service\n5:memory:/\n4:pids:/p\n3:cpu,cpuacct:/c/d\n0::/u/v\n"


@pytest.fixture
def files(tmp_path: Path) -> Any:
    def write(mountinfo: str, own: str) -> Layout:
        (tmp_path / "mountinfo").write_text(mountinfo)
        (tmp_path / "own").write_text(own)
        return read_layout(str(tmp_path / "mountinfo"), str(tmp_path / "own"))

    return write


def test_a_hybrid_layout(files: Any) -> None:
    layout = files(HYBRID, HYBRID_OWN)
    assert layout.mode == "hybrid"
    assert [(h.controllers, h.version, h.own) for h in layout.hierarchies[:4]] == [
        (("cpu", "cpuacct"), 1, "/c/d"),
        (("memory",), 1, "/"),
        (("pids",), 1, "/p"),
        (("name=systemd",), 1, "/system.slice/a.service"),
    ]
    assert (layout.hierarchies[4].version, layout.hierarchies[4].own) == (2, "/u/v")


def test_v1_v2_and_none(files: Any) -> None:
    v1 = "".join(line for line in HYBRID.splitlines(keepends=True) if "cgroup2" not in line)
    assert files(v1, HYBRID_OWN).mode == "v1"
    assert files("41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n", "0::/x\n").mode == "v2"
    assert files("31 23 0:28 / / rw - ext4 /dev/vda rw\n", "0::/\n").mode == "none"


def test_the_mount_that_shows_most_wins(files: Any) -> None:
    twice = (
        "50 1 0:32 /docker/x /elsewhere rw - cgroup cgroup rw,memory\n"
        "51 1 0:32 / /sys/fs/cgroup/memory\\040two rw - cgroup cgroup rw,memory\n"
        "52 1 0:32 / /third rw - cgroup cgroup rw,memory\n"
    )
    (hierarchy,) = files(twice, "5:memory:/docker/x\n").hierarchies
    assert (hierarchy.mount, hierarchy.own) == ("/sys/fs/cgroup/memory two", "/docker/x")


def test_a_mount_of_a_part_hides_what_is_above_it(files: Any) -> None:
    part = "50 1 0:32 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    assert files(part, "5:memory:/docker/x/inner\n").hierarchies[0].own == "/inner"
    assert files(part, "5:memory:/docker/x\n").hierarchies[0].own == "/"
    assert files(part, "5:memory:/docker/xy\n").hierarchies[0].own == "/"


def layout(tmp_path: Path) -> Layout:
    def hierarchy(name: str, controllers: str, version: int, own: str) -> Hierarchy:
        (tmp_path / name).mkdir(exist_ok=True)
        return Hierarchy(mount=str(tmp_path / name), controllers=tuple(controllers.split()), version=version, own=own)

    return Layout(
        hierarchies=(
            hierarchy("mem", "memory", 1, "/own"),
            hierarchy("pids", "pids", 1, "/"),
            hierarchy("uni", "io", 2, "/own/leaf"),
        )
    )


def directories(group: Group, tmp_path: Path) -> list[str]:
    return [leaf.directory.removeprefix(str(tmp_path)) for leaf in group.leaves]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a/b", ["/mem/a/b", "/pids/a/b", "/uni/a/b"]),
        ("a", ["/mem/own/a", "/pids/a", "/uni/own/a"]),
        ("", ["/mem/own/c1", "/pids/c1", "/uni/own/c1"]),
        ("/../../etc", ["/mem/etc", "/pids/etc", "/uni/etc"]),
        ("../../etc", ["/mem/own/etc", "/pids/etc", "/uni/own/etc"]),
        ("/a//./b/", ["/mem/a/b", "/pids/a/b", "/uni/a/b"]),
        ("/", ["/mem", "/pids", "/uni"]),
    ],
)
def test_where_directories_go(tmp_path: Path, path: str, expected: list[str]) -> None:
    assert directories(plan_group(layout(tmp_path), path, "c1"), tmp_path) == expected


def test_parents_that_do_not_exist_are_made_and_removed(tmp_path: Path) -> None:
    hosts = layout(tmp_path)
    (tmp_path / "mem" / "a").mkdir()
    group = plan_group(hosts, "/a/b/c", "c1")
    shown = [path.removeprefix(str(tmp_path)) for path in group.paths]
    assert shown == [
        "/mem/a/b/c",
        "/pids/a/b/c",
        "/uni/a/b/c",
        "/mem/a/b",
        "/pids/a/b",
        "/uni/a/b",
        "/pids/a",
        "/uni/a",
    ]


def test_the_root_of_a_hierarchy_is_never_ours(tmp_path: Path) -> None:
    assert plan_group(layout(tmp_path), "/", "c1").paths == ()


@pytest.mark.parametrize("path", ["/a\0b", "/a\nb", "/" + "x" * 5000])
def test_paths_that_cannot_be(tmp_path: Path, path: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be a cgroup's path"):
        plan_group(layout(tmp_path), path, "c1")


def test_a_machine_joins_only_what_counts(tmp_path: Path) -> None:
    group = plan_group(layout(tmp_path), "/a", "c1")
    assert [file.removeprefix(str(tmp_path)) for file in group.procs_files] == [
        "/mem/a/cgroup.procs",
        "/pids/a/cgroup.procs",
        "/uni/a/cgroup.procs",
    ]
    assert [file.removeprefix(str(tmp_path)) for file in group.machine_procs_files] == [
        "/mem/a/cgroup.procs",
        "/uni/a/cgroup.procs",
    ]


def test_a_machine_without_container_lives_beside_the_first_member() -> None:
    assert sibling_path("/crio/pod1/crio-x", "vmpod-1") == "/crio/pod1/vmpod-1"
    assert sibling_path("/x/", "vmpod-1") == "/vmpod-1"
    assert sibling_path("x", "vmpod-1") == "vmpod-1"


RESOURCES: dict[str, Any] = {
    "devices": [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        {"allow": True, "type": "b", "major": 8, "minor": -1, "access": "r"},
    ],
    "memory": {
        "limit": 64 << 20, "reservation": 32 << 20, "swap": 128 << 20, "kernel": 1 << 20, "kernelTCP": 2 << 20,
        "swappiness": 0, "disableOOMKiller": True,
    },
    "cpu": {
        "shares": 512, "quota": 25000, "period": 100000, "burst": 0, "realtimeRuntime": 500, "realtimePeriod": 5000,
        "cpus": "0-1", "mems": "0", "idle": 0,
    },
    "pids": {"limit": 1000},
    "blockIO": {
        "weight": 500, "leafWeight": 300,
        "weightDevice": [{"major": 8, "minor": 0, "weight": 100}, {"major": 8, "minor": 16, "leafWeight": 100}],
        "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}],
        "throttleWriteIOPSDevice": [{"major": 8, "minor": 0, "rate": 2}],
    },
    "hugepageLimits": [{"pageSize": "2MB", "limit": 4096}],
    "network": {"classID": 1048577, "priorities": [{"name": "eth0", "priority": 5}]},
    "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10}},
    "unified": {"memory.high": "99"},
}  # fmt: skip


def writes(resources: dict[str, Any], version: int) -> list[tuple[str, str]]:
    return [(write.files[0], write.value) for write in plan_limits(resources, version)]


def test_all_limits_on_v1() -> None:
    defaults = "c *:* m|b *:* m|c 1:3 rwm|c 1:5 rwm|c 1:7 rwm|c 1:8 rwm|c 1:9 rwm|c 5:0 rwm|c 5:2 rwm|c 136:* rwm"
    assert writes(RESOURCES, 1) == [
        ("devices.deny", "a"),
        ("devices.allow", "c 10:229 rw"),
        ("devices.allow", "b 8:* r"),
        *(("devices.allow", rule) for rule in defaults.split("|")),
        ("memory.limit_in_bytes", "67108864"),
        ("memory.memsw.limit_in_bytes", "134217728"),
        ("memory.soft_limit_in_bytes", "33554432"),
        ("memory.kmem.limit_in_bytes", "1048576"),
        ("memory.kmem.tcp.limit_in_bytes", "2097152"),
        ("memory.swappiness", "0"),
        ("memory.oom_control", "1"),
        ("cpu.shares", "512"),
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "25000"),
        ("cpu.rt_period_us", "5000"),
        ("cpu.rt_runtime_us", "500"),
        ("cpu.cfs_burst_us", "0"),
        ("cpu.idle", "0"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("pids.max", "1000"),
        ("blkio.weight", "500"),
        ("blkio.leaf_weight", "300"),
        ("blkio.weight_device", "8:0 100"),
        ("blkio.throttle.read_bps_device", "8:0 1"),
        ("blkio.throttle.write_iops_device", "8:0 2"),
        ("hugetlb.2MB.limit_in_bytes", "4096"),
        ("net_cls.classid", "1048577"),
        ("net_prio.ifpriomap", "eth0 5"),
        ("rdma.max", "mlx5_1 hca_handle=3 hca_object=10"),
    ]


def test_all_limits_on_v2() -> None:
    assert writes(RESOURCES, 2) == [
        ("memory.max", "67108864"),
        ("memory.low", "33554432"),
        ("memory.swap.max", "67108864"),
        ("cpu.weight", "20"),
        ("cpu.max", "25000 100000"),
        ("cpu.max.burst", "0"),
        ("cpu.idle", "0"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("pids.max", "1000"),
        ("io.bfq.weight", "500"),
        ("io.weight", "default 4950"),
        ("io.max", "8:0 rbps=1"),
        ("io.max", "8:0 wiops=2"),
        ("hugetlb.2MB.max", "4096"),
        ("rdma.max", "mlx5_1 hca_handle=3 hca_object=10"),
        ("memory.high", "99"),
    ]


@pytest.mark.parametrize("version", [1, 2])
def test_absent_null_and_zero_write_nothing(version: int) -> None:
    zero = {"memory": {"limit": 0, "disableOOMKiller": False}, "cpu": {"shares": 0, "quota": 0}, "pids": {"limit": 0}}
    assert writes({"memory": {"swappiness": 2**64 - 1}}, version) == []
    for resources in ({}, {name: None for name in RESOURCES}, zero, {"blockIO": {"weight": 0}, "devices": []}):
        assert writes(resources, version) == []


def test_no_limit() -> None:
    unlimited = {"memory": {"limit": -1}, "cpu": {"quota": -1}, "pids": {"limit": -1}}
    assert writes(unlimited, 1) == [
        ("memory.limit_in_bytes", "-1"),
        ("memory.memsw.limit_in_bytes", "-1"),
        ("cpu.cfs_quota_us", "-1"),
        ("pids.max", "max"),
    ]
    assert writes(unlimited, 2) == [("memory.max", "max"), ("cpu.max", "max 100000"), ("pids.max", "max")]
    assert writes({"memory": {"swap": -1}}, 2) == [("memory.swap.max", "max")]
    assert writes({"cpu": {"period": 5000}}, 2) == [("cpu.max", "max 5000")]


@pytest.mark.parametrize(("shares", "weight"), [(1, "1"), (2, "1"), (1024, "39"), (262144, "10000"), (2**63, "10000")])
def test_shares_as_weight(shares: int, weight: str) -> None:
    assert writes({"cpu": {"shares": shares}}, 2) == [("cpu.weight", weight)]


def test_a_proxy_always_has_room_to_live() -> None:
    tiny = {"memory": {"limit": 4096, "swap": 4096}}
    assert writes(tiny, 1) == [("memory.limit_in_bytes", "16777216"), ("memory.memsw.limit_in_bytes", "16777216")]
    assert writes(tiny, 2) == [("memory.max", "16777216"), ("memory.swap.max", "0")]
