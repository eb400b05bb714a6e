"""OCI linux.resources against the guest: what is kept, clamped, or left out with a warning, and cgroup v2's own values.

Both `create` (crun applies what is left) and `update` (the agent writes files) use the same rules.
"""

from __future__ import annotations

from oci_runtime.errors import InvalidInput
from oci_runtime.guest.facts import format_set, parse_set

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oci_runtime.guest.spec import GuestFacts, Spec

# Keys that cgroup v2 has no counterpart for.
_WITHOUT_COUNTERPART = {
    "memory": ("kernel", "kernelTCP", "swappiness", "disableOOMKiller", "useHierarchy"),
    "cpu": ("realtimeRuntime", "realtimePeriod"),
    "blockIO": ("leafWeight",),
}
_THROTTLES = {
    "throttleReadBpsDevice": "rbps",
    "throttleWriteBpsDevice": "wbps",
    "throttleReadIOPSDevice": "riops",
    "throttleWriteIOPSDevice": "wiops",
}


def plan_resources(linux: Spec, facts: GuestFacts, warnings: list[str]) -> None:
    """Adjust `linux.resources` in place to what this guest can do. Raises InvalidInput for broken values."""
    resources = linux.get("resources")
    if resources is None:
        return
    if not isinstance(resources, dict):
        raise InvalidInput("linux.resources is not an object")
    for section in ("memory", "cpu", "blockIO", "pids", "network", "rdma", "unified"):
        value = resources.get(section)
        if value is None:
            resources.pop(section, None)
        elif not isinstance(value, dict):
            raise InvalidInput(f"linux.resources.{section} is not an object")
    _drop_without_counterpart(resources, warnings)
    _clamp_cpuset(resources.get("cpu") or {}, facts, warnings)
    _plan_block_io(resources, facts, warnings)
    _plan_hugepages(resources, facts, warnings)
    for section in ("network", "rdma"):
        if resources.pop(section, None):
            warnings.append(f"linux.resources.{section} is not available in the guest and was left out")


def _drop_without_counterpart(resources: Spec, warnings: list[str]) -> None:
    (resources.get("memory") or {}).pop("checkBeforeUpdate", None)  # the agent's affair (update.py)
    for section, keys in _WITHOUT_COUNTERPART.items():
        values = resources.get(section) or {}
        for key in keys:
            # false, 0 and null ask for nothing, and -1 (podman's swappiness) for the default
            if values.pop(key, None) not in (None, False, 0, -1, True if key == "useHierarchy" else None):
                warnings.append(f"linux.resources.{section}.{key} has no counterpart in cgroup v2 and was left out")


def _clamp_cpuset(cpu: Spec, facts: GuestFacts, warnings: list[str]) -> None:
    """A host's CPU numbers may not exist in the guest; an empty intersection means all CPUs."""
    for key, present in (("cpus", facts.cpus), ("mems", facts.nodes)):
        text = cpu.get(key)
        if not text:
            cpu.pop(key, None)
            continue
        wanted = parse_set(str(text))
        if not wanted:
            raise InvalidInput(f"linux.resources.cpu.{key} {text!r} is not a list of numbers")
        if wanted <= present:
            continue
        cpu[key] = format_set((wanted & present) or present)
        warnings.append(
            f"linux.resources.cpu.{key} {text!r} is more than the guest has ({format_set(present)}):"
            f" {cpu[key]!r} is used"
        )


def _plan_block_io(resources: Spec, facts: GuestFacts, warnings: list[str]) -> None:
    block = resources.get("blockIO")
    if not block:
        resources.pop("blockIO", None)
        return
    if block.get("weight") and not facts.files & {"io.weight", "io.bfq.weight"}:
        warnings.append(f"linux.resources.blockIO.weight {block['weight']}: the guest's kernel has no io weights")
        block.pop("weight")
    if block.pop("weightDevice", None):
        warnings.append("linux.resources.blockIO.weightDevice is not available in the guest and was left out")
    for key in _THROTTLES:
        kept = []
        for entry in block.get(key) or ():
            device = (entry.get("major"), entry.get("minor"))
            if device in facts.block_devices and "io.max" in facts.files:
                kept.append(entry)
            else:
                warnings.append(f"linux.resources.blockIO.{key}: the guest has no block device {device[0]}:{device[1]}")
        block.pop(key, None)
        if kept:
            block[key] = kept
    if not any(block.values()):
        resources.pop("blockIO")


