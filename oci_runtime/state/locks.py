"""The lock of a sandbox: held by its process for life, so that a free lock means leftovers."""

from __future__ import annotations

import errno
import fcntl
import os

from oci_runtime.errors import HostError
from oci_runtime.state.layout import LOCK_FILE, Layout, make_private_directory


def try_lock(directory: str, *, create: bool = False) -> int | None:
    """Take the lock of a sandbox directory and return its descriptor (close-on-exec); None when it is held.

    create: make the directory first, and the state directory around it. The lock lives as long as any copy of the
    descriptor.
    Raises FileNotFoundError when there is no such directory, HostError.
    """
    path = os.path.join(directory, LOCK_FILE)
    while True:
        try:
            if create:
                make_private_directory(directory)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            if not create:
                raise
            # The one that had the name before has just gone, perhaps as the last one of the state directory.
            Layout(os.path.dirname(os.path.dirname(directory))).prepare()
            continue
        except OSError as error:
            raise HostError.from_oserror(error, "open", path) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_current(fd, path):
                return fd
        except BlockingIOError:
            os.close(fd)
            return None
        except OSError as error:
            os.close(fd)
            raise HostError.from_oserror(error, "flock", path) from error
        # Whoever held it before removed the directory: this is the lock of nothing.
        os.close(fd)


def _is_current(fd: int, path: str) -> bool:
    try:
        found = os.stat(path, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return False
        raise
    mine = os.fstat(fd)
    return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)
