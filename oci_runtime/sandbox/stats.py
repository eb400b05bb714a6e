"""The guest's figures in the forms that the command line prints: runc's `events` statistics and `ps` rows."""

from __future__ import annotations

from typing import Any

_UNLIMITED = 2**64 - 1
_RUNC_UNLIMITED = 2**63 - 4096  # what cgroup v1 shows, and so what readers of runc's figures expect


def process_row(process: Any) -> dict[str, Any]:
    """One process of the guest as `ps` needs it (agent_pb2.ProcessInfo)."""
    return {
        "pid": process.pid,
        "ppid": process.ppid,
        "user": process.user or str(process.uid),
        "started_at_ns": process.started_at_ns,
        "tty": process.tty or "?",
        "cpu_time_ms": process.cpu_time_ms,
        "command": process.command,
    }


def _limit(value: int) -> int:
    return _RUNC_UNLIMITED if value == _UNLIMITED else value


def runc_stats(stats: Any) -> dict[str, Any]:
    """agent_pb2.StatsContainerResponse in the form of runc's `events --stats` (its `data` object)."""
    cpu = {name: value for name, value in stats.cpu.items()}
    memory = {name: value for name, value in stats.memory.items()}
    return {
        "cpu": {
            "usage": {
                "total": cpu.get("usage_usec", 0) * 1000,
                "kernel": cpu.get("system_usec", 0) * 1000,
                "user": cpu.get("user_usec", 0) * 1000,
            },
            "throttling": {
                "periods": cpu.get("nr_periods", 0),
                "throttledPeriods": cpu.get("nr_throttled", 0),
                "throttledTime": cpu.get("throttled_usec", 0) * 1000,
            },
        },
        "memory": {
            "cache": memory.get("file", 0),
            "usage": {
                "usage": stats.memory_usage,
                "max": stats.memory_peak,
                "limit": _limit(stats.memory_limit),
                "failcnt": stats.memory_events.get("max", 0),
            },
            "swap": {"usage": stats.swap_usage, "limit": _limit(stats.swap_limit)},
            "kernel": {"usage": memory.get("kernel", memory.get("slab", 0))},
            "raw": memory,
        },
        "pids": {
            "current": stats.pids_current,
            "limit": 0 if stats.pids_limit == _UNLIMITED else stats.pids_limit,
        },
        "blkio": {"ioServiceBytesRecursive": _io_entries(stats)},
        "hugetlb": {
            row.page_size: {"usage": row.usage, "max": row.max, "failcnt": row.failcnt} for row in stats.hugetlb
        },
        "intel_rdt": {},
        "network_interfaces": [_interface(row) for row in stats.network],
    }


def _io_entries(stats: Any) -> list[dict[str, Any]]:
    entries = []
    for row in stats.io:
        for op, value in (("Read", row.rbytes), ("Write", row.wbytes)):
            entries.append({"major": row.major, "minor": row.minor, "op": op, "value": value})
    return entries


def _interface(row: Any) -> dict[str, Any]:
    names = {
        "RxBytes": row.rx_bytes,
        "RxPackets": row.rx_packets,
        "RxErrors": row.rx_errors,
        "RxDropped": row.rx_dropped,
        "TxBytes": row.tx_bytes,
        "TxPackets": row.tx_packets,
        "TxErrors": row.tx_errors,
        "TxDropped": row.tx_dropped,
    }
    return {"Name": row.name, **names}
