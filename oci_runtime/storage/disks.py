"""Open block devices that a spec takes from the host, in the caller's mount namespace.

The descriptors travel to the sandbox process, which plugs the disks. Imports little: every `create` comes through here.
"""

from __future__ import annotations

import errno
import os
import stat

from oci_runtime.errors import HostError, InvalidInput, NotFound, Unsupported
from oci_runtime.storage import superblock
from oci_runtime.storage.device_kinds import DISK, DROP, KVM, REFUSE, is_privileged, kind_of_device, may_write, refusal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from oci_runtime.storage.sources import Sources

_NO_RIGHT = (
    "the device cgroup, the mount or the rights that vmpod runs with forbid it: allow it there, or leave the disk out"
)
_NO_DISK = "the host has no such disk"
_HINTS = {
    errno.ENXIO: _NO_DISK,
    errno.ENODEV: _NO_DISK,
    errno.EPERM: _NO_RIGHT,
    errno.EACCES: _NO_RIGHT,
    errno.EROFS: "it cannot be written to: ask for it read-only",
    errno.ENOMEDIUM: "it has no medium in it",
}


def open_disk(path: str, what: str, *, readonly: bool) -> tuple[int, bool]:
    """Open a block device or an image file for the machine; return its descriptor and whether it is read-only.

    what: names it in messages. A device that the host has as read-only is so in the guest. Whether the host uses it is
    asked by the sandbox process (claims.py), which knows what the pod has already. Raises: NotFound, InvalidInput
    (neither of the two), HostError.
    """
    flags = os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        mode = os.stat(path).st_mode
        if not (stat.S_ISBLK(mode) or stat.S_ISREG(mode)):  # before it is opened: for a device that has effects
            raise InvalidInput(f"{what}: neither a block device nor an image file")
        if readonly or (stat.S_ISBLK(mode) and _is_readonly(os.stat(path).st_rdev)):
            return os.open(path, os.O_RDONLY | flags), True
        return os.open(path, os.O_RDWR | flags), False
    except FileNotFoundError as error:
        raise NotFound(f"{what}: {os.strerror(errno.ENOENT)}") from error
    except OSError as error:
        raise HostError.from_oserror(error, "open", what, hint=_HINTS.get(error.errno or 0, "")) from error


