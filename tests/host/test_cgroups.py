"""Cgroups of this host, in directories that each test makes and removes. runc is the measure for values."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.bundle.default import default_spec
from oci_runtime.errors import HostError
from oci_runtime.host.cgroup_limits import apply_limits
from oci_runtime.host.cgroups import (
    Group,
    Hierarchy,
    Layout,
    Leaf,
    join,
    make_group,
    plan_group,
    read_layout,
    remove,
)
from tests.engine import wait_until
from tests.fuse_lab import FuseLab
from tests.storage_lab import private_mounts  # noqa: F401 - a fixture

pytestmark = pytest.mark.root
BASE = f"/vmpod-test-{os.getpid()}"


@pytest.fixture
def layout() -> Iterator[Layout]:
    found = read_layout()
    assert found.hierarchies, "this host has no cgroups"
    yield found
    left = [f"{h.mount}{BASE}" for h in found.hierarchies if os.path.exists(f"{h.mount}{BASE}")]
    for path in left:
        for directory, _, _ in os.walk(path, topdown=False):
            os.rmdir(directory)
    assert left == [], "the test left cgroups"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


def make(layout: Layout, path: str, container_id: str = "c1") -> Group:
    group, warnings = make_group(plan_group(layout, path, container_id))
    assert warnings == ()
    return group


def value(group: Group, controller: str, name: str) -> str:
    (leaf,) = (leaf for leaf in group.leaves if controller in leaf.hierarchy.controllers)
    return Path(leaf.directory, name).read_text().strip()


def memberships(pid: int) -> set[str]:
    return {line.split(":", 2)[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()}


def test_make_join_remove(layout: Layout, sleeper: subprocess.Popen[bytes]) -> None:
    planned = plan_group(layout, f"{BASE}/pod/c1", "c1")
    group = make(layout, f"{BASE}/pod/c1")
    assert group == planned
    join(group.procs_files, sleeper.pid)
    assert memberships(sleeper.pid) == {f"{BASE}/pod/c1"}
    sleeper.kill()
    sleeper.wait()
    assert remove(group.paths) == ()
    assert not any(os.path.exists(path) for path in group.paths)
    assert remove(group.paths) == ()


def test_a_relative_path_counts_from_our_own_cgroup(layout: Layout) -> None:
    group = make(layout, f"{BASE.strip('/')}/c1")
    for leaf in group.leaves:
        own = leaf.hierarchy.own if leaf.hierarchy.version == 1 else os.path.dirname(leaf.hierarchy.own)
        assert leaf.directory == os.path.normpath(f"{leaf.hierarchy.mount}{own}{BASE}/c1")
        assert os.path.isdir(leaf.directory)
    assert remove(group.paths) == ()


def test_members_of_a_pod_share_its_parent(layout: Layout) -> None:
    one = make(layout, f"{BASE}/pod/c1")
    two = make(layout, f"{BASE}/pod/c2")
    assert remove(one.paths, 0.1) == ()
    assert all(os.path.isdir(leaf.directory) for leaf in two.leaves)
    assert not any(os.path.exists(leaf.directory) for leaf in one.leaves)
    assert remove(two.paths) == ()
    # The parents belong to the first one, which has left them to the second: only its list removes them.
    assert remove(one.paths) == ()


def test_processes_of_somebody_else_stay_where_they_are(layout: Layout, sleeper: subprocess.Popen[bytes]) -> None:
    group = make(layout, f"{BASE}/c1")
    join(group.procs_files, sleeper.pid)
    problems = remove(group.paths, 0.05)
    assert len(problems) == len(group.leaves)
    assert all(problem.endswith(f"/c1 still has processes: {sleeper.pid}") for problem in problems)
    assert sleeper.poll() is None
    assert memberships(sleeper.pid) == {f"{BASE}/c1"}
    sleeper.kill()
    sleeper.wait()
    assert remove(group.paths) == ()


def test_cgroups_of_somebody_else_stay(layout: Layout) -> None:
    group = make(layout, f"{BASE}/c1")
    for leaf in group.leaves:
        os.mkdir(f"{leaf.directory}/inner")
    start = time.monotonic()
    problems = remove(group.paths, 600)
    assert time.monotonic() - start < 300, "no deadline is waited for"
    assert all("has cgroups of somebody else in it" in problem for problem in problems)
    assert all(os.path.isdir(f"{leaf.directory}/inner") for leaf in group.leaves)
    for leaf in group.leaves:
        os.rmdir(f"{leaf.directory}/inner")
    assert remove(group.paths) == ()


def test_removal_waits_for_processes_that_end(layout: Layout, sleeper: subprocess.Popen[bytes]) -> None:
    group = make(layout, f"{BASE}/c1")
    join(group.procs_files, sleeper.pid)

    def end() -> None:
        time.sleep(0.2)
        sleeper.kill()
        sleeper.wait()

    thread = threading.Thread(target=end)
    thread.start()
    assert remove(group.paths, 60) == ()
    thread.join()


@pytest.mark.usefixtures("private_mounts")
def test_a_killed_process_that_a_hung_file_system_holds_does_not_keep_them(layout: Layout, tmp_path: Path) -> None:
    served = FuseLab(tmp_path, b"content")
    served.hang()
    group = make(layout, f"{BASE}/c1")
    process = subprocess.Popen(["cat", tmp_path / "file"])
    join(group.procs_files, process.pid)
    wait_until(lambda: served.waiting, "it waits")
    problems = remove(group.paths, 0.0)
    assert len(problems) == len(group.leaves), "it may live"
    assert memberships(process.pid) >= {f"{BASE}/c1"}
    process.kill()
    assert remove(group.paths, 0.0) == ()
    assert process.poll() is None and memberships(process.pid) == {"/"}
    served.close()
    process.wait(60)


def test_only_cgroups_are_removed(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    mount = layout.hierarchies[0].mount
    outside = [str(tmp_path / "x"), f"{mount}/../../../{tmp_path}/x", mount, "/"]
    assert len(remove(outside)) == len(outside)
    assert (tmp_path / "x").is_dir()


def test_two_creations_and_removals_at_once_do_not_disturb_each_other(layout: Layout) -> None:
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for _ in range(30):
                group, warnings = make_group(plan_group(layout, f"{BASE}/pod/{name}", name))
                assert warnings == ()
                assert all(os.path.isdir(leaf.directory) for leaf in group.leaves)
                assert remove(group.paths) == ()
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("c1", "c2", "c3")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    every = plan_group(layout, f"{BASE}/pod/none", "none")
    parents = [f"{leaf.hierarchy.mount}{BASE}{name}" for leaf in every.leaves for name in ("/pod", "")]
    assert remove(parents) == ()


def test_a_hierarchy_that_refuses_is_a_warning(layout: Layout) -> None:
    file = f"{layout.hierarchies[0].mount}/cgroup.procs"
    closed = Hierarchy(mount=file, controllers=("closed",), version=1)
    planned = plan_group(Layout(hierarchies=(*layout.hierarchies, closed)), f"{BASE}/c1", "c1")
    group, warnings = make_group(planned)
    assert [leaf.hierarchy for leaf in group.leaves] == list(layout.hierarchies)
    assert warnings == (f"mkdir {file}{BASE}/c1: Not a directory",)
    assert remove(planned.paths) == ()
    with pytest.raises(HostError, match="Not a directory"):
        make_group(plan_group(Layout(hierarchies=(closed,)), f"{BASE}/c1", "c1"))
    assert make_group(plan_group(Layout(), f"{BASE}/c1", "c1")) == (Group(), ())


def test_joining_with_a_process_that_is_gone(layout: Layout) -> None:
    group = make(layout, f"{BASE}/c1")
    process = subprocess.Popen(["true"])
    process.wait()
    with pytest.raises(HostError, match="cgroup.procs: No such process"):
        join(group.procs_files, process.pid)
    assert remove(group.paths) == ()


RESOURCES: dict[str, Any] = {
    "devices": [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"},
        {"allow": True, "type": "b", "major": 8, "access": "r"},
    ],
    "memory": {
        "limit": 64 << 20, "reservation": 32 << 20, "swap": 96 << 20, "swappiness": 10, "disableOOMKiller": True,
    },
    "cpu": {"shares": 512, "quota": 25_000, "period": 50_000, "cpus": "0", "mems": "0"},
    "pids": {"limit": 1000},
    "blockIO": {
        "throttleReadBpsDevice": [{"major": 252, "minor": 0, "rate": 1 << 20}],
        "throttleWriteIOPSDevice": [{"major": 252, "minor": 0, "rate": 300}],
    },
}  # fmt: skip


def block_device() -> tuple[int, int]:
    """Numbers of a disk of this host: the kernel checks them."""
    for name in sorted(os.listdir("/sys/block")):
        major, minor = Path("/sys/block", name, "dev").read_text().split(":")
        return int(major), int(minor)
    raise AssertionError("this host has no block device")


def for_this_host(resources: dict[str, Any]) -> dict[str, Any]:
    major, minor = block_device()
    result: dict[str, Any] = json.loads(json.dumps(resources))
    for devices in result["blockIO"].values():
        devices[0].update(major=major, minor=minor)
    return result


def shown_limits(mount: str, path: str) -> dict[str, str]:
    """Every value of a cgroup that can be set."""
    found = {}
    for file in sorted(Path(f"{mount}{path}").iterdir()):
        unwanted = ("cgroup.", "notify_on_release", "tasks", "memory.force_empty", "blkio.reset_stats")
        # devices.list depends on the order of equal rules: compared as a set.
        if file.is_file() and not file.name.startswith(unwanted):
            if file.stat().st_mode & 0o222 and file.stat().st_mode & 0o444:
                lines = file.read_text().splitlines()
                found[file.name] = "\n".join(sorted(lines) if file.name.startswith("devices") else lines)
    return found


@pytest.fixture
def runc_group(layout: Layout, tmp_path: Path) -> Iterator[str]:
    """A container that runc created with the same limits; yields its cgroup's path."""
    (tmp_path / "b" / "rootfs" / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", tmp_path / "b" / "rootfs" / "bin" / "sh")
    spec = default_spec()
    spec["ociVersion"] = "1.0.2"
    spec["process"]["terminal"] = False
    del spec["process"]["rlimits"]
    spec["linux"]["cgroupsPath"] = f"{BASE}/runc"
    spec["linux"]["resources"] = for_this_host(RESOURCES)
    (tmp_path / "b" / "config.json").write_text(json.dumps(spec))
    runc = ["runc", "--root", str(tmp_path / "state")]
    log = tmp_path / "log"
    with log.open("wb") as output:
        created = subprocess.run(
            [*runc, "create", "--bundle", str(tmp_path / "b"), "c1"],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, check=False, timeout=60,
        )  # fmt: skip
    assert created.returncode == 0, log.read_text()
    yield f"{BASE}/runc"
    subprocess.run([*runc, "delete", "--force", "c1"], check=True, timeout=60)
    remove([f"{hierarchy.mount}{BASE}" for hierarchy in layout.hierarchies])


def test_limits_are_those_that_runc_sets(layout: Layout, runc_group: str, sleeper: subprocess.Popen[bytes]) -> None:
    group = make(layout, f"{BASE}/ours")
    join(group.procs_files, sleeper.pid)
    assert apply_limits(group, for_this_host(RESOURCES), holds_machine=False) == ()
    compared = 0
    for leaf in group.leaves:
        ours, theirs = (shown_limits(leaf.hierarchy.mount, path) for path in (f"{BASE}/ours", runc_group))
        usage = {name for name in ours if "usage" in name or name.endswith(("failcnt", "pressure"))}
        for name in ours.keys() - usage:
            assert ours[name] == theirs[name], name
            compared += 1
    assert compared > 20
    assert value(group, "memory", "memory.limit_in_bytes") == str(64 << 20)
    sleeper.kill()
    sleeper.wait()
    assert remove(group.paths) == ()


def test_limits_that_runc_has_given_up(layout: Layout) -> None:
    group = make(layout, f"{BASE}/c1")
    resources = {"memory": {"kernel": 64 << 20, "kernelTCP": 50 << 20, "useHierarchy": True}}
    assert apply_limits(group, resources, holds_machine=False) == ()
    assert value(group, "memory", "memory.kmem.tcp.limit_in_bytes") == str(50 << 20)
    assert remove(group.paths) == ()


def test_devices_are_those_that_the_rules_allow(layout: Layout) -> None:
    group = make(layout, f"{BASE}/c1")
    assert apply_limits(group, {"devices": RESOURCES["devices"]}, holds_machine=False) == ()
    listed = value(group, "devices", "devices.list").splitlines()
    assert {"c 10:229 rw", "b 8:* r", "c 1:3 rwm"} <= set(listed)
    assert not any(line.startswith("a ") for line in listed)
    assert remove(group.paths) == ()


def test_limits_can_be_raised_and_lowered_in_any_order(layout: Layout) -> None:
    group = make(layout, f"{BASE}/c1")
    mib = 1 << 20
    steps = [(64, 64), (256, 512), (32, 48), (-1, -1), (128, 128)]
    for limit, swap in steps:
        values = {"limit": limit * mib if limit > 0 else -1, "swap": swap * mib if swap > 0 else -1}
        assert apply_limits(group, {"memory": values}, holds_machine=False) == ()
        if limit > 0:
            assert value(group, "memory", "memory.limit_in_bytes") == str(limit * mib)
            assert value(group, "memory", "memory.memsw.limit_in_bytes") == str(swap * mib)
    for quota, period in ((1000, 1000), (500_000, 1_000_000), (2000, 2000)):
        assert apply_limits(group, {"cpu": {"quota": quota, "period": period}}, holds_machine=False) == ()
        assert value(group, "cpu", "cpu.cfs_quota_us") == str(quota)
        assert value(group, "cpu", "cpu.cfs_period_us") == str(period)
    assert remove(group.paths) == ()


def test_a_machine_gets_no_limit_where_it_is_counted(layout: Layout, sleeper: subprocess.Popen[bytes]) -> None:
    group = make(layout, f"{BASE}/c1")
    join(group.machine_procs_files, sleeper.pid)
    memory = value(group, "memory", "memory.limit_in_bytes")
    assert apply_limits(group, for_this_host(RESOURCES), holds_machine=True) == ()
    assert value(group, "memory", "memory.limit_in_bytes") == memory
    assert value(group, "memory", "memory.memsw.limit_in_bytes") == memory
    assert value(group, "blkio", "blkio.throttle.read_bps_device") == ""
    # The machine is not in this one: the container's limit is the proxy's alone.
    assert value(group, "pids", "pids.max") == "1000"
    held = {file for file in group.procs_files if str(sleeper.pid) in Path(file).read_text().split()}
    assert held == set(group.machine_procs_files)
    limited = {leaf.directory for leaf in group.leaves if not leaf.counts_machine}
    assert not any(os.path.dirname(file) in limited for file in held)
    sleeper.kill()
    sleeper.wait()
    assert remove(group.paths) == ()


def test_what_the_host_cannot_limit_is_said(layout: Layout) -> None:
    group = make(layout, f"{BASE}/c1")
    resources = {"network": {"classID": 5}, "rdma": {"x": {"hcaHandles": 1}}, "pids": {"limit": 5}}
    warnings = apply_limits(group, resources, holds_machine=False)
    assert [line for line in warnings if "net_cls" in line] == [
        "the host has no cgroup controller net_cls: net_cls.classid holds in the guest only"
    ]
    assert len(warnings) == 2
    assert value(group, "pids", "pids.max") == "5"
    warnings = apply_limits(group, {"memory": {"swappiness": 1000}}, holds_machine=False)
    assert len(warnings) == 1
    assert warnings[0].endswith("memory.swappiness: Invalid argument (value 1000)")
    assert remove(group.paths) == ()


def test_the_root_is_never_limited(layout: Layout) -> None:
    group = plan_group(layout, "/", "c1")
    assert all(leaf.is_root for leaf in group.leaves)
    assert apply_limits(group, RESOURCES, holds_machine=False) == ()
    assert remove(group.paths) == ()


def test_on_v2_controllers_reach_the_child(layout: Layout, sleeper: subprocess.Popen[bytes]) -> None:
    """The v2 hierarchy of a hybrid host has few controllers; what it has behaves as on a v2 host."""
    unified = [hierarchy for hierarchy in layout.hierarchies if hierarchy.version == 2]
    assert unified, "this host has no v2 hierarchy"
    group = make(Layout(hierarchies=tuple(unified)), f"{BASE}/pod/c1")
    (leaf,) = group.leaves
    assert isinstance(leaf, Leaf)
    for controller in leaf.hierarchy.controllers:
        assert controller in Path(leaf.directory, "cgroup.controllers").read_text().split()
    if "hugetlb" in leaf.hierarchy.controllers:
        resources = {"hugepageLimits": [{"pageSize": "2MB", "limit": 4 << 20}]}
        assert apply_limits(group, resources, holds_machine=False) == ()
        assert value(group, "hugetlb", "hugetlb.2MB.max") == str(4 << 20)
        assert apply_limits(group, {"hugepageLimits": []}, holds_machine=True) == ()
    join(group.procs_files, sleeper.pid)
    os.kill(sleeper.pid, signal.SIGKILL)
    sleeper.wait()
    assert remove(group.paths) == ()
