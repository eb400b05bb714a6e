"""Read what the guest has to offer, for `spec` and `resources`."""

from __future__ import annotations

import os

from oci_runtime.guest.mounts import CGROUP_ROOT
from oci_runtime.guest.spec import CGROUP_PARENT, GuestFacts


def read_facts() -> GuestFacts:
    """Look at the guest as it is now: CPUs and disks may have been plugged since the last time."""
    parent = CGROUP_ROOT + CGROUP_PARENT
    return GuestFacts(
        cpus=parse_set(_read("/sys/devices/system/cpu/online")) or frozenset({0}),
        nodes=parse_set(_read("/sys/devices/system/node/online")) or frozenset({0}),
        nr_open=int(_read("/proc/sys/fs/nr_open") or 1 << 20),
        controllers=frozenset(_read(f"{parent}/cgroup.controllers").split()),
        files=frozenset(_list(parent)),
        hugepage_sizes=frozenset(_page_size(name) for name in _list("/sys/kernel/mm/hugepages")),
        block_devices=frozenset(_device(name) for name in _list("/sys/dev/block")),
    )


def parse_set(text: str) -> frozenset[int]:
    """The numbers of a kernel list such as `0-3,8`; empty for what is none."""
    numbers: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.strip().partition("-")
        if first.isdigit() and (not last or last.isdigit()):
            low, high = int(first), int(last or first)
            if high - low < 1 << 16:
                numbers.update(range(low, high + 1))
    return frozenset(numbers)


def format_set(numbers: frozenset[int]) -> str:
    """The opposite: ascending, ranges joined."""
    parts: list[str] = []
    ordered = sorted(numbers)
    index = 0
    while index < len(ordered):
        last = index
        while last + 1 < len(ordered) and ordered[last + 1] == ordered[last] + 1:
            last += 1
        parts.append(str(ordered[index]) if last == index else f"{ordered[index]}-{ordered[last]}")
        index = last + 1
    return ",".join(parts)


def _page_size(directory: str) -> str:
    """`hugepages-2048kB` as the OCI specification writes it: `2MB`."""
    kib = int(directory.removeprefix("hugepages-").removesuffix("kB") or 0)
    for unit, size in (("GB", 1 << 20), ("MB", 1 << 10)):
        if kib >= size:
            return f"{kib // size}{unit}"
    return f"{kib}KB"


def _device(name: str) -> tuple[int, int]:
    major, _, minor = name.partition(":")
    return int(major), int(minor)


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def _list(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
