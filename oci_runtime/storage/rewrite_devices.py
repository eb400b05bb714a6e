"""Turn the devices of the host's spec into the guest's, as far as the host can: the guest knows its numbers. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from oci_runtime.errors import InvalidInput
from oci_runtime.storage.device_kinds import keep_rule


def rewrite_devices(
    spec: Mapping[str, Any], disks: Iterable[Mapping[str, Any]], guest_mounts: Iterable[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Return the guest's spec; `spec` stays as it is. Numbers of block devices are still the host's.

    disks, guest_mounts: descriptions as Sources gives them. A bind mount of a block device becomes a device at its
    destination, with a rule that allows what the mount does. Raises: InvalidInput for an index that the spec lacks.
    """
    linux = dict(spec.get("linux") or {})
    mounts = list(spec.get("mounts") or ())
    devices = list(linux.get("devices") or ())
    resources = dict(linux.get("resources") or {})
    rules = [rule for rule in resources.get("devices") or () if keep_rule(rule)]
    dropped = {_index(entry["index"], devices) for entry in guest_mounts if entry.get("kind") == "no-device"}
    devices = [device for index, device in enumerate(devices) if index not in dropped]
    moved: set[int] = set()
    for disk in disks:
        if "mount" not in disk:
            continue
        index = _index(disk["mount"], mounts)
        moved.add(index)
        number = {"type": "b", "major": disk["major"], "minor": disk["minor"]}
        owner = {"fileMode": disk["mode"], "uid": disk["uid"], "gid": disk["gid"]}
        devices.append({"path": mounts[index]["destination"], **number, **owner})
        if rules:  # without any, everything is allowed
            rules.append({"allow": True, **number, "access": "r" if disk["readonly"] else "rw"})
    if resources.get("devices") is not None:
        resources["devices"] = rules
    linux["devices"] = devices
    if "resources" in linux:
        linux["resources"] = resources
    return {**spec, "mounts": [mount for index, mount in enumerate(mounts) if index not in moved], "linux": linux}


def _index(value: Any, entries: list[Any]) -> int:
    index = int(value)
    if not 0 <= index < len(entries):
        raise InvalidInput(f"entry {index} is described, but the spec has {len(entries)}")
    return index
