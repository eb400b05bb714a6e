"""Small parts of the agent: number lists, sysctl paths, storage options, PCI paths, texts, scheduling, parameters."""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_runtime.errors import InvalidInput, NotFound, OciRuntimeError, WrongState
from oci_runtime.guest import channel, crun, devices, listing, mounts, processes, scheduling, stats, storage, sysctl
from oci_runtime.guest.agent import Agent
from oci_runtime.guest.containers import Container
from oci_runtime.guest.crun import translate
from oci_runtime.guest.facts import format_set, parse_set
from oci_runtime.guest.loop import Loop
from oci_runtime.guest.processes import check_id
from oci_runtime.guest.update import require_room
from oci_runtime.ttrpc.proto import agent_lean as pb


@given(st.frozensets(st.integers(0, 300), max_size=30))
def test_number_lists_survive_a_round_trip(numbers: frozenset[int]) -> None:
    assert parse_set(format_set(numbers)) == numbers


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0-3,8", {0, 1, 2, 3, 8}),
        ("", set()),
        ("x", set()),
        (" 1 , 2\n", {1, 2}),
        ("0-99999999999", set()),
        ("5-3", set()),
    ],
)
def test_number_lists_of_the_kernel(text: str, wanted: set[int]) -> None:
    assert parse_set(text) == wanted


@pytest.mark.parametrize(
    ("name", "namespace", "path"),
    [
        ("net.ipv4.ip_forward", "network", "net/ipv4/ip_forward"),
        ("net/ipv4/conf/eth0.1/forwarding", "network", "net/ipv4/conf/eth0.1/forwarding"),
        ("net.ipv4.conf.eth0/1.forwarding", "network", "net/ipv4/conf/eth0.1/forwarding"),
        ("kernel.shmmax", "ipc", "kernel/shmmax"),
        ("fs.mqueue.queues_max", "ipc", "fs/mqueue/queues_max"),
        ("kernel.domainname", "uts", "kernel/domainname"),
        ("vm.swappiness", "", "vm/swappiness"),
        ("network", "", "network"),
    ],
)
def test_sysctl_names(name: str, namespace: str, path: str) -> None:
    assert sysctl.namespace_of(name) == namespace
    assert sysctl.path_of(name) == f"/proc/sys/{path}"


@pytest.mark.parametrize("name", ["net.ipv4.../x", "net/../../etc/passwd", "", "net..x", "net.x\0y", "/etc/passwd"])
def test_sysctl_names_that_leave_their_directory(name: str) -> None:
    with pytest.raises(InvalidInput, match="not a name"):
        sysctl.path_of(name)


def test_mount_options() -> None:
    flags, data = storage.parse_options(["ro", "nosuid", "size=5m", "rbind", "mode=1777"])
    assert (flags, data) == (1 | 2 | 4096 | 16384, "size=5m,mode=1777")
    for broken in (["a,b"], ["a\0b"], ["x" * 5000]):
        with pytest.raises(InvalidInput):
            storage.parse_options(broken)


def test_pci_paths(tmp_path: Path) -> None:
    assert devices.parse_pci_path("02/1f.7") == ["02.0", "1f.7"]
    for broken in ("", "xx", "20", "00.8", "1/2/3/4/5/6/7/8/9", "-1"):
        with pytest.raises(InvalidInput, match="PCI path"):
            devices.parse_pci_path(broken)
    target = tmp_path / "0000:00:08.0/0000:01:00.0"
    target.mkdir(parents=True)
    (tmp_path / "0000:00:08.0/0000:00:08.0:pcie001").mkdir()
    assert devices.find_pci_device("08/00", str(tmp_path)) == str(target)
    assert devices.find_pci_device("09", str(tmp_path)) == ""
    assert devices.find_pci_device("08/01", str(tmp_path)) == ""


