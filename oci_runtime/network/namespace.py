"""Network namespaces: which one a descriptor means, whether a pod may have it, and who else is in it.

Import-light (`os` and `fcntl`): the command line asks here before anything is touched. Identity is the pair of device
and inode of the namespace file; names and paths prove nothing, since every namespace can be pinned anywhere.
"""

from __future__ import annotations

import errno
import fcntl
import os

from oci_runtime.errors import HostError, InvalidInput, NotFound
from oci_runtime.host.syscalls import CLONE_NEWNET

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_NS_GET_NSTYPE = 0xB703

Identity = tuple[int, int]


def open_namespace(path: str) -> int:
    """Open a network namespace by path; return its descriptor, which the caller owns.

    Raises NotFound, InvalidInput (something else than a network namespace), HostError.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"network namespace {path} does not exist; its pod's network may have been torn down") from None
    except OSError as error:
        raise HostError.from_oserror(error, "open network namespace", path) from error
    try:
        check_is_network(fd, path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def check_is_network(fd: int, name: str = "") -> None:
    """Raise InvalidInput unless `fd` is a network namespace. name: what to call it in the error."""
    try:
        kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError as error:
        if error.errno not in (errno.ENOTTY, errno.EINVAL, errno.EBADF):
            raise HostError.from_oserror(error, "ioctl(NS_GET_NSTYPE)", name) from error
        kind = 0
    if kind != CLONE_NEWNET:
        raise InvalidInput(f"{name or f'descriptor {fd}'} is not a network namespace")


def identify(fd: int) -> Identity:
    """The namespace's identity, valid as long as the namespace lives."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def refuse_host_network(fd: int, name: str = "") -> None:
    """Raise InvalidInput when `fd` is the namespace of this process or of the host's first process."""
    mine = identify(fd)
    for path in ("/proc/self/ns/net", "/proc/1/ns/net"):
        try:
            status = os.stat(path)
        except OSError:
            continue
        if mine == (status.st_dev, status.st_ino):
            shown = f" ({name})" if name else ""
            raise InvalidInput(
                f"host network{shown} cannot be given to a virtual machine, the host would lose its interfaces; "
                "run this pod without hostNetwork or with a namespace runtime"
            )


def refuse_foreign_users(fd: int, is_own: Callable[[int], bool], name: str = "") -> None:
    """Raise InvalidInput when a process that is not ours uses the namespace's interfaces.

    A process uses them when it is a container (it has a pid namespace other than ours) or holds an internet or packet
    socket there. A process that only keeps the namespace alive does not. is_own: whether a pid is a proxy or holder of
    ours. Reads all of /proc (about 10 µs per process): call it in a thread.
    """
    wanted = identify(fd)
    our_pid_namespace = _stat_identity("/proc/self/ns/pid")
    for pid in _find_members(wanted):
        theirs = _stat_identity(f"/proc/{pid}/ns/pid")
        if theirs is None:
            continue
        if (theirs != our_pid_namespace or _holds_sockets(pid)) and not is_own(pid):
            shown = name or f"net:[{wanted[1]}]"
            raise InvalidInput(
                f"network namespace {shown} is used by process {pid} ({_command(pid)}), which is not of this pod; "
                "a virtual machine would take its interfaces away: give the pod a namespace of its own"
            )


def _find_members(wanted: Identity) -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit() and _stat_identity(f"/proc/{name}/ns/net") == wanted:
            yield int(name)


def _stat_identity(path: str) -> Identity | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _holds_sockets(pid: int) -> bool:
    """Whether the process has a socket, other than a loopback one, among those of its namespace."""
    theirs = set()
    try:
        for fd in os.listdir(f"/proc/{pid}/fd"):
            try:
                target = os.readlink(f"/proc/{pid}/fd/{fd}")
            except OSError:
                continue
            if target.startswith("socket:["):
                theirs.add(target[8:-1])
        return bool(theirs) and any(inode in theirs for inode in _socket_inodes(pid))
    except OSError:
        return False  # it ended


def _socket_inodes(pid: int) -> Iterator[str]:
    for table, column in (("tcp", 9), ("tcp6", 9), ("udp", 9), ("udp6", 9), ("raw", 9), ("raw6", 9), ("packet", 8)):
        try:
            with open(f"/proc/{pid}/net/{table}") as file:
                lines = file.readlines()[1:]
        except OSError:
            continue
        for line in lines:
            words = line.split()
            if len(words) > column and not (column == 9 and _is_loopback(words[1])):
                yield words[column]


def _is_loopback(address: str) -> bool:
    """An address as /proc/net/tcp writes it: 32-bit words in the machine's order."""
    raw = bytes.fromhex(address.partition(":")[0])
    if len(raw) == 4:
        return raw[::-1][0] == 127
    return raw == bytes.fromhex("00000000000000000000000001000000")


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm") as file:
            return file.read().strip()
    except OSError:
        return "gone"
