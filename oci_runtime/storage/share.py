"""The share of a sandbox: a directory tree of the host that virtiofsd serves and the guest mounts at one place.

One small tmpfs, mounted three times at or below `share` in the sandbox's directory:

- `share` itself, private. On a host whose mounts are shared, the mount namespaces of other services get an empty copy
  of it; nothing that happens inside reaches them, so no service ever holds a container's files.
- `share/tree`, in a propagation group of its own: ours to put mount points in.
- `share/staging`, a directory of the private one: a tree comes here first, so that what must not be served is taken out
  of it where virtiofsd has never been able to look.
- `share/served`, its peer, read-only: the root directory of virtiofsd, so that a guest can neither fill the host's
  memory there nor rename what we attach. What is attached below `tree` appears here, and from here in virtiofsd's
  mount namespace, whose copy is a slave. Where the host's `/` is private, this is the only way in.

The guest sees `<share>/<container>.<number>/<name>` at the same place below `/run/vmpod/share`. The number makes each
directory new: a guest trusts names that it has looked up for a second, and would find the files of a container that
had the same id before.

The source of a bind lies at `<share>/volume.<number>/<its own name>`: that is what mountinfo shows in the container,
where runc's shows the source's path. One that several containers of the pod bind is attached once: virtiofsd tells
files by their mount, too, so that otherwise one file would be several inodes in the guest, and locks, sockets, pipes
and memory maps would not meet.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import stat
from _thread import allocate_lock
from pathlib import Path

from oci_runtime.errors import AlreadyExists, HostError, InvalidInput, OciRuntimeError
from oci_runtime.host import syscalls
from oci_runtime.host.mounts import detach_mount, list_mounts, read_mounts
from oci_runtime.storage.mount_kinds import KERNEL_TYPES

GUEST_ROOT = "/run/vmpod/share"
TAG = "vmpod-share"
_TMPFS_OPTIONS = "mode=0700,size=8m,nr_inodes=32k"
# Passable, not readable: in the guest, root of a user namespace is nobody here.
_PASSABLE = 0o711
_UNNAMED = "data"
_TAKING_OUT_TRIES = 20
_MAX_ID = 200  # leaves room for the number: a file name has 255 bytes
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,254}")
_SOURCE_NAME = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.+:@=-]{1,255}")
# The guest's mounts never reach the host, so what shares only receives, as a slave does. A peer of the host's mount
# would pass the unmounting of the share's own copies on: a container that goes would take the host's mounts along.
PROPAGATION = {
    "private": syscalls.MS_PRIVATE,
    "slave": syscalls.MS_SLAVE,
    "shared": syscalls.MS_SLAVE,
}


def plan_guest_mount(shared_fs: str, msize: int, files: int) -> tuple[str, str, str, str, tuple[str, ...]]:
    """How the guest mounts the share: driver, source, target, type and options of the agent's storages. Pure.

    files: how many virtiofsd can have open. Over 9p each user of the guest is one for the server, access lists count,
    and files can be mapped shared.
    """
    if shared_fs == "virtio-9p":
        options = (f"msize={msize}", "access=client", "posixacl", "cache=mmap")
        return "9p", TAG, GUEST_ROOT, "9p", options
    return "virtiofs", TAG, GUEST_ROOT, "virtiofs", (f"files={files}",)


class _Volume:
    """The source of a bind, which containers of the pod may have in common: its place in the share, and who uses it."""

    __slots__ = ("directory", "name", "users")

    def __init__(self, directory: str, name: str) -> None:
        self.directory = directory
        self.name = name
        self.users: set[str] = set()


class Share:
    """The mounted share of one sandbox. Synchronous; each call is a handful of system calls, from any thread."""

    def __init__(self, directory: Path) -> None:
        """Private: use `create` or `adopt`."""
        self._directory = directory
        self._base = directory / "share"
        self.root = self._base / "tree"
        self.served = self._base / "served"
        self._staging = self._base / "staging"
        self._containers: dict[str, str] = {}
        self._volumes: dict[tuple[str, str], _Volume] = {}  # by pool key, and which mounts are read-only
        self._numbers = itertools.count(1)
        self._lock = allocate_lock()

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
            path.mkdir()
            path.chmod(_PASSABLE)
        self._staging.mkdir(mode=0o700)
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
        self,
        tree_fd: int,
        container_id: str,
        name: str,
        *,
        readonly: str = "",
        propagation: str = "private",
        pool: str = "",
        source: str = "",
    ) -> str:
        """Put a detached mount tree (from open_tree) into the share and return its path in the guest.

        tree_fd: borrowed; a directory or a file, no device. Mounts of the kernel inside (proc, sysfs, devices, ...) are
        left out. readonly: "", "top" or "tree" as in mount_kinds.readonly_of. propagation: private, slave or shared,
        towards the place on the host where the tree comes from. pool: what the same source has in common for all
        containers (sources.py); "" for a tree of this container alone. A container that only reads takes part in what
        another one may write: the host holds up what the pod may do, the guest what each container may. source: the
        path that a bind names, "" for the root file system.

        Raises: InvalidInput (id, name, or a device), AlreadyExists, HostError. After a failure nothing is attached.
        """
        _check_names(container_id, name)
        if propagation not in PROPAGATION:
            raise InvalidInput(f"propagation {propagation!r}: not one of {', '.join(PROPAGATION)}")
        with self._lock:
            if pool or source:
                key = pool or f"{container_id}/{name}"
                return self._join_volume(tree_fd, container_id, readonly, propagation, key, source, plain=bool(pool))
            directory = self._containers.get(container_id) or f"{container_id[:_MAX_ID]}.{next(self._numbers)}"
            self._attach(tree_fd, self.root / directory / name, readonly, propagation)
            self._containers[container_id] = directory
            return f"{GUEST_ROOT}/{directory}/{name}"

    def _join_volume(
        self, tree_fd: int, container_id: str, readonly: str, propagation: str, key: str, source: str, *, plain: bool
    ) -> str:
        """Attach a source that is not there yet; else make the container another user of it."""
        volume = self._volumes.get((key, "")) or self._volumes.get((key, readonly))
        if volume is None:
            volume = _Volume(f"volume.{next(self._numbers)}", _name_of(source))
            self._attach(tree_fd, self.root / volume.directory / volume.name, readonly, propagation, plain=plain)
            self._volumes[key, readonly] = volume
        volume.users.add(container_id)
        return f"{GUEST_ROOT}/{volume.directory}/{volume.name}"

    def _attach(self, tree_fd: int, target: Path, readonly: str, propagation: str, *, plain: bool = False) -> None:
        """plain: there are no mounts inside the tree."""
        is_directory = _is_directory(tree_fd, target.name)
        made: list[Path] = []
        try:
            _make_directory(target.parent, made)
            _make_mount_point(target, is_directory, made)
            # Device nodes are the guest's own: a daemon that could be made to open the host's would not get through.
            syscalls.mount_setattr("", syscalls.MOUNT_ATTR_NODEV, propagation=PROPAGATION[propagation], fd=tree_fd)
            if readonly:
                recursive = readonly == "tree"
                syscalls.mount_setattr("", syscalls.MOUNT_ATTR_RDONLY, fd=tree_fd, recursive=recursive)
            if is_directory and not plain:
                self._stage(tree_fd)
            syscalls.move_mount(tree_fd, str(target))
        except FileExistsError as error:
            raise AlreadyExists(f"share name {target.name!r} of {target.parent.name}: attached already") from error
        except OSError as error:
            _remove_all(made)
            raise HostError.from_oserror(error, "attach to share", str(target)) from error
        except OciRuntimeError:
            detach_mount(str(self._staging))
            _remove_all(made)
            raise

    def _stage(self, tree_fd: int) -> None:
        """Attach a tree outside of what is served, and take the mounts of the host's kernel out of it."""
        place = str(self._staging)
        syscalls.move_mount(tree_fd, place)
        for _ in range(_TAKING_OUT_TRIES):
            mounts = [mount for mount in read_mounts(place) if mount.kind in KERNEL_TYPES and mount.point != place]
            if not mounts:
                return
            for mount in mounts:
                _take_out(tree_fd, mount.point[len(place) + 1 :], mount.device)
        raise InvalidInput(
            f"{mounts[0].point[len(place) :]} in a bind's source is of the host's kernel and cannot be left out:"
            " something else is mounted upon it, or its directories are renamed all the time"
        )

    def detach_container(self, container_id: str) -> None:
        """Take out everything of a container, and what it was the last one to use; idempotent. Raises: HostError."""
        with self._lock:
            name = self._containers.get(container_id)
            if name is not None:
                self._remove(name)
                del self._containers[container_id]
            for key, volume in list(self._volumes.items()):
                volume.users.discard(container_id)
                if not volume.users:
                    self._remove(volume.directory)
                    del self._volumes[key]

    def _remove(self, name: str) -> None:
        directory = self.root / name
        try:
            for entry in sorted(os.listdir(directory)):
                detach_mount(str(directory / entry))
                _remove_mount_point(directory / entry)
            directory.rmdir()
        except FileNotFoundError:
            pass
        except OSError as error:
            raise HostError.from_oserror(error, "remove from share", str(directory)) from error

    def attached(self) -> list[str]:
        """Paths below the share that have something attached, for tests and diagnosis."""
        return [point[len(str(self.root)) + 1 :] for point in list_mounts(str(self.root)) if point != str(self.root)]

    def close(self) -> None:
        """Take everything out and unmount the share; idempotent. Raises: HostError, after trying everything."""
        with self._lock:
            try:
                detach_mount(str(self._base))
            finally:
                self._containers.clear()
                self._volumes.clear()
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


