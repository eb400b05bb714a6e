"""The systemd cgroup driver: a container's cgroup is a transient scope, asked for by D-Bus.

Pure: cgroupsPath in, command lines of `busctl` out; the caller runs them in order. busctl(1) comes with systemd, so
there is no library to depend on. Source: systemd's D-Bus interface org.freedesktop.systemd1(5), systemd.slice(5),
systemd.resource-control(5); the path's form `slice:prefix:name` is that of runc and the engines.
"""

from __future__ import annotations

from oci_runtime.errors import InvalidInput
from oci_runtime.host.cgroup_limits import MIN_MEMORY_BYTES
from oci_runtime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Property = tuple[str, str, tuple[str, ...]]

DEFAULT_SLICE = "system.slice"
_MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
_UNIT_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789:-_.\\@")
_MAX_UNIT_CHARACTERS = 255
_INFINITY = (1 << 64) - 1


class Scope(Record):
    """A scope (or, when the name ends in .slice, a slice). unit: its name. slice: the slice that it is in."""

    slice: str
    unit: str

    @property
    def cgroup(self) -> str:
        """The path of its cgroup in every hierarchy, for cgroups.plan_group."""
        return f"{expand_slice(self.slice).rstrip('/')}/{self.unit}"


def parse_path(cgroups_path: str, container_id: str) -> Scope:
    """Parse `slice:prefix:name`; "" is a scope named after the container in system.slice.

    Raises: InvalidInput that shows the path and the form.
    """
    if not cgroups_path:
        cgroups_path = f"{DEFAULT_SLICE}:vmpod:{container_id}"
    parts = cgroups_path.split(":")
    if len(parts) != 3 or not parts[2]:
        raise InvalidInput(
            f"cgroupsPath {cgroups_path[:80]!r} must have the form slice:prefix:name with --systemd-cgroup"
        )
    slice_, prefix, name = parts
    unit = name
    if not name.endswith(".slice"):
        unit = f"{prefix}-{name}.scope" if prefix else f"{name}.scope"
    scope = Scope(slice=slice_ or DEFAULT_SLICE, unit=unit)
    expand_slice(scope.slice)
    _check_unit(unit)
    return scope


def machine_path(cgroups_path: str, name: str) -> str:
    """The cgroupsPath of a machine without a container of its own: a scope in the slice of the pod's first member."""
    return f"{cgroups_path.partition(':')[0]}:vmpod:{name}"


def expand_slice(name: str) -> str:
    """The cgroup of a slice: every dash is a level, `a-b.slice` lives in /a.slice/a-b.slice. Raises: InvalidInput."""
    stem = name.removesuffix(".slice")
    if stem == name or not stem:
        raise InvalidInput(f"slice {name[:80]!r} must end in .slice")
    _check_unit(name)
    if stem == "-":
        return "/"
    pieces = stem.split("-")
    if "" in pieces:
        raise InvalidInput(f"slice {name[:80]!r} must have no dash at its ends and no two in a row")
    return "/" + "/".join("-".join(pieces[: count + 1]) + ".slice" for count in range(len(pieces)))


def _check_unit(name: str) -> None:
    if len(name) > _MAX_UNIT_CHARACTERS or not _UNIT_CHARACTERS.issuperset(name) or name.startswith("."):
        raise InvalidInput(f"{name[:80]!r} cannot be the name of a systemd unit")


def plan_start(
    scope: Scope, pids: Sequence[int], resources: Mapping[str, Any], version: int
) -> tuple[tuple[str, ...], ...]:
    """The command lines that make the scope around processes that exist.

    resources: linux.resources to mirror, {} for a group that holds a machine. version: 1 or 2, the host's cgroups.
    A failed scope of the same name, left by a process that was killed, is forgotten first: that command may fail.
    """
    properties: list[Property] = [("Description", "s", (f"vmpod container {scope.unit}",))]
    if scope.unit.endswith(".slice"):
        properties.append(("Wants", "as", ("1", scope.slice)))
    else:
        properties += [
            ("Slice", "s", (scope.slice,)),
            ("Delegate", "b", ("true",)),
            ("PIDs", "au", (str(len(pids)), *map(str, pids))),
        ]
    for name in ("MemoryAccounting", "CPUAccounting", "TasksAccounting", "IOAccounting"):
        properties.append((name if version == 2 or name != "IOAccounting" else "BlockIOAccounting", "b", ("true",)))
    properties.append(("DefaultDependencies", "b", ("false",)))
    properties += plan_properties(resources, version)
    start = _call("StartTransientUnit", "ssa(sv)a(sa(sv))", scope.unit, "replace", *_flatten(properties), "0")
    return (_call("ResetFailedUnit", "s", scope.unit), start)