@pytest.mark.parametrize(
    ("message", "program", "kind", "wanted"),
    [
        ("executable file `foo` not found in $PATH: No such file or directory", "foo", NotFound,
         'exec: "foo": executable file not found in $PATH'),
        ("executable file `/foo' not found in $PATH: No such file or directory", "/foo", NotFound,
         'exec: "/foo": stat /foo: no such file or directory'),
        ("open executable: Permission denied", "/x", OciRuntimeError, 'exec: "/x": permission denied'),
        ("open executable: Operation not permitted", "/x", OciRuntimeError,
         'exec: "/x": is a directory: permission denied'),
        ("exec: Exec format error", "j", OciRuntimeError, 'exec: "j": exec format error'),
        ("make `/nope` private: No such file or directory", "x", OciRuntimeError,
         "make `/nope` private: no such file or directory"),
        ("cannot set memory limit: container could not join or create cgroup", "x", OciRuntimeError,
         "cannot set memory limit: container could not join or create cgroup"),
        ("no colon", "", OciRuntimeError, "no colon"),
    ],
)  # fmt: skip
def test_cruns_errors_in_runcs_words(message: str, program: str, kind: type[OciRuntimeError], wanted: str) -> None:
    error = translate(message, program)
    assert type(error) is kind
    assert error.message == wanted


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("", ""),
        ("first\nexec: Exec format error\n\n", "exec: Exec format error"),
        ("2026-11-21T18:48:21.446398Z: error executing hook: x\n", "error executing hook: x"),
        ("open Z: no time\n", "open Z: no time"),
    ],
)
def test_the_last_line_of_cruns_log_is_its_error(log: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text(log)
    assert crun._last_message(str(path)) == message
    assert crun._last_message(str(tmp_path / "none")) == ""


def test_a_container_is_let_run_by_its_fifo_while_somebody_waits_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crun, "ROOT", str(tmp_path))
    (tmp_path / "c").mkdir()
    fifo = tmp_path / "c" / "exec.fifo"
    assert not crun.let_run("c"), "another crun, perhaps"
    os.mkfifo(fifo)
    assert not crun.let_run("c") and fifo.exists(), "its process is dead"
    waiting = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    assert crun.let_run("c") and not fifo.exists()
    assert os.read(waiting, 2) == b"\0"
    os.close(waiting)


