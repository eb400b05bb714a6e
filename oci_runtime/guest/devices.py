"""Devices that the host has plugged, found by where they sit on the PCI bus, and the drivers they need.

There is no udev in the guest: the agent itself asks modprobe for the driver of a device that has none.
"""

from __future__ import annotations

import errno
import os
import stat
import time

from oci_runtime.errors import HostError, InvalidInput, Unavailable
from oci_runtime.guest.log import log
from oci_runtime.guest.syscalls import syncfs
from oci_runtime.guest.uevent import retry_on_uevent

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from oci_runtime.guest.agent import Agent

_SYS = "/sys/devices"
_VIRTIO_DEVICES = "/sys/bus/virtio/devices"
_PCI_DEVICES = "/sys/bus/pci/devices"
_MODPROBE_S = 20.0
_MAX_DEPTH = 8
_SETTLE_STEP_S = 0.01


def parse_pci_path(text: str) -> list[str]:
    """`02/00` or `02.0/00.0`: slot and function on the root bus, then behind each bridge. Raises InvalidInput."""
    parts = []
    for part in text.split("/"):
        slot, _, function = part.partition(".")
        try:
            numbers = int(slot, 16), int(function or "0", 16)
        except ValueError:
            raise InvalidInput(f"PCI path {text!r}: slots in hexadecimal are wanted, such as 02/00") from None
        if not (0 <= numbers[0] < 32 and 0 <= numbers[1] < 8):
            raise InvalidInput(f"PCI path {text!r}: a slot is below 20, a function below 8")
        parts.append(f"{numbers[0]:02x}.{numbers[1]}")
    if not 1 <= len(parts) <= 8:
        raise InvalidInput(f"PCI path {text!r}: one to eight slots are wanted")
    return parts


def find_pci_device(path: str, root: str = f"{_SYS}/pci0000:00") -> str:
    """The sysfs directory of the device at a PCI path; empty when there is none."""
    directory = root
    for part in parse_pci_path(path):
        try:
            entries = os.listdir(directory)
        except OSError:
            return ""
        found = [name for name in entries if name.count(":") == 2 and name.endswith(f":{part}")]
        if not found:
            return ""
        directory = f"{directory}/{found[0]}"
    return directory


def find_block_device(path: str) -> str:
    """The /dev name of the virtio disk (or first SCSI disk) at a PCI path; empty when there is none yet."""
    directory = find_pci_device(path)
    if not directory:
        return ""
    for parent, names, _ in os.walk(directory):
        if os.path.basename(parent) == "block" and names:
            device = f"/dev/{names[0]}"
            return device if os.path.exists(device) else ""
        if parent.count("/") - directory.count("/") > 6:
            names.clear()
    return ""


def wait_block_device(agent: Agent, path: str, timeout_s: float) -> str:
    """The same, after waiting for it and loading its drivers; empty at the deadline. Runs in a worker thread."""
    parse_pci_path(path)
    found: list[str] = []
    tried: set[str] = set()

    def attempt() -> bool:
        found[:] = [find_block_device(path)]
        directory = "" if found[0] else find_pci_device(path)
        if directory:
            load_drivers(agent, walk_devices(directory), tried)
        return bool(found[0])

    return found[0] if retry_on_uevent(attempt, timeout_s) else ""


def settle_disk(target: str, unmount: Callable[[], None], timeout_s: float) -> None:
    """Unmount a disk and wait until nothing holds its file system, so that it can be taken out with all it was given.

    The mount namespace of a container that has ended keeps the file system for a moment. The kernel announces nothing
    at its end, but refuses the disk for exclusive use until then. Raises Unavailable at the deadline; what was written
    is on the disk by then in any case.
    """
    status = os.stat(target)
    number = status.st_rdev if stat.S_ISBLK(status.st_mode) else status.st_dev
    if not stat.S_ISBLK(status.st_mode):
        fd = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
        try:
            syncfs(fd)
        except HostError as error:  # a broken disk has to go, too
            log(f"writing back {target}: {error}")
        finally:
            os.close(fd)
    unmount()
    path = f"/dev/{os.path.basename(os.path.realpath(f'/sys/dev/block/{os.major(number)}:{os.minor(number)}'))}"
    deadline = time.monotonic() + timeout_s
    while not _is_free(path):
        if time.monotonic() > deadline:
            raise Unavailable(f"disk {path} of {target} is still in use {timeout_s:g} s after it was unmounted")
        time.sleep(_SETTLE_STEP_S)


def _is_free(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError as error:
        return error.errno != errno.EBUSY
    return True


def walk_devices(directory: str) -> list[str]:
    """The directories of a device and of those behind it."""
    found: list[str] = []
    for parent, names, _ in os.walk(directory):
        found.append(parent)
        if parent.count("/") - directory.count("/") >= _MAX_DEPTH:
            names.clear()
    return found


def plugged_devices() -> list[str]:
    """Every device on the PCI and virtio buses."""
    found: list[str] = []
    for bus in (_PCI_DEVICES, _VIRTIO_DEVICES):
        try:
            found += [f"{bus}/{name}" for name in os.listdir(bus)]
        except OSError:
            continue
    return found


def load_drivers(agent: Agent, directories: Iterable[str], tried: set[str]) -> None:
    """Load the modules for those devices that have no driver. tried: aliases that were asked for; added to.

    What has no module stays as it is: many a device needs none.
    """
    aliases = {alias for directory in directories if (alias := missing_driver(directory))} - tried
    if aliases:
        tried |= aliases
        agent.reaper.run(["modprobe", "-a", "-q", "-b", "--", *sorted(aliases)], timeout_s=_MODPROBE_S)


def missing_driver(directory: str) -> str:
    """The alias by which modprobe finds the driver of a device; empty when it has one, or needs none."""
    if os.path.lexists(f"{directory}/driver"):
        return ""
    try:
        with open(f"{directory}/modalias", encoding="ascii") as file:
            return file.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""
