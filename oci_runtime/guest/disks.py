"""Disks of the host in a container's spec: the host's device numbers become the guest's.

A spec names block devices by the host's numbers: in linux.devices, in the rules of the device cgroup, in I/O limits.
Here the host's table (number of the host → PCI path) meets the disks of the guest. What names a block device that the
container was not given is left out: the same number may belong to another container's disk in the guest.
"""

from __future__ import annotations

import os
import stat

from oci_runtime.errors import HostError, InvalidInput, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from oci_runtime.guest.agent import Agent
    from oci_runtime.ttrpc.proto import agent_lean as pb

    Spec = dict[str, Any]
    Number = tuple[int, int]
    Numbers = dict[Number, Number]  # (major, minor) of the host: that of the guest

# On the guest's devtmpfs: a file system where a device node opens, and that no container writes to.
NODES = "/dev/vmpod"
_DEVICE_S = 20.0
_MAX_DISKS = 256
_ANY = (None, -1)
# Same numbers, same meaning in every kernel: memory devices, terminals and the like; loop devices.
_COMMON_MAJORS = {"char": frozenset((1, 4, 5, 10, *range(136, 144))), "block": frozenset((7,))}
_DEVICE_LISTS = (
    "weightDevice",
    "throttleReadBpsDevice",
    "throttleWriteBpsDevice",
    "throttleReadIOPSDevice",
    "throttleWriteIOPSDevice",
)


class Node:
    """A device node to make: its path, permission bits, owner, and the guest's number."""

    __slots__ = ("gid", "mode", "number", "path", "uid")

    def __init__(self, path: str, mode: int, uid: int, gid: int, number: Number) -> None:
        self.path = path
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.number = number


def find_disks(agent: Agent, disks: Sequence[pb.Disk]) -> Numbers:
    """Wait for the disks; return their numbers. Raises NotFound naming the one that does not appear, InvalidInput."""
    numbers: Numbers = {}
    if not disks:
        return numbers
    from oci_runtime.guest.devices import wait_block_device

    for disk in disks:
        if len(numbers) >= _MAX_DISKS:
            raise InvalidInput(f"a container has {_MAX_DISKS} disks, no more are taken")
        device = wait_block_device(agent, disk.pci_path, _DEVICE_S)
        if not device:
            raise NotFound(f"no disk at PCI address {disk.pci_path} appeared in the guest within {_DEVICE_S:g} s")
        number = os.stat(device).st_rdev
        numbers[disk.host_major, disk.host_minor] = os.major(number), os.minor(number)
    return numbers


def plan_disks(spec: Spec, numbers: Numbers, directory: str, warnings: list[str]) -> list[Node]:
    """Rewrite a spec in place; return the nodes to make in `directory`, which the spec's new mounts bind.

    A node is bound and not made by crun: the place may lie in the share, where it would be a device of the host.
    Raises InvalidInput for values of the wrong type.
    """
    linux = spec.get("linux")
    if not isinstance(linux, dict):
        return []
    try:
        nodes = _take_devices(spec, linux, numbers, directory)
        resources = linux.get("resources")
        if isinstance(resources, dict):
            translate_resources(resources, numbers, warnings)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"config.json has a value of the wrong type: {error}") from error
    return nodes


def _take_devices(spec: Spec, linux: Spec, numbers: Numbers, directory: str) -> list[Node]:
    kept = []
    nodes = []
    binds = []
    for index, device in enumerate(linux.get("devices") or ()):
        number = numbers.get(_number(device)) if device.get("type") == "b" else None
        if number is None:
            _check_is_free(device)
            kept.append(device)
            continue
        uid = _mapped(device.get("uid") or 0, linux.get("uidMappings"))
        gid = _mapped(device.get("gid") or 0, linux.get("gidMappings"))
        mode = device.get("fileMode")
        path = f"{directory}/{index}"
        nodes.append(Node(path, 0o666 if mode is None else int(mode) & 0o7777, uid, gid, number))
        binds.append({"destination": device["path"], "type": "bind", "source": path, "options": ["bind"]})
    if nodes:
        linux["devices"] = kept
        spec["mounts"] = [*(spec.get("mounts") or ()), *binds]
    return nodes


