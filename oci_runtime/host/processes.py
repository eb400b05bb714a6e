"""Processes of the host, identified safely: a pid together with the start time that /proc gives it."""

from __future__ import annotations

import errno
import os
import select

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal

    ProcessId = tuple[int, int]  # pid and start time
else:
    # The public module costs a millisecond, for enums that nobody needs here.
    import _signal

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class ProcessStat:
    """One process in /proc: state is the kernel's letter, start its start time in clock ticks since boot."""

    # A named tuple would be shorter, and its module costs each command two milliseconds.
    __slots__ = ("parent", "start", "state")

    def __init__(self, state: str, parent: int, start: int) -> None:
        self.state = state
        self.parent = parent
        self.start = start


def read_stat(pid: int) -> ProcessStat | None:
    """Return what /proc/PID/stat says, None when there is no such process."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            text = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name stands in parentheses and may hold any byte; numbering starts behind the last one.
    fields = text[text.rindex(b")") + 2 :].split()
    return ProcessStat(fields[0].decode(), int(fields[1]), int(fields[19]))


def start_time(pid: int) -> int:
    """Return the start time of a process (field 22 of its stat), 0 when it does not exist."""
    stat = read_stat(pid)
    return stat.start if stat else 0


def is_alive(pid: int, start: int) -> bool:
    """True while the process with this pid and start time runs; a zombie is dead."""
    stat = read_stat(pid) if pid > 0 else None
    return stat is not None and stat.start == start and stat.state not in "ZX"


def boot_id() -> str:
    """Return the kernel's boot id. Start times repeat after a reboot; this does not."""
    with open(_BOOT_ID, "rb") as file:
        return file.read().strip().decode()


def open_process(pid: int, start: int) -> int:
    """Return a pidfd of exactly this process, -1 when it is gone. It is checked after opening: no reuse can slip in."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return -1
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENODEV):
            return -1
        raise
    if is_alive(pid, start):
        return pidfd
    os.close(pidfd)
    return -1


def signal_process(pid: int, start: int, number: int) -> bool:
    """Send a signal to exactly this process; False when it is gone."""
    pidfd = open_process(pid, start)
    if pidfd < 0:
        return False
    try:
        _signal.pidfd_send_signal(pidfd, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(pidfd)


def wait_process(pid: int, start: int, timeout_s: float) -> bool:
    """Wait for a process that need not be a child; True when it has ended (a zombie has)."""
    pidfd = open_process(pid, start)
    if pidfd < 0:
        return True
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(max(0, timeout_s) * 1000))
    finally:
        os.close(pidfd)


def end_process(pid: int, start: int, timeout_s: float) -> bool:
    """SIGKILL exactly this process and wait for its end; True when it has ended."""
    signal_process(pid, start, _signal.SIGKILL)
    return wait_process(pid, start, timeout_s)


def find_lock_holders(path: str) -> list[ProcessId]:
    """Return the processes that hold the flock of a file; not those that have the file open and wait for it."""
    try:
        wanted = os.stat(path)
    except FileNotFoundError:
        return []
    me = os.getpid()
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != me]
    return [(pid, start_time(pid)) for pid in pids if _holds_lock(pid, wanted)]


def _holds_lock(pid: int, wanted: os.stat_result) -> bool:
    """A flock belongs to an open file, however many processes inherited it; /proc lists it with each descriptor."""
    process = f"/proc/{pid}"
    try:
        for name in os.listdir(f"{process}/fd"):
            try:
                found = os.stat(f"{process}/fd/{name}")
                if (found.st_dev, found.st_ino) != (wanted.st_dev, wanted.st_ino):
                    continue
                with open(f"{process}/fdinfo/{name}", "rb") as file:
                    if b"\nlock:" in file.read():
                        return True
            except FileNotFoundError:
                continue
    except OSError:
        return False
    return False
