"""The cgroups that stand for a container, with both drivers; systemd's part is played by a stand-in for busctl."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.cli import host_cgroup
from oci_runtime.cli.host_cgroup import HostCgroup, join, mirror_limits, remove_all
from oci_runtime.errors import HostError, InvalidInput, OciRuntimeError, Unavailable
from oci_runtime.host.cgroups import read_layout

pytestmark = pytest.mark.root
BASE = f"/vmpodtestc{os.getpid()}"
SLICE = f"{BASE[1:]}.slice"
LIMITS: dict[str, Any] = {"pids": {"limit": 50}, "memory": {"limit": 64 << 20}}
UNLIMITED = str(2**63 - 4096)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["sleep", "600"])
    yield child
    child.kill()
    child.wait()


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    mounts = [hierarchy.mount for hierarchy in read_layout().hierarchies]
    left = [
        f"{mount}{BASE}{end}" for mount in mounts for end in ("", ".slice") if os.path.exists(f"{mount}{BASE}{end}")
    ]
    for path in left:
        for directory, _, _ in os.walk(path, topdown=False):
            os.rmdir(directory)
    assert left == []


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A busctl that notes its calls and does with a scope what systemd does, in the hierarchies that systemd uses."""
    (tmp_path / "bin").mkdir()
    managed = {"blkio", "cpu", "cpuacct", "devices", "memory", "pids", "name=systemd"}
    mounts = " ".join(h.mount for h in read_layout().hierarchies if h.version == 2 or managed & set(h.controllers))
    program = tmp_path / "bin" / "busctl"
    program.write_text(
        f"""#!/bin/sh
        echo "$@" >> {tmp_path}/calls
        case "$*" in
        *StartTransientUnit*)
            pid=$(echo "$*" | sed 's/.* PIDs au 1 \\([0-9]*\\) .*/\\1/')
            for mount in {mounts}; do
                mkdir -p $mount/{SLICE}/p-c1.scope && echo $pid > $mount/{SLICE}/p-c1.scope/cgroup.procs
            done ;;
        *ResetFailedUnit*) exit 1 ;;
        esac
        """
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    return tmp_path / "calls"


def read(paths: Sequence[str], controller: str, name: str) -> str:
    (mount,) = (h.mount for h in read_layout().hierarchies if controller in h.controllers)
    directory = max((path for path in paths if path.startswith(mount + "/")), key=len)
    return Path(directory, name).read_text().strip()


def cgroup(path: str, *, systemd: bool = False, holds_machine: bool = False) -> HostCgroup:
    return HostCgroup(path, "c1", systemd=systemd, holds_machine=holds_machine)


def test_a_member(process: subprocess.Popen[bytes]) -> None:
    member = cgroup(f"{BASE}/pod/c1")
    paths = member.group.paths
    assert not any(os.path.exists(path) for path in paths), "nothing is changed before make"
    member.make(process.pid, LIMITS)
    assert read(paths, "memory", "memory.limit_in_bytes") == str(64 << 20)
    mirror_limits(paths, {"memory": {"limit": 128 << 20}})
    assert read(paths, "memory", "memory.limit_in_bytes") == str(128 << 20)
    assert read(paths, "pids", "pids.max") == "50"
    other = subprocess.Popen(["sleep", "600"])
    join(paths, other.pid)
    assert set(read(paths, "pids", "cgroup.procs").split()) == {str(process.pid), str(other.pid)}
    for child in (process, other):
        child.kill()
        child.wait()
    remove_all(paths)
    assert not any(os.path.exists(path) for path in paths)
    remove_all(paths)


def test_a_machine_in_its_container_s_cgroup(process: subprocess.Popen[bytes]) -> None:
    single = cgroup(f"{BASE}/c1", holds_machine=True)
    paths = single.group.paths
    single.make(process.pid, LIMITS)
    noted: list[dict[str, str]] = []
    procs = single.make_machine("c1", noted.append)
    assert noted == []
    assert all(os.path.exists(file) for file in procs)
    assert read(paths, "memory", "memory.limit_in_bytes") == UNLIMITED
    assert read(paths, "pids", "pids.max") == "50"
    process.kill()
    process.wait()
    remove_all(paths)


def test_a_machine_beside_the_first_member(process: subprocess.Popen[bytes]) -> None:
    member = cgroup(f"{BASE}/pod/c1")
    paths = member.group.paths
    member.make(process.pid, LIMITS)
    noted: list[dict[str, str]] = []
    procs = member.make_machine("sandbox", noted.append)
    own = [resource["path"] for resource in noted if resource["kind"] == "cgroup"]
    assert all(os.path.dirname(path).endswith(f"{BASE}/pod") for path in own)
    assert not set(own) & set(paths)
    assert all(os.path.dirname(file) in own for file in procs)
    assert read(own, "memory", "memory.limit_in_bytes") == UNLIMITED
    process.kill()
    process.wait()
    remove_all(own)
    remove_all(paths)


def test_systemd_s_scope(process: subprocess.Popen[bytes], systemd: Path) -> None:
    member = cgroup(f"{SLICE}:p:c1", systemd=True)
    paths = member.group.paths
    assert all(path.endswith(f"/{SLICE}/p-c1.scope") for path in paths), "slices are systemd's own to remove"
    member.make(process.pid, LIMITS)
    assert read(paths, "memory", "memory.limit_in_bytes") == str(64 << 20)
    mirror_limits(paths, {"pids": {"limit": 60}})
    assert read(paths, "pids", "pids.max") == "60"
    process.kill()
    process.wait()
    remove_all(paths)
    assert not any(os.path.exists(path) for path in paths)
    words = [
        line.split(" org.freedesktop.systemd1.Manager ")[1].split()[0] for line in systemd.read_text().splitlines()
    ]
    assert words == ["ResetFailedUnit", "StartTransientUnit", "SetUnitProperties"]
    assert "MemoryLimit t 67108864" in systemd.read_text()
    remove_all([os.path.dirname(path) for path in paths])


def test_a_machine_s_scope_has_no_limits(process: subprocess.Popen[bytes], systemd: Path) -> None:
    single = cgroup(f"{SLICE}:p:c1", systemd=True, holds_machine=True)
    single.make(process.pid, LIMITS)
    assert "MemoryLimit" not in systemd.read_text() and "TasksMax" not in systemd.read_text()
    process.kill()
    process.wait()
    remove_all(single.group.paths)
    remove_all([os.path.dirname(path) for path in single.group.paths])


def test_systemd_that_refuses(process: subprocess.Popen[bytes], systemd: Path) -> None:
    (systemd.parent / "bin" / "busctl").write_text("#!/bin/sh\necho 'Call failed: no such bus' >&2\nexit 1\n")
    with pytest.raises(OciRuntimeError, match="^busctl: Call failed: no such bus .--systemd-cgroup needs a running"):
        cgroup(f"{SLICE}:p:c1", systemd=True).make(process.pid, {})


def test_no_busctl(process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="run busctl: No such file or directory .--systemd-cgroup needs a running"):
        cgroup(f"{SLICE}:p:c1", systemd=True).make(process.pid, {})


def test_systemd_that_accepts_and_does_nothing(
    process: subprocess.Popen[bytes], systemd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (systemd.parent / "bin" / "busctl").write_text("#!/bin/sh\nexit 0\n")
    monkeypatch.setattr(host_cgroup, "_BUSCTL_S", 1.0)
    with pytest.raises(Unavailable, match="systemd did not start p-c1.scope within 1 s"):
        cgroup(f"{SLICE}:p:c1", systemd=True).make(process.pid, {})


def test_a_path_of_the_other_driver() -> None:
    with pytest.raises(InvalidInput, match="must have the form slice:prefix:name with --systemd-cgroup"):
        cgroup("/a/b", systemd=True)
