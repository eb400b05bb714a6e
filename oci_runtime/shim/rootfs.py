"""A container's root file system from the mounts that a snapshotter names: overlay, bind, or any type on a device.

The plan is pure. The mounts are made at `<bundle>/rootfs`, where hooks and the engine look for them, in the mount
namespace of the shim, which is the engine's; root_place.py finds the places. Sources: mount(8) for names of options,
containerd's Mount message.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from oci_runtime.errors import HostError, InvalidInput, OciRuntimeError
from oci_runtime.host import syscalls
from oci_runtime.shim.loop import attach_loop
from oci_runtime.shim.proto.types_pb2 import Mount
from oci_runtime.shim.root_place import RootPlace
from oci_runtime.storage import superblock

_CLONE_FS = 0x200
_MS_SYNCHRONOUS = 16
_MS_MANDLOCK = 64
_MS_DIRSYNC = 128
_MS_NOATIME = 1024
_MS_NODIRATIME = 2048
_MS_RELATIME = 1 << 21
_MS_STRICTATIME = 1 << 24
_MS_LAZYTIME = 1 << 25
_SET = {
    "bind": syscalls.MS_BIND,
    "rbind": syscalls.MS_BIND | syscalls.MS_REC,
    "ro": syscalls.MS_RDONLY,
    "nosuid": syscalls.MS_NOSUID,
    "nodev": syscalls.MS_NODEV,
    "noexec": syscalls.MS_NOEXEC,
    "remount": syscalls.MS_REMOUNT,
    "sync": _MS_SYNCHRONOUS,
    "dirsync": _MS_DIRSYNC,
    "mand": _MS_MANDLOCK,
    "noatime": _MS_NOATIME,
    "nodiratime": _MS_NODIRATIME,
    "relatime": _MS_RELATIME,
    "strictatime": _MS_STRICTATIME,
    "lazytime": _MS_LAZYTIME,
}
_CLEAR = {
    "rw": syscalls.MS_RDONLY,
    "suid": syscalls.MS_NOSUID,
    "dev": syscalls.MS_NODEV,
    "exec": syscalls.MS_NOEXEC,
    "async": _MS_SYNCHRONOUS,
    "nomand": _MS_MANDLOCK,
    "atime": _MS_NOATIME,
    "diratime": _MS_NODIRATIME,
    "norelatime": _MS_RELATIME,
    "nostrictatime": _MS_STRICTATIME,
    "nolazytime": _MS_LAZYTIME,
}
_PROPAGATION = {
    "private": syscalls.MS_PRIVATE,
    "rprivate": syscalls.MS_PRIVATE | syscalls.MS_REC,
    "slave": syscalls.MS_SLAVE,
    "rslave": syscalls.MS_SLAVE | syscalls.MS_REC,
    "shared": syscalls.MS_SHARED,
    "rshared": syscalls.MS_SHARED | syscalls.MS_REC,
}
_IGNORED = {"defaults", "auto", "noauto", "_netdev"}
_DIRECTORY_OPTIONS = ("lowerdir", "upperdir", "workdir")
# The kernel takes a page of option text, with its final zero byte.
MAX_DATA_BYTES = 4095
MAX_MOUNTS = 128


@dataclass(frozen=True)
class PlannedMount:
    """One call of mount(2), and what follows it. target: in the root, "" for itself.

    cwd: where relative directories in `data` begin.
    """

    source: str
    target: str
    fstype: str
    flags: int
    data: str
    propagation: int = 0
    loop: bool = False
    cwd: str = ""


def plan_mounts(mounts: Sequence[Mount]) -> tuple[PlannedMount, ...]:
    """What to mount as the root, in order. Raises: InvalidInput."""
    if len(mounts) > MAX_MOUNTS:
        raise InvalidInput(f"the root file system has {len(mounts)} mounts, more than {MAX_MOUNTS}")
    return tuple(plan_mount(mount) for mount in mounts)


def plan_mount(mount: Mount) -> PlannedMount:
    """Plan one mount. Raises: InvalidInput for a target outside of the root and for options that do not fit a page."""
    flags = propagation = 0
    loop = False
    data: list[str] = []
    for option in mount.options:
        if option in _SET:
            flags |= _SET[option]
        elif option in _CLEAR:
            flags &= ~_CLEAR[option]
        elif option in _PROPAGATION:
            propagation = _PROPAGATION[option]
        elif option == "loop":
            loop = True
        elif option not in _IGNORED:
            data.append(option)
    if mount.type == "bind" and not flags & syscalls.MS_BIND:
        flags |= syscalls.MS_BIND
    target = os.path.normpath(mount.target.lstrip("/") or ".")
    if target.split("/")[0] == "..":
        raise InvalidInput(f"mount target {mount.target!r} is outside of the root file system")
    target = "" if target == "." else target
    fstype = "" if flags & syscalls.MS_BIND else mount.type
    planned = PlannedMount(mount.source, target, fstype, flags, ",".join(data), propagation, loop)
    return _shorten(planned) if len(planned.data.encode()) > MAX_DATA_BYTES else planned


def _shorten(planned: PlannedMount) -> PlannedMount:
    """Make an overlay's long directory names relative to the one that they have in common."""
    options = [option.partition("=")[::2] for option in planned.data.split(",")]
    named = [path for name, value in options if name in _DIRECTORY_OPTIONS for path in value.split(":")]
    if planned.fstype == "overlay" and all(path.startswith("/") for path in named):
        cwd = os.path.commonpath(named)
        words = []
        for name, value in options:
            if name in _DIRECTORY_OPTIONS:
                value = ":".join(os.path.relpath(path, cwd) for path in value.split(":"))
            words.append(f"{name}={value}" if value else name)
        planned = replace(planned, data=",".join(words), cwd=cwd)
    if len(planned.data.encode()) > MAX_DATA_BYTES:
        raise InvalidInput(
            f"the {planned.fstype} mount of {planned.target} has {len(planned.data)} bytes of options, the kernel takes"
            f" {MAX_DATA_BYTES}: use an image with fewer layers"
        )
    return planned


