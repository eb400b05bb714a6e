"""The share of a sandbox: a directory tree of the host that virtiofsd serves and the guest mounts at one place.

Three mounts of one small tmpfs, all at or below `share` in the sandbox's directory:

- `share` itself, private. On a host whose mounts are shared, the mount namespaces of other services get an empty copy
  of it; nothing that happens inside reaches them, so no service ever holds a container's files.
- `share/tree`, in a propagation group of its own: ours to put mount points in.
- `share/served`, its peer, read-only: the root directory of virtiofsd, so that a guest can neither fill the host's
  memory there nor rename what we attach. What is attached below `tree` appears here, and from here in virtiofsd's
  mount namespace, whose copy is a slave. Where the host's `/` is private, this is the only way in.

The guest sees `<share>/<container>.<number>/<name>` at the same place below `/run/vmpod/share`. The number makes each
directory new: a guest trusts names that it has looked up for a second, and would find the files of a container that
had the same id before.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
from pathlib import Path

from oci_runtime.errors import AlreadyExists, HostError, InvalidInput, OciRuntimeError
from oci_runtime.host import syscalls
from oci_runtime.host.mounts import list_mounts, unmount_tree

GUEST_ROOT = "/run/vmpod/share"
TAG = "vmpod-share"
_TMPFS_OPTIONS = "mode=0700,size=8m,nr_inodes=32k"
_MAX_ID = 200  # leaves room for the number: a file name has 255 bytes
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,254}")
PROPAGATION = {
    "private": syscalls.MS_PRIVATE,
    "slave": syscalls.MS_SLAVE,
    "shared": syscalls.MS_SHARED,
}


class Share:
    """The mounted share of one sandbox. Synchronous; each call is a handful of system calls."""

    def __init__(self, directory: Path) -> None:
        """Private: use `create` or `adopt`."""
        self._directory = directory
        self._base = directory / "share"
        self.root = self._base / "tree"
        self.served = self._base / "served"
        self._containers: dict[str, str] = {}
        self._numbers = itertools.count(1)

    @classmethod
    def create(cls, directory: Path) -> Share:
        """Mount the share inside a sandbox's directory, which exists, is ours and mode 0700.

        Raises: HostError; nothing is mounted then.
        """
        share = cls(directory)
        try:
            share._mount()
        except OSError as error:
            share.close()
            raise HostError.from_oserror(error, "create share", str(directory)) from error
        except OciRuntimeError:
            share.close()
            raise
        return share

    def _mount(self) -> None:
        self._base.mkdir(mode=0o700, exist_ok=True)
        syscalls.mount("vmpod", str(self._base), "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, _TMPFS_OPTIONS)
        syscalls.mount_setattr(str(self._base), 0, propagation=syscalls.MS_PRIVATE)
        for path in (self.root, self.served):
            path.mkdir(mode=0o700)
        syscalls.mount(str(self.root), str(self.root), flags=syscalls.MS_BIND)
        syscalls.mount_setattr(str(self.root), 0, propagation=syscalls.MS_SHARED)
        view = syscalls.open_tree(str(self.root), syscalls.OPEN_TREE_CLONE)
        try:
            syscalls.mount_setattr("", syscalls.MOUNT_ATTR_RDONLY, fd=view, recursive=False)
            syscalls.move_mount(view, str(self.served))
        finally:
            os.close(view)

    @classmethod
    def adopt(cls, directory: Path) -> Share:
        """Take over what an earlier process left at `directory`, in order to `close` it."""
        return cls(directory)

    def attach(
        self, tree_fd: int, container_id: str, name: str, *, readonly: bool = False, propagation: str = "private"
    ) -> str:
        """Put a detached mount tree (from open_tree) into the share and return its path in the guest.

        tree_fd: borrowed; a directory or a file, no device. readonly: of the topmost mount, as a bind mount's `ro`.
        propagation: private, slave or shared, towards the place on the host where the tree comes from. Raises:
        InvalidInput (id, name, or a device), AlreadyExists, HostError. After a failure
        nothing is attached.
        """
        _check_names(container_id, name)
        if propagation not in PROPAGATION:
            raise InvalidInput(f"propagation {propagation!r}: not one of {', '.join(PROPAGATION)}")
        is_directory = _is_directory(tree_fd, name)
        directory = self._containers.get(container_id) or f"{container_id[:_MAX_ID]}.{next(self._numbers)}"
        target = self.root / directory / name
        made: list[Path] = []
        try:
            _make_directory(target.parent, made)
            _make_mount_point(target, is_directory, made)
            syscalls.mount_setattr("", 0, propagation=PROPAGATION[propagation], fd=tree_fd)
            if readonly:
                syscalls.mount_setattr("", syscalls.MOUNT_ATTR_RDONLY, fd=tree_fd, recursive=False)
            syscalls.move_mount(tree_fd, str(target))
        except FileExistsError as error:
            raise AlreadyExists(f"share name {name!r} of container {container_id}: attached already") from error
        except OSError as error:
            _remove_all(made)
            raise HostError.from_oserror(error, "attach to share", str(target)) from error
        except OciRuntimeError:
            _remove_all(made)
            raise
        self._containers[container_id] = directory
        return f"{GUEST_ROOT}/{directory}/{name}"

    def detach(self, container_id: str, name: str) -> None:
        """Take one tree out; idempotent. Raises: InvalidInput, HostError."""
        _check_names(container_id, name)
        directory = self._containers.get(container_id)
        if directory is not None:
            target = self.root / directory / name
            unmount_tree(str(target))
            _remove_mount_point(target)

    def detach_container(self, container_id: str) -> None:
        """Take out everything of a container, last attached first; idempotent. Raises: HostError."""
        name = self._containers.get(container_id)
        if name is None:
            return
        directory = self.root / name
        unmount_tree(str(directory))
        try:
            for entry in sorted(os.listdir(directory)):
                _remove_mount_point(directory / entry)
            directory.rmdir()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise HostError.from_oserror(error, "remove from share", str(directory)) from error
        del self._containers[container_id]

    def attached(self) -> list[str]:
        """Paths below the share that have something attached, for tests and diagnosis."""
        return [point[len(str(self.root)) + 1 :] for point in list_mounts(str(self.root)) if point != str(self.root)]

    def close(self) -> None:
        """Take everything out and unmount the share; idempotent. Raises: HostError, after trying everything."""
        try:
            unmount_tree(str(self._base))
        finally:
            self._containers.clear()
        try:
            self._base.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            raise HostError.from_oserror(error, "rmdir", str(self._base)) from error


def _check_names(container_id: str, name: str) -> None:
    for what, value in (("container id", container_id), ("share name", name)):
        if not _NAME.fullmatch(value):
            raise InvalidInput(f"{what} {value!r}: letters, digits and _ . + - only, at most 255")


def _is_directory(tree_fd: int, name: str) -> bool:
    mode = os.fstat(tree_fd).st_mode
    if stat.S_ISBLK(mode) or stat.S_ISCHR(mode) or stat.S_ISLNK(mode):
        raise InvalidInput(f"share name {name!r}: a device or symbolic link cannot be served to a virtual machine")
    return stat.S_ISDIR(mode)


def _make_directory(path: Path, made: list[Path]) -> None:
    try:
        path.mkdir(mode=0o755)
        made.append(path)
    except FileExistsError:
        return


def _make_mount_point(path: Path, directory: bool, made: list[Path]) -> None:
    if directory:
        path.mkdir(mode=0o755)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))
    made.append(path)


def _remove_mount_point(path: Path) -> None:
    try:
        path.rmdir()
    except NotADirectoryError:
        path.unlink(missing_ok=True)
    except FileNotFoundError:
        return
    except OSError as error:
        raise HostError.from_oserror(error, "remove from share", str(path)) from error


def _remove_all(paths: list[Path]) -> None:
    for path in reversed(paths):
        _remove_mount_point(path)
