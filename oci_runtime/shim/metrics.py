"""The guest's cgroup figures in the two forms that containerd and CRI-O read. Pure.

Sources: the kernel's cgroup-v1 and cgroup-v2 documentation for what the names mean; CRI-O dereferences Memory.{Usage,
Kernel,KernelTCP,Swap}, CPU.{Usage,Throttling} and Pids without a look, so all of them are always there.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage

from oci_runtime.shim.proto import metrics_v1_pb2 as v1
from oci_runtime.shim.proto import metrics_v2_pb2 as v2

_MAX = 2**64 - 1
_V1_UNLIMITED = 2**63 - 4096  # the largest multiple of a page: what cgroup v1 shows for "no limit"
_V1_MEMORY = {
    "cache": "file",
    "rss": "anon",
    "rss_huge": "anon_thp",
    "mapped_file": "file_mapped",
    "dirty": "file_dirty",
    "writeback": "file_writeback",
    "pg_fault": "pgfault",
    "pg_maj_fault": "pgmajfault",
    "inactive_anon": "inactive_anon",
    "active_anon": "active_anon",
    "inactive_file": "inactive_file",
    "active_file": "active_file",
    "unevictable": "unevictable",
}
_NETWORK = (
    "name rx_bytes rx_packets rx_errors rx_dropped tx_bytes tx_packets tx_errors tx_dropped".split()  # both have these
)


@dataclass(frozen=True)
class Overhead:
    """What the pod costs on the host beyond what its containers use in the guest."""

    cpu_usec: int = 0
    memory_bytes: int = 0


def host_is_unified() -> bool:
    """Whether the host has cgroup v2 alone."""
    return os.path.exists("/sys/fs/cgroup/cgroup.controllers")


def pack_metrics(stats: Any, overhead: Overhead, *, unified: bool) -> AnyMessage:
    """agent_pb2.StatsContainerResponse plus the overhead, as the Any of a StatsResponse."""
    message = metrics_v2(stats, overhead) if unified else metrics_v1(stats, overhead)
    return AnyMessage(type_url=message.DESCRIPTOR.full_name, value=message.SerializeToString())


def metrics_v1(stats: Any, overhead: Overhead) -> v1.Metrics:
    """In the form of cgroup v1."""
    cpu, memory = dict(stats.cpu), dict(stats.memory)
    usage = stats.memory_usage + overhead.memory_bytes
    kernel = memory.get("kernel", memory.get("slab", 0) + memory.get("kernel_stack", 0))
    both = {name: memory.get(source, 0) for name, source in _V1_MEMORY.items()}
    both["rss"] += overhead.memory_bytes
    limit, swap_limit = _v1_limit(stats.memory_limit), _v1_limit(stats.memory_limit, stats.swap_limit)
    return v1.Metrics(
        pids=v1.PidsStat(current=stats.pids_current, limit=_or_zero(stats.pids_limit)),
        cpu=v1.CPUStat(
            usage=v1.CPUUsage(
                total=(cpu.get("usage_usec", 0) + overhead.cpu_usec) * 1000,
                kernel=cpu.get("system_usec", 0) * 1000,
                user=(cpu.get("user_usec", 0) + overhead.cpu_usec) * 1000,
            ),
            throttling=v1.Throttle(
                periods=cpu.get("nr_periods", 0),
                throttled_periods=cpu.get("nr_throttled", 0),
                throttled_time=cpu.get("throttled_usec", 0) * 1000,
            ),
        ),
        memory=v1.MemoryStat(
            **both,
            **{f"total_{name}": value for name, value in both.items()},
            hierarchical_memory_limit=limit,
            hierarchical_swap_limit=swap_limit,
            usage=v1.MemoryEntry(
                limit=limit,
                usage=usage,
                max=max(usage, stats.memory_peak),
                failcnt=stats.memory_events.get("max", 0),
            ),
            # As in cgroup v1, the figure for swap is that of memory and swap together.
            swap=v1.MemoryEntry(limit=swap_limit, usage=usage + stats.swap_usage),
            kernel=v1.MemoryEntry(limit=_V1_UNLIMITED, usage=kernel),
            kernel_tcp=v1.MemoryEntry(limit=_V1_UNLIMITED, usage=memory.get("sock", 0)),
        ),
        memory_oom_control=v1.MemoryOomControl(oom_kill=stats.memory_events.get("oom_kill", 0)),
        blkio=_v1_blkio(stats),
        hugetlb=[
            v1.HugetlbStat(usage=row.usage, max=row.max, failcnt=row.failcnt, pagesize=row.page_size)
            for row in stats.hugetlb
        ],
        network=[v1.NetworkStat(**{name: getattr(row, name) for name in _NETWORK}) for row in stats.network],
    )


def metrics_v2(stats: Any, overhead: Overhead) -> v2.Metrics:
    """In the form of cgroup v2."""
    cpu, memory = dict(stats.cpu), dict(stats.memory)
    known = {name: memory[name] for name in v2.MemoryStat.DESCRIPTOR.fields_by_name if name in memory}
    known["anon"] = known.get("anon", 0) + overhead.memory_bytes
    return v2.Metrics(
        pids=v2.PidsStat(current=stats.pids_current, limit=_or_zero(stats.pids_limit)),
        cpu=v2.CPUStat(
            usage_usec=cpu.get("usage_usec", 0) + overhead.cpu_usec,
            user_usec=cpu.get("user_usec", 0) + overhead.cpu_usec,
            system_usec=cpu.get("system_usec", 0),
            nr_periods=cpu.get("nr_periods", 0),
            nr_throttled=cpu.get("nr_throttled", 0),
            throttled_usec=cpu.get("throttled_usec", 0),
        ),
        memory=v2.MemoryStat(
            **{
                **known,
                "usage": stats.memory_usage + overhead.memory_bytes,
                "usage_limit": stats.memory_limit,
                "swap_usage": stats.swap_usage,
                "swap_limit": stats.swap_limit,
            }
        ),
        memory_events=v2.MemoryEvents(
            **{name: stats.memory_events.get(name, 0) for name in v2.MemoryEvents.DESCRIPTOR.fields_by_name}
        ),
        io=v2.IOStat(
            usage=[
                v2.IOEntry(
                    major=row.major,
                    minor=row.minor,
                    rbytes=row.rbytes,
                    wbytes=row.wbytes,
                    rios=row.rios,
                    wios=row.wios,
                )
                for row in stats.io
            ]
        ),
        hugetlb=[v2.HugeTlbStat(current=row.usage, max=row.max, pagesize=row.page_size) for row in stats.hugetlb],
    )


def _or_zero(limit: int) -> int:
    return 0 if limit == _MAX else limit


def _v1_limit(*limits: int) -> int:
    """The sum of limits as cgroup v1 shows it: one that is missing makes all of it unlimited."""
    if any(limit >= _V1_UNLIMITED for limit in limits):
        return _V1_UNLIMITED
    return min(sum(limits), _V1_UNLIMITED)


def _v1_blkio(stats: Any) -> v1.BlkIOStat:
    count, size = [], []
    for row in stats.io:
        for op, ios, octets in (("Read", row.rios, row.rbytes), ("Write", row.wios, row.wbytes)):
            count.append(v1.BlkIOEntry(op=op, major=row.major, minor=row.minor, value=ios))
            size.append(v1.BlkIOEntry(op=op, major=row.major, minor=row.minor, value=octets))
    return v1.BlkIOStat(io_service_bytes_recursive=size, io_serviced_recursive=count)
