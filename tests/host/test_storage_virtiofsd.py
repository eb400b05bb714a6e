"""virtiofsd as a process: confined, connected without a trace in the file system, and gone with its parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oci_runtime.errors import NotFound, OciRuntimeError
from oci_runtime.host.mounts import list_mounts
from oci_runtime.host.spawn import kill_and_reap, reap
from oci_runtime.storage.share import Share
from oci_runtime.storage.virtiofsd import VirtiofsdLaunch, VirtiofsdSettings, find_virtiofsd, is_rust, launch_virtiofsd
from tests.engine import is_running, wait_until
from tests.storage_lab import private_mounts  # noqa: F401 - a fixture

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("private_mounts")]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Share]:
    descriptors = sorted(os.listdir("/proc/self/fd"))
    directory = tmp_path / "sandbox"
    directory.mkdir(mode=0o700)
    share = Share.create(directory)
    yield share
    share.close()
    assert sorted(os.listdir("/proc/self/fd")) == descriptors
    assert list_mounts(str(tmp_path)) == []


def end(launch: VirtiofsdLaunch) -> None:
    kill_and_reap(launch.child)
    launch.close()


def inner(launch: VirtiofsdLaunch) -> int:
    """The process in the namespaces, which serves; the outer one waits for it."""
    found: list[str] = []

    def there() -> bool:
        found[:] = Path(f"/proc/{launch.pid}/task/{launch.pid}/children").read_text().split()
        return bool(found) and "Seccomp:\t2" in Path(f"/proc/{found[0]}/status").read_text()

    wait_until(there, "virtiofsd serves", 20)
    return int(found[0])


def test_it_serves_confined(share: Share, tmp_path: Path) -> None:
    leak = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(leak, True)
    launch = launch_virtiofsd(share.served, tmp_path / "sandbox")
    os.close(leak)
    server = inner(launch)
    status = Path(f"/proc/{server}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    for kind in ("mnt", "net", "pid"):
        assert os.readlink(f"/proc/{server}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind
    mounts = Path(f"/proc/{server}/mountinfo").read_text().splitlines()
    assert len(mounts) == 1 and " ro," in mounts[0], "it sees the share and nothing else"
    for process in (launch.pid, server):
        files = {os.readlink(f"/proc/{process}/fd/{number}") for number in os.listdir(f"/proc/{process}/fd")}
        assert "/etc/passwd" not in files
    assert sorted(os.listdir(tmp_path / "sandbox")) == ["share"], "no socket is left"
    end(launch)


@pytest.mark.parametrize("victim", ["outer", "inner"])
def test_both_of_its_processes_end_together(share: Share, tmp_path: Path, victim: str) -> None:
    launch = launch_virtiofsd(share.served, tmp_path / "sandbox")
    server = inner(launch)
    os.kill(launch.pid if victim == "outer" else server, signal.SIGKILL)
    # It is reaped when its last thread is gone, which /proc does not tell.
    wait_until(lambda: reap(launch.child) is not None and not is_running(server), "both have ended", 10)
    end(launch)


def test_the_one_that_serves_is_killed_too_though_it_minds_no_other_signal(share: Share, tmp_path: Path) -> None:
    launch = launch_virtiofsd(share.served, tmp_path / "sandbox")
    server = inner(launch)
    os.kill(server, signal.SIGSTOP)
    launch.kill()
    wait_until(lambda: not is_running(server), "it has ended", 10)
    launch.kill()
    launch.close()


def test_it_ends_with_its_connection(share: Share, tmp_path: Path) -> None:
    launch = launch_virtiofsd(share.served, tmp_path / "sandbox")
    inner(launch)
    launch.socket.close()
    wait_until(lambda: reap(launch.child) is not None, "virtiofsd has ended", 10)
    launch.close()


def test_it_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    (tmp_path / "sandbox").mkdir()
    script = (
        "import time; from pathlib import Path; from oci_runtime.storage.virtiofsd import *;"
        f"launch = launch_virtiofsd(Path({str(tmp_path)!r}), Path({str(tmp_path / 'sandbox')!r}));"
        "print(launch.pid, flush=True); time.sleep(1000)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=REPOSITORY)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.stdout.close()
    children = Path(f"/proc/{pid}/task/{pid}/children")
    wait_until(lambda: children.read_text().split() != [], "virtiofsd has forked", 10)
    server = int(children.read_text().split()[0])
    parent.kill()
    parent.wait()
    wait_until(lambda: not is_running(pid) and not is_running(server), "both have ended", 10)


def test_a_sandbox_directory_with_a_long_path_is_no_obstacle(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 100) / ("e" * 100)
    directory.mkdir(parents=True)
    share = Share.create(directory)
    launch = launch_virtiofsd(share.served, directory)
    inner(launch)
    end(launch)
    share.close()


def test_a_socket_left_by_a_dead_process_is_no_obstacle(share: Share, tmp_path: Path) -> None:
    (tmp_path / "sandbox" / "virtiofs.sock").touch()
    launch = launch_virtiofsd(share.served, tmp_path / "sandbox")
    assert sorted(os.listdir(tmp_path / "sandbox")) == ["share"]
    end(launch)


def test_its_last_words_are_kept(share: Share, tmp_path: Path) -> None:
    launch = launch_virtiofsd(tmp_path / "none", tmp_path / "sandbox")
    wait_until(lambda: reap(launch.child) is not None, "virtiofsd gives up", 20)
    said = launch.messages()
    assert "No such file or directory" in said or f"{tmp_path / 'none'} does not exist" in said, said
    assert launch.messages() == ""
    launch.close()


def test_failures_leave_nothing(share: Share, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="virtiofsd: not found at /none/virtiofsd .apt install"):
        launch_virtiofsd(share.served, tmp_path / "sandbox", VirtiofsdSettings(path="/none/virtiofsd"))
    with pytest.raises(OciRuntimeError, match="join cgroup /none/cgroup.procs"):
        launch_virtiofsd(share.served, tmp_path / "sandbox", cgroup_procs=["/none/cgroup.procs"])
    assert sorted(os.listdir(tmp_path / "sandbox")) == ["share"]


def test_the_program_of_this_system_is_known() -> None:
    program = find_virtiofsd()
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    assert is_rust(program) == ("virtiofsd version" not in version)


def fake(tmp_path: Path, name: str, script: str) -> str:
    program = tmp_path / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program)


def test_the_two_kinds_are_told_apart_by_what_they_say(tmp_path: Path) -> None:
    assert is_rust(fake(tmp_path, "rust", "echo virtiofsd 1.13.2"))
    assert not is_rust(
        fake(tmp_path, "c", "echo 'virtiofsd version 7.2.22 (Debian)'; echo 'using FUSE kernel interface'")
    )
    assert is_rust(fake(tmp_path, "rust", "echo virtiofsd version 7")), "asked once"
