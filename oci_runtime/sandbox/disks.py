"""The disks of a pod: plugged when the first container wants one, shared by the pod, unplugged after the last."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from oci_runtime.config.model import StorageConfig
from oci_runtime.errors import InvalidInput, NotFound, OciRuntimeError, Unsupported
from oci_runtime.log import get_logger
from oci_runtime.sandbox.threads import in_thread
from oci_runtime.state.layout import short_id
from oci_runtime.storage.claims import NONE, claim
from oci_runtime.storage.volumes import forget_pod, note_pod
from oci_runtime.ttrpc.proto.agent_pb2 import Disk
from oci_runtime.vm.hotplug import PluggedDevice

if TYPE_CHECKING:
    from oci_runtime.sandbox.virtual_machine import VirtualMachine

log = get_logger(__name__)
Key = tuple[int, ...]
_GUEST_ROOT = "/run/vmpod/disks"
_STATS = tuple(f"{kind}_{unit}" for kind in ("total", "available", "used") for unit in ("bytes", "inodes"))


@dataclass
class _Plugged:
    """A disk in the machine. key: what it is on the host. users: ids of the containers that have it.

    target, fstype: where and as what its file system is mounted in the guest, if it is. volume: the path that it is the
    direct volume of. claim: a descriptor that keeps the host from mounting it, or NONE.
    """

    key: Key
    readonly: bool
    device: PluggedDevice
    users: set[str] = field(default_factory=set)
    target: str = ""
    fstype: str = ""
    volume: str = ""
    claim: int = NONE

    def let_go(self) -> None:
        """Give up the claim. Idempotent."""
        held, self.claim = self.claim, NONE
        _let_go(held)


class PodDisks:
    """Owns the machine's disks. Calls are serialised: plugging is quick, and a guest enumerates one at a time."""

    def __init__(self, machine: VirtualMachine, storage: StorageConfig) -> None:
        self._machine = machine
        self._driver = storage.block_driver
        self._volumes = storage.direct_volumes
        self._pod = short_id(machine.launched.sandbox_id)
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

    async def check(self, wanted: Iterable[tuple[Mapping[str, Any], int]]) -> None:
        """Refuse disks to be mounted that the host or another pod uses; long before there is a guest to mount them.

        Raises: HostError naming the first of them.
        """
        for description, fd in wanted:
            if not any(disk.key == _key(fd) for disk in self._plugged):
                await in_thread(claim, fd, str(description["what"]), keep=False)

    async def mount(self, container_id: str, description: Mapping[str, Any], fd: int) -> str:
        """Mount the file system of a disk in the guest, once for all containers that have it; return its path there.

        description: as storage.disks.open_root and open_volume make it. Raises: as `attach`, and InvalidInput when the
        disk is mounted as another type.
        """
        fstype = str(description["fstype"])
        plugged = await self._use(
            container_id, fd, readonly=bool(description["readonly"]), to_mount=str(description["what"])
        )
        async with self._lock:
            if plugged.target and plugged.fstype != fstype:
                raise InvalidInput(f"disk {plugged.device.id} is mounted as {plugged.fstype} and cannot be {fstype}")
            if not plugged.target:
                await self._mount(plugged, description)
        return plugged.target

    async def _mount(self, plugged: _Plugged, description: Mapping[str, Any]) -> None:
        target = f"{_GUEST_ROOT}/{plugged.device.id}"
        options = [str(option) for option in description.get("options") or ()]
        path = str(description.get("path", ""))
        if path:
            note_pod(self._volumes, path, self._pod, self._machine.launched.directory)
            plugged.volume = path
        agent = await self._machine.agent()
        await agent.add_storage(
            "block",
            plugged.device.guest_path,
            target,
            str(description["fstype"]),
            [*options, *(["ro"] if plugged.readonly else [])],
            fs_group=int(description.get("fs_group", 0)),
            fs_group_on_mismatch=bool(description.get("fs_group_on_mismatch")),
        )
        plugged.target, plugged.fstype = target, str(description["fstype"])

    async def _use(self, container_id: str, fd: int, *, readonly: bool, to_mount: str = "") -> _Plugged:
        """The disk behind a descriptor, plugged if it is not. Two views of one disk would have two page caches.

        to_mount: what it is called, if the guest mounts its file system; else others may write to the same disk.
        """
        if self._driver == "none":
            raise Unsupported("this pod takes no disks: storage.block_driver is none")
        key = _key(fd)
        async with self._lock:
            found = [disk for disk in self._plugged if disk.key == key and (readonly or not disk.readonly)]
            if found:
                plugged = min(found, key=lambda disk: disk.readonly)
            else:
                plugged = await self._plug(key, fd, readonly, to_mount)
                self._plugged.append(plugged)
            plugged.users.add(container_id)
            return plugged

    async def _plug(self, key: Key, fd: int, readonly: bool, to_mount: str) -> _Plugged:
        machine = await self._machine.machine()
        held = await in_thread(claim, fd, to_mount, keep=not readonly, discard=_let_go) if to_mount else NONE
        try:
            device = await machine.plug_disk(fd, readonly=readonly, bus=self._driver, shared=not to_mount)
        except BaseException:
            _let_go(held)
            raise
        return _Plugged(key, readonly, device, claim=held)

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
        target, disk.target = disk.target, ""  # whatever the answer is, nobody may count on it any more
        try:
            if target:
                await (await self._machine.agent()).remove_storage(target)
            await (await self._machine.machine()).unplug(disk.device)
        except OciRuntimeError as error:
            log.warning("a disk stays in the machine", device=disk.device.id, reason=error.message)
        else:
            self._plugged.remove(disk)
            disk.let_go()
            self._forget_volume(disk)

    def _forget_volume(self, disk: _Plugged) -> None:
        if disk.volume:
            try:
                forget_pod(self._volumes, disk.volume, self._pod)
            except OSError as error:  # must not keep anything else from being undone
                log.warning("cannot note the end of a volume's use", volume=disk.volume, reason=str(error))
            disk.volume = ""

    async def close(self) -> None:
        """The machine ends, and its disks with it: nobody shall ask it for its volumes. Idempotent."""
        for disk in self._plugged:
            self._forget_volume(disk)

    async def let_go(self) -> None:
        """QEMU has ended: the host may have what it wrote to. Idempotent."""
        for disk in self._plugged:
            disk.let_go()

    async def operate(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Op `volume` of the control socket: `stats`, or `resize` with the `size` in bytes, of the volume at `path`.

        Raises: NotFound (no such volume in this pod), InvalidInput, Unsupported (a file system that cannot grow).
        """
        path, verb = request["path"], request["verb"]
        found = [disk for disk in self._plugged if disk.volume == path and disk.target]
        if not found:
            raise NotFound(f"volume {path} is not in this pod")
        agent = await self._machine.agent()
        if verb == "stats":
            stats = await agent.get_volume_stats(found[0].target)
        elif verb == "resize":
            size_bytes = int(request["size"])
            machine = await self._machine.machine()
            async with self._lock:
                present_bytes = await machine.disk_bytes(found[0].device)
                if size_bytes < present_bytes:
                    raise InvalidInput(f"volume {path} has {present_bytes} bytes and cannot shrink to {size_bytes}")
                if size_bytes > present_bytes:
                    await machine.resize_disk(found[0].device, size_bytes)
            stats = await agent.resize_volume(found[0].target, size_bytes)
        else:
            raise InvalidInput(f"op volume has no verb {verb!r}")
        return {"stats": {name: getattr(stats, name) for name in _STATS}}

    @property
    def any_written(self) -> bool:
        """Whether the guest has a disk that it may write to."""
        return any(not disk.readonly for disk in self._plugged)

    def describe(self) -> list[dict[str, Any]]:
        """The disks as `vmpod list` and tests see them."""
        return [
            {
                "device": disk.device.id,
                "readonly": disk.readonly,
                "containers": sorted(disk.users),
                "mounted": disk.target,
                "volume": disk.volume,
            }
            for disk in self._plugged
        ]


def _let_go(held: int) -> None:
    if held != NONE:
        os.close(held)


def _key(fd: int) -> Key:
    """What makes a disk the same one: the number of a block device, the inode of an image file."""
    status = os.fstat(fd)
    if stat.S_ISBLK(status.st_mode):
        return (status.st_rdev,)
    return (status.st_dev, status.st_ino)
