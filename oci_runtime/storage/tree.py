"""A directory or file of the host that a container gets: found once, cloned as often as it is needed."""

from __future__ import annotations

import errno
import os

from oci_runtime.errors import HostError, InvalidInput, NotFound
from oci_runtime.host import syscalls
from oci_runtime.host.mounts import mount_id

_FUSE_MAGIC = 0x65735546


class SourceTree:
    """A path, looked up once: whatever is cloned from it is the same, even if the path is changed meanwhile.

    mode: st_mode of what is there.
    """

    __slots__ = ("fd", "mode", "_what")

    def __init__(self, path: str, what: str) -> None:
        """Look it up. Raises NotFound, InvalidInput, HostError with `what` and the path in the message."""
        self._what = f"{what} {path}"
        try:
            self.fd = syscalls.open_tree(path, 0)
        except HostError as error:
            reason = os.strerror(error.errno)
            if error.errno == errno.ENOENT:
                raise NotFound(f"{self._what}: {reason}") from error
            if error.errno in (errno.EACCES, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP):
                raise InvalidInput(f"{self._what}: {reason}") from error
            raise HostError("open_tree", self._what, error.errno) from error
        try:
            self.mode = os.fstat(self.fd).st_mode
        except OSError as refusal:
            hint = self._why_not(refusal.errno)
            os.close(self.fd)
            raise InvalidInput(f"{self._what}: {refusal.strerror}{hint}") from refusal

    def _why_not(self, number: int | None) -> str:
        """What to do about the root of a mount that can be found and not looked at."""
        if number == errno.ENOTCONN:
            return " (the process that served this file system is gone: unmount it, and mount it again)"
        if number == errno.EACCES and syscalls.filesystem_type(self.fd) == _FUSE_MAGIC:
            return " (this FUSE file system lets in nobody but its user: mount it with allow_root or allow_other)"
        return ""

    def __enter__(self) -> SourceTree:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def key(self, propagation: str) -> str:
        """What two sources have in common if one attachment serves both: file, flags of its mount, what may follow."""
        status = os.fstat(self.fd)
        key = f"{status.st_dev:x}-{status.st_ino:x}-{os.fstatvfs(self.fd).f_flag:x}-{propagation}"
        return key if propagation == "private" else f"{key}-{mount_id(self.fd)}"

    def clone(self, *, recursive: bool) -> int:
        """Return a detached copy of the mount tree. Raises HostError."""
        flags = syscalls.OPEN_TREE_CLONE | syscalls.AT_EMPTY_PATH | (syscalls.AT_RECURSIVE if recursive else 0)
        try:
            return syscalls.open_tree("", flags, self.fd)
        except HostError as error:
            raise HostError("open_tree", self._what, error.errno) from error

    def clone_for_view(self, *, recursive: bool, readonly: str) -> int:
        """Return a copy that follows what the host mounts and unmounts in it, and in which devices do not work.

        readonly: as mount_kinds.readonly_of says it.
        """
        tree = self.clone(recursive=recursive)
        try:
            harmless = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
            syscalls.mount_setattr("", harmless, propagation=syscalls.MS_SLAVE, fd=tree)
            if readonly:
                syscalls.mount_setattr("", syscalls.MOUNT_ATTR_RDONLY, fd=tree, recursive=readonly == "tree")
        except BaseException:
            os.close(tree)
            raise
        return tree
