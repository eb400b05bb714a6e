"""Find the proxies of a container among the processes of the host: its own and those of its execs."""

from __future__ import annotations

import os

from oci_runtime.host.processes import read_stat
from oci_runtime.proxy.launch import MARK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.state.layout import Layout


def proxy_mark(layout: Layout, container_id: str) -> str:
    """Return what the environment of each proxy of a container says."""
    return f"{layout.root}:{container_id}"


def find_proxies(layout: Layout, container_id: str) -> list[int]:
    """Return the pids of all live proxies of a container, oldest first. Needs no record: /proc knows."""
    wanted = f"{MARK}={proxy_mark(layout, container_id)}\0".encode()
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and _has_mark(int(name), wanted):
            stat = read_stat(int(name))
            if stat is not None and stat.state not in "ZX":
                found.append((stat.start, int(name)))
    return [pid for _, pid in sorted(found)]


def _has_mark(pid: int, wanted: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read(len(wanted)) == wanted
    except OSError:
        return False
