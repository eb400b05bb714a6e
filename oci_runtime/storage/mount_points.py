"""Mount points that a read-only root file system lacks: found before anything is made, because nobody can make them."""

from __future__ import annotations

import errno
import os

from oci_runtime.errors import HostError, InvalidInput
from oci_runtime.host import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from oci_runtime.bundle.model import Mount

_DEV = "/dev"


def check_mount_points(rootfs: str, mounts: Sequence[Mount]) -> None:
    """See that everything can be mounted on a root file system that the host has mounted read-only.

    What lies below another mount is left to those who mount it. A root that is no directory is not looked at.
    Raises InvalidInput naming the mount; HostError.
    """
    try:
        root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except NotADirectoryError:
        return
    except OSError as error:
        raise HostError.from_oserror(error, "open", rootfs) from error
    try:
        if not os.statvfs(root).f_flag & os.ST_RDONLY:
            return
        covered: list[str] = []
        for index, mount in enumerate(mounts):
            place = os.path.normpath(mount.destination)
            if not _is_below(place, covered) and not _exists(root, place):
                raise InvalidInput(f"mounts[{index}] {mount.destination}: {_explain(rootfs)}")
            covered.append(place)
        if not _is_below(_DEV, covered) and not _exists(root, _DEV):
            raise InvalidInput(f"{_DEV}, which every container needs: {_explain(rootfs)}")
    finally:
        os.close(root)


def _is_below(place: str, covered: Sequence[str]) -> bool:
    return any(f"{place}/".startswith(f"{upper.rstrip('/')}/") for upper in covered)


def _exists(root: int, place: str) -> bool:
    resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
    try:
        os.close(syscalls.openat2(place, os.O_PATH, dir_fd=root, resolve=resolve))
    except HostError as error:
        # Whatever else is wrong with it, the guest will say.
        return error.errno != errno.ENOENT
    return True


def _explain(rootfs: str) -> str:
    return f"root file system {rootfs} is mounted read-only and has no such mount point: make it there first"