def find_root_disk(mounts: Sequence[Mount]) -> dict[str, Any] | None:
    """The disk that is the whole root file system, as open_sources takes it: the guest mounts it. None for all else."""
    if len(mounts) != 1 or mounts[0].target or mounts[0].type not in superblock.NAMES:
        return None
    (mount,) = mounts
    try:
        mode = os.stat(mount.source).st_mode
    except OSError:
        return None  # mounting it says why
    if not (stat.S_ISBLK(mode) or (stat.S_ISREG(mode) and "loop" in mount.options)):
        return None
    options = [option for option in mount.options if option != "loop" and option not in _IGNORED]
    return {"source": mount.source, "fstype": mount.type, "options": options}


def mount_rootfs(planned: Sequence[PlannedMount], place: RootPlace) -> None:
    """Make the mounts; blocks. Raises: HostError naming the mount; none of them is left then."""
    try:
        for one in planned:
            _mount_elsewhere(one, place) if one.cwd else _mount(one, place)
    except OciRuntimeError:
        place.unmount()
        raise


def _mount(one: PlannedMount, place: RootPlace) -> None:
    source = one.source
    loop_fd = -1
    if one.loop:
        loop_fd, source = attach_loop(one.source, readonly=bool(one.flags & syscalls.MS_RDONLY))
    try:
        bind = one.flags & syscalls.MS_BIND
        flags = one.flags & (syscalls.MS_BIND | syscalls.MS_REC) if bind else one.flags
        try:
            made = place.mount(source, one.target, one.fstype, flags, one.data)
            if bind and one.flags != flags:  # a bind mount takes its other flags in a second call
                syscalls.mount("", made, "", one.flags | syscalls.MS_REMOUNT)
            if one.propagation:
                syscalls.mount("", made, "", one.propagation)
        except HostError as error:
            what = f"{one.fstype or 'bind'} mount of {one.source} at {place.path_of(one.target)}"
            raise HostError("mount", what, error.errno, hint=_hint(one)) from error
    finally:
        if loop_fd >= 0:
            os.close(loop_fd)  # the mount keeps the device; it frees itself afterwards


def _hint(one: PlannedMount) -> str:
    return f"options {one.data[:200]}" if one.data else ""


def _mount_elsewhere(one: PlannedMount, place: RootPlace) -> None:
    """Mount with a working directory of this mount's own, in a thread that shares it with nobody."""
    failures: list[OciRuntimeError] = []

    def work() -> None:
        try:
            syscalls.unshare(_CLONE_FS)
            os.chdir(one.cwd)
            _mount(one, place)
        except OciRuntimeError as error:
            failures.append(error)
        except OSError as error:
            failures.append(HostError.from_oserror(error, "chdir", one.cwd))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
