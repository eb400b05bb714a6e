"""Mirror a container's limits on the host's cgroup of its proxy: a pure plan of writes, and a small applier.

The limits that count hold in the guest. The mirror is for those who look at the host: engines, tools, conformance
suites. Values are those that runc writes. Source: the specification's config-linux.md, the kernel's cgroup
documentation; conversions to v2 as the container world agreed on them (shares 2-262144 to weight 1-10000).
"""

from __future__ import annotations

import os

from oci_runtime.errors import HostError
from oci_runtime.host.cgroups import write_file
from oci_runtime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from oci_runtime.host.cgroups import Group, Leaf

    Object = Mapping[str, Any]

# The proxy itself must live: a container's limit may be smaller than an interpreter.
MIN_MEMORY_BYTES = 16 << 20
_UNSIGNED_MINUS_ONE = (1 << 64) - 1
# What a process needs whatever the rules say: null, zero, full, random, urandom, tty, ptmx, ptys; any mknod.
_DEFAULT_DEVICES = (
    "c *:* m", "b *:* m", "c 1:3 rwm", "c 1:5 rwm", "c 1:7 rwm", "c 1:8 rwm", "c 1:9 rwm", "c 5:0 rwm", "c 5:2 rwm",
    "c 136:* rwm",
)  # fmt: skip


class Write(Record):
    """One value. files: names to try in turn, since kernels differ. needed: a failure is worth a warning."""

    controller: str
    files: tuple[str, ...]
    value: str
    needed: bool = True


def plan_limits(resources: Object, version: int) -> tuple[Write, ...]:
    """The writes for linux.resources (as JSON, checked before) on a hierarchy of cgroup v1 or v2."""
    return tuple(_plan_v1(resources) if version == 1 else _plan_v2(resources))


def apply_limits(group: Group, resources: Object, *, holds_machine: bool) -> tuple[str, ...]:
    """Write a container's limits. Returns a line for each that the host could not take; they hold in the guest anyway.

    holds_machine: the group's processes include a machine: hierarchies that it has joined get no limits at all.
    """
    warnings: list[str] = []
    for version in (1, 2):
        leaves = [leaf for leaf in group.leaves if leaf.hierarchy.version == version and not leaf.is_root]
        if not leaves:
            continue
        pending = [write for write in plan_limits(resources, version) if _belongs_here(group, write, version)]
        if holds_machine:
            pending = [write for write in pending if not _counts_machine(leaves, write.controller)]
        failed = [(write, reason) for write in pending if (reason := _write(leaves, write))]
        # The order of limits that depend on each other (memory and swap, quota and period) depends on old values.
        for write, _ in failed:
            reason = _write(leaves, write)
            if reason and write.needed:
                warnings.append(reason)
    return tuple(warnings)


def _belongs_here(group: Group, write: Write, version: int) -> bool:
    """On a hybrid host, each controller lives in hierarchies of one version; v1 speaks for those that are missing."""
    here, there = (
        {name for leaf in group.leaves if leaf.hierarchy.version == wanted for name in leaf.hierarchy.controllers}
        for wanted in (version, 3 - version)
    )
    if write.controller in here:
        return True
    if {"blkio": "io", "io": "blkio"}.get(write.controller, write.controller) in there:
        return False
    return version == 1 or all(leaf.hierarchy.version == 2 for leaf in group.leaves)


def _counts_machine(leaves: Sequence[Leaf], controller: str) -> bool:
    return any(leaf.counts_machine for leaf in leaves if controller in leaf.hierarchy.controllers)


def _write(leaves: Sequence[Leaf], write: Write) -> str:
    """The reason why it did not work, "" when it did."""
    leaf = next((leaf for leaf in leaves if write.controller in leaf.hierarchy.controllers), None)
    if leaf is None:
        return f"the host has no cgroup controller {write.controller}: {write.files[0]} holds in the guest only"
    reason = ""
    for name in write.files:
        path = os.path.join(leaf.directory, name)
        try:
            write_file(path, write.value)
        except OSError as error:
            reason = HostError.from_oserror(error, "write", path, hint=f"value {write.value}").message
        else:
            return ""
    return reason


