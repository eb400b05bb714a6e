"""File systems that the agent itself needs, unless the first stage has mounted them already."""

from __future__ import annotations

import os

from oci_runtime.errors import HostError
from oci_runtime.guest.log import log
from oci_runtime.guest.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_REC, MS_SHARED, mount

CGROUP_ROOT = "/sys/fs/cgroup"
RUN = "/run/vmpod"

_PLAIN = MS_NOSUID | MS_NODEV | MS_NOEXEC
# (target, type, flags, data). The first are needed to find the channel, the rest before the first container.
_FIRST = (
    ("/proc", "proc", _PLAIN, ""),
    ("/sys", "sysfs", _PLAIN, ""),
    ("/dev", "devtmpfs", MS_NOSUID, "mode=755"),
)
_REST = (
    ("/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755"),
    ("/tmp", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"),
    (CGROUP_ROOT, "cgroup2", _PLAIN, "nsdelegate,memory_recursiveprot"),
    ("/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "mode=620,ptmxmode=666"),
    ("/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777"),
    ("/dev/mqueue", "mqueue", _PLAIN, ""),
)


def mount_first() -> None:
    """/proc, /sys and /dev, where the first stage has not mounted them."""
    _mount_missing(_FIRST)


def mount_rest() -> None:
    """Everything else that the agent and crun need."""
    _mount_missing(_REST)
    # Passable, not readable: root file systems lie below, and root of a user namespace is nobody here.
    os.makedirs(RUN, exist_ok=True)
    os.chmod(RUN, 0o711)


def _mount_missing(wanted: tuple[tuple[str, str, int, str], ...]) -> None:
    """A failure is logged: what needs the file system will say so."""
    present = mounted()
    for target, fstype, flags, data in wanted:
        if target in present:
            continue
        try:
            if not os.path.isdir(target):
                os.makedirs(target)
            mount(fstype, target, fstype, flags, data)
        except (HostError, OSError) as error:
            log(f"mount of {fstype} on {target}: {error}")


def mounted() -> set[str]:
    """The mount points of this mount namespace; empty when /proc is not there yet."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return {unescape(line.split(" ", 5)[4]) for line in file}
    except OSError:
        return set()


def unescape(path: str) -> str:
    """Undo the kernel's octal escapes in mountinfo."""
    if "\\" not in path:
        return path
    for code, char in (("040", " "), ("011", "\t"), ("012", "\n"), ("134", "\\")):
        path = path.replace("\\" + code, char)
    return path


def share_root() -> None:
    """Let mounts that appear below /run/vmpod reach containers whose mounts are slaves or shared."""
    mount("", "/", "", MS_REC | MS_SHARED)


def enable_controllers(root: str = CGROUP_ROOT) -> None:
    """Hand every controller to the children of `root`: in one write, or singly when one of them is refused."""
    with open(f"{root}/cgroup.controllers", encoding="utf-8") as file:
        controllers = file.read().split()
    try:
        _write(f"{root}/cgroup.subtree_control", " ".join(f"+{name}" for name in controllers))
        return
    except OSError as error:
        log(f"cgroup controllers of {root}: {error.strerror}, trying them one by one")
    for name in controllers:
        try:
            _write(f"{root}/cgroup.subtree_control", f"+{name}")
        except OSError as error:
            log(f"cgroup controller {name} is not available to containers: {error.strerror}")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