def _plan_hugepages(resources: Spec, facts: GuestFacts, warnings: list[str]) -> None:
    limits = resources.get("hugepageLimits") or []
    kept = []
    for entry in limits:
        size = str(entry.get("pageSize", ""))
        if size in facts.hugepage_sizes and "hugetlb" in facts.controllers:
            kept.append(entry)
        elif entry.get("limit"):
            warnings.append(f"linux.resources.hugepageLimits: the guest has no huge pages of {size}")
    resources.pop("hugepageLimits", None)
    if kept:
        resources["hugepageLimits"] = kept


def plan_cgroup_files(resources: Spec, facts: GuestFacts, current_memory_limit: int | None) -> list[tuple[str, str]]:
    """The files to write, in order, for resources that went through `plan_resources`. Raises InvalidInput.

    current_memory_limit: bytes, None when there is none: OCI's swap includes memory, cgroup v2's does not.
    Conversions are crun's: https://github.com/containers/crun/blob/main/crun.1.md (cgroup v2).
    """
    files: list[tuple[str, str]] = []
    files += _memory_files(resources.get("memory") or {}, current_memory_limit)
    files += _cpu_files(resources.get("cpu") or {})
    limit = (resources.get("pids") or {}).get("limit")
    if limit is not None:
        files.append(("pids.max", str(_number("pids.limit", limit)) if limit > 0 else "max"))
    files += _block_files(resources.get("blockIO") or {}, facts)
    for entry in resources.get("hugepageLimits") or ():
        files.append((f"hugetlb.{entry['pageSize']}.max", str(_number("hugepageLimits.limit", entry.get("limit", 0)))))
    for name, value in (resources.get("unified") or {}).items():
        if not isinstance(name, str) or "/" in name or name.startswith("cgroup.") or name not in facts.files:
            raise InvalidInput(f"linux.resources.unified: the guest has no cgroup file {name!r}")
        files.append((name, str(value)))
    return files


def _number(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value < 1 << 64:
        raise InvalidInput(f"linux.resources.{name} {value!r} is not a number from -1 to {(1 << 64) - 1}")
    return value


def _limit(value: int) -> str:
    return "max" if value < 0 else str(value)


def _memory_files(memory: Spec, current_limit: int | None) -> list[tuple[str, str]]:
    files: list[tuple[str, str]] = []
    limit = memory.get("limit")
    swap = memory.get("swap")
    if swap:
        total = _number("memory.swap", swap)
        base = _number("memory.limit", limit) if limit else current_limit
        if total > 0 and (base is None or base < 0):
            raise InvalidInput("linux.resources.memory.swap needs a memory limit: it counts memory and swap together")
        if total > 0 and base is not None and total < base:
            raise InvalidInput(f"linux.resources.memory.swap {total} is less than the memory limit {base}")
        files.append(("memory.swap.max", "max" if total < 0 or base is None else str(total - base)))
    if limit:
        files.append(("memory.max", _limit(_number("memory.limit", limit))))
    if memory.get("reservation"):
        files.append(("memory.low", _limit(_number("memory.reservation", memory["reservation"]))))
    return files


def _cpu_files(cpu: Spec) -> list[tuple[str, str]]:
    files: list[tuple[str, str]] = []
    if cpu.get("shares"):
        shares = min(max(_number("cpu.shares", cpu["shares"]), 2), 262144)
        files.append(("cpu.weight", str(1 + (shares - 2) * 9999 // 262142)))
    quota, period = cpu.get("quota"), cpu.get("period")
    if quota or period:
        text = "max" if not quota or _number("cpu.quota", quota) < 0 else str(quota)
        files.append(("cpu.max", f"{text} {_number('cpu.period', period)}" if period else text))
    if cpu.get("burst") is not None:
        files.append(("cpu.max.burst", str(_number("cpu.burst", cpu["burst"]))))
    if cpu.get("idle") is not None:
        files.append(("cpu.idle", str(_number("cpu.idle", cpu["idle"]))))
    files += [(f"cpuset.{key}", cpu[key]) for key in ("cpus", "mems") if cpu.get(key)]
    return files


def _block_files(block: Spec, facts: GuestFacts) -> list[tuple[str, str]]:
    files: list[tuple[str, str]] = []
    if block.get("weight"):
        weight = _number("blockIO.weight", block["weight"])
        if "io.bfq.weight" in facts.files:
            files.append(("io.bfq.weight", str(weight)))
        else:
            files.append(("io.weight", f"default {1 + (weight - 10) * 9999 // 990}"))
    for key, name in _THROTTLES.items():
        for entry in block.get(key) or ():
            rate = _number(f"blockIO.{key}", entry.get("rate", 0))
            files.append(("io.max", f"{entry['major']}:{entry['minor']} {name}={rate or 'max'}"))
    return files