def _plan_v1(resources: Object) -> Iterator[Write]:
    yield from _devices_v1(resources.get("devices") or ())
    yield from _memory_v1(resources.get("memory") or {})
    yield from _cpu_v1(resources.get("cpu") or {})
    limit = (resources.get("pids") or {}).get("limit")
    if limit:
        yield Write(controller="pids", files=("pids.max",), value=str(limit) if limit > 0 else "max")
    yield from _block_v1(resources.get("blockIO") or {})
    for huge in resources.get("hugepageLimits") or ():
        size = huge["pageSize"]
        yield Write(controller="hugetlb", files=(f"hugetlb.{size}.limit_in_bytes",), value=str(huge["limit"]))
    network = resources.get("network") or {}
    if network.get("classID") is not None:
        yield Write(controller="net_cls", files=("net_cls.classid",), value=str(network["classID"]))
    for entry in network.get("priorities") or ():
        value = f"{entry['name']} {entry['priority']}"
        yield Write(controller="net_prio", files=("net_prio.ifpriomap",), value=value)
    yield from _rdma(resources.get("rdma") or {})


def _devices_v1(rules: Sequence[Object]) -> Iterator[Write]:
    for rule in rules:
        kind = rule.get("type") or "a"
        major, minor = ("*" if (rule.get(name) or 0) < 0 else rule.get(name) for name in ("major", "minor"))
        numbers = f"{'*' if major is None else major}:{'*' if minor is None else minor}"
        everything = kind == "a" and numbers == "*:*"
        value = "a" if everything else f"{kind} {numbers} {rule.get('access') or 'rwm'}"
        yield Write(
            controller="devices", files=("devices.allow" if rule.get("allow") else "devices.deny",), value=value
        )
    if rules:
        for value in _DEFAULT_DEVICES:
            yield Write(controller="devices", files=("devices.allow",), value=value)


def _memory_v1(memory: Object) -> Iterator[Write]:
    limit, swap = memory.get("limit"), memory.get("swap")
    if limit == -1 and swap is None:
        swap = -1
    values = {
        "memory.limit_in_bytes": _at_least(limit),
        "memory.memsw.limit_in_bytes": _at_least(swap),
        "memory.soft_limit_in_bytes": memory.get("reservation"),
        "memory.kmem.limit_in_bytes": memory.get("kernel"),
        "memory.kmem.tcp.limit_in_bytes": memory.get("kernelTCP"),
    }
    for file, value in values.items():
        if value:
            # Kernels since 5.16 have no limit of their own for kernel memory.
            yield Write(
                controller="memory", files=(file,), value=str(value), needed=file != "memory.kmem.limit_in_bytes"
            )
    # Engines write -1, "the default", as an unsigned number.
    if memory.get("swappiness") is not None and memory["swappiness"] != _UNSIGNED_MINUS_ONE:
        yield Write(controller="memory", files=("memory.swappiness",), value=str(memory["swappiness"]))
    if memory.get("disableOOMKiller"):
        yield Write(controller="memory", files=("memory.oom_control",), value="1")
    if memory.get("useHierarchy"):
        yield Write(controller="memory", files=("memory.use_hierarchy",), value="1", needed=False)


def _at_least(limit: int | None) -> int | None:
    return max(limit, MIN_MEMORY_BYTES) if limit is not None and limit > 0 else limit


def _cpu_v1(cpu: Object) -> Iterator[Write]:
    files = {
        "shares": "cpu.shares",
        "period": "cpu.cfs_period_us",
        "quota": "cpu.cfs_quota_us",
        "realtimePeriod": "cpu.rt_period_us",
        "realtimeRuntime": "cpu.rt_runtime_us",
    }
    for key, file in files.items():
        if cpu.get(key):
            yield Write(controller="cpu", files=(file,), value=str(cpu[key]))
    for key, file in (("burst", "cpu.cfs_burst_us"), ("idle", "cpu.idle")):
        if cpu.get(key) is not None:
            yield Write(controller="cpu", files=(file,), value=str(cpu[key]))
    yield from _cpuset(cpu)


def _cpuset(cpu: Object) -> Iterator[Write]:
    for key in ("cpus", "mems"):
        if cpu.get(key):
            yield Write(controller="cpuset", files=(f"cpuset.{key}",), value=cpu[key])