def _is_readonly(number: int) -> bool:
    try:
        with open(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/ro", encoding="ascii") as file:
            return file.read().strip() == "1"
    except OSError:
        return False


def describe(descriptor: int, readonly: bool) -> dict[str, Any]:
    """What the sandbox process has to know of a disk: where it goes is added by the caller."""
    status = os.fstat(descriptor)
    return {
        "kind": "disk",
        "readonly": readonly,
        "major": os.major(status.st_rdev),
        "minor": os.minor(status.st_rdev),
        "mode": stat.S_IMODE(status.st_mode),
        "uid": status.st_uid,
        "gid": status.st_gid,
    }


def open_root(sources: Sources, path: str, *, readonly: bool, fstype: str = "", options: Sequence[str] = ()) -> None:
    """Open the disk or image file that holds the root file system.

    fstype: of the file system, else it is found out. options: of its mount. Raises: InvalidInput (no file system that
    the guest mounts), and as open_disk.
    """
    what = f"root.path {path}"
    descriptor, readonly = open_disk(path, what, readonly=readonly)
    try:
        fstype = fstype or superblock.detect(os.pread(descriptor, superblock.HEAD_BYTES, 0))
        if fstype not in superblock.NAMES:
            raise InvalidInput(f"{what}: no file system that the guest mounts ({', '.join(superblock.NAMES)})")
        description = describe(descriptor, readonly or fstype in superblock.READ_ONLY)
    except OSError as error:
        os.close(descriptor)
        raise HostError.from_oserror(error, "read", what) from error
    except BaseException:
        os.close(descriptor)
        raise
    root = {"kind": "root-disk", "what": what, "fstype": fstype, "options": list(options)}
    sources.add(description | root, descriptor)


def open_volume(sources: Sources, index: int, what: str, volume: Mapping[str, Any], *, readonly: bool) -> None:
    """Open the disk of a direct volume (volumes.find) for the mount `index`. Raises: as open_disk."""
    device = str(volume["device"])
    what = f"{what}: volume {device}"
    descriptor, readonly = open_disk(device, what, readonly=readonly)
    description = describe(descriptor, readonly) | {"kind": "volume", "what": what, "mount": index}
    metadata = volume.get("metadata") or {}
    sources.add(
        description
        | {
            "fstype": volume["fstype"],
            "options": list(volume.get("options") or ()),
            "fs_group": int(metadata.get("fsGroup") or 0),
            "fs_group_on_mismatch": metadata.get("fsGroupChangePolicy") == "OnRootMismatch",
            "path": volume["volume_path"],
        },
        descriptor,
    )


def open_devices(sources: Sources, spec: Mapping[str, Any]) -> None:
    """Open the disks of linux.devices, and note the devices that the guest does not get.

    Raises: Unsupported (a character device that only the host has), NotFound, HostError; they name the device.
    """
    linux = spec.get("linux") or {}
    rules = (linux.get("resources") or {}).get("devices") or ()
    privileged = is_privileged(rules)
    for index, device in enumerate(linux.get("devices") or ()):
        what = f"linux.devices[{index}] {device.get('path')}"
        number = int(device.get("major", -1)), int(device.get("minor", -1))
        host_name = _host_name(*number) if device.get("type") == "b" else ""
        kind = kind_of_device(device, privileged=privileged, host_name=host_name)
        if kind == REFUSE and not _open_vfio(sources, index, what, device) and not _is_bare(device):
            raise Unsupported(refusal(what, device))
        if kind == DROP:
            sources.guest_mounts.append({"kind": "no-device", "index": index})
        if kind == DISK and not _is_bare(device):
            sources.require_room(what)
            path = _find_node(what, number, host_name, str(device.get("path")))
            descriptor, readonly = open_disk(path, what, readonly=not may_write(rules, *number))
            sources.add(describe(descriptor, readonly) | {"device": index}, descriptor)


def _open_vfio(sources: Sources, index: int, what: str, device: Mapping[str, Any]) -> bool:
    """Open the PCI devices behind a node of VFIO; False if the device is none."""
    if not str(device.get("path")).startswith("/dev/vfio/"):
        return False
    from oci_runtime.storage import vfio

    if vfio.is_common_node(device):
        sources.guest_mounts.append({"kind": "no-device", "index": index})
        return True
    group = vfio.group_of(device)
    if group:
        vfio.open_group(sources, index, what, group)
    return bool(group)


def _is_bare(device: Mapping[str, Any]) -> bool:
    """Whether the host has nothing of a device's number: the container gets a node and no more, as under runc.

    The guest's agent refuses numbers behind which the guest has a device of its own.
    """
    number = device.get("major"), device.get("minor")
    table = f"/sys/dev/{'block' if device.get('type') == 'b' else 'char'}"
    if number == KVM or str(device.get("path")).startswith("/dev/vfio/"):
        return False
    return os.path.isdir(table) and not os.path.exists(f"{table}/{number[0]}:{number[1]}")


def _host_name(major: int, minor: int) -> str:
    """What the host's kernel calls a block device, such as /dev/sda; empty when it has none of that number."""
    try:
        with open(f"/sys/dev/block/{major}:{minor}/uevent", encoding="utf-8") as file:
            for line in file:
                if line.startswith("DEVNAME="):
                    return "/dev/" + line[len("DEVNAME=") :].strip()
    except OSError:
        return ""
    return ""


def _find_node(what: str, number: tuple[int, int], *candidates: str) -> str:
    """The node of a block device on the host: where the kernel has it, else where the container will."""
    for path in candidates:
        try:
            status = os.stat(path)
        except OSError:
            continue
        if stat.S_ISBLK(status.st_mode) and status.st_rdev == os.makedev(*number):
            return path
    raise NotFound(f"{what}: the host has no block device {number[0]}:{number[1]}")
