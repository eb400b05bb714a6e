"""A root directory of a process's own: a tmpfs with a few places of the host bound into it, and nothing else.

For a program that needs rights over files, so that it has them over few. Runs in a child that has a new mount namespace
and is still root; nothing of it is seen outside of that namespace.
"""

from __future__ import annotations

import os
import stat

from oci_runtime.errors import HostError
from oci_runtime.host import syscalls
from oci_runtime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

HARMLESS = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
# Processes alone, of those only what the reader may trace: none but itself. None of the host's switches.
_PROC_OPTIONS = "subset=pid,hidepid=ptraceable"
_ROOT_OPTIONS = "mode=0755,size=1m,nr_inodes=128"


class Place(Record):
    """source: a file, directory or device of the host. target: absolute, where it appears. attributes: MOUNT_ATTR_* for
    all that is mounted there now. follows: what the host mounts below it later appears, with the host's attributes."""

    source: str
    target: str
    attributes: int = HARMLESS
    follows: bool = False


class PrivateRoot(Record):
    """stage: a directory of the host over which the root is put together, in the new namespace alone. places: in this
    order. links: (name in the root, where it leads). It has a /proc of its own, too."""

    stage: str
    places: Sequence[Place]
    links: Sequence[tuple[str, str]] = ()


def enter(root: PrivateRoot) -> None:
    """Make the calling process's new mount namespace consist of `root`; the working directory is its top then.

    Raises: HostError, OSError; the process is good for nothing then.
    """
    syscalls.mount_setattr("/", 0, propagation=syscalls.MS_SLAVE)
    # All of them before the stage is covered: a source may lie below it.
    trees = [syscalls.open_tree(place.source) for place in root.places]
    syscalls.mount("vmpod-root", root.stage, "tmpfs", syscalls.MS_NOSUID, _ROOT_OPTIONS)
    os.chdir(root.stage)
    for name, leads_to in root.links:
        os.symlink(leads_to, name.lstrip("/"))
    for place, tree in zip(root.places, trees, strict=True):
        target = place.target.lstrip("/")
        _make_place(target, tree)
        kind = syscalls.MS_SLAVE if place.follows else syscalls.MS_PRIVATE
        syscalls.mount_setattr("", place.attributes, propagation=kind, fd=tree)
        syscalls.move_mount(tree, target)
        os.close(tree)
    os.mkdir("proc", 0o755)
    flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
    syscalls.mount("proc", "proc", "proc", flags, _PROC_OPTIONS)
    syscalls.pivot_root(".", ".")
    syscalls.umount(".", syscalls.MNT_DETACH)  # the old root lies on top of the new one
    os.chdir("/")
    syscalls.mount_setattr("/", HARMLESS | syscalls.MOUNT_ATTR_RDONLY, recursive=False)


def _make_place(target: str, tree: int) -> None:
    """Make what the tree is mounted on: a directory for a directory, a file for anything else."""
    previous = os.umask(0o022)
    try:
        if stat.S_ISDIR(os.fstat(tree).st_mode):
            os.makedirs(target, 0o755)
            return
        os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
    except OSError as error:
        raise HostError.from_oserror(error, "make place", target) from error
    finally:
        os.umask(previous)
