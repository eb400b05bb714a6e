"""What a pod costs on the host: its processes' memory and time, beyond what its containers use in the guest."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

from oci_runtime.shim.metrics import Overhead

_TICKS = os.sysconf("SC_CLK_TCK")
_KIB = 1024


def measure(pids: Iterable[int], guest: Sequence[Any]) -> Overhead:
    """Overhead of the processes `pids` over the containers' figures (agent_pb2.StatsContainerResponse). Blocks briefly.

    A process that is gone counts nothing. The guest's memory is in QEMU's: what its containers use of it is taken off.
    """
    cpu_usec = memory_bytes = 0
    for pid in pids:
        cpu_usec += cpu_time_usec(pid)
        memory_bytes += proportional_set_bytes(pid)
    cpu_usec -= sum(stats.cpu.get("usage_usec", 0) for stats in guest)
    memory_bytes -= sum(stats.memory_usage for stats in guest)
    return Overhead(max(0, cpu_usec), max(0, memory_bytes))


def cpu_time_usec(pid: int) -> int:
    """User and system time of a process, its threads included."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0
    return (int(fields[11]) + int(fields[12])) * 1_000_000 // _TICKS


def proportional_set_bytes(pid: int) -> int:
    """Memory of a process, with each shared page divided by its users."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * _KIB
    except OSError:
        return 0
    return 0