def _block_v1(block: Object) -> Iterator[Write]:
    if block.get("weight"):
        yield Write(controller="blkio", files=("blkio.weight", "blkio.bfq.weight"), value=str(block["weight"]))
    if block.get("leafWeight"):
        # Only the scheduler that kernels before 5.0 had knows leaf weights.
        yield Write(controller="blkio", files=("blkio.leaf_weight",), value=str(block["leafWeight"]), needed=False)
    for device in block.get("weightDevice") or ():
        if device.get("weight"):
            files = ("blkio.weight_device", "blkio.bfq.weight_device")
            yield Write(controller="blkio", files=files, value=f"{_numbers(device)} {device['weight']}")
    for key, file in (
        ("throttleReadBpsDevice", "blkio.throttle.read_bps_device"),
        ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device"),
        ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device"),
        ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device"),
    ):
        for device in block.get(key) or ():
            yield Write(controller="blkio", files=(file,), value=f"{_numbers(device)} {device['rate']}")


def _numbers(device: Object) -> str:
    return f"{device['major']}:{device['minor']}"


def _rdma(devices: Object) -> Iterator[Write]:
    for name, limits in devices.items():
        words = [name]
        if limits.get("hcaHandles") is not None:
            words.append(f"hca_handle={limits['hcaHandles']}")
        if limits.get("hcaObjects") is not None:
            words.append(f"hca_object={limits['hcaObjects']}")
        yield Write(controller="rdma", files=("rdma.max",), value=" ".join(words))


def _plan_v2(resources: Object) -> Iterator[Write]:
    yield from _memory_v2(resources.get("memory") or {})
    yield from _cpu_v2(resources.get("cpu") or {})
    limit = (resources.get("pids") or {}).get("limit")
    if limit:
        yield Write(controller="pids", files=("pids.max",), value=str(limit) if limit > 0 else "max")
    yield from _block_v2(resources.get("blockIO") or {})
    for huge in resources.get("hugepageLimits") or ():
        yield Write(controller="hugetlb", files=(f"hugetlb.{huge['pageSize']}.max",), value=str(huge["limit"]))
    yield from _rdma(resources.get("rdma") or {})
    for file, value in (resources.get("unified") or {}).items():
        yield Write(controller=file.split(".", 1)[0], files=(file,), value=value)


def _memory_v2(memory: Object) -> Iterator[Write]:
    limit, swap = memory.get("limit"), memory.get("swap")
    if limit:
        value = str(_at_least(limit)) if limit > 0 else "max"
        yield Write(controller="memory", files=("memory.max",), value=value)
    if memory.get("reservation"):
        value = str(memory["reservation"]) if memory["reservation"] > 0 else "max"
        yield Write(controller="memory", files=("memory.low",), value=value)
    if swap is not None and swap < 0:
        yield Write(controller="memory", files=("memory.swap.max",), value="max")
    elif swap and limit and limit > 0:
        # The specification's swap is memory and swap together, v2's is swap alone.
        yield Write(controller="memory", files=("memory.swap.max",), value=str(max(0, swap - limit)))


def _cpu_v2(cpu: Object) -> Iterator[Write]:
    shares, quota, period = (cpu.get(key) for key in ("shares", "quota", "period"))
    if shares:
        weight = 1 + (min(max(shares, 2), 262144) - 2) * 9999 // 262142
        yield Write(controller="cpu", files=("cpu.weight",), value=str(weight))
    if quota or period:
        limit = str(quota) if quota and quota > 0 else "max"
        yield Write(controller="cpu", files=("cpu.max",), value=f"{limit} {period or 100_000}")
    if cpu.get("burst") is not None:
        yield Write(controller="cpu", files=("cpu.max.burst",), value=str(cpu["burst"]))
    if cpu.get("idle") is not None:
        yield Write(controller="cpu", files=("cpu.idle",), value=str(cpu["idle"]))
    yield from _cpuset(cpu)


def _block_v2(block: Object) -> Iterator[Write]:
    weight = block.get("weight")
    if weight:
        yield Write(controller="io", files=("io.bfq.weight",), value=str(weight), needed=False)
        value = f"default {1 + (max(weight, 10) - 10) * 9999 // 990}"
        yield Write(controller="io", files=("io.weight",), value=value, needed=False)
    for key, word in (
        ("throttleReadBpsDevice", "rbps"),
        ("throttleWriteBpsDevice", "wbps"),
        ("throttleReadIOPSDevice", "riops"),
        ("throttleWriteIOPSDevice", "wiops"),
    ):
        for device in block.get(key) or ():
            yield Write(controller="io", files=("io.max",), value=f"{_numbers(device)} {word}={device['rate']}")
