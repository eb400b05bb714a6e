"""Hot-plug slots: handed out, taken back, and a clear word when there are none."""

from __future__ import annotations

import pytest

from oci_runtime.errors import Unavailable
from oci_runtime.vm.argv import VmSettings
from oci_runtime.vm.slots import Slots


def slots(machine: str, root_ports: int = 8) -> Slots:
    return Slots(VmSettings(kernel="", initrd="", image="", image_bytes=1, machine=machine, root_ports=root_ports))


def test_q35_has_one_device_per_root_port() -> None:
    free = slots("q35", 2)
    first, second = free.take("a"), free.take("b")
    assert (first.bus, first.address, first.guest_path) == ("rp0", "0x0", "08.0/00.0")
    assert (second.bus, second.guest_path) == ("rp1", "09.0/00.0")
    with pytest.raises(Unavailable) as caught:
        free.take("share x")
    assert caught.value.message == (
        "share x: all 2 hot-plug slots of the machine are in use (raise vm.root_ports, at most 16)"
    )


def test_pc_uses_the_slots_of_its_root_bus() -> None:
    free = slots("pc")
    first = free.take("a")
    assert (first.bus, first.address, first.guest_path) == ("pci.0", "0x8", "08.0")
    taken = [free.take("more") for _ in range(23)]
    assert taken[-1].guest_path == "1f.0"
    with pytest.raises(Unavailable, match="all 24 hot-plug slots"):
        free.take("one too many")


def test_a_slot_comes_back_once() -> None:
    free = slots("q35", 1)
    slot = free.take("a")
    free.give_back(slot)
    free.give_back(slot)
    assert free.take("b") == slot
    with pytest.raises(Unavailable):
        free.take("c")
