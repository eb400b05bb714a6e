"""Kernel settings of a network namespace that a pod may have been given: by CNI's tuning plugin, CRI-O's pinns, Docker.

Read in the pod's namespace and compared with what a new namespace has; only what differs is carried into the guest, so
the guest's own defaults stay where nobody asked for anything. Names are paths below /proc/sys/net.
Source: Documentation/networking/ip-sysctl.rst of the kernel; the figures were read in new namespaces of 6.1 and 6.18.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

_ROOT = "/proc/sys/net/"
PORT_RANGE = "ipv4/ip_local_port_range"
BORN_PORT_RANGE = "32768 60999"
# What the whole namespace shares, and the value at its birth (spaces stand for any white space).
_SHARED = {
    "core/somaxconn": "4096",
    "ipv4/icmp_echo_ignore_all": "0",
    "ipv4/icmp_echo_ignore_broadcasts": "1",
    "ipv4/icmp_ignore_bogus_error_responses": "1",
    "ipv4/icmp_ratelimit": "1000",
    "ipv4/igmp_max_memberships": "20",
    "ipv4/ip_default_ttl": "64",
    "ipv4/ip_forward": "0",
    PORT_RANGE: BORN_PORT_RANGE,
    "ipv4/ip_local_reserved_ports": "",
    "ipv4/ip_no_pmtu_disc": "0",
    "ipv4/ip_nonlocal_bind": "0",
    "ipv4/ip_unprivileged_port_start": "1024",
    "ipv4/ping_group_range": "1 0",
    "ipv4/tcp_ecn": "2",
    "ipv4/tcp_fastopen": "1",
    "ipv4/tcp_fin_timeout": "60",
    "ipv4/tcp_keepalive_intvl": "75",
    "ipv4/tcp_keepalive_probes": "9",
    "ipv4/tcp_keepalive_time": "7200",
    "ipv4/tcp_mtu_probing": "0",
    "ipv4/tcp_notsent_lowat": "4294967295",
    "ipv4/tcp_orphan_retries": "0",
    "ipv4/tcp_retries1": "3",
    "ipv4/tcp_retries2": "15",
    "ipv4/tcp_sack": "1",
    "ipv4/tcp_slow_start_after_idle": "1",
    "ipv4/tcp_syn_retries": "6",
    "ipv4/tcp_synack_retries": "5",
    "ipv4/tcp_syncookies": "1",
    "ipv4/tcp_timestamps": "1",
    "ipv4/tcp_tw_reuse": "2",
    "ipv4/tcp_window_scaling": "1",
    "ipv6/conf/all/disable_ipv6": "0",
    "ipv6/conf/all/forwarding": "0",
    "ipv6/ip_nonlocal_bind": "0",
    "ipv4/conf/all/arp_filter": "0",
    "ipv4/conf/all/rp_filter": "0",
    "ipv4/conf/all/route_localnet": "0",
}
# What each interface has for itself; compared with the values for new interfaces in the same namespace.
_OF_INTERFACE = (
    "ipv4/conf/{}/accept_local",
    "ipv4/conf/{}/accept_redirects",
    "ipv4/conf/{}/arp_accept",
    "ipv4/conf/{}/arp_announce",
    "ipv4/conf/{}/arp_filter",
    "ipv4/conf/{}/arp_ignore",
    "ipv4/conf/{}/arp_notify",
    "ipv4/conf/{}/forwarding",
    "ipv4/conf/{}/log_martians",
    "ipv4/conf/{}/proxy_arp",
    "ipv4/conf/{}/route_localnet",
    "ipv4/conf/{}/rp_filter",
    "ipv4/conf/{}/secure_redirects",
    "ipv4/conf/{}/send_redirects",
    "ipv4/conf/{}/src_valid_mark",
    "ipv6/conf/{}/accept_redirects",
    "ipv6/conf/{}/disable_ipv6",
    "ipv6/conf/{}/forwarding",
    "ipv6/conf/{}/hop_limit",
    "ipv6/conf/{}/ndisc_notify",
    "ipv6/conf/{}/proxy_ndp",
)


def read_sysctls(interfaces: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """The settings of the calling thread's namespace that differ from a new one's, as (name, value), shared ones first.

    interfaces: whose own settings to read. A setting that this kernel does not have is left out.
    """
    found = []
    for name, born in _SHARED.items():
        value = read_sysctl(name)
        if value is not None and value.split() != born.split():
            found.append((name, value))
    defaults = {name: read_sysctl(name.format("default")) for name in _OF_INTERFACE} if interfaces else {}
    for interface in interfaces:
        for name, default in defaults.items():
            path = name.format(interface)
            value = read_sysctl(path)
            if value is not None and value != default:
                found.append((path, value))
    return tuple(found)


def read_sysctl(name: str) -> str | None:
    """One setting with single spaces; None when this kernel does not have it."""
    try:
        fd = os.open(_ROOT + name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return " ".join(os.read(fd, 4096).decode(errors="replace").split())
    except OSError:
        return None
    finally:
        os.close(fd)


def write_sysctl(name: str, value: str) -> None:
    """Set one setting of the calling thread's namespace. Raises OSError."""
    fd = os.open(_ROOT + name, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)
