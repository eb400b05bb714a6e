"""Mount points of the host: what is mounted below a directory, and taking it away.

Reads /proc/self/mountinfo: mounts belong to the caller's mount namespace.
"""

from __future__ import annotations

import errno
import os

from oci_runtime.errors import HostError
from oci_runtime.host import syscalls

_ESCAPES = {"\\040": " ", "\\011": "\t", "\\012": "\n", "\\043": "#", "\\134": "\\"}


class Mounted:
    """One line of mountinfo. device: as in "8:1". root: the directory of the file system that is mounted."""

    __slots__ = ("device", "kind", "point", "root")

    def __init__(self, line: str) -> None:
        before, _, after = line.partition(" - ")
        _, _, self.device, root, point, _ = before.split(" ", 5)
        self.root, self.point = _unescape(root), _unescape(point)
        self.kind = after.split(" ", 1)[0]


def read_mounts(below: str = "/") -> list[Mounted]:
    """Return the mounts at or below a directory in the order of their mounting, stacked ones repeatedly.

    Raises: HostError (mountinfo cannot be read).
    """
    prefix = os.path.abspath(below)
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
            found = [Mounted(line) for line in lines]
    except OSError as error:
        raise HostError.from_oserror(error, "read", "/proc/self/mountinfo") from error
    start = prefix.rstrip("/") + "/"
    return [mount for mount in found if mount.point == prefix or mount.point.startswith(start)]


def list_mounts(below: str) -> list[str]:
    """Return the mount points at or below a directory, as `read_mounts` does."""
    return [mount.point for mount in read_mounts(below)]


def mount_id(fd: int) -> int:
    """The number, in mountinfo, of the mount that a descriptor is on."""
    with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("mnt_id:"))


def detach_mount(point: str) -> None:
    """Take what is mounted at a place away with all that is mounted inside, in one step; idempotent.

    Nothing is looked up below the place: whoever may write to a tree could swap a directory in there for a link while
    its mounts are taken away one after the other, and have the host's own unmounted. Each is freed with its last user.
    Raises: HostError.
    """
    while True:  # several may be stacked there
        try:
            syscalls.umount(point, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
        except HostError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT):
                return
            raise


def _unescape(field: str) -> str:
    if "\\" not in field:
        return field
    for escape, character in _ESCAPES.items():
        field = field.replace(escape, character)
    return field
