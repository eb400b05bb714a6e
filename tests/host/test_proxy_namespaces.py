"""What `/proc/PID/ns` of a container's process on the host shows: the namespaces of the spec, made or joined."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.host.namespaces import proc_name
from tests.engine import crio, wait_exit, wait_until
from tests.host.conftest import FakeEngine

pytestmark = pytest.mark.root
KINDS = ("cgroup", "ipc", "mount", "network", "pid", "user", "uts")
MAPPINGS = [{"containerID": 0, "hostID": 1000, "size": 500}, {"containerID": 500, "hostID": 100000, "size": 7}]


def namespace(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{proc_name(kind)}")


def linux(**paths: str) -> dict[str, Any]:
    """linux.namespaces with the usual kinds; those given have a path."""
    kinds = dict.fromkeys(("ipc", "mount", "network", "pid", "uts"), "") | paths
    return {"namespaces": [{"type": kind} | ({"path": path} if path else {}) for kind, path in kinds.items()]}


@contextmanager
def unshared(kind: str) -> Iterator[int]:
    """The pid of a process that has unshared a namespace (pid: for its child, which sleeps in it)."""
    with subprocess.Popen(["unshare", f"--{kind}", "--fork", "sleep", "1000"], start_new_session=True) as process:
        try:
            shown = "pid_for_children" if kind == "pid" else kind
            wait_until(lambda: namespace(process.pid, shown) != namespace("self", kind), f"unshare --{kind}")
            yield process.pid
        finally:
            os.killpg(process.pid, 9)


def test_every_kind_is_new_and_the_mappings_show(engine: FakeEngine) -> None:
    """The interpreter of the proxy may be where only root with all its rights can read it."""
    more = {"namespaces": [{"type": kind} for kind in KINDS], "uidMappings": MAPPINGS, "gidMappings": MAPPINGS[:1]}
    engine.create("c1", ["sh", "-c", "cat; exit 7"], linux=more)
    pid = engine.pids["c1"]
    assert [kind for kind in KINDS if namespace(pid, kind) == namespace("self", kind)] == []
    shown = [line.split() for line in Path(f"/proc/{pid}/uid_map").read_text().splitlines()]
    assert shown == [["0", "1000", "500"], ["500", "100000", "7"]]
    assert Path(f"/proc/{pid}/gid_map").read_text().split() == ["0", "1000", "500"]
    engine.call("start", "c1")
    assert engine.exit_code("c1") == 7


@pytest.mark.parametrize("kind", ["ipc", "mount", "network", "uts"])
def test_a_namespace_with_a_path_is_joined(engine: FakeEngine, kind: str) -> None:
    with unshared({"mount": "mount", "network": "net"}.get(kind, kind)) as maker:
        engine.create("c1", ["sleep", "1000"], linux=linux(**{kind: f"/proc/{maker}/ns/{proc_name(kind)}"}))
        assert namespace(engine.pids["c1"], kind) == namespace(maker, kind)
        mounts = Path(f"/proc/{maker}/mounts").read_text()
        engine.call("delete", "--force", "c1")
        # Nothing was mounted in a namespace that others use.
        assert mounts == Path(f"/proc/{maker}/mounts").read_text()


def test_a_pid_namespace_made_for_containers_is_joined(engine: FakeEngine) -> None:
    """Not so one that is named by a process: sharing it means seeing that process."""
    with unshared("pid") as maker:
        path = f"/proc/{maker}/ns/pid_for_children"
        engine.create("c1", ["sleep", "1000"], linux=linux(pid=path))
        assert namespace(engine.pids["c1"], "pid") == os.readlink(path)
        # Another machine has no part in it any more.
        refused = engine.create("c2", ["sleep", "1000"], check=False, linux=linux(pid=path))
        assert refused.code != 0 and "cannot be shared" in refused.err
        (child,) = Path(f"/proc/{maker}/task/{maker}/children").read_text().split()
        engine.call("delete", "--force", "c1")
        for named in (f"/proc/{child}/ns/pid", "/proc/self/ns/pid", "/proc/1/ns/pid_for_children"):
            refused = engine.create("c3", ["sleep", "1000"], check=False, linux=linux(pid=named))
            assert refused.code != 0 and "cannot be shared" in refused.err, named


def test_members_of_a_pod_share_a_pid_namespace_made_for_containers(engine: FakeEngine) -> None:
    with unshared("pid") as maker:
        path = f"/proc/{maker}/ns/pid_for_children"
        engine.create("pod", ["sleep", "1000"], annotations=crio("sandbox", "pod"), linux=linux(pid=path))
        engine.create("c1", ["sleep", "1000"], annotations=crio("container", "pod"), linux=linux(pid=path))
        assert namespace(engine.pids["c1"], "pid") == namespace(engine.pids["pod"], "pid")


def test_an_exec_is_where_its_container_is(engine: FakeEngine) -> None:
    """Not in a namespace of the host that the container's own process has left, and with no other files in reach."""
    (engine.rootfs / "only-here").touch()
    more = {"namespaces": [{"type": kind} for kind in KINDS], "uidMappings": MAPPINGS, "gidMappings": MAPPINGS[:1]}
    engine.run("c1", ["sleep", "1000"], linux=more)
    pid = engine.exec_detached("c1", "sh", "-c", "sleep 1; exit 5")
    for kind in KINDS:
        assert namespace(pid, kind) == namespace(engine.pids["c1"], kind) != namespace("self", kind)
    assert sorted(os.listdir(f"/proc/{pid}/root")) == sorted(os.listdir(f"/proc/{engine.pids['c1']}/root"))
    assert "only-here" in os.listdir(f"/proc/{pid}/cwd")
    assert wait_exit(pid) == 5
