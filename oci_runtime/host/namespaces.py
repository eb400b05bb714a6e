"""Namespaces by their paths: opened, checked for their type, compared by identity, entered."""

from __future__ import annotations

import errno
import fcntl
import os

from oci_runtime.errors import HostError, InvalidInput
from oci_runtime.host.syscalls import NAMESPACE_FLAGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_NS_GET_NSTYPE = 0xB703
_CLONE_NEWTIME = 0x00000080
_FLAGS = {**NAMESPACE_FLAGS, "time": _CLONE_NEWTIME}
_FILES = {"network": "net", "mount": "mnt"}


def proc_name(kind: str) -> str:
    """Return the name below /proc/PID/ns of a namespace type of the OCI specification."""
    return _FILES.get(kind, kind)


def open_namespace(kind: str, path: str) -> int:
    """Open a namespace and check that it is of type `kind`; return its descriptor (close-on-exec).

    Raises InvalidInput naming the path when it is missing, no namespace, or one of another type.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise InvalidInput(f"{kind} namespace {path}: {error.strerror}") from error
    try:
        found = fcntl.ioctl(fd, _NS_GET_NSTYPE)
    except OSError as error:
        os.close(fd)
        if error.errno in (errno.ENOTTY, errno.EINVAL):
            raise InvalidInput(f"{kind} namespace {path}: not a namespace") from error
        raise HostError.from_oserror(error, "ioctl", path) from error
    if found != _FLAGS[kind]:
        os.close(fd)
        actual = next((name for name, flag in _FLAGS.items() if flag == found), hex(found))
        raise InvalidInput(f"{kind} namespace {path}: it is a {actual} namespace")
    return fd


def is_own_namespace(fd: int, kind: str) -> bool:
    """True when this process is in the namespace already."""
    return _is_namespace_of(fd, kind, "self")


def is_host_namespace(fd: int, kind: str) -> bool:
    """True when the namespace is that of this process or of process 1, by identity."""
    return any(_is_namespace_of(fd, kind, process) for process in ("self", "1"))


def _is_namespace_of(fd: int, kind: str, process: str) -> bool:
    try:
        other = os.stat(f"/proc/{process}/ns/{proc_name(kind)}")
    except OSError:
        return False
    found = os.fstat(fd)
    return (found.st_dev, found.st_ino) == (other.st_dev, other.st_ino)


def write_mappings(pid: int, uids: Sequence[Mapping[str, int]], gids: Sequence[Mapping[str, int]]) -> None:
    """Write the mappings (linux.uidMappings, linux.gidMappings) of the new user namespace that `pid` is in.

    Raises HostError: also where ids are not ours to give.
    """
    for name, mappings in (("uid_map", uids), ("gid_map", gids)):
        if not mappings:
            continue
        text = "".join(f"{entry['containerID']} {entry['hostID']} {entry['size']}\n" for entry in mappings)
        path = f"/proc/{pid}/{name}"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except OSError as error:
            raise HostError.from_oserror(error, "write", path) from error