def plan_update(scope: Scope, resources: Mapping[str, Any], version: int) -> tuple[tuple[str, ...], ...]:
    """The command lines that change the limits of a running scope; none where nothing changes."""
    properties = plan_properties(resources, version)
    if not properties:
        return ()
    return (_call("SetUnitProperties", "sba(sv)", scope.unit, "true", *_flatten(properties)),)


def plan_properties(resources: Mapping[str, Any], version: int) -> list[Property]:
    """Limits as unit properties: systemd would otherwise reset what was written behind its back."""
    memory, cpu, pids, block = (resources.get(key) or {} for key in ("memory", "cpu", "pids", "blockIO"))
    found: list[Property] = []
    limit = memory.get("limit")
    if limit:
        value = max(limit, MIN_MEMORY_BYTES) if limit > 0 else _INFINITY
        found.append(("MemoryMax" if version == 2 else "MemoryLimit", "t", (str(value),)))
    if version == 2:
        found += _memory_v2(memory)
    shares = cpu.get("shares")
    if shares and version == 1:
        found.append(("CPUShares", "t", (str(shares),)))
    elif shares:
        weight = 1 + (min(max(shares, 2), 262144) - 2) * 9999 // 262142
        found.append(("CPUWeight", "t", (str(weight),)))
    found += _cpu_quota(cpu.get("quota"), cpu.get("period"))
    if pids.get("limit"):
        found.append(("TasksMax", "t", (str(pids["limit"] if pids["limit"] > 0 else _INFINITY),)))
    if block.get("weight") and version == 1:
        found.append(("BlockIOWeight", "t", (str(block["weight"]),)))
    elif block.get("weight"):
        found.append(("IOWeight", "t", (str(1 + (max(block["weight"], 10) - 10) * 9999 // 990),)))
    if version == 2:
        for key, name in (("cpus", "AllowedCPUs"), ("mems", "AllowedMemoryNodes")):
            if cpu.get(key):
                mask = _mask(cpu[key])
                found.append((name, "ay", (str(len(mask)), *map(str, mask))))
    return found


def _memory_v2(memory: Mapping[str, Any]) -> list[Property]:
    found: list[Property] = []
    limit, swap = memory.get("limit"), memory.get("swap")
    if memory.get("reservation"):
        found.append(("MemoryLow", "t", (str(memory["reservation"] if memory["reservation"] > 0 else _INFINITY),)))
    if swap is not None and swap < 0:
        found.append(("MemorySwapMax", "t", (str(_INFINITY),)))
    elif swap and limit and limit > 0:
        found.append(("MemorySwapMax", "t", (str(max(0, swap - limit)),)))
    return found


def _cpu_quota(quota: int | None, period: int | None) -> list[Property]:
    """systemd wants microseconds per second, in steps of 10 ms: rounded up, so that it is never less than asked for."""
    found: list[Property] = []
    if period:
        found.append(("CPUQuotaPeriodUSec", "t", (str(period),)))
    if quota or period:
        per_second = _INFINITY
        if quota and quota > 0:
            per_second = quota * 1_000_000 // (period or 100_000)
            per_second = -(-per_second // 10_000) * 10_000
        found.append(("CPUQuotaPerSecUSec", "t", (str(per_second),)))
    return found


def _mask(text: str) -> list[int]:
    """A list such as 0-3,7 as bytes, lowest first. Raises: InvalidInput."""
    bits = 0
    for piece in text.replace("\n", "").replace(" ", "").split(","):
        if not piece:
            continue
        first, dash, last = piece.partition("-")
        last = last if dash else first
        numbers = all(end.isascii() and end.isdigit() and len(end) <= 5 for end in (first, last))
        if not numbers or int(first) > int(last):
            raise InvalidInput(f"{text[:80]!r} is not a list such as 0-3,7")
        for number in range(int(first), int(last) + 1):
            bits |= 1 << number
    return list(bits.to_bytes((bits.bit_length() + 7) // 8, "little"))


def _flatten(properties: Sequence[Property]) -> list[str]:
    """busctl's form of a(sv): a count, then name, signature and value of each."""
    words = [str(len(properties))]
    for name, signature, value in properties:
        words += [name, signature, *value]
    return words


def _call(method: str, signature: str, *arguments: str) -> tuple[str, ...]:
    # "--" ends the options: an argument may begin with a dash.
    return ("busctl", "--system", "--quiet", "--", "call", *_MANAGER, method, signature, *arguments)
