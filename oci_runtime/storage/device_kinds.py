"""What becomes of each device that a spec names by the host's number: pure tables and predicates.

- Character devices whose numbers are the same in every kernel (null, zero, tty, fuse, net/tun, …): the guest's own.
- Block devices: plugged into the machine as disks; their numbers become the guest's.
- Other character devices: refused. They are hardware of the host, or its kernel's own.
- A privileged container names every device of the host, because its engine does so: it gets those that the guest has.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

GUEST = "guest"
DISK = "disk"
DROP = "drop"
REFUSE = "refuse"

# Numbers that the kernel's documentation assigns for good (admin-guide/devices.rst): memory devices, terminals, pseudo
# terminals, sound left out; of the miscellaneous ones those that the guest's kernel can have.
_MAJORS = frozenset((1, 5, 136, 137, 138, 139, 140, 141, 142, 143))
_MISC = {183: "hwrng", 200: "net/tun", 223: "uinput", 229: "fuse", 234: "btrfs-control", 235: "autofs"}
_MISC |= {236: "mapper/control", 237: "loop-control"}
_LOOP_MAJOR = 7
# Virtual terminals come first. A serial port is hardware of the host, and in the guest the kernel's console.
_TTY_MAJOR, _FIRST_SERIAL = 4, 64
KVM = (10, 232)


def is_privileged(rules: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the rules of the device cgroup allow everything: the last general rule counts."""
    allowed = False
    for rule in rules:
        everything = rule.get("type") in (None, "", "a") and rule.get("major") in (None, -1)
        if everything and set(rule.get("access") or "rwm") == set("rwm"):
            allowed = bool(rule.get("allow"))
    return allowed


def is_guests_own(major: int, minor: int) -> bool:
    """Whether a character device has the same number, and the same meaning, in the guest."""
    if major == _TTY_MAJOR:
        return minor < _FIRST_SERIAL
    return major in _MAJORS or (major == 10 and minor in _MISC)


def kind_of_device(device: Mapping[str, Any], *, privileged: bool, host_name: str = "") -> str:
    """GUEST, DISK, DROP or REFUSE. host_name: what the host calls a block device, such as /dev/sda."""
    number = int(device.get("major", -1)), int(device.get("minor", -1))
    kind = device.get("type")
    if kind == "p" or (kind in ("c", "u") and is_guests_own(*number)):
        return GUEST
    if kind == "b":
        if not privileged or device.get("path") != host_name:
            return DISK
        return GUEST if number[0] == _LOOP_MAJOR else DROP
    return DROP if privileged else REFUSE


def refusal(what: str, device: Mapping[str, Any]) -> str:
    """Why a character device cannot be had, and what to do."""
    number = device.get("major"), device.get("minor")
    if number == KVM:
        return f"{what}: a virtual machine has no /dev/kvm to give (leave it out, or run this pod without a VM)"
    return (
        f"{what}: character device {number[0]}:{number[1]} of the host cannot be given to a virtual machine"
        " (leave it out, or run this pod without a VM)"
    )


def may_write(rules: Iterable[Mapping[str, Any]], major: int, minor: int) -> bool:
    """Whether the rules let a block device be written to: the last one that means it counts; without rules they do."""
    allowed, any_rule = False, False
    for rule in rules:
        any_rule = True
        if (
            rule.get("type") in (None, "", "a", "b")
            and rule.get("major") in (None, -1, major)
            and rule.get("minor") in (None, -1, minor)
            and "w" in (rule.get("access") or "rwm")
        ):
            allowed = bool(rule.get("allow"))
    return allowed or not any_rule


def keep_rule(rule: Mapping[str, Any]) -> bool:
    """Whether a rule of the device cgroup means something in the guest; those for block devices are translated there.

    A number that only the host assigns may be another device of the guest: the agent's channel has such a number.
    """
    major, minor = rule.get("major"), rule.get("minor")
    if rule.get("type") not in ("c", "u") or not rule.get("allow") or major in (None, -1):
        return True
    if major in _MAJORS:
        return True
    return major == 10 and minor in _MISC
