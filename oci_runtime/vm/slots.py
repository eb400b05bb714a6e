"""Where a hot-plugged device goes: a free root port (q35) or a free slot of the root bus (pc)."""

from __future__ import annotations

from dataclasses import dataclass

from oci_runtime.errors import Unavailable
from oci_runtime.vm.argv import FIRST_HOTPLUG_SLOT, PC_HOTPLUG_SLOTS, VmSettings


@dataclass(frozen=True)
class Slot:
    """bus, address: what device_add takes. guest_path: device.function numbers from the root bus to the device, as the
    guest sees them whatever bus numbers it gives, such as "08.0/00.0" behind a root port or "0a.0" on the root bus."""

    bus: str
    address: str
    guest_path: str


class Slots:
    """Hands out slots and takes them back."""

    def __init__(self, settings: VmSettings) -> None:
        self._kind = settings.machine
        if settings.machine == "pc":
            every = [Slot("pci.0", f"{number:#x}", f"{number:02x}.0") for number in PC_HOTPLUG_SLOTS]
        else:
            every = [
                Slot(f"rp{index}", "0x0", f"{FIRST_HOTPLUG_SLOT + index:02x}.0/00.0")
                for index in range(settings.root_ports)
            ]
        self._count = len(every)
        self._free = every

    def take(self, what: str) -> Slot:
        """Take a free slot for `what`. Raises: Unavailable when all are in use, with the setting to raise."""
        if not self._free:
            remedy = "raise vm.root_ports, at most 16" if self._kind == "q35" else "use machine q35 or fewer devices"
            raise Unavailable(f"{what}: all {self._count} hot-plug slots of the machine are in use ({remedy})")
        return self._free.pop(0)

    def give_back(self, slot: Slot) -> None:
        """Make a slot available again; giving back twice is no error."""
        if slot not in self._free:
            self._free.append(slot)
