"""The disks of a pod: plugged when the first container wants one, shared by the pod, unplugged after the last."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oci_runtime.errors import OciRuntimeError, Unsupported
from oci_runtime.log import get_logger
from oci_runtime.ttrpc.proto.agent_pb2 import Disk
from oci_runtime.vm.hotplug import PluggedDevice

if TYPE_CHECKING:
    from oci_runtime.sandbox.virtual_machine import VirtualMachine

log = get_logger(__name__)
Key = tuple[int, ...]


@dataclass
class _Plugged:
    """A disk in the machine. key: what it is on the host. users: ids of the containers that have it."""

    key: Key
    readonly: bool
    device: PluggedDevice
    users: set[str] = field(default_factory=set)


class PodDisks:
    """Owns the machine's disks. Calls are serialised: plugging is quick, and a guest enumerates one at a time."""

    def __init__(self, machine: VirtualMachine, block_driver: str) -> None:
        """block_driver: the setting storage.block_driver."""
        self._machine = machine
        self._driver = block_driver
        self._plugged: list[_Plugged] = []
        self._lock = asyncio.Lock()

    async def attach(self, container_id: str, wanted: Iterable[tuple[Mapping[str, Any], int]]) -> tuple[Disk, ...]:
        """Give a container the block devices of those (description, descriptor) pairs; return the guest's table.

        Raises: Unsupported (storage.block_driver is none), Unavailable (no slot is free), OciRuntimeError. After a
        failure the caller calls `detach`.
        """
        disks: dict[tuple[int, int], Disk] = {}
        # What is wanted for writing comes first: who wants to read the same disk shares it.
        for description, fd in sorted(wanted, key=lambda pair: bool(pair[0].get("readonly"))):
            number = int(description["major"]), int(description["minor"])
            plugged = await self._use(container_id, fd, readonly=bool(description.get("readonly")))
            disks.setdefault(
                number, Disk(pci_path=plugged.device.guest_path, host_major=number[0], host_minor=number[1])
            )
        return tuple(disks.values())

    async def _use(self, container_id: str, fd: int, *, readonly: bool) -> _Plugged:
        """The disk behind a descriptor, plugged if it is not. Two views of one disk would have two page caches."""
        if self._driver == "none":
            raise Unsupported("this pod takes no disks: storage.block_driver is none")
        key = _key(fd)
        async with self._lock:
            found = [disk for disk in self._plugged if disk.key == key and (readonly or not disk.readonly)]
            if found:
                plugged = min(found, key=lambda disk: disk.readonly)
            else:
                machine = await self._machine.machine()
                device = await machine.plug_disk(fd, readonly=readonly, bus=self._driver, shared=True)
                plugged = _Plugged(key, readonly, device)
                self._plugged.append(plugged)
            plugged.users.add(container_id)
            return plugged

    async def detach(self, container_id: str) -> None:
        """Take a container's disks away, those out of the machine that nobody else has. Idempotent.

        A disk that the guest does not let go of stays, and is given to the next one who wants it; that is logged.
        """
        async with self._lock:
            for disk in [disk for disk in self._plugged if container_id in disk.users]:
                disk.users.discard(container_id)
                if not disk.users:
                    await self._unplug(disk)

    async def _unplug(self, disk: _Plugged) -> None:
        try:
            await (await self._machine.machine()).unplug(disk.device)
        except OciRuntimeError as error:
            log.warning("a disk stays in the machine", device=disk.device.id, reason=error.message)
        else:
            self._plugged.remove(disk)

    def describe(self) -> list[dict[str, Any]]:
        """The disks as `vmpod list` and tests see them."""
        return [
            {"device": disk.device.id, "readonly": disk.readonly, "containers": sorted(disk.users)}
            for disk in self._plugged
        ]


def _key(fd: int) -> Key:
    """What makes a disk the same one: the number of a block device, the inode of an image file."""
    status = os.fstat(fd)
    if stat.S_ISBLK(status.st_mode):
        return (status.st_rdev,)
    return (status.st_dev, status.st_ino)
