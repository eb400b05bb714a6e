"""The agent brings a namespace to the state of another one: with the real agent, and veths in the place of NICs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from oci_runtime.agent.client import AgentClient
from oci_runtime.errors import InvalidInput, NotFound, OciRuntimeError
from oci_runtime.netlink import objects
from oci_runtime.netlink.connection import Connection
from oci_runtime.network.plan import GuestNetwork, NetworkSettings, NicPlan, plan_network
from oci_runtime.network.snapshot import NamespaceSnapshot, take_snapshot
from oci_runtime.sandbox.network import build_request
from tests.engine import wait_until
from tests.network_agent import running_agent
from tests.network_lab import Netns, join_namespaces, settle

pytestmark = pytest.mark.root

FLAGS = objects.IFF_UP | objects.IFF_NOARP | objects.IFF_PROMISC | objects.IFF_ALLMULTI | objects.IFF_MULTICAST
CONFIGURATION = """ip addr add 10.1.2.3/24 brd + dev eth0
ip addr add 10.1.2.4/24 brd + dev eth0
ip addr add 10.1.9.9/32 dev eth0 label eth0:x
ip -6 addr add fd00::2/64 dev eth0
ip -6 addr add fd00::3/64 dev eth0 noprefixroute
ip addr add 10.7.0.1/32 dev net1
ip addr add 10.6.0.1 peer 10.6.0.2 dev net1
ip route add 10.7.0.254 dev net1 scope link
ip route add 10.8.0.0/16 via 10.7.0.254
ip route add default via 10.1.2.1
ip route add default via 10.1.2.2 metric 500
ip route add 192.168.0.0/16 nexthop via 10.1.2.5 weight 3 nexthop via 10.1.2.6
ip -6 route add default via fd00::1 metric 77 mtu 1300
ip -6 route add 2001:db8::/32 nexthop via fe80::5 dev eth0 nexthop via fe80::6 dev net1
ip rule add from 10.1.2.3 lookup 100
ip route add blackhole 10.9.0.0/16 table 100
ip route add default via 10.7.0.254 dev net1 table 100
ip neigh add 10.1.2.9 lladdr 02:00:00:00:00:09 dev eth0
ip neigh add proxy 10.1.2.8 dev eth0
ip route add 10.50.0.0/16 via inet6 fe80::5 dev eth0
ip rule add ipproto tcp dport 80-90 fwmark 0x1/0xf table 200 prio 50
ip rule add not to 10.0.0.0/8 iif eth0 lookup 300 prio 60
ip rule add lookup main suppress_prefixlength 0 prio 70
ip rule add uidrange 0-99 prohibit prio 80
ip -6 rule add from fd00::/64 table 5000 prio 99
ip -6 route add unreachable fd99::/64 table 5000
ip route add 203.0.113.0/24 via 198.51.100.7 dev net1 onlink
ip route add 203.0.114.0/24 via 10.1.2.1 advmss 1000 initcwnd 20 src 10.1.2.4
ip route del 10.1.2.0/24 dev eth0 src 10.1.2.3
ip route add 10.1.2.0/24 dev eth0 src 10.1.2.4 metric 5
sysctl -q net.core.somaxconn=512 net.ipv4.conf.eth0.rp_filter=2 net.ipv4.ip_unprivileged_port_start=80
ip link set net1 allmulticast on"""


@dataclass
class Mirror:
    """A pod's namespace, and a guest that is to look like it."""

    pod: Netns
    guest: Netns
    peer: Netns
    agent: AgentClient
    carried: dict[int, NicPlan] = field(default_factory=dict)

    def wanted(self) -> GuestNetwork:
        plan = plan_network(self.look(self.pod), NetworkSettings(), carried=self.carried)
        self.carried = {nic.index: nic for nic in plan.nics}
        return plan.guest

    @staticmethod
    def look(netns: Netns) -> NamespaceSnapshot:
        return netns.call(lambda: take_snapshot(Connection()))

    async def update(self, removed: list[str] | None = None) -> None:
        await self.agent.update_network(self.request(removed))

    def request(self, removed: list[str] | None = None) -> Any:
        request = build_request(self.wanted(), removed or [])
        request.wait_device_ms = 100
        for interface in request.interfaces:
            interface.match_mac = ""  # a veth is found by its name
        return request

    def differences(self) -> dict[str, tuple[Any, Any]]:
        """What only the pod has, and what only the guest has."""
        pod, guest = self.look(self.pod), self.look(self.guest)
        found = {}
        for what in ("addresses", "routes", "rules", "neighbours", "sysctls"):
            ours, theirs = set(getattr(pod, what)), set(getattr(guest, what))
            if ours != theirs:
                found[what] = (ours - theirs, theirs - ours)
        for name in ("eth0", "net1"):
            mine, other = pod.find_link(name), guest.find_link(name)
            assert mine is not None and other is not None
            for what in ("mac", "mtu", "flags", "tx_queue_length"):
                values = [getattr(link, what) for link in (mine, other)]
                if what == "flags":
                    values = [value & FLAGS for value in values]  # whether a link works is known a moment later
                if values[0] != values[1]:
                    found[f"{name} {what}"] = (values[0], values[1])
        return found


