"""A container's figures, from cgroup v2 and, for the network, from the guest: the pod's network is its own."""

from __future__ import annotations

import os

from oci_runtime.guest.cgroups import read_keys
from oci_runtime.ttrpc.proto import agent_lean as pb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.guest.agent import Agent

NO_LIMIT = (1 << 64) - 1
_IO_KEYS = {"rbytes", "wbytes", "rios", "wios"}


def stats_container(agent: Agent, request: pb.ContainerRequest) -> pb.StatsContainerResponse:
    """Read everything anew. Raises NotFound, WrongState after the container's end."""
    container = agent.container(request.container_id)
    container.require_running()
    path = container.cgroup
    return pb.StatsContainerResponse(
        cpu=read_keys(f"{path}/cpu.stat"),
        memory_usage=read_number(f"{path}/memory.current"),
        memory_limit=read_number(f"{path}/memory.max", NO_LIMIT),
        memory_peak=read_number(f"{path}/memory.peak"),
        swap_usage=read_number(f"{path}/memory.swap.current"),
        swap_limit=read_number(f"{path}/memory.swap.max", NO_LIMIT),
        memory=read_keys(f"{path}/memory.stat"),
        memory_events=read_keys(f"{path}/memory.events"),
        pids_current=read_number(f"{path}/pids.current"),
        pids_limit=read_number(f"{path}/pids.max", NO_LIMIT),
        io=_read_io(f"{path}/io.stat"),
        hugetlb=_read_hugetlb(path),
        network=_read_network(),
    )


def read_number(path: str, absent: int = 0) -> int:
    """A file with one number, or `max`."""
    try:
        with open(path, encoding="ascii") as file:
            text = file.read().strip()
    except OSError:
        return absent
    return int(text) if text.isdigit() else NO_LIMIT


def _read_io(path: str) -> list[pb.IoStat]:
    """Lines such as `254:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`."""
    result = []
    for line in _lines(path):
        device, *words = line.split()
        major, _, minor = device.partition(":")
        pairs = (word.partition("=") for word in words)
        values = {key: int(value) for key, _, value in pairs if key in _IO_KEYS and value.isdigit()}
        if major.isdigit() and minor.isdigit() and values:
            result.append(pb.IoStat(major=int(major), minor=int(minor), **values))
    return result


def _read_hugetlb(path: str) -> list[pb.HugetlbStat]:
    try:
        names = [name for name in os.listdir(path) if name.startswith("hugetlb.") and name.endswith(".current")]
    except OSError:
        return []
    result = []
    for name in sorted(names):
        size = name.removeprefix("hugetlb.").removesuffix(".current")
        if size.startswith("rsvd") or size.endswith(".rsvd"):
            continue
        prefix = f"{path}/hugetlb.{size}"
        result.append(
            pb.HugetlbStat(
                page_size=size,
                usage=read_number(f"{prefix}.current"),
                failcnt=read_keys(f"{prefix}.events").get("max", 0),
                max=read_number(f"{prefix}.max", NO_LIMIT),
            )
        )
    return result


def _read_network() -> list[pb.NetworkStat]:
    """The lines of /proc/net/dev, without the loopback."""
    result = []
    for line in _lines("/proc/net/dev"):
        name, colon, rest = line.partition(":")
        values = [int(word) for word in rest.split() if word.isdigit()]
        name = name.strip()
        if not colon or name == "lo" or len(values) < 12:
            continue
        result.append(
            pb.NetworkStat(
                name=name, rx_bytes=values[0], rx_packets=values[1], rx_errors=values[2], rx_dropped=values[3],
                tx_bytes=values[8], tx_packets=values[9], tx_errors=values[10], tx_dropped=values[11],
            )
        )  # fmt: skip
    return result


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []
