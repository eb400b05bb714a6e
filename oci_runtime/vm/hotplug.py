"""Plug devices into a running machine and take them out: a share, a NIC, a disk.

Each plug is a short list of QMP commands with the undo of each; a failure in the middle leaves QEMU as it was.
Descriptors are borrowed: QEMU gets duplicates, the caller closes its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from oci_runtime.errors import HostError, InvalidInput, NotFound, OciRuntimeError, Unavailable, Unsupported
from oci_runtime.vm.argv import VmSettings
from oci_runtime.vm.qmp import Events, Qmp
from oci_runtime.vm.slots import Slot, Slots

UNPLUG_DEADLINE_S = 15.0
DISK_BUSES = ("virtio-blk", "virtio-scsi")
_MAX_QUEUES = 64
_SHARE_QUEUE_SIZE = 1024


@dataclass(frozen=True)
class PluggedDevice:
    """A device in the machine.

    id: QEMU's. guest_path: where the guest finds it (see Slot). undo: commands that free what stands behind the device,
    run after the guest has let go of it, last made first.
    """

    id: str
    guest_path: str
    slot: Slot
    undo: tuple[tuple[str, Mapping[str, Any]], ...] = field(default=())


@dataclass
class _Plug:
    """A plug in progress."""

    slot: Slot
    undo: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)


class Hotplug:
    """Owns the machine's slots. Calls for different devices may overlap."""

    def __init__(self, qmp: Qmp, settings: VmSettings) -> None:
        self._qmp = qmp
        self._slots = Slots(settings)
        self._numbers = itertools.count(1)
        self._plugged: set[str] = set()

    async def plug_share(self, vhost_user: socket.socket, tag: str) -> PluggedDevice:
        """Plug a virtio-fs share served by the virtiofsd at the other end of `vhost_user`.

        tag: what the guest mounts, 1 to 36 bytes. Raises: InvalidInput, Unavailable, OciRuntimeError (QEMU's words).
        """
        if not 0 < len(tag.encode()) <= 36:
            raise InvalidInput(f"share tag {tag!r}: must be 1 to 36 bytes")
        name = self._name("fs")

        async def make(plug: _Plug) -> None:
            await self._qmp.execute("getfd", {"fdname": name}, fd=vhost_user.fileno())
            plug.undo.append(("closefd", {"fdname": name}))
            backend = {"type": "socket", "data": {"addr": {"type": "fd", "data": {"str": name}}, "server": False}}
            await self._qmp.execute("chardev-add", {"id": name, "backend": backend})
            plug.undo[-1] = ("chardev-remove", {"id": name})  # the character device took the descriptor over
            device = {"driver": "vhost-user-fs-pci", "chardev": name, "tag": tag, "queue-size": _SHARE_QUEUE_SIZE}
            await self._add_device(name, plug.slot, device)

        return await self._plug(name, f"share {tag}", make)

    async def plug_nic(
        self, tap_fds: Sequence[int], mac: str, *, vhost_fds: Sequence[int] = (), mtu: int = 0
    ) -> PluggedDevice:
        """Plug a network card; one tap descriptor per queue pair, and as many vhost-net descriptors or none.

        mtu: told to the guest when positive. Raises: InvalidInput, Unavailable, OciRuntimeError.
        """
        if not 0 < len(tap_fds) <= _MAX_QUEUES or len(vhost_fds) not in (0, len(tap_fds)):
            raise InvalidInput(f"NIC {mac}: {len(tap_fds)} tap and {len(vhost_fds)} vhost descriptors do not fit")
        name = self._name("nic")

        async def make(plug: _Plug) -> None:
            netdev: dict[str, Any] = {"type": "tap", "id": name}
            for key, descriptors in (("fds", tap_fds), ("vhostfds", vhost_fds)):
                names = [f"{name}.{key}{index}" for index in range(len(descriptors))]
                for fd_name, descriptor in zip(names, descriptors, strict=True):
                    await self._qmp.execute("getfd", {"fdname": fd_name}, fd=descriptor)
                    plug.undo.append(("closefd", {"fdname": fd_name}))
                if names:
                    netdev[key] = ":".join(names)
            netdev |= {"vhost": True} if vhost_fds else {}
            await self._qmp.execute("netdev_add", netdev)
            plug.undo[:] = [("netdev_del", {"id": name})]  # the back end took the descriptors over
            device: dict[str, Any] = {"driver": "virtio-net-pci", "netdev": name, "mac": mac, "romfile": ""}
            # The tap gets the frames of this interface only: a filter in the NIC would drop nothing, and each change
            # of its lists keeps a guest's processor waiting for QEMU.
            device |= {"ctrl_rx": False, "ctrl_rx_extra": False, "ctrl_vlan": False}
            # Its link never goes down. A guest that could ask would find no carrier until a worker of its kernel has.
            device |= {"status": False}
            if len(tap_fds) > 1:
                device |= {"mq": True, "vectors": 2 * len(tap_fds) + 2}
            if mtu > 0:
                device |= {"host_mtu": mtu}
            await self._add_device(name, plug.slot, device)

        return await self._plug(name, f"NIC {mac}", make)

    async def add_iommu(self, descriptor: int) -> str:
        """Give QEMU the host's IOMMU interface (/dev/iommu), which all PCI devices of the host share; return its id.

        Raises: Unsupported (this QEMU has no iommufd: 9.0 is the first), Unavailable, OciRuntimeError.
        """
        name = self._name("iommu")
        await self._qmp.execute("getfd", {"fdname": name}, fd=descriptor)
        try:
            await self._qmp.execute("object-add", {"qom-type": "iommufd", "id": name, "fd": name})
        except OciRuntimeError as error:
            await self._undo((("closefd", {"fdname": name}),))
            if "invalid object type" in error.message or "iommufd" in error.message:
                raise Unsupported(f"PCI devices of the host need QEMU 9.0 or later ({error.message})") from error
            raise
        return name

    async def plug_vfio(self, descriptor: int, iommu: str, address: str) -> PluggedDevice:
        """Plug a PCI device of the host.

        descriptor: of its node in /dev/vfio/devices. iommu: what `add_iommu` returned. Raises: Unavailable (no slot, no
        answer), OciRuntimeError (QEMU's words).
        """
        name = self._name("vfio")

        async def make(plug: _Plug) -> None:
            await self._qmp.execute("getfd", {"fdname": name}, fd=descriptor)
            plug.undo.append(("closefd", {"fdname": name}))
            await self._add_device(name, plug.slot, {"driver": "vfio-pci", "fd": name, "iommufd": iommu})
            plug.undo.clear()  # the device took the descriptor over

        return await self._plug(name, f"PCI device {address} of the host", make)

    async def plug_disk(
        self,
        descriptor: int,
        *,
        readonly: bool,
        serial: str = "",
        bus: str = "virtio-blk",
        shared: bool = False,
    ) -> PluggedDevice:
        """Plug a disk: a raw image file or a block device.

        QEMU reaches it through a descriptor set, so its uid needs no access to the path; with readonly it gets no right
        to write either. bus: virtio-blk or virtio-scsi. shared: others may write
        to it, too; without it QEMU refuses what another QEMU writes to. A failure of the disk, a full one included, is
        the guest's to see: the machine goes on. Raises: InvalidInput, Unavailable (no slot, no answer), HostError (the
        file cannot be opened so), OciRuntimeError (QEMU's words).
        """
        if bus not in DISK_BUSES:
            raise InvalidInput(f"disk bus {bus!r}: not one of {', '.join(DISK_BUSES)}")
        name = self._name("disk")
        number = int(name.removeprefix("disk"))
        filename = f"/dev/fdset/{number}"
        driver = "host_device" if stat.S_ISBLK(os.fstat(descriptor).st_mode) else "file"
        file: dict[str, Any] = {"driver": driver, "filename": filename, "read-only": readonly}
        file |= {"locking": "off"} if shared else {}
        node = {"driver": "raw", "node-name": name, "read-only": readonly, "file": file}

        async def make(plug: _Plug) -> None:
            own = _reopen(descriptor, readonly)
            try:
                await self._qmp.execute("add-fd", {"fdset-id": number, "opaque": name}, fd=own)
            finally:
                os.close(own)
            plug.undo.append(("remove-fd", {"fdset-id": number}))
            await self._qmp.execute("blockdev-add", node)
            plug.undo.append(("blockdev-del", {"node-name": name}))
            disk = {"drive": name, "werror": "report", "rerror": "report"} | ({"serial": serial} if serial else {})
            if bus == "virtio-blk":
                await self._add_device(name, plug.slot, {"driver": "virtio-blk-pci", **disk})
            else:
                await self._add_device(name, plug.slot, {"driver": "virtio-scsi-pci", "num_queues": 1})
                await self._add_scsi_disk(name, disk)

        return await self._plug(name, "disk", make)

    async def disk_bytes(self, device: PluggedDevice) -> int:
        """The size of a disk, as QEMU has it. Raises: NotFound, Unavailable."""
        for node in await self._qmp.execute("query-named-block-nodes", {"flat": True}):
            if node.get("node-name") == device.id:
                return int(node["image"]["virtual-size"])
        raise NotFound(f"disk {device.id} is not in the machine")

    async def resize_disk(self, device: PluggedDevice, size_bytes: int) -> None:
        """Tell the guest of a disk's new size. Raises: Unavailable, OciRuntimeError (QEMU's words)."""
        await self._qmp.execute("block_resize", {"node-name": device.id, "size": size_bytes})

    async def unplug(self, device: PluggedDevice, deadline_s: float = UNPLUG_DEADLINE_S) -> None:
        """Take a device out: ask the guest, wait until it has let go, free what stands behind.

        A device that was unplugged already is no error. Raises: Unavailable when the guest does not let go in time (the
        device stays, and so does its slot), OciRuntimeError when it refuses.
        """
        if device.id not in self._plugged:
            return
        await self._release(device.id, deadline_s)
        self._plugged.discard(device.id)
        try:
            await self._undo(device.undo)
        finally:
            self._slots.give_back(device.slot)

    async def _release(self, device_id: str, deadline_s: float) -> None:
        events = self._qmp.listen("DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR")
        try:
            async with asyncio.timeout(deadline_s):
                if await self._delete_device(device_id):
                    await _wait_deleted(events, device_id)
        except TimeoutError as error:
            raise Unavailable(f"device {device_id}: the guest did not release it within {deadline_s:g} s") from error
        finally:
            events.close()

    async def _add_scsi_disk(self, name: str, disk: Mapping[str, Any]) -> None:
        """Put a disk behind the SCSI adapter `name`, its alone: one slot, one disk, one way to unplug."""
        try:
            await self._qmp.execute(
                "device_add", {"driver": "scsi-hd", "id": f"{name}.disk", "bus": f"{name}.0", **disk}
            )
        except BaseException:
            await asyncio.shield(self._release(name, UNPLUG_DEADLINE_S))
            raise

    async def _delete_device(self, device_id: str) -> bool:
        """Ask for removal; False if there is no such device."""
        try:
            await self._qmp.execute("device_del", {"id": device_id})
        except NotFound:
            return False
        return True

    async def _plug(self, name: str, what: str, make: Callable[[_Plug], Awaitable[None]]) -> PluggedDevice:
        plug = _Plug(self._slots.take(what))
        try:
            await make(plug)
        except BaseException:
            self._slots.give_back(plug.slot)
            with contextlib.suppress(OciRuntimeError):  # the first cause counts
                await asyncio.shield(self._undo(tuple(plug.undo)))
            raise
        self._plugged.add(name)
        return PluggedDevice(name, plug.slot.guest_path, plug.slot, tuple(plug.undo))

    async def _add_device(self, name: str, slot: Slot, device: Mapping[str, Any]) -> None:
        await self._qmp.execute("device_add", {"id": name, "bus": slot.bus, "addr": slot.address, **device})

    async def _undo(self, commands: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Run the undo commands, last made first; all of them run, the first failure is reported."""
        async with AsyncExitStack() as stack:
            for command, arguments in commands:
                stack.push_async_callback(self._undo_one, command, arguments)

    async def _undo_one(self, command: str, arguments: Mapping[str, Any]) -> None:
        try:
            await self._qmp.execute(command, arguments)
        except NotFound:
            return

    def _name(self, kind: str) -> str:
        return f"{kind}{next(self._numbers)}"


async def _wait_deleted(events: Events, device_id: str) -> None:
    async for event in events:
        data = event.get("data", {})
        if data.get("device") != device_id:
            continue
        if event.get("event") == "DEVICE_DELETED":
            return
        raise OciRuntimeError(f"device {device_id}: the guest refuses to release it")


def _reopen(descriptor: int, readonly: bool) -> int:
    """Open the file behind a descriptor anew: with exactly the rights that the disk needs, which QEMU checks."""
    flags = (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC
    try:
        return os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError as error:
        raise HostError.from_oserror(error, "open disk", f"fd {descriptor}") from error
