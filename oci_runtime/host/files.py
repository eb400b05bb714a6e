"""Files that are there whole or not at all, and directories that vanish without following anything."""

from __future__ import annotations

import errno
import os

from oci_runtime.errors import HostError

_HINTS = {errno.ENOSPC: "the file system is full", errno.EDQUOT: "the disk quota is used up"}


def write_atomic(path: str, data: bytes, mode: int = 0o600, *, sync: bool = True) -> None:
    """Replace the file at `path`: temporary file in the same directory, fsync, rename.

    Nobody can foresee the temporary file's name, so nobody can be in its place. Raises HostError naming the call; the
    previous file is then untouched and no temporary file is left.
    """
    temporary = os.path.join(os.path.dirname(path), f".{os.path.basename(path)[:200]}.{os.urandom(8).hex()}")
    call = "open"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        try:
            call = "write"
            write_all(fd, data)
            if sync:
                call = "fsync"
                os.fsync(fd)
        finally:
            os.close(fd)
        call = "rename"
        os.rename(temporary, path)
    except OSError as error:
        _discard(temporary, error)
        raise HostError.from_oserror(error, call, path, hint=_HINTS.get(error.errno or 0, "")) from error


def _discard(temporary: str, error: OSError) -> None:
    if error.errno == errno.EEXIST:
        return
    try:
        os.unlink(temporary)
    except OSError:
        return


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data` to a blocking descriptor."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def read_limited(path: str, limit_bytes: int) -> bytes:
    """Return the content of a regular file; raises OSError, EFBIG when it is longer than `limit_bytes`."""
    with open(path, "rb", opener=_open_plain) as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
    return data


def _open_plain(path: str, flags: int) -> int:
    # A FIFO or a device in a file's place must not block or act.
    fd = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
    if not os.path.isfile(f"/proc/self/fd/{fd}"):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return fd


def read_tail(path: str, limit_bytes: int) -> str:
    """Return the last bytes of a text file, "" when it cannot be read."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit_bytes))
            return file.read(limit_bytes).decode("utf-8", "replace")
    except OSError:
        return ""


def remove_flat(directory: str, keep: str = "") -> None:
    """Remove a directory of ours with the plain files and empty directories in it, except the entry `keep`, last.

    Nothing is followed and nothing below a subdirectory is touched: what is still mounted there survives and makes the
    removal fail. Raises HostError; a missing directory is no error.
    """
    try:
        entries = [entry.name for entry in os.scandir(directory)]
        for name in sorted(entries, key=lambda name: name == keep):
            path = os.path.join(directory, name)
            try:
                os.unlink(path)
            except IsADirectoryError:
                _remove_empty_tree(path)
        os.rmdir(directory)
    except FileNotFoundError:
        return
    except OSError as error:
        raise HostError.from_oserror(error, "remove", str(error.filename or directory)) from error


def _remove_empty_tree(directory: str) -> None:
    """Remove nested empty directories and empty files (mount points); a file with content makes it fail."""
    for entry in os.scandir(directory):
        if entry.is_dir(follow_symlinks=False):
            _remove_empty_tree(entry.path)
        elif entry.stat(follow_symlinks=False).st_size == 0:
            os.unlink(entry.path)
        else:
            raise OSError(errno.ENOTEMPTY, "not ours to remove", entry.path)
    os.rmdir(directory)
