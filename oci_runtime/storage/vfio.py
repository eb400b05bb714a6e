"""PCI devices of the host for a machine: the IOMMU group behind `/dev/vfio/NUMBER` in a container's devices.

A group is the smallest thing that an IOMMU can confine: all of its devices go to the machine, or none does. They travel
as descriptors of VFIO's character devices (Linux 6.6 and later, CONFIG_VFIO_DEVICE_CDEV), so QEMU opens no path. In
the guest they are PCI devices of its kernel, without a `/dev/vfio` of the container's own.
"""

from __future__ import annotations

import os

from oci_runtime.errors import HostError, NotFound, Unsupported
from oci_runtime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from oci_runtime.storage.sources import Sources

_PREFIX = "/dev/vfio/"
_DRIVER = "vfio-pci"
_BRIDGE_CLASS = "0x06"
_MAX_FUNCTIONS = 64


class Function(Record):
    """One PCI function. address: such as 0000:01:00.0. class_code: as sysfs has it. node: its name below
    /dev/vfio/devices, empty when VFIO has none."""

    address: str
    class_code: str
    driver: str
    node: str


def group_of(device: Mapping[str, Any]) -> str:
    """The number of the IOMMU group that an entry of linux.devices stands for; empty for every other device."""
    number = str(device.get("path", "")).removeprefix(_PREFIX)
    is_group = device.get("type") in ("c", "u") and f"{_PREFIX}{number}" == device.get("path")
    return number if is_group and number.isascii() and number.isdigit() else ""


def is_common_node(device: Mapping[str, Any]) -> bool:
    """Whether an entry is /dev/vfio/vfio, which engines add beside the groups and which means nothing in a machine."""
    return device.get("path") == f"{_PREFIX}vfio"


def read_group(number: str, sys: str = "/sys") -> tuple[Function, ...]:
    """The functions of an IOMMU group, in order of address. Raises: NotFound (no such group), HostError."""
    directory = f"{sys}/kernel/iommu_groups/{number}/devices"
    try:
        addresses = sorted(os.listdir(directory))[:_MAX_FUNCTIONS]
        return tuple(_read_function(f"{directory}/{address}", address) for address in addresses)
    except FileNotFoundError as error:
        raise NotFound(f"the host has no IOMMU group {number} (is its IOMMU on: intel_iommu=on?)") from error
    except OSError as error:
        raise HostError.from_oserror(error, "read", directory) from error


def _read_function(path: str, address: str) -> Function:
    with open(f"{path}/class", encoding="ascii") as file:
        class_code = file.read(64).strip()
    driver = os.path.basename(os.readlink(f"{path}/driver")) if os.path.lexists(f"{path}/driver") else ""
    nodes = os.listdir(f"{path}/vfio-dev") if os.path.isdir(f"{path}/vfio-dev") else []
    return Function(address=address, class_code=class_code, driver=driver, node=nodes[0] if nodes else "")


def plan_group(what: str, number: str, functions: tuple[Function, ...]) -> tuple[Function, ...]:
    """The functions to hand over: all but bridges, which stay the host's. Pure.

    Raises: Unsupported when one of them belongs to a driver of the host, or VFIO has no node for it; it says which.
    """
    wanted = tuple(function for function in functions if not function.class_code.startswith(_BRIDGE_CLASS))
    if not wanted:
        raise Unsupported(f"{what}: IOMMU group {number} has no device but bridges")
    for function in wanted:
        if function.driver != _DRIVER:
            raise Unsupported(
                f"{what}: IOMMU group {number} cannot be given away, its device {function.address} belongs to"
                f" {function.driver or 'no driver'} (bind it to {_DRIVER})"
            )
        if not function.node:
            raise Unsupported(
                f"{what}: device {function.address} has no node in /dev/vfio/devices (the host needs Linux 6.6 with"
                " CONFIG_VFIO_DEVICE_CDEV)"
            )
    return wanted


def open_group(sources: Sources, index: int, what: str, number: str, sys: str = "/sys", dev: str = "/dev") -> None:
    """Open all devices of a group for the entry `index` of linux.devices. Raises: as read_group and plan_group."""
    try:
        functions = plan_group(what, number, read_group(number, sys))
    except NotFound as error:
        raise NotFound(f"{what}: {error.message}") from error
    sources.guest_mounts.append({"kind": "no-device", "index": index})
    nodes = [({"kind": "iommu"}, f"{dev}/iommu")]
    nodes += [
        ({"kind": "vfio", "address": function.address}, f"{dev}/vfio/devices/{function.node}") for function in functions
    ]
    for description, path in nodes:
        sources.require_room(what)
        try:
            sources.add(description, os.open(path, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            raise HostError.from_oserror(error, "open", f"{what}: {path}") from error
