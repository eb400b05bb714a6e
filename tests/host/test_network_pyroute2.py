"""Our netlink codec against the library that it stands in for: pyroute2 sees in a namespace what we see in it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from pyroute2 import IPRoute

from oci_runtime.host import syscalls
from oci_runtime.netlink.connection import Connection
from oci_runtime.netlink.objects import Route
from oci_runtime.network.snapshot import NamespaceSnapshot, take_snapshot
from tests.network_lab import Netns

pytestmark = pytest.mark.root
_COMMANDS = """
ip link add eth0 mtu 1400 address 02:00:00:00:00:01 type veth peer name eth1
ip link set eth0 up
ip link set eth1 up
ip addr add 10.0.0.2/24 broadcast 10.0.0.255 dev eth0
ip addr add 10.1.0.2 peer 10.1.0.1 dev eth0 label eth0:a
ip addr add fd00::2/64 dev eth0
ip route add default via 10.0.0.1
ip route add 10.8.0.0/16 via inet6 fe80::1 dev eth0 metric 7
ip route add 203.0.113.0/24 nexthop via 10.0.0.5 dev eth0 weight 3 nexthop via 10.0.0.6 dev eth0
ip route add blackhole 10.9.0.0/16 table 100
ip -6 route add default via fe80::1 dev eth0 metric 1024
ip -6 route add 2001:db8::/32 via fd00::1 table 5000
ip rule add from 10.0.0.2 table 100 priority 99
ip rule add fwmark 1/15 ipproto tcp table 200 priority 50
ip -6 rule add to fd00::/64 table 5000 priority 40
ip neigh add 10.0.0.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent
ip -6 neigh add fd00::9 lladdr 02:00:00:00:00:0a dev eth0 nud permanent
"""
_FAMILIES = {2: "inet", 10: "inet6"}
_PERMANENT = 128

Seen = tuple[NamespaceSnapshot, dict[str, list[Any]]]


@pytest.fixture(scope="module")
def seen() -> Seen:
    """One namespace, read by us and by pyroute2, in a thread that lives in it."""
    found: list[Seen] = []
    with Netns() as netns:
        for command in _COMMANDS.strip().splitlines():
            netns.run(command)

        def read() -> None:
            syscalls.setns(netns.fd, syscalls.CLONE_NEWNET)
            with IPRoute() as library:
                theirs = {
                    "links": list(library.get_links()),
                    "addresses": list(library.get_addr()),
                    "routes": [*library.get_routes(family=2), *library.get_routes(family=10)],
                    "rules": [*library.get_rules(family=2), *library.get_rules(family=10)],
                    "neighbours": list(library.get_neighbours()),
                }
            with Connection() as ours:
                found.append((take_snapshot(ours), theirs))

        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    return found[0]


def names(theirs: dict[str, list[Any]]) -> dict[int, str]:
    """Interface numbers to names."""
    return {link["index"]: link.get_attr("IFLA_IFNAME") for link in theirs["links"]}


def prefix(message: Any, attribute: str, length: str) -> str:
    """An address with its length, "" without one."""
    address = message.get_attr(attribute)
    return f"{address}/{message[length]}" if address else ""


def test_links(seen: Seen) -> None:
    ours, theirs = seen
    attributes = ("IFLA_IFNAME", "IFLA_MTU", "IFLA_ADDRESS", "IFLA_TXQLEN")
    expected = {(link["index"], *(link.get_attr(name) for name in attributes)) for link in theirs["links"]}
    assert {(link.index, link.name, link.mtu, link.mac, link.tx_queue_length) for link in ours.links} == expected
    assert {"lo", "eth0", "eth1"} <= {link[1] for link in expected}


def test_addresses(seen: Seen) -> None:
    ours, theirs = seen
    expected = set()
    for address in theirs["addresses"]:
        local, target = address.get_attr("IFA_LOCAL"), address.get_attr("IFA_ADDRESS")
        peer = target if local and local != target else ""
        device = names(theirs)[address["index"]]
        expected.add((device, local or target, address["prefixlen"], peer, address.get_attr("IFA_BROADCAST") or ""))
    assert {(a.device, a.address, a.prefix_length, a.peer, a.broadcast) for a in ours.addresses} == expected
    assert ("eth0", "10.1.0.2", 32, "10.1.0.1", "") in expected


def test_routes(seen: Seen) -> None:
    ours, theirs = seen
    expected = set()
    for route in theirs["routes"]:
        via = route.get_attr("RTA_VIA")
        hops = route.get_attr("RTA_MULTIPATH") or []
        single = route.get_attr("RTA_GATEWAY") or (via["addr"] if via else "")
        gateways = tuple(hop.get_attr("RTA_GATEWAY") for hop in hops) or (single,)
        device = "" if hops else names(theirs).get(route.get_attr("RTA_OIF"), "")
        identity = (_FAMILIES[route["family"]], prefix(route, "RTA_DST", "dst_len"), route.get_attr("RTA_TABLE"))
        expected.add((*identity, device, gateways, route.get_attr("RTA_PRIORITY") or 0))
    shown = {_identify(route) for route in ours.routes}
    assert shown <= expected
    # The kernel's own entries (table 255) for local and broadcast addresses are no concern of a pod's guest.
    assert {entry for entry in expected if entry[2] != 255} <= shown


def _identify(route: Route) -> tuple[Any, ...]:
    gateways = tuple(hop.gateway for hop in route.next_hops) or (route.gateway,)
    return (route.family, route.destination, route.table, route.device, gateways, route.metric)


def test_rules(seen: Seen) -> None:
    ours, theirs = seen
    expected = {
        (
            _FAMILIES[rule["family"]],
            rule.get_attr("FRA_PRIORITY") or 0,
            rule.get_attr("FRA_TABLE"),
            prefix(rule, "FRA_SRC", "src_len"),
            prefix(rule, "FRA_DST", "dst_len"),
            rule.get_attr("FRA_FWMARK") or 0,
            rule.get_attr("FRA_IP_PROTO") or 0,
        )
        for rule in theirs["rules"]
        if (rule.get_attr("FRA_PRIORITY") or 0) not in (0, 32766, 32767)
    }
    shown = {(r.family, r.priority, r.table, r.source, r.destination, r.mark, r.ip_protocol) for r in ours.rules}
    assert shown == expected and len(expected) == 3


def test_neighbours(seen: Seen) -> None:
    ours, theirs = seen
    wanted = {(n["state"], n.get_attr("NDA_DST"), n.get_attr("NDA_LLADDR")) for n in theirs["neighbours"]}
    permanent = {entry for entry in wanted if entry[0] == _PERMANENT}
    shown = {(entry.state, entry.address, entry.mac) for entry in ours.neighbours}
    assert permanent <= shown <= wanted and len(permanent) == 2
