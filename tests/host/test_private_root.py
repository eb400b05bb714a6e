"""A program in a root directory of its own, with a few capabilities under another user id."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from oci_runtime.errors import HostError, Unsupported
from oci_runtime.host import syscalls
from oci_runtime.host.mounts import detach_mount
from oci_runtime.host.private_root import Place, PrivateRoot
from oci_runtime.host.spawn import SpawnPlan, kill_and_reap, spawn
from oci_runtime.vm.confinement import CAPABILITIES, NAMESPACES, plan_root
from tests.storage_lab import private_mounts  # noqa: F401 - a fixture

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("private_mounts")]
UID = 1_999_999_999


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Path]:
    """A shared mount, as the share of a pod is, and a place beside it to make the root at."""
    place = tmp_path / "share"
    place.mkdir()
    (tmp_path / "stage").mkdir()
    syscalls.mount("share", str(place), "tmpfs")
    syscalls.mount_setattr(str(place), 0, propagation=syscalls.MS_SHARED)
    (place / "later").mkdir()
    yield place
    detach_mount(str(place))


def plan(share: Path, script: str, **changes: object) -> SpawnPlan:
    base = SpawnPlan(
        argv=("/bin/sh", "-c", script),
        uid=UID,
        gid=UID,
        root=plan_root("/bin/sh", str(share), str(share.parent / "stage")),
        unshare=NAMESPACES,
        capabilities=CAPABILITIES,
    )
    return base.replace(**changes)


class _Dialogue:
    """Lines to and from the shell."""

    def __init__(self, to: int, answers: int) -> None:
        self._to = os.fdopen(to, "w", buffering=1)
        self._answers = os.fdopen(answers)

    def ask(self, command: str) -> list[str]:
        """What a command writes, its complaints too."""
        self._to.write(f"{{ {command}; }} 2>&1; echo .\n")
        return list(iter(lambda: self._answers.readline().rstrip("\n"), "."))

    def close(self) -> None:
        self._to.close()
        self._answers.close()


@contextlib.contextmanager
def confined_shell(share: Path) -> Iterator[_Dialogue]:
    (stdin, to), (answers, stdout) = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
    dialogue = _Dialogue(to, answers)
    try:
        child = spawn(plan(share, "exec sh", fds={0: stdin, 1: stdout}))
    finally:
        os.close(stdin)
        os.close(stdout)
    try:
        yield dialogue
    finally:
        kill_and_reap(child)
        child.close()
        dialogue.close()


def test_it_sees_the_planned_places_alone(share: Path) -> None:
    with confined_shell(share) as shell:
        assert {"dev", "proc", "share", "usr"} <= set(shell.ask("ls /"))
        assert not {"home", "root", "run", "sys", "tmp", "var"} & set(shell.ask("ls /"))
        assert set(shell.ask("ls /etc")) <= {"alternatives", "ld.so.cache"}
        assert set(shell.ask("ls /dev")) <= {"kvm", "null", "urandom"}
        seen = set(shell.ask("ls /proc"))
        assert {name for name in seen if not name.isdigit()} == {"self", "thread-self"}
        assert str(os.getpid()) not in seen
        for place in ("/x", "/usr/x", "/dev/x", "/etc/x"):
            assert "Read-only file system" in shell.ask(f"touch {place}")[0]
        assert "Operation not permitted" in shell.ask("mknod /share/x c 1 3")[0]


def test_it_has_roots_rights_over_files_and_no_others(share: Path) -> None:
    (share / "secret").write_text("of root\n")
    (share / "secret").chmod(0o600)
    with confined_shell(share) as shell:
        assert shell.ask("cat /share/secret; chown 5:6 /share/secret; chmod 2750 /share/secret") == ["of root"]
        status = dict(line.split(":\t", 1) for line in shell.ask("cat /proc/self/status") if ":\t" in line)
    found = (share / "secret").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o7777) == (5, 6, 0o2750)
    assert status["CapEff"] == status["CapPrm"] == status["CapAmb"] == "000000008000001b"
    assert status["Uid"].split() == [str(UID)] * 4 and status["NoNewPrivs"] == "1"


def test_later_mounts_of_the_host_come_and_go_in_the_share_alone(share: Path) -> None:
    with confined_shell(share) as shell:
        before = Path("/proc/self/mountinfo").read_text()
        syscalls.mount("later", str(share / "later"), "tmpfs")
        (share / "later" / "seen").touch()
        assert shell.ask("ls /share/later") == ["seen"]
        syscalls.umount(str(share / "later"))
        assert shell.ask("ls /share/later") == []
        assert Path("/proc/self/mountinfo").read_text() == before, "nothing of the root is seen outside"


def test_a_place_that_is_not_there_is_named_and_leaves_nothing(share: Path) -> None:
    stage = str(share.parent / "stage")
    before = Path("/proc/self/mountinfo").read_text()
    missing = PrivateRoot(stage=stage, places=(Place(source="/nowhere", target="/nowhere"),))
    with pytest.raises(HostError, match="/nowhere: No such file or directory"):
        spawn(plan(share, "true", root=missing))
    assert Path("/proc/self/mountinfo").read_text() == before


def test_a_qemu_outside_of_usr_is_refused(share: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "qemu"
    elsewhere.symlink_to("/bin/sh")
    with pytest.raises(Unsupported, match="sees no programs but /usr's"):
        plan_root(str(elsewhere), str(share), str(tmp_path))