def _name_of(source: str) -> str:
    """The last part of a bind's source, unless it is none that everybody can handle."""
    name = os.path.basename(os.path.normpath(source)) if source else ""
    return name if _SOURCE_NAME.fullmatch(name) else _UNNAMED


def _is_directory(tree_fd: int, name: str) -> bool:
    mode = os.fstat(tree_fd).st_mode
    if stat.S_ISBLK(mode) or stat.S_ISCHR(mode) or stat.S_ISLNK(mode):
        raise InvalidInput(f"share name {name!r}: a device or symbolic link cannot be served to a virtual machine")
    return stat.S_ISDIR(mode)


def _take_out(tree_fd: int, below: str, device: str) -> None:
    """Unmount what the host's kernel has inside a tree, such as /proc below a bind of /: it is not the guest's.

    Another container that may write to the tree can rename directories meanwhile and put links in their places: what
    is not found where it was, or is another file system, stays.
    """
    resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS
    try:
        found = syscalls.openat2(below, os.O_PATH, dir_fd=tree_fd, resolve=resolve)
    except HostError:
        return
    try:
        number = os.fstat(found).st_dev
        if f"{os.major(number)}:{os.minor(number)}" == device:
            syscalls.umount(f"/proc/self/fd/{found}", syscalls.MNT_DETACH)
    except HostError as error:
        if error.errno != errno.EINVAL:  # a directory inside
            raise
    finally:
        os.close(found)


def _make_directory(path: Path, made: list[Path]) -> None:
    try:
        path.mkdir()
        made.append(path)
        path.chmod(_PASSABLE)
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
