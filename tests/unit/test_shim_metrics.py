"""Figures of the guest in containerd's two forms."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from oci_runtime.shim.metrics import Overhead, metrics_v1, metrics_v2, pack_metrics

MAX = 2**64 - 1


def stats(**changes: Any) -> SimpleNamespace:
    """An answer of the guest."""
    values: dict[str, Any] = {
        "cpu": {"usage_usec": 3000, "user_usec": 2000, "system_usec": 1000, "nr_periods": 7, "throttled_usec": 5},
        "memory_usage": 8192,
        "memory_limit": 1 << 20,
        "memory_peak": 9000,
        "swap_usage": 10,
        "swap_limit": 1 << 20,
        "memory": {"anon": 100, "file": 200, "pgfault": 3, "slab": 40, "kernel_stack": 2, "sock": 9, "unknown": 1},
        "memory_events": {"max": 4, "oom_kill": 1},
        "pids_current": 2,
        "pids_limit": 10,
        "io": [SimpleNamespace(major=8, minor=0, rbytes=1, wbytes=2, rios=3, wios=4)],
        "hugetlb": [SimpleNamespace(page_size="2MB", usage=1, failcnt=2, max=3)],
        "network": [],
    }
    return SimpleNamespace(**(values | changes))


def test_v1() -> None:
    made = metrics_v1(stats(), Overhead(cpu_usec=1000, memory_bytes=1000))
    assert (made.cpu.usage.total, made.cpu.usage.kernel, made.cpu.usage.user) == (4_000_000, 1_000_000, 3_000_000)
    assert made.cpu.throttling.throttled_time == 5000
    assert (made.memory.usage.usage, made.memory.usage.max, made.memory.usage.limit) == (9192, 9192, 1 << 20)
    assert made.memory.usage.failcnt == 4
    assert (made.memory.cache, made.memory.rss, made.memory.total_rss) == (200, 1100, 1100)
    assert (made.memory.kernel.usage, made.memory.kernel_tcp.usage) == (42, 9)
    assert (made.memory.swap.usage, made.memory.swap.limit) == (9202, 2 << 20)
    assert made.memory_oom_control.oom_kill == 1
    assert [(entry.op, entry.value) for entry in made.blkio.io_service_bytes_recursive] == [("Read", 1), ("Write", 2)]
    assert made.hugetlb[0].pagesize == "2MB"


def test_v2() -> None:
    made = metrics_v2(stats(), Overhead(cpu_usec=1000, memory_bytes=1000))
    assert (made.cpu.usage_usec, made.memory.usage, made.memory.anon) == (4000, 9192, 1100)
    assert (made.memory.usage_limit, made.memory.pgfault) == (1 << 20, 3)
    assert (made.memory_events.max, made.memory_events.oom_kill, made.memory_events.low) == (4, 1, 0)
    assert (made.io.usage[0].wios, made.hugetlb[0].current) == (4, 1)


@pytest.mark.parametrize("unified", [False, True])
def test_no_limits(unified: bool) -> None:
    open_ended = stats(memory_limit=MAX, swap_limit=MAX, pids_limit=MAX)
    packed = pack_metrics(open_ended, Overhead(), unified=unified)
    assert packed.type_url == f"io.containerd.cgroups.v{2 if unified else 1}.Metrics"
    one, two = metrics_v1(open_ended, Overhead()), metrics_v2(open_ended, Overhead())
    assert (one.pids.limit, two.pids.limit) == (0, 0)
    assert (one.memory.usage.limit, one.memory.swap.limit) == (2**63 - 4096, 2**63 - 4096)
    assert two.memory.usage_limit == MAX


def test_nothing_known_is_still_complete() -> None:
    empty = stats(cpu={}, memory={}, memory_events={}, io=[], hugetlb=[])
    one = metrics_v1(empty, Overhead())
    for name in ("usage", "swap", "kernel", "kernel_tcp"):
        assert one.memory.HasField(name)
    assert one.cpu.HasField("usage") and one.cpu.HasField("throttling") and one.HasField("pids")
    assert metrics_v2(empty, Overhead()).HasField("memory")
