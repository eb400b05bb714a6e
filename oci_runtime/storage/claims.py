"""Claims on block devices: what a guest mounts, the host must not have mounted, and must not mount.

The kernel lets one holder at a time open a block device with O_EXCL, or mount it; others may still open it without. A
disk that the guest may write is claimed as long as it is in the machine. One that is only read is claimed for the
moment in which that is tried, so any number of pods can have it; who meets another pod's moment tries again. There is
no lock to be held up at: every user of the host could take one on a file that all may open.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from oci_runtime.errors import HostError

NONE = -1
# Moments take microseconds; what lasts longer is a claim.
_MOMENTS_S = 1.0
_PAUSE_S = 0.005


def claim(descriptor: int, what: str, *, keep: bool) -> int:
    """Claim the block device behind a descriptor; return what holds the claim until it is closed.

    keep: otherwise, and for an image file, which knows no claims, NONE is returned. May wait for a moment. Raises:
    HostError naming `what` (the host has it mounted, or another pod writes to it).
    """
    if not stat.S_ISBLK(os.fstat(descriptor).st_mode):
        return NONE
    try:
        held = _open_exclusively(descriptor)
    except OSError as error:
        busy = error.errno == errno.EBUSY
        hint = "the host uses it: unmount it there first; or another pod writes to it" if busy else ""
        raise HostError.from_oserror(error, "open", what, hint=hint) from error
    if keep:
        return held
    os.close(held)
    return NONE


def _open_exclusively(descriptor: int) -> int:
    """Open it with O_EXCL, which without O_CREAT fails if it is claimed. Raises: OSError."""
    flags = os.O_RDONLY | os.O_EXCL | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    end = time.monotonic() + _MOMENTS_S
    while True:
        try:
            return os.open(f"/proc/self/fd/{descriptor}", flags)
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() >= end:
                raise
        time.sleep(_PAUSE_S)