@pytest.fixture
def namespaces() -> Iterator[tuple[Netns, Netns, Netns]]:
    with ExitStack() as stack:
        pod, guest, peer = (stack.enter_context(Netns()) for _ in range(3))
        for number, name in enumerate(("eth0", "net1")):
            mac = f"02:00:00:00:00:0{number + 2}"
            join_namespaces(pod, name, peer, f"p{name}", mac=mac, mtu=1400)
            guest.run(f"ip link add {name} address {mac} type veth peer name g{name} netns {peer.path}")
            peer.run(f"ip link set g{name} up")
        for netns in (pod, guest):
            netns.run("ip link set lo up")
        yield pod, guest, peer


@pytest.fixture
async def mirror(namespaces: tuple[Netns, Netns, Netns]) -> AsyncIterator[Mirror]:
    pod, guest, peer = namespaces
    async with running_agent(guest) as (agent, _):
        yield Mirror(pod, guest, peer, agent)


async def test_everything_is_mirrored(mirror: Mirror) -> None:
    for command in CONFIGURATION.splitlines():
        mirror.pod.run(command)
    settle(mirror.pod)
    await mirror.update()
    assert mirror.differences() == {}
    assert "nodad" in mirror.guest.run("ip -6 addr")
    await mirror.update()
    assert mirror.differences() == {}


async def test_an_update_ends_when_the_links_work(mirror: Mirror) -> None:
    mirror.pod.run("ip addr add 10.1.2.3/24 dev eth0")
    mirror.peer.run("ip link set geth0 down")
    updating = asyncio.create_task(mirror.update())
    await asyncio.to_thread(wait_until, lambda: "eth0" in mirror.guest.run("ip link show up"), "eth0 is up")
    assert "LOWER_UP" not in mirror.guest.run("ip link show eth0")
    mirror.peer.run("ip link set geth0 up")
    await updating
    link = mirror.look(mirror.guest).find_link("eth0")
    assert link is not None and link.works


async def test_a_link_without_a_carrier_does_not_hold_up_the_pod(mirror: Mirror) -> None:
    mirror.peer.run("ip link set gnet1 down")
    await mirror.update()
    link = mirror.look(mirror.guest).find_link("net1")
    assert link is not None and link.up and not link.works
    assert "LOWER_UP" in mirror.guest.run("ip link show eth0")


async def test_changes_and_removals_follow(mirror: Mirror) -> None:
    for command in CONFIGURATION.splitlines():
        mirror.pod.run(command)
    await mirror.update()
    for command in (
        "ip addr del 10.1.9.9/32 dev eth0",
        "ip route replace default via 10.1.2.7",
        "ip route del 10.50.0.0/16",
        "ip rule del prio 50",
        "ip rule add from 10.1.2.3 lookup 100 prio 40",
        "ip neigh del 10.1.2.9 dev eth0",
        "ip link set net1 mtu 1200",
        "ip addr add 10.1.3.1/24 brd + dev eth0",
        "ip -6 route flush table 5000",
    ):
        mirror.pod.run(command)
    await mirror.update()
    assert mirror.differences() == {}
    mirror.pod.run("ip link set net1 down")
    await mirror.update()
    assert mirror.guest.json("ip -j link show dev net1")[0]["operstate"] == "DOWN"


