"""The processes of a container: those in its cgroup, as the guest's /proc describes them."""

from __future__ import annotations

import os
import time

from oci_runtime.guest.cgroups import list_pids
from oci_runtime.ttrpc.proto import agent_lean as pb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.guest.agent import Agent
    from oci_runtime.guest.containers import Container

_MAX_PROCESSES = 16384
_MAX_COMMAND_BYTES = 4096
_MAX_PASSWD_BYTES = 1 << 20
_TICKS = os.sysconf("SC_CLK_TCK")


def list_processes(agent: Agent, request: pb.ContainerRequest) -> pb.ListProcessesResponse:
    """Everything in the container's cgroup and below. Raises NotFound."""
    container = agent.container(request.container_id)
    with agent.lock:
        execs = {process.child.pid: exec_id for exec_id, process in container.processes.items()}
    users = _read_users(container)
    boot_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    result = []
    for pid in sorted(list_pids(container.cgroup))[:_MAX_PROCESSES]:
        info = describe(pid, users, boot_ns)
        if info is not None:
            info.exec_id = execs.get(pid, "")
            result.append(info)
    return pb.ListProcessesResponse(processes=result)


def describe(pid: int, users: dict[int, str], boot_ns: int) -> pb.ProcessInfo | None:
    """One process; None when it has ended meanwhile."""
    try:
        stat = _read(f"/proc/{pid}/stat", 4096).decode("utf-8", "replace")
        status = _read(f"/proc/{pid}/status", 8192).decode("utf-8", "replace")
        arguments = _read(f"/proc/{pid}/cmdline", _MAX_COMMAND_BYTES)
    except OSError:
        return None
    name = stat[stat.index("(") + 1 : stat.rindex(")")]
    fields = stat[stat.rindex(")") + 2 :].split()
    uid, container_pid = _read_status(status, pid)
    command = arguments.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")
    return pb.ProcessInfo(
        pid=pid,
        ppid=int(fields[1]),
        uid=uid,
        user=users.get(uid, str(uid)),
        started_at_ns=boot_ns + int(fields[19]) * 1_000_000_000 // _TICKS,
        tty=tty_name(int(fields[4])),
        cpu_time_ms=(int(fields[11]) + int(fields[12])) * 1000 // _TICKS,
        command=_printable(command or f"[{name}]"),
        container_pid=container_pid,
    )


def tty_name(number: int) -> str:
    """A device number of /proc/PID/stat as ps writes it: pts/0, tty1, ? for none."""
    major = number >> 8 & 0xFFF
    minor = number & 0xFF | number >> 12 & 0xFFF00
    if 136 <= major <= 143:
        return f"pts/{(major - 136) * 256 + minor}"
    return {4: f"tty{minor}" if minor < 64 else f"ttyS{minor - 64}", 5: "console", 229: f"hvc{minor}"}.get(major, "?")


def _read_status(text: str, pid: int) -> tuple[int, int]:
    """The effective user, and the pid in the innermost namespace."""
    uid, container_pid = 0, pid
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key == "Uid":
            uid = int(value.split()[1])
        elif key == "NSpid":
            container_pid = int(value.split()[-1])
    return uid, container_pid


def _read_users(container: Container) -> dict[int, str]:
    """Names from the container's own /etc/passwd, read inside its root so that no symbolic link leads out of it."""
    process = container.processes.get("")
    if process is None or process.child.exit_code is not None:
        return {}
    try:
        data = _read_in_root(f"/proc/{process.child.pid}/root", "etc/passwd", _MAX_PASSWD_BYTES)
    except OSError:
        return {}
    users: dict[int, str] = {}
    for line in data.decode("utf-8", "replace").splitlines():
        parts = line.split(":")
        if len(parts) > 2 and parts[2].isdigit() and parts[0].isprintable():
            users.setdefault(int(parts[2]), parts[0][:64])
    return users


def _read_in_root(root: str, name: str, limit: int) -> bytes:
    """A regular file below `root`; every component is opened without following links."""
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        parts = name.split("/")
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            flags = os.O_RDONLY | os.O_NONBLOCK if last else os.O_PATH | os.O_DIRECTORY
            opened = os.open(part, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = opened
        return os.read(fd, limit)
    finally:
        os.close(fd)


def _read(path: str, limit: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(limit)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
