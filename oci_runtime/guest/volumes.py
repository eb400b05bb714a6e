"""Volumes that are disks with a file system: how full they are, and growing them to their disk.

Growing needs no program: ext4 takes an ioctl on its root directory. Source: fs/ext4/ext4.h (EXT4_IOC_RESIZE_FS).
"""

from __future__ import annotations

import fcntl
import os

from oci_runtime.errors import HostError, NotFound, Unavailable, Unsupported
from oci_runtime.guest.mounts import unescape
from oci_runtime.guest.storage import check_target
from oci_runtime.guest.uevent import retry_on_uevent
from oci_runtime.ttrpc.proto import agent_lean as pb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.guest.agent import Agent

_EXT4_IOC_RESIZE_FS = 0x40086610
_SECTOR_BYTES = 512
_GROWN_S = 10.0


def get_volume_stats(agent: Agent, request: pb.VolumeRequest) -> pb.VolumeStats:
    """Space and inodes of a mounted storage. Raises NotFound."""
    return _stats(_require(agent, request.target))


def resize_volume(agent: Agent, request: pb.VolumeRequest) -> pb.VolumeStats:
    """Grow a disk's file system to the size of its disk; what has that size already stays as it is.

    Raises NotFound, Unsupported (a file system that cannot grow while it is mounted), Unavailable (the disk does not
    get the size that the request names), HostError.
    """
    target = _require(agent, request.target)
    number, fstype = _mount_of(target)
    if fstype != "ext4":
        raise Unsupported(f"storage {target}: a mounted file system of type {fstype!r} cannot be grown, only ext4")
    if not retry_on_uevent(lambda: _disk_bytes(number) >= request.disk_bytes, _GROWN_S):
        raise Unavailable(f"storage {target}: its disk has not got {request.disk_bytes} bytes after {_GROWN_S:g} s")
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        blocks = _disk_bytes(number) // os.fstatvfs(fd).f_bsize
        fcntl.ioctl(fd, _EXT4_IOC_RESIZE_FS, blocks.to_bytes(8, "little"))
    except OSError as error:
        raise HostError.from_oserror(error, "grow ext4 of", target) from error
    finally:
        os.close(fd)
    return _stats(target)


def _require(agent: Agent, target: str) -> str:
    check_target(target)
    with agent.lock:
        if target not in agent.storages:
            raise NotFound(f"storage {target} is not mounted")
    return target


def _stats(target: str) -> pb.VolumeStats:
    found = os.statvfs(target)
    return pb.VolumeStats(
        total_bytes=found.f_blocks * found.f_frsize,
        available_bytes=found.f_bavail * found.f_frsize,
        used_bytes=(found.f_blocks - found.f_bfree) * found.f_frsize,
        total_inodes=found.f_files,
        available_inodes=found.f_favail,
        used_inodes=found.f_files - found.f_ffree,
    )


def _mount_of(target: str) -> tuple[str, str]:
    """`major:minor` and type of the file system that is mounted at `target`. Raises NotFound."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            mount, _, filesystem = line.partition(" - ")
            words = mount.split(" ")
            if unescape(words[4]) == target:
                return words[2], filesystem.split(" ", 1)[0]
    raise NotFound(f"storage {target} is not a mount point")


def _disk_bytes(number: str) -> int:
    with open(f"/sys/dev/block/{number}/size", encoding="ascii") as file:
        return int(file.read()) * _SECTOR_BYTES
