"""A small directory tree of the host, read as a whole and watched for changes: the source of a copy in the guest.

inotify does not pass through virtio-fs, and programs that wait for a new ConfigMap or certificate would wait for ever.
So such trees are copied into the guest (guest/trees.py) whenever they change. What is larger than the bounds, or has
more than directories, files and links, is shared like any other directory.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from oci_runtime.errors import HostError, OciRuntimeError
from oci_runtime.host import syscalls

# A ConfigMap or Secret has at most 1 MiB; the old one is still there while the new one is written. All of it must fit
# one message of 4 MiB to the guest.
MAX_BYTES = 2560 << 10
MAX_ENTRIES = 1024
# The name of a file that is copied alone.
FILE = "file"
# In the guest each file takes whole pages.
GUEST_BYTES = 16 << 20
_ATTEMPTS = 20
# linux/inotify.h
_IN_MODIFY, _IN_ATTRIB, _IN_CLOSE_WRITE, _IN_MOVED_FROM, _IN_MOVED_TO = 0x2, 0x4, 0x8, 0x40, 0x80
_IN_CREATE, _IN_DELETE, _IN_ONLYDIR = 0x100, 0x200, 0x01000000
_CHANGES = (
    _IN_MODIFY | _IN_ATTRIB | _IN_CLOSE_WRITE | _IN_MOVED_FROM | _IN_MOVED_TO | _IN_CREATE | _IN_DELETE | _IN_ONLYDIR
)
_EVENT_BYTES = 64 << 10


class UnfitTree(OciRuntimeError):
    """This tree cannot be kept in step; the message says why."""


@dataclass(frozen=True)
class TreeEntry:
    """One name of a tree. path: relative. mode: with the type. data: content of a file, target of a link."""

    path: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    inode: int
    data: bytes = b""


class TreeWatch:
    """One inotify instance for all trees of a pod: the kernel allows few of them.

    `fileno` is readable after a change, until `drain`. changes: grows whenever events are taken, by whomever.
    """

    def __init__(self) -> None:
        """Raises: HostError (no inotify instance is left)."""
        self._inotify = syscalls.inotify_init()
        self.changes = 0

    def fileno(self) -> int:
        """The inotify descriptor."""
        return self._inotify

    def close(self) -> None:
        """Stop watching. Call once."""
        os.close(self._inotify)

    def read(self, source_fd: int) -> tuple[TreeEntry, ...]:
        """Return a whole tree, parents first, as it was at one moment: read again while anything changes.

        source_fd: of its directory, or of a file, which is then all of the tree. From now on it is watched. Takes the
        events that are there, also those of other trees. Raises: UnfitTree (too large, or of an unknown kind, or never
        at rest), HostError.
        """
        for _ in range(_ATTEMPTS):
            self.drain()
            before = self.changes
            reader = _Reader(self._inotify)
            try:
                reader.read_source(source_fd)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise HostError.from_oserror(error, "read tree", str(error.filename or "")) from error
            self.drain()
            if self.changes == before:
                return tuple(reader.entries)
        raise UnfitTree("it changes all the time")

    def drain(self) -> None:
        """Take the events that have come. Callable from any thread; never blocks."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._inotify, _EVENT_BYTES)
            self.changes += 1


class _Reader:
    """One pass over a tree. Every directory is watched before it is listed, so that no change is missed."""

    def __init__(self, inotify: int) -> None:
        self.entries: list[TreeEntry] = []
        self._inotify = inotify
        self._bytes = 0

    def read_source(self, source_fd: int) -> None:
        """Read what is behind a descriptor that may be good for its place alone (O_PATH)."""
        place = f"/proc/self/fd/{source_fd}"
        status = os.fstat(source_fd)
        if stat.S_ISDIR(status.st_mode):
            with _opened(place, os.O_DIRECTORY, follow=True) as directory:
                self.read(directory, "")
            return
        if not stat.S_ISREG(status.st_mode):
            raise UnfitTree("it is neither a file nor a directory")
        syscalls.inotify_add_watch(self._inotify, place, _CHANGES & ~_IN_ONLYDIR)
        self._require_room(status.st_size)
        with _opened(place, 0, follow=True) as file:
            status, data = os.fstat(file), os.read(file, MAX_BYTES + 1)
        self._add(FILE, status, data)

    def read(self, directory: int, prefix: str) -> None:
        syscalls.inotify_add_watch(self._inotify, f"/proc/self/fd/{directory}", _CHANGES)
        for name in sorted(os.listdir(directory)):
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            path = prefix + name
            self._add(path, status, self._data(directory, name, status))
            if stat.S_ISDIR(status.st_mode):
                with _opened(name, os.O_DIRECTORY, directory) as child:
                    self.read(child, path + "/")

    def _data(self, directory: int, name: str, status: os.stat_result) -> bytes:
        if stat.S_ISLNK(status.st_mode):
            return os.fsencode(os.readlink(name, dir_fd=directory))
        if stat.S_ISREG(status.st_mode):
            self._require_room(status.st_size)
            with _opened(name, 0, directory) as file:
                return os.read(file, MAX_BYTES + 1)
        if not stat.S_ISDIR(status.st_mode):
            raise UnfitTree(f"{name!r} is no file, directory or link")
        return b""

    def _require_room(self, size_bytes: int) -> None:
        if self._bytes + size_bytes > MAX_BYTES:
            raise UnfitTree(f"it has more than {MAX_BYTES >> 10} KiB")

    def _add(self, path: str, status: os.stat_result, data: bytes) -> None:
        self._count(path, data)
        self.entries.append(
            TreeEntry(path, status.st_mode, status.st_uid, status.st_gid, status.st_mtime_ns, status.st_ino, data)
        )

    def _count(self, path: str, data: bytes) -> None:
        try:
            self._bytes += len(data) + len(path.encode())
        except UnicodeEncodeError as error:
            raise UnfitTree(f"the name {path!r} is no UTF-8") from error
        self._require_room(0)
        if len(self.entries) >= MAX_ENTRIES:
            raise UnfitTree(f"it has more than {MAX_ENTRIES} entries")


@contextlib.contextmanager
def _opened(name: str, flags: int, directory: int | None = None, *, follow: bool = False) -> Iterator[int]:
    flags |= os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    descriptor = os.open(name, flags, dir_fd=directory)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
