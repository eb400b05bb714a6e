"""`<bundle>/rootfs` as a place for mounts, which are known by descriptors and not by paths.

A container may write to its root, and somebody to the bundle: a directory that they swap for a symbolic link must have
nothing mounted, and nothing unmounted, where the link leads; nor must they hide a mount from its end. Imports little:
`delete` comes through here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading

from oci_runtime.errors import HostError
from oci_runtime.host import syscalls
from oci_runtime.host.mounts import detach_mount, list_mounts, mount_id

_NAME = "rootfs"


class RootPlace:
    """The root of one bundle, and the mounts that were made there. Safe to use from several threads."""

    def __init__(self, bundle: str) -> None:
        """Make the directory unless it is there. Raises: HostError."""
        self.path = os.path.join(bundle, _NAME)
        self._lock = threading.Lock()
        self._closed = False
        self._made: list[int] = []
        try:
            self._bundle = os.open(bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            with contextlib.suppress(FileExistsError):
                os.mkdir(_NAME, 0o711, dir_fd=self._bundle)
        except OSError as error:
            raise HostError.from_oserror(error, "make", self.path) from error

    def path_of(self, target: str) -> str:
        """How messages call a place in the root."""
        return f"{self.path}/{target}" if target else self.path

    def mount(self, source: str, target: str, fstype: str, flags: int, data: str) -> str:
        """mount(2) at a place in the root, "" for itself; return a path that means this mount while the root is there.

        Links of the image lead to places of the image; the root itself may be none. Raises: HostError.
        """
        with self._lock:
            below = self._open(target)
            try:
                syscalls.mount(source, f"/proc/self/fd/{below}", fstype, flags, data)
                made = self._open(target)
                if mount_id(made) == mount_id(below):  # swapped in this moment: another place is found
                    os.close(made)
                    raise HostError("mount", self.path, errno.ESTALE)
                self._made.append(made)
            finally:
                os.close(below)
        return f"/proc/self/fd/{made}"

    def unmount(self) -> None:
        """Detach these mounts, wherever they are by now, with all that is mounted inside; there can be no more then.

        Idempotent. Raises: HostError for the first that resists, after trying all.
        """
        failure: HostError | None = None
        with self._lock:
            while self._made:
                made = self._made.pop()
                try:
                    syscalls.umount(f"/proc/self/fd/{made}", syscalls.MNT_DETACH)
                except HostError as error:
                    if error.errno != errno.EINVAL:  # somebody else has unmounted it
                        failure = failure or HostError("unmount", self.path, error.errno)
                os.close(made)
            if not self._closed:
                self._closed = True
                os.close(self._bundle)
        if failure is not None:
            raise failure

    def _open(self, target: str) -> int:
        """A descriptor (O_PATH) of what is there, with what is mounted on it by now."""
        if self._closed:
            raise HostError("mount", self.path, errno.ECANCELED)
        try:
            resolve = syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_SYMLINKS
            root = syscalls.openat2(_NAME, os.O_PATH | os.O_DIRECTORY, dir_fd=self._bundle, resolve=resolve)
            if not target:
                return root
            try:
                resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
                return syscalls.openat2(target, os.O_PATH, dir_fd=root, resolve=resolve)
            finally:
                os.close(root)
        except HostError as error:
            raise HostError("open", self.path_of(target), error.errno) from error


def unmount_leftovers(bundle: str) -> None:
    """The same for a process that has died: detach what is mounted at the root, and inside. Idempotent.

    Raises: HostError; also for mounts that cannot be reached, because something was mounted over the bundle.
    """
    try:
        fd = os.open(bundle, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    except OSError as error:
        raise HostError.from_oserror(error, "open", bundle) from error
    try:
        place = f"/proc/self/fd/{fd}"
        detach_mount(f"{place}/{_NAME}")
        left = list_mounts(os.path.join(os.readlink(place), _NAME))
    finally:
        os.close(fd)
    if left:
        raise HostError("unmount", left[0], errno.EBUSY, hint="another mount hides it: unmount that one first")
