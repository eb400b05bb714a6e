"""Find the proxies of a container among the processes of the host: its own and those of its execs."""

from __future__ import annotations

import os

from oci_runtime.host.processes import read_stat
from oci_runtime.state.layout import PROXY_MARK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from oci_runtime.host.processes import ProcessId
    from oci_runtime.state.layout import Layout

_MAX_MARK_BYTES = 8192


def proxy_mark(layout: Layout, container_id: str) -> str:
    """Return what the environment of each proxy of a container says."""
    return f"{layout.root}:{container_id}"


def find_proxies(layout: Layout, container_id: str, cgroups: Sequence[str] = ()) -> list[ProcessId]:
    """Return all live proxies of a container, oldest first. Needs no record: /proc knows.

    cgroups: the container's, where it has some; then only their processes are looked at.
    """
    wanted = f"{PROXY_MARK}={proxy_mark(layout, container_id)}\0".encode()
    found = []
    for name in _members(cgroups) if cgroups else os.listdir("/proc"):
        if name.isdigit() and _has_mark(int(name), wanted):
            stat = read_stat(int(name))
            if stat is not None and stat.state not in "ZX":
                found.append((stat.start, int(name)))
    return [(pid, start) for start, pid in sorted(found)]


def _members(cgroups: Sequence[str]) -> Iterable[str]:
    """The processes of a record's cgroups: a proxy is in all of them but those that refused it."""
    names: set[str] = set()
    for path in cgroups:
        try:
            with open(os.path.join(path, "cgroup.procs"), "rb") as file:
                names.update(file.read().decode().split())
        except OSError:
            continue
    return names


def _has_mark(pid: int, wanted: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read(len(wanted)) == wanted
    except OSError:
        return False


def find_container(layout: Layout, pid: int) -> str:
    """The container whose proxy a process is, "" for none of this root."""
    start = f"{PROXY_MARK}={layout.root}:".encode()
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            first = file.read(_MAX_MARK_BYTES).split(b"\0", 1)[0]
    except OSError:
        return ""
    return os.fsdecode(first[len(start) :]) if first.startswith(start) else ""