async def test_what_others_made_in_the_guest_survives(mirror: Mirror) -> None:
    mirror.pod.run("ip addr add 10.1.2.3/24 brd + dev eth0")
    await mirror.update()
    for command in (
        "ip addr add 10.99.0.1/24 dev eth0",
        "ip route add 10.98.0.0/16 via 10.1.2.1",
        "ip rule add from 10.99.0.1 lookup 77",
        "ip neigh add 10.1.2.77 lladdr 02:00:00:00:00:77 dev eth0",
    ):
        mirror.guest.run(command)
    mirror.pod.run("ip addr add 10.1.2.4/24 brd + dev eth0")
    mirror.pod.run("ip addr del 10.1.2.3/24 dev eth0")
    mirror.pod.run("ip addr add 10.1.2.5/24 brd + dev eth0")
    await mirror.update()
    shown = mirror.guest.run("ip addr") + mirror.guest.run("ip route")
    assert "10.1.2.5" in shown and "10.1.2.3" not in shown
    assert "10.99.0.1/24" in shown and "10.99.0.0/24 dev eth0 proto kernel" in shown
    assert "10.99.0.1 lookup 77" in mirror.guest.run("ip rule")
    assert "10.1.2.77" in mirror.guest.run("ip neigh")


async def test_a_nic_that_does_not_appear(mirror: Mirror) -> None:
    request = mirror.request()
    request.interfaces[1].match_mac = "02:00:00:00:00:99"
    with pytest.raises(NotFound, match=r"net1 \(02:00:00:00:00:99\) did not appear in the guest within 100 ms"):
        await mirror.agent.update_network(request)


async def test_a_removed_interface_goes_down(mirror: Mirror) -> None:
    mirror.pod.run("ip addr add 10.1.2.3/24 brd + dev eth0")
    await mirror.update()
    mirror.pod.run("ip link del net1")
    await mirror.update(["net1"])
    assert mirror.guest.json("ip -j link show dev net1")[0]["operstate"] == "DOWN"
    await mirror.update(["net1", "unknown0"])


async def test_the_listing_is_what_is_there(mirror: Mirror) -> None:
    for command in CONFIGURATION.splitlines():
        mirror.pod.run(command)
    await mirror.update()
    shown = await mirror.agent.list_network()
    assert [interface.name for interface in shown.interfaces] == ["eth0", "net1"]
    assert {entry.address for entry in shown.interfaces[0].addresses} >= {"10.1.2.3", "10.1.2.4", "fd00::2"}
    assert len(shown.routes) == len(mirror.look(mirror.guest).routes)
    assert {rule.priority for rule in shown.rules} >= {50, 60, 70, 80, 99}
    assert [entry.address for entry in shown.neighbours] == ["10.1.2.9"]


def _spoil_address(request: Any) -> None:
    request.interfaces[0].addresses.add(address="10.0.0", prefix_length=8)


def _spoil_route(request: Any) -> None:
    request.routes.add(family="inet", destination="10.77.0.0/16", gateway="198.51.100.1")


def _spoil_device(request: Any) -> None:
    request.routes.add(family="inet", destination="10.77.0.0/16", device="none0")


def _spoil_sysctl(request: Any) -> None:
    request.sysctls["../kernel/panic"] = "1"


def _spoil_other_sysctl(request: Any) -> None:
    request.sysctls["kernel/panic"] = "1"


def _spoil_mtu(request: Any) -> None:
    request.interfaces[0].mtu = 70000


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (_spoil_address, InvalidInput, "'10.0.0' is not an address"),
        (_spoil_route, OciRuntimeError, "route 10.77.0.0/16 via 198.51.100.1 in the guest: Network is unreachable"),
        (_spoil_device, InvalidInput, "interface none0, which the guest does not have"),
        (_spoil_sysctl, InvalidInput, "'../kernel/panic': not a name below /proc/sys/net"),
        (_spoil_other_sysctl, InvalidInput, "'kernel/panic': not a name below /proc/sys/net"),
        (_spoil_mtu, OciRuntimeError, "interface eth0 in the guest: .*mtu greater than device maximum"),
    ],
)
async def test_wrong_input_names_the_thing(mirror: Mirror, spoil: Any, kind: type[OciRuntimeError], words: str) -> None:
    mirror.pod.run("ip addr add 10.1.2.3/24 brd + dev eth0")
    request = mirror.request()
    spoil(request)
    with pytest.raises(kind, match=words):
        await mirror.agent.update_network(request)
    await mirror.update()
    assert mirror.differences() == {}
