"""Claims on block devices: what a guest mounts, the host must not have mounted, and must not mount.

The kernel lets one holder at a time open a block device with O_EXCL, or mount it; others may still open it without. A
disk that the guest may write is claimed as long as it is in the machine. One that is only read is claimed for the
moment in which that is tried, so any number of pods can have it; a lock on the kernel's directory of the device keeps
these moments apart.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from oci_runtime.errors import HostError

NONE = -1


def claim(descriptor: int, what: str, *, keep: bool) -> int:
    """Claim the block device behind a descriptor; return what holds the claim until it is closed.

    keep: otherwise, and for an image file, which knows no claims, NONE is returned. May wait for a moment. Raises:
    HostError naming `what` (the host has it mounted, or another pod writes to it).
    """
    status = os.fstat(descriptor)
    if not stat.S_ISBLK(status.st_mode):
        return NONE
    lock = _lock(status.st_rdev)
    try:
        flags = os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        held = os.open(f"/proc/self/fd/{descriptor}", flags)  # O_EXCL without O_CREAT: fails if it is claimed
        if keep:
            return held
        os.close(held)
    except OSError as error:
        busy = error.errno == errno.EBUSY
        hint = "the host uses it: unmount it there first; or another pod writes to it" if busy else ""
        raise HostError.from_oserror(error, "open", what, hint=hint) from error
    finally:
        if lock >= 0:
            os.close(lock)
    return NONE


def _lock(number: int) -> int:
    try:
        place = f"/sys/dev/block/{os.major(number)}:{os.minor(number)}"
        lock = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:  # no sysfs, or the device has just gone, which its opening will say
        return NONE
    fcntl.flock(lock, fcntl.LOCK_EX)
    return lock
