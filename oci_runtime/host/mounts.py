"""Mount points of the host: what is mounted below a directory, and taking it away in the right order.

Reads /proc/self/mountinfo: mounts belong to the caller's mount namespace.
"""

from __future__ import annotations

import errno
import os

from oci_runtime.errors import HostError
from oci_runtime.host import syscalls

_ESCAPES = {"\\040": " ", "\\011": "\t", "\\012": "\n", "\\043": "#", "\\134": "\\"}


def list_mounts(below: str) -> list[str]:
    """Return the mount points at or below a directory in the order of their mounting, stacked ones repeatedly.

    Raises: HostError (mountinfo cannot be read).
    """
    return [point for point, _ in list_types(below)]


def list_types(below: str) -> list[tuple[str, str]]:
    """Return (mount point, file system type) of the mounts at or below a directory, in the order of their mounting.

    Raises: HostError (mountinfo cannot be read).
    """
    prefix = os.path.abspath(below)
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:
            found = [_point_and_type(line) for line in lines]
    except OSError as error:
        raise HostError.from_oserror(error, "read", "/proc/self/mountinfo") from error
    return [pair for pair in found if pair[0] == prefix or pair[0].startswith(prefix.rstrip("/") + "/")]


def _point_and_type(line: str) -> tuple[str, str]:
    before, _, after = line.partition(" - ")
    return _unescape(before.split(" ", 5)[4]), after.split(" ", 1)[0]


def unmount_tree(path: str) -> int:
    """Unmount everything at and below a directory, last mounted first; return how many mounts went.

    A busy mount is detached lazily: it vanishes from the tree now and is freed when its last user lets go. Idempotent.
    Raises: HostError for the first mount that resists, after trying all.
    """
    failure: HostError | None = None
    points = list_mounts(path)
    for point in reversed(points):
        try:
            unmount(point)
        except HostError as error:
            failure = failure or error
    if failure is not None:
        raise failure
    return len(points)


def unmount(point: str) -> None:
    """Unmount one mount point, lazily if it is busy; not being mounted (any more) is no error. Raises: HostError."""
    try:
        syscalls.umount(point, syscalls.UMOUNT_NOFOLLOW)
    except HostError as error:
        if error.errno in (errno.EINVAL, errno.ENOENT):
            return
        if error.errno != errno.EBUSY:
            raise
        syscalls.umount(point, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)


def _unescape(field: str) -> str:
    if "\\" not in field:
        return field
    for escape, character in _ESCAPES.items():
        field = field.replace(escape, character)
    return field
