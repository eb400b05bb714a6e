"""How large a virtual machine must be: the defaults plus the limits of what will run in it.

Sources: containerd's `io.kubernetes.cri.sandbox-*` annotations, CRI-O's PodLinuxResources and PodLinuxOverhead (CRI's
LinuxContainerResources as JSON), and the resources of a container that has no pod.
"""

from __future__ import annotations

from oci_runtime.annotations.keys import (
    CRI_CPU_PERIOD,
    CRI_CPU_QUOTA,
    CRI_CPU_SHARES,
    CRI_MEMORY,
    CRIO_OVERHEAD,
    CRIO_RESOURCES,
)
from oci_runtime.bundle.values import show
from oci_runtime.errors import InvalidInput
from oci_runtime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from oci_runtime.bundle.linux import Resources
    from oci_runtime.bundle.model import Spec

_MIB = 1 << 20
_SHARES_PER_CPU = 1024
# What the kernel takes where a quota comes without a period.
_DEFAULT_PERIOD_US = 100_000
# Limits from here up mean "none": cgroup v1 shows an absent one as the largest multiple of a page.
_UNLIMITED_BYTES = 1 << 60


class SizeLimits(Record):
    """What the configuration and the host allow. max_vcpus and max_memory_mib: 0 means as much as the host has."""

    default_vcpus: int = 1
    default_memory_mib: int = 512
    max_vcpus: int = 0
    max_memory_mib: int = 0
    host_cpus: int
    host_memory_mib: int


class Demand(Record):
    """Limits of a pod or container. quota and period: microseconds; 0 or less means that there is no limit."""

    memory_bytes: int = 0
    quota: int = 0
    period: int = 0
    shares: int = 0


class VmSize(Record):
    """Processors and memory of a virtual machine."""

    vcpus: int
    memory_mib: int


def plan_size(spec: Spec, limits: SizeLimits) -> VmSize:
    """Size the machine that will boot for a container: the limits of its pod where annotations give them, else its own.

    Whole extra processors cover a CPU quota; without one, every 1024 shares that a pod asks for count as one. An
    overhead larger than the default replaces it, since both stand for the guest's own needs. The host's size and the
    configured maximum cut off what exceeds them: a limit may be larger than the machine.
    Raises: InvalidInput with key and value of an annotation that cannot be understood.
    """
    pod = read_pod_demand(spec.annotations)
    overhead = _read_crio(spec.annotations, CRIO_OVERHEAD) or Demand()
    demand = own_demand(spec.resources) if pod is None else pod
    vcpus = max(limits.default_vcpus, _count_vcpus(overhead, shares=False))
    vcpus += _count_vcpus(demand, shares=pod is not None)
    memory_mib = max(limits.default_memory_mib, _count_mib(overhead)) + _count_mib(demand)
    return VmSize(
        vcpus=max(1, min(vcpus, limits.max_vcpus or limits.host_cpus, limits.host_cpus)),
        memory_mib=min(memory_mib, limits.max_memory_mib or limits.host_memory_mib, limits.host_memory_mib),
    )


def own_demand(resources: Resources) -> Demand:
    """The limits of one container."""
    return Demand(
        memory_bytes=resources.memory.limit or 0,
        quota=resources.cpu.quota or 0,
        period=resources.cpu.period or _DEFAULT_PERIOD_US,
        shares=resources.cpu.shares or 0,
    )


def read_pod_demand(annotations: Mapping[str, str]) -> Demand | None:
    """The limits of a whole pod as its engine wrote them, None where it wrote none. Raises: InvalidInput."""
    from_crio = _read_crio(annotations, CRIO_RESOURCES)
    if from_crio is not None:
        return from_crio
    keys = (CRI_MEMORY, CRI_CPU_QUOTA, CRI_CPU_PERIOD, CRI_CPU_SHARES)
    if not any(key in annotations for key in keys):
        return None
    memory, quota, period, shares = (_number(key, annotations.get(key, "0")) for key in keys)
    demand = Demand(memory_bytes=memory, quota=quota, period=period, shares=shares)
    _check(demand, CRI_CPU_PERIOD, annotations.get(CRI_CPU_PERIOD, ""))
    return demand


def _read_crio(annotations: Mapping[str, str], key: str) -> Demand | None:
    value = annotations.get(key, "null")
    if value in ("", "null"):
        return None
    import json

    try:
        fields = json.loads(value)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise InvalidInput(f"annotation {key} is {show(value)}: it must be a JSON object or null")
    names = {"memory_limit_in_bytes": 0, "cpu_quota": 0, "cpu_period": 0, "cpu_shares": 0}
    for name in names:
        number = fields.get(name, 0)
        if type(number) is not int or abs(number) >= 1 << 63:
            raise InvalidInput(f"annotation {key} has {name} = {show(str(number))}: it must be a whole number")
        names[name] = number
    memory, quota, period, shares = names.values()
    demand = Demand(memory_bytes=memory, quota=quota, period=period, shares=shares)
    _check(demand, key, value)
    return demand


def _number(key: str, value: str) -> int:
    digits = value.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 19):
        raise InvalidInput(f"annotation {key} is {show(value)}: it must be a whole number")
    return int(value)


def _check(demand: Demand, key: str, value: str) -> None:
    if demand.quota > 0 and demand.period <= 0:
        raise InvalidInput(f"annotation {key} is {show(value)}: a CPU quota needs a period greater than 0")


def _count_vcpus(demand: Demand, *, shares: bool) -> int:
    if demand.quota > 0 and demand.period > 0:
        return -(-demand.quota // demand.period)
    return max(0, demand.shares) // _SHARES_PER_CPU if shares else 0


def _count_mib(demand: Demand) -> int:
    if not 0 < demand.memory_bytes < _UNLIMITED_BYTES:
        return 0
    return -(-demand.memory_bytes // _MIB)
