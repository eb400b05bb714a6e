"""Binds that are not shared because the guest serves them from its own: shared memory, volumes in memory, the kernel's.

`find_own` describes such a bind for op `create` (docs/internals.md); mount_kinds.py has the rules in words. Imports
little: every `create` comes through here.
"""

from __future__ import annotations

import binascii
import os
import stat

from oci_runtime.host import syscalls
from oci_runtime.storage.mount_kinds import (
    EMPTY_DIR,
    HUGETLBFS_MAGIC,
    KERNEL_MAGIC,
    SHM,
    SUB_PATHS,
    TMPFS_MAGIC,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oci_runtime.storage.mount_table import MountTable


def find_own(table: MountTable, destination: str, path: str, descriptor: int) -> dict[str, Any] | None:
    """Describe a bind that the guest makes from its own; None if it has to be shared.

    path: the source. descriptor: its mount tree. Raises: HostError, OSError.
    """
    status = os.fstat(descriptor)
    magic = syscalls.filesystem_type(descriptor)
    if stat.S_ISDIR(status.st_mode) and magic in (TMPFS_MAGIC, HUGETLBFS_MAGIC):
        found = _find_memory(table, destination, path, descriptor, magic)
        if found:
            return found
    if stat.S_ISBLK(status.st_mode):
        return None
    real = os.path.realpath(path)
    if (
        magic in KERNEL_MAGIC
        or stat.S_ISCHR(status.st_mode)
        or status.st_dev == os.stat("/dev").st_dev
        or real.startswith(("/proc/", "/sys/"))
    ):
        return {"kind": "guest", "source": real}
    return None


def _find_memory(table: MountTable, destination: str, path: str, descriptor: int, magic: int) -> dict[str, Any] | None:
    """A directory whose content is in memory: it is the guest's memory then, one place for all of the pod."""
    status = os.fstat(descriptor)
    size = os.fstatvfs(descriptor)
    key = f"{status.st_dev:x}-{status.st_ino:x}"
    if magic == HUGETLBFS_MAGIC:
        return {"kind": "hugepages", "key": key, "page_bytes": size.f_bsize, "owner": _owner(status)}
    size_bytes = size.f_blocks * size.f_frsize
    if os.path.normpath(destination) == SHM:
        return {"kind": "shm", "key": key, "size_bytes": size_bytes}
    if EMPTY_DIR not in path and SUB_PATHS not in path:
        return None
    volume, below = table.place_in_volume(path, EMPTY_DIR)
    if not volume:
        return None
    # The key is the volume's, not the directory's inside: all that bind something of it mean the same volume. A device
    # number is given again once its file system is unmounted; together with the volume's place it means one volume.
    found = {
        "kind": "memory",
        "key": f"{status.st_dev:x}-{binascii.crc32(os.fsencode(volume)):x}",
        "size_bytes": size_bytes,
        "owner": _owner(os.stat(volume)),
    }
    return found | ({"below": below, "below_owner": _owner(status)} if below else {})


def _owner(status: os.stat_result) -> list[int]:
    """Mode, user and group."""
    return [stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid]
