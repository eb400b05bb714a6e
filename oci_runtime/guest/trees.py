"""Copies of small trees of the host, such as ConfigMaps and Secrets: inotify works on them.

The host sends the whole tree whenever it has changed. It is brought about in the order of the kubelet's own update:
directories and files first, then links, each replaced by a rename, then what is to go. So a reader who comes through
the link `..data` sees the old files or the new ones, never a mixture, and a watcher sees what it would see on a host.
"""

from __future__ import annotations

import os
import stat

from oci_runtime.errors import HostError, InvalidInput, NotFound
from oci_runtime.guest.storage import check_target, split_relative
from oci_runtime.ttrpc.proto import agent_lean as pb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.guest.agent import Agent

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_TEMPORARY = "..vmpod_tmp"
_MAX_ENTRIES = 4096


def sync_tree(agent: Agent, request: pb.SyncTreeRequest) -> pb.Empty:
    """Make the content of a storage the given tree. Raises NotFound, InvalidInput, HostError: some of it is done then.

    The host sends one tree after the other for each target.
    """
    target = check_target(request.target)
    with agent.lock:
        if target not in agent.storages:
            raise NotFound(f"storage {target} is not mounted")
        known = agent.trees.setdefault(target, {})
    if len(request.entries) > _MAX_ENTRIES:
        raise InvalidInput(f"tree for {target} has {len(request.entries)} entries, at most {_MAX_ENTRIES} are taken")
    wanted = {entry.path: entry for entry in request.entries}
    root = os.open(target, _DIRECTORY)
    try:
        _apply(root, known, wanted)
    except OSError as error:
        raise HostError.from_oserror(error, "update tree", target) from error
    finally:
        os.close(root)
    return pb.Empty()


def _apply(root: int, known: dict[str, pb.TreeEntry], wanted: dict[str, pb.TreeEntry]) -> None:
    """known: what is there; follows what is done, so that a failure in the middle leaves the truth."""
    for path in sorted(known, reverse=True):
        if path in wanted and stat.S_IFMT(known[path].mode) != stat.S_IFMT(wanted[path].mode):
            _remove_all(root, known, path)
    for kind, make in _STEPS:
        for path, entry in wanted.items():
            if stat.S_IFMT(entry.mode) == kind:
                make(root, entry, known.get(path))
                known[path] = entry
    for path in sorted(known.keys() - wanted.keys(), reverse=True):
        _remove(root, known, path)


def _remove_all(root: int, known: dict[str, pb.TreeEntry], path: str) -> None:
    for other in sorted(known, reverse=True):
        if other == path or other.startswith(path + "/"):
            _remove(root, known, other)


def _remove(root: int, known: dict[str, pb.TreeEntry], path: str) -> None:
    with _Parent(root, path) as (directory, name):
        try:
            if stat.S_ISDIR(known[path].mode):
                os.rmdir(name, dir_fd=directory)
            else:
                os.unlink(name, dir_fd=directory)
        except FileNotFoundError:
            pass
    del known[path]


class _Parent:
    """The directory that a path lies in, opened without following any link, and the last name."""

    def __init__(self, root: int, path: str) -> None:
        *parents, self._name = split_relative(path)
        self._fd = os.dup(root)
        try:
            for part in parents:
                outer, self._fd = self._fd, os.open(part, _DIRECTORY, dir_fd=self._fd)
                os.close(outer)
        except BaseException:
            os.close(self._fd)
            raise

    def __enter__(self) -> tuple[int, str]:
        return self._fd, self._name

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _make_directory(root: int, entry: pb.TreeEntry, before: pb.TreeEntry | None) -> None:
    with _Parent(root, entry.path) as (directory, name):
        if before is None:
            os.mkdir(name, 0o700, dir_fd=directory)
        if before is None or _owner(before) != _owner(entry):
            _set_owner(os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory), entry)


def _make_file(root: int, entry: pb.TreeEntry, before: pb.TreeEntry | None) -> None:
    if before is not None and (before.data, _owner(before), before.mtime_ns) == (
        entry.data, _owner(entry), entry.mtime_ns,
    ):  # fmt: skip
        return
    in_place = before is not None and before.inode == entry.inode
    with _Parent(root, entry.path) as (directory, name):
        flags = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        place = name if in_place or before is None else _temporary(directory)
        if not in_place:
            flags |= os.O_CREAT | os.O_EXCL
        elif before is not None and before.data != entry.data:
            flags |= os.O_TRUNC
        file = os.open(place, flags, 0o600, dir_fd=directory)
        if flags & (os.O_CREAT | os.O_TRUNC):
            view = memoryview(entry.data)
            while view:
                view = view[os.write(file, view) :]
        _set_owner(file, entry)
        if place != name:
            os.rename(place, name, src_dir_fd=directory, dst_dir_fd=directory)


def _make_link(root: int, entry: pb.TreeEntry, before: pb.TreeEntry | None) -> None:
    if before is not None and before.data == entry.data:
        return
    with _Parent(root, entry.path) as (directory, name):
        place = name if before is None else _temporary(directory)
        os.symlink(bytes(entry.data), place, dir_fd=directory)
        os.chown(place, entry.uid, entry.gid, dir_fd=directory, follow_symlinks=False)
        if place != name:
            os.rename(place, name, src_dir_fd=directory, dst_dir_fd=directory)


def _temporary(directory: int) -> str:
    """A name for what is about to be renamed; a failure may have left it."""
    try:
        os.unlink(_TEMPORARY, dir_fd=directory)
    except FileNotFoundError:
        pass
    return _TEMPORARY


def _owner(entry: pb.TreeEntry) -> tuple[int, int, int]:
    return entry.mode, entry.uid, entry.gid


def _set_owner(descriptor: int, entry: pb.TreeEntry) -> None:
    """Owner, mode and time of an open file or directory, which is closed."""
    try:
        os.fchown(descriptor, entry.uid, entry.gid)
        os.fchmod(descriptor, stat.S_IMODE(entry.mode))
        os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
    finally:
        os.close(descriptor)


_STEPS = ((stat.S_IFDIR, _make_directory), (stat.S_IFREG, _make_file), (stat.S_IFLNK, _make_link))
