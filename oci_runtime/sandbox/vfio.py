"""PCI devices of the host in a pod: each belongs to one container, and goes back to the host with it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from oci_runtime.errors import InvalidInput, OciRuntimeError
from oci_runtime.log import get_logger

if TYPE_CHECKING:
    from oci_runtime.vm.hotplug import PluggedDevice

log = get_logger(__name__)


class VfioMachine(Protocol):
    """What of vm.machine.Machine is used here."""

    async def add_iommu(self, descriptor: int) -> str: ...

    async def plug_vfio(self, descriptor: int, iommu: str, address: str) -> PluggedDevice: ...

    async def unplug(self, device: PluggedDevice) -> None: ...


class PodVfio:
    """Owns the machine's PCI devices of the host."""

    def __init__(self) -> None:
        self._iommu = ""
        self._plugged: dict[str, list[PluggedDevice]] = {}
        self._lock = asyncio.Lock()

    async def attach(
        self, machine: VfioMachine, container_id: str, wanted: Iterable[tuple[Mapping[str, Any], int]]
    ) -> None:
        """Plug the devices of those (description, descriptor) pairs, as storage.vfio makes them.

        Raises: Unsupported (this QEMU cannot), Unavailable, OciRuntimeError. After a failure the caller calls `detach`.
        """
        async with self._lock:
            for description, fd in wanted:
                if description["kind"] == "iommu":
                    self._iommu = self._iommu or await machine.add_iommu(fd)
                    continue
                if not self._iommu:
                    raise InvalidInput("a PCI device of the host came without the host's IOMMU")
                device = await machine.plug_vfio(fd, self._iommu, str(description["address"]))
                self._plugged.setdefault(container_id, []).append(device)

    async def detach(self, machine: VfioMachine, container_id: str) -> None:
        """Take a container's devices out of the machine, last plugged first. Idempotent; failures are logged."""
        async with self._lock:
            for device in reversed(self._plugged.pop(container_id, [])):
                try:
                    await machine.unplug(device)
                except OciRuntimeError as error:
                    log.warning("a PCI device stays in the machine", device=device.id, reason=error.message)
