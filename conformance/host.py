"""The system calls that the runner needs and Python 3.11 does not offer, and what /proc tells about processes.

The runner lives in private mount, ipc and network namespaces below a subreaper of its own: whatever a runtime leaves
behind is then visible as a descendant, a mount or an interface of ours, and nothing of it survives the run.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNS = 0x00020000
CLONE_NEWIPC = 0x08000000
CLONE_NEWNET = 0x40000000
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_SHARED = 0x100000
MNT_DETACH = 2
PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)

_HYBRID_CONTROLLERS = Path("/sys/fs/cgroup/unified/cgroup.controllers")


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def unshare(flags: int) -> None:
    """Leave the namespaces named by CLONE_NEW* flags. Raises OSError."""
    _check(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """Call mount(2). Raises OSError that names the target."""
    _check(_libc.mount(source.encode(), target.encode(), fstype.encode(), flags, data.encode()), f"mount {target}")


def umount(target: str, flags: int = MNT_DETACH) -> None:
    """Call umount2(2). Raises OSError."""
    _check(_libc.umount2(target.encode(), flags), f"umount {target}")


def become_subreaper() -> None:
    """Make orphans of our descendants our children: the place that conmon and containerd's shim have."""
    _check(_libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "prctl PR_SET_CHILD_SUBREAPER")


def isolate(*, network: bool) -> None:
    """Move the process into private mount and ipc namespaces and, if asked, a network namespace with `lo` up.

    Within the new mount namespace `/` is shared, as on hosts that systemd set up.
    """
    unshare(CLONE_NEWNS | CLONE_NEWIPC | (CLONE_NEWNET if network else 0))
    mount("none", "/", flags=MS_REC | MS_PRIVATE)
    mount("none", "/", flags=MS_REC | MS_SHARED)
    if network:
        os.spawnvp(os.P_WAIT, "ip", ["ip", "link", "set", "lo", "up"])


@dataclass(frozen=True)
class Process:
    """One line of /proc/PID/stat, as far as the runner needs it."""

    pid: int
    ppid: int
    state: str
    started: int
    name: str


def read_process(pid: int) -> Process | None:
    """Return what /proc says about a pid, None when there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    return Process(pid, int(fields[1]), fields[0], int(fields[19]), head.partition("(")[2])


def is_alive(pid: int) -> bool:
    """True for a process that exists and is no zombie: the judgement of CRI-O."""
    process = read_process(pid)
    return process is not None and process.state not in "ZX"


def command_line(pid: int) -> str:
    """Return the command line with spaces between arguments, or the name in brackets."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return "?"
    text = raw.replace(b"\0", b" ").decode(errors="replace").strip()
    process = read_process(pid)
    return text or (f"[{process.name}]" if process else "?")


def read_children() -> dict[int, list[int]]:
    """Return the children of every process, from one walk through /proc."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        process = read_process(int(entry)) if entry.isdigit() else None
        if process is not None:
            children.setdefault(process.ppid, []).append(process.pid)
    return children


def descendants(root: int, children: dict[int, list[int]] | None = None) -> set[int]:
    """Return the pids of all processes below `root`, zombies included."""
    table = read_children() if children is None else children
    found: set[int] = set()
    queue = [root]
    while queue:
        below = table.get(queue.pop(), [])
        found.update(below)
        queue += below
    return found


def wait_gone(pid: int, deadline_s: float) -> bool:
    """Wait until a process is dead (a zombie counts); False when the deadline passed first."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        return bool(poller.poll(deadline_s * 1000))
    finally:
        os.close(descriptor)


def poll_until(condition: Callable[[], object], deadline_s: float, interval_s: float = 0.02) -> bool:
    """Ask again and again until the condition holds; False when the deadline passed first."""
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(interval_s)
    return True


def send_signal(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal; a process that is gone already is no error."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def mask_unified() -> None:
    """Hide, on a host with both cgroup versions, that there is a second one: crun 1.8 refuses such hosts."""
    if _HYBRID_CONTROLLERS.exists():
        mount("/dev/null", str(_HYBRID_CONTROLLERS), flags=MS_BIND)
