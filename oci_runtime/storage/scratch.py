"""Scratch disks: files without a name, with an empty file system, that vanish with their last user."""

from __future__ import annotations

import os
import subprocess

from oci_runtime.errors import HostError

_MKFS_S = 60.0
# No journal and no reserved blocks: what is in it ends with its container. Tables are made when they are needed.
_MKFS = ("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1,root_owner=0:0")


def make_scratch(directory: str, size_mib: int) -> int:
    """Return the descriptor of a new scratch disk, a sparse file of that size; blocks. Raises: HostError."""
    try:
        fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise HostError.from_oserror(
            error, "make scratch disk in", directory, hint="setting storage.scratch_directory"
        ) from error
    try:
        os.ftruncate(fd, size_mib << 20)
        command = [*_MKFS, f"/proc/self/fd/{fd}"]
        done = subprocess.run(command, pass_fds=[fd], capture_output=True, timeout=_MKFS_S, check=False)
        if done.returncode:
            raise HostError("mkfs.ext4", directory, 0, hint=done.stderr.decode("utf-8", "replace").strip()[-300:])
    except subprocess.TimeoutExpired as error:
        os.close(fd)
        raise HostError("mkfs.ext4", directory, 0, hint=f"no end after {_MKFS_S:g} s") from error
    except OSError as error:
        os.close(fd)
        raise HostError.from_oserror(error, "make scratch disk in", directory) from error
    except HostError:
        os.close(fd)
        raise
    return fd