def _check_is_free(device: Spec) -> None:
    """Refuse a number that stands for a device of the guest's own, such as another container's disk."""
    kind = {"b": "block", "c": "char", "u": "char"}.get(device.get("type", ""), "")
    major, minor = _number(device)
    if kind and major not in _COMMON_MAJORS[kind] and os.path.exists(f"/sys/dev/{kind}/{major}:{minor}"):
        raise InvalidInput(
            f"device {device.get('path')}: number {major}:{minor} is that of a device of the guest, which the container"
            " was not given (leave it out)"
        )


def _number(entry: Spec) -> Number:
    return entry.get("major", -1), entry.get("minor", -1)


def _mapped(container_id: int, mappings: list[Spec] | None) -> int:
    """A user or group of the container as the guest knows it; as it is without a user namespace."""
    for mapping in mappings or ():
        offset = container_id - mapping["containerID"]
        if 0 <= offset < mapping["size"]:
            return int(mapping["hostID"] + offset)
    return container_id


def translate_resources(resources: Spec, numbers: Numbers, warnings: list[str]) -> None:
    """Put the guest's numbers into device rules and I/O limits, in place; what names no disk of ours goes."""
    rules = resources.get("devices")
    if rules:
        resources["devices"] = [rule for given in rules for rule in _rules(given, numbers)]
    block = resources.get("blockIO")
    if isinstance(block, dict):
        for key in _DEVICE_LISTS:
            if block.get(key):
                block[key] = _limits(f"blockIO.{key}", block[key], numbers, warnings)
    unified = resources.get("unified")
    if isinstance(unified, dict):
        for name in [name for name in unified if name.startswith("io.")]:
            text = _lines(name, str(unified.pop(name)), numbers, warnings)
            if text:
                unified[name] = text


def _rules(rule: Spec, numbers: Numbers) -> list[Spec]:
    """What a rule of the device cgroup becomes: itself, or one for each disk of the guest that it means."""
    major, minor = rule.get("major"), rule.get("minor")
    if rule.get("type") not in ("b", "a", "", None) or (major in _ANY and minor in _ANY):
        return [rule]
    return [
        {**rule, "type": "b", "major": guest[0], "minor": guest[1]}
        for host, guest in numbers.items()
        if major in (*_ANY, host[0]) and minor in (*_ANY, host[1])
    ]


def _limits(what: str, entries: list[Spec], numbers: Numbers, warnings: list[str]) -> list[Spec]:
    kept = []
    for entry in entries:
        guest = numbers.get(_number(entry))
        if guest is None:
            warnings.append(_left_out(what, "{}:{}".format(*_number(entry))))
        else:
            kept.append({**entry, "major": guest[0], "minor": guest[1]})
    return kept


def _lines(name: str, text: str, numbers: Numbers, warnings: list[str]) -> str:
    """The lines of a cgroup file, of which some begin with `major:minor`."""
    kept = []
    for line in text.splitlines():
        device, _, rest = line.partition(" ")
        major, colon, minor = device.partition(":")
        if not (colon and major.isdigit() and minor.isdigit()):
            kept.append(line)
        elif (int(major), int(minor)) in numbers:
            kept.append("{}:{} {}".format(*numbers[int(major), int(minor)], rest))
        else:
            warnings.append(_left_out(f"unified {name}", device))
    return "\n".join(kept)


def _left_out(what: str, device: str) -> str:
    return f"linux.resources.{what}: {device} of the host is not a disk of this container, its limit was left out"


def make_nodes(nodes: Iterable[Node]) -> None:
    """Make device nodes and their directory. Raises HostError; `remove_nodes` takes away what was made."""
    for node in nodes:
        os.makedirs(os.path.dirname(node.path), mode=0o711, exist_ok=True)
        try:
            os.mknod(node.path, stat.S_IFBLK | node.mode, os.makedev(*node.number))
            os.chmod(node.path, node.mode)  # whatever the umask
            os.chown(node.path, node.uid, node.gid)
        except OSError as error:
            raise HostError.from_oserror(error, "mknod", node.path) from error


def remove_nodes(directory: str) -> None:
    """Remove a container's nodes. Idempotent."""
    try:
        for name in os.listdir(directory):
            os.unlink(f"{directory}/{name}")
        os.rmdir(directory)
    except FileNotFoundError:
        return