def test_an_exec_that_meets_the_removal_of_its_container_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its look at the table and its first file: that moment cannot be hit from outside."""
    agent = Agent(Loop(), is_init=False)
    agent.containers["c"] = container = Container(agent, "c")
    container.directory = str(tmp_path / "gone")
    container.processes[""] = SimpleNamespace(child=SimpleNamespace(exit_code=None))  # type: ignore[assignment]

    def numbers() -> Iterator[int]:
        container.removing = True
        yield 1

    monkeypatch.setattr(processes, "_numbers", numbers())
    request = pb.ExecProcessRequest(container_id="c", exec_id="e", process_json=b'{"args": ["true"], "cwd": "/"}')
    with pytest.raises(WrongState, match="container not running"):
        processes.exec_process(agent, request)
    assert not container.starting


def test_scheduling_as_the_kernel_takes_it() -> None:
    data = scheduling.plan_attributes({"policy": "SCHED_BATCH", "nice": -5, "flags": ["SCHED_FLAG_RESET_ON_FORK"]})
    assert struct.unpack("=IIQiIQQQ", data) == (48, 3, 1, -5, 0, 0, 0, 0)
    data = scheduling.plan_attributes({"policy": "SCHED_DEADLINE", "runtime": 1, "deadline": 2, "period": 3})
    assert struct.unpack("=IIQiIQQQ", data) == (48, 6, 0, 0, 0, 1, 2, 3)
    assert scheduling.plan_io_priority({"class": "IOPRIO_CLASS_BE", "priority": 4}) == 2 << 13 | 4
    for scheduler in (
        {"policy": "SCHED_NOPE"},
        {"policy": "SCHED_RR", "flags": ["X"]},
        {"policy": "SCHED_RR", "nice": 1 << 40},
    ):
        with pytest.raises(InvalidInput, match=r"process\.scheduler"):
            scheduling.plan_attributes(scheduler)
    for priority in ({"class": "X"}, {"class": "IOPRIO_CLASS_RT", "priority": 8}, {}):
        with pytest.raises(InvalidInput, match=r"process\.ioPriority"):
            scheduling.plan_io_priority(priority)


def test_scheduling_of_a_process_of_this_machine() -> None:
    child = os.fork()
    if not child:
        time.sleep(100)
        os._exit(0)
    try:
        scheduling.apply_scheduling(child, {"scheduler": {"policy": "SCHED_BATCH", "nice": 7},
                                            "ioPriority": {"class": "IOPRIO_CLASS_IDLE"}})  # fmt: skip
        assert os.sched_getscheduler(child) == os.SCHED_BATCH
        assert os.getpriority(os.PRIO_PROCESS, child) == 7
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    with pytest.raises(OciRuntimeError, match="sched_setattr of the process in the guest: No such process"):
        scheduling.apply_scheduling(child, {"scheduler": {"policy": "SCHED_BATCH"}})


@pytest.mark.parametrize(
    ("number", "name"),
    [(0, "?"), (34816, "pts/0"), (34816 + 255, "pts/255"), (136 << 8 | 5 | 1 << 20, "pts/261"), (1025, "tty1"),
     (1088, "ttyS0"), (0x501, "console"), (229 << 8 | 2, "hvc2"), (7 << 8, "?")],
)  # fmt: skip
def test_terminals_as_ps_names_them(number: int, name: str) -> None:
    assert listing.tty_name(number) == name


def test_this_process_can_be_described() -> None:
    info = listing.describe(os.getpid(), {os.geteuid(): "me"}, 0)
    assert info is not None
    assert (info.pid, info.ppid, info.user, info.uid) == (os.getpid(), os.getppid(), "me", os.geteuid())
    assert "python" in info.command
    assert listing.describe(1 << 22, {}, 0) is None


def test_numbers_of_cgroup_files(tmp_path: Path) -> None:
    for text, wanted in (("17\n", 17), ("max\n", stats.NO_LIMIT), ("", stats.NO_LIMIT)):
        (tmp_path / "f").write_text(text)
        assert stats.read_number(str(tmp_path / "f")) == wanted
    assert stats.read_number(str(tmp_path / "none"), 3) == 3


@pytest.mark.parametrize("name", ["a", "0", "a.b_c-d+e", "A" * 255])
def test_good_names(name: str) -> None:
    assert check_id(name, "x") == name


@pytest.mark.parametrize("name", ["", ".", "..", ".a", "-a", "a/b", "a b", "a\n", "A" * 256, "ä", "a\0"])
def test_bad_names(name: str) -> None:
    with pytest.raises(InvalidInput, match="^x "):
        check_id(name, "x")


def test_kernel_parameters() -> None:
    line = "quiet vmpod.transport=vsock:99 console=ttyS0 vmpod.flag vmpodx=1"
    assert channel.read_parameters(line) == {"transport": "vsock:99", "flag": ""}


def test_ports_are_found_by_name(tmp_path: Path) -> None:
    for entry, name in (("vport0p1", "other"), ("null", "vmpod.agent")):
        (tmp_path / entry).mkdir()
        (tmp_path / entry / "name").write_text(name + "\n")
    (tmp_path / "vport0p9").mkdir()
    assert channel.find_port("vmpod.agent", str(tmp_path)) == "/dev/null"
    assert channel.find_port("missing", str(tmp_path)) == ""
    assert channel.find_port("vmpod.agent", str(tmp_path / "none")) == ""


def test_mount_points_are_unescaped() -> None:
    assert mounts.unescape(r"/a\040b\011c\134d") == "/a b\tc\\d"
    assert "/proc" in mounts.mounted()


@pytest.mark.parametrize(
    ("limit", "checked", "needed"),
    [(39, False, 40), (40, False, 0), (99, True, 100), (100, True, 0), (-1, True, 0), (0, True, 0), (None, True, 0)],
)
def test_a_memory_limit_that_only_a_kill_can_keep_is_refused(
    tmp_path: Path, limit: int | None, checked: bool, needed: int
) -> None:
    (tmp_path / "memory.current").write_text("100\n")
    (tmp_path / "memory.stat").write_text("anon 20\nfile 60\nshmem 10\nkernel 30\nslab_reclaimable 20\n")
    if not needed:
        require_room(str(tmp_path), {"limit": limit}, checked=checked)
        return
    with pytest.raises(InvalidInput, match=rf"limit to {limit} bytes: the container needs {needed} now"):
        require_room(str(tmp_path), {"limit": limit}, checked=checked)
