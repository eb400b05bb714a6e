"""Plans: which interfaces a pod gets and as what, refusals that name the interface, and what the guest is told."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from oci_runtime.errors import InvalidInput, OciRuntimeError, Unsupported
from oci_runtime.netlink import objects
from oci_runtime.netlink.objects import Address, Link, NextHop, Route, Rule
from oci_runtime.network.plan import MAX_MTU, GuestNetwork, NetworkSettings, NicPlan, plan_network, settings_from
from oci_runtime.network.snapshot import NamespaceSnapshot, is_configured

DATA = Path(__file__).parent.parent / "data" / "network"
UP = objects.IFF_UP | objects.IFF_MULTICAST
LOOPBACK = Link(index=1, name="lo", flags=objects.IFF_UP, link_type=772, mac="00:00:00:00:00:00", mtu=65536)


def veth(index: int = 2, name: str = "eth0", **changes: object) -> Link:
    fields = {"kind": "veth", "mac": f"02:00:00:00:00:{index:02x}", "flags": UP} | changes
    return Link(index=index, name=name, **fields)  # type: ignore[arg-type]


def snapshot(*links: Link, **more: object) -> NamespaceSnapshot:
    return NamespaceSnapshot(links=(LOOPBACK, *links), **more)  # type: ignore[arg-type]


def recorded(name: str) -> NamespaceSnapshot:
    """A namespace as the kernel of a machine with all kinds described it (data/network/record.py)."""
    dumps = {kind: [bytes.fromhex(body) for body in bodies] for kind, bodies in _kinds()[name].items()}
    links = tuple(objects.parse_link(body) for body in dumps["links"])
    names = {link.index: link.name for link in links}
    routes = [objects.parse_route(body, names) for body in dumps["routes"]]
    neighbours = [objects.parse_neighbour(body, names) for body in dumps["neighbours"]]
    return NamespaceSnapshot(
        links=links,
        addresses=tuple(objects.parse_address(body, names) for body in dumps["addresses"]),
        routes=tuple(route for route in routes if route is not None),
        rules=tuple(rule for rule in map(objects.parse_rule, dumps["rules"]) if is_configured(rule)),
        neighbours=tuple(entry for entry in neighbours if entry is not None),
    )


def _kinds() -> dict[str, dict[str, list[str]]]:
    kinds: dict[str, dict[str, list[str]]] = json.loads((DATA / "kinds.json").read_text())
    return kinds


def test_one_interface() -> None:
    plan = plan_network(snapshot(veth(mtu=1400)), NetworkSettings())
    assert plan.nics == (
        NicPlan(
            name="eth0",
            index=2,
            kind="veth",
            mac="02:00:00:00:00:02",
            nic_mac="02:00:00:00:00:02",
            mtu=1400,
            model="tcfilter",
            tap_name="vmtap2",
        ),
    )
    (interface,) = plan.guest.interfaces
    assert (interface.name, interface.match_mac, interface.mtu, interface.up) == (
        "eth0",
        "02:00:00:00:00:02",
        1400,
        True,
    )


def test_loopback_own_and_excluded_devices_are_left_out() -> None:
    seen = snapshot(veth(2), veth(3, "vmtap2"), veth(4, "eth1"), veth(5, "eth2"))
    plan = plan_network(seen, NetworkSettings(), own={3}, excluded={"eth1"})
    assert [nic.name for nic in plan.nics] == ["eth0", "eth2"]


def test_an_interface_that_is_down_waits_and_one_that_went_down_stays() -> None:
    down = veth(flags=objects.IFF_MULTICAST)
    assert plan_network(snapshot(down), NetworkSettings()).nics == ()
    (known,) = plan_network(snapshot(veth()), NetworkSettings()).nics
    plan = plan_network(snapshot(down), NetworkSettings(), carried={2: known})
    assert plan.nics == (known,)
    assert not plan.guest.interfaces[0].up


def test_without_interfaces_the_guest_is_left_alone() -> None:
    plan = plan_network(snapshot(sysctls=(("ipv4/ip_forward", "1"),)), NetworkSettings())
    assert plan.guest == GuestNetwork()


def test_fallback_tunnels_of_a_new_namespace_do_not_matter() -> None:
    tunnel = Link(index=9, name="sit0", kind="sit", link_type=776, flags=0)
    assert [nic.name for nic in plan_network(snapshot(tunnel, veth()), NetworkSettings()).nics] == ["eth0"]


def test_a_known_nic_follows_name_mac_and_mtu_but_keeps_its_own_address() -> None:
    (known,) = plan_network(snapshot(veth()), NetworkSettings()).nics
    changed = veth(name="net1", mac="02:00:00:00:00:99", mtu=9000)
    plan = plan_network(snapshot(changed), NetworkSettings(), carried={2: known})
    (nic,) = plan.nics
    assert (nic.name, nic.mac, nic.mtu, nic.nic_mac, nic.tap_name) == (
        "net1",
        "02:00:00:00:00:99",
        9000,
        "02:00:00:00:00:02",
        "vmtap2",
    )
    assert plan.guest.interfaces[0].match_mac == "02:00:00:00:00:02"


def test_a_known_nic_stays_when_its_interface_is_set_to_what_cannot_be() -> None:
    (known,) = plan_network(snapshot(veth()), NetworkSettings()).nics
    plan = plan_network(snapshot(veth(mtu=65535)), NetworkSettings(), carried={2: known}, strict=False)
    assert plan.nics == (known,) and plan.guest.interfaces[0].mtu == MAX_MTU
    assert plan.refused[0][0] == "eth0"


def test_two_interfaces_of_one_address_get_nics_of_two() -> None:
    seen = snapshot(veth(2, mac="02:00:00:00:00:aa"), veth(3, "net1", mac="02:00:00:00:00:aa", kind="ipvlan"))
    plan = plan_network(seen, NetworkSettings())
    assert len({nic.nic_mac for nic in plan.nics}) == 2
    assert {interface.mac for interface in plan.guest.interfaces} == {"02:00:00:00:00:aa"}


def test_a_tap_that_nobody_serves_becomes_the_nic() -> None:
    free = veth(kind="tun", tun_type=2)
    served = veth(3, "tap1", kind="tun", tun_type=2, tun_queues=1)
    first, second = plan_network(snapshot(free, served), NetworkSettings()).nics
    assert (first.model, first.tap_name) == ("direct", "eth0")
    assert (second.model, second.tap_name) == ("tcfilter", "vmtap3")


@pytest.mark.parametrize(
    ("vhost", "vcpus", "queues"), [(False, 4, 1), (True, 1, 1), (True, 4, 4), (True, 64, 8)], ids=str
)
def test_queues(vhost: bool, vcpus: int, queues: int) -> None:
    (nic,) = plan_network(snapshot(veth()), NetworkSettings(vhost=vhost, vcpus=vcpus)).nics
    assert (nic.queues, nic.vhost) == (queues, vhost)


def test_model_none_carries_nothing() -> None:
    plan = plan_network(snapshot(veth(kind="vxlan")), NetworkSettings(model="none"))
    assert plan.nics == () and plan.guest.interfaces == ()


@pytest.mark.parametrize(
    ("link", "settings", "words"),
    [
        (veth(kind=""), NetworkSettings(), "interface eth0 is hardware"),
        (veth(kind="vxlan"), NetworkSettings(), "interface eth0 is kind vxlan"),
        (veth(kind="bridge"), NetworkSettings(), "interface eth0 is kind bridge"),
        (veth(kind="tun", tun_type=1), NetworkSettings(), "interface eth0 is a tun device"),
        (veth(mac=""), NetworkSettings(), "interface eth0 has no hardware address"),
        (veth(mac="01:00:00:00:00:01"), NetworkSettings(), "interface eth0: hardware address 01:00:00:00:00:01"),
        (veth(master=7), NetworkSettings(), "interface eth0 belongs to a bridge"),
        (veth(mtu=MAX_MTU + 1), NetworkSettings(), f"interface eth0: MTU {MAX_MTU + 1}"),
        (veth(mtu=60), NetworkSettings(), "interface eth0: MTU 60"),
        (veth(kind="macvlan"), NetworkSettings(model="macvtap"), "interface eth0 is macvlan"),
        (veth(), NetworkSettings(model="macvtap", rx_rate_bps=1), "interface eth0: network.rx_rate_limiter_max_rate"),
        (veth(kind="tun", tun_type=2), NetworkSettings(tx_rate_bps=1), "interface eth0 is a tap device"),
    ],
)
def test_refusals_name_the_interface(link: Link, settings: NetworkSettings, words: str) -> None:
    with pytest.raises((Unsupported, InvalidInput)) as caught:
        plan_network(snapshot(link), settings)
    assert words in caught.value.message
    plan = plan_network(snapshot(link, veth(8, "eth8")), NetworkSettings(), strict=False)
    if settings == NetworkSettings():
        assert [nic.name for nic in plan.nics] == ["eth8"]
        assert plan.refused[0][0] == "eth0" and words in plan.refused[0][1]


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'bridge' is none of tcfilter, macvtap, none"):
        plan_network(snapshot(veth()), NetworkSettings(model="bridge"))


def test_there_is_a_limit_of_interfaces() -> None:
    with pytest.raises(Unsupported, match="at most 16"):
        plan_network(snapshot(*(veth(index, f"e{index}") for index in range(2, 19))), NetworkSettings())


def test_routes_rules_and_settings_of_other_devices_stay_behind() -> None:
    kept = (
        Route(family="inet", gateway="10.0.0.1", device="eth0"),
        Route(family="inet", destination="10.9.0.0/16", type="blackhole"),
        Route(family="inet6", destination="fd09::/64", type="unreachable", device="lo"),
        Route(family="inet", destination="10.8.0.0/16", next_hops=(NextHop(device="eth0"), NextHop(device="eth0"))),
    )
    left = (
        Route(family="inet", destination="10.1.0.0/16", device="wg0"),
        Route(family="inet6", destination="::1/128", device="lo", protocol="kernel"),
        Route(family="inet", destination="10.7.0.0/16", next_hops=(NextHop(device="eth0"), NextHop(device="wg0"))),
    )
    rules = (Rule(family="inet", priority=1, table=9), Rule(family="inet", priority=2, input_interface="wg0"))
    sysctls = (("core/somaxconn", "1"), ("ipv4/conf/eth0/rp_filter", "2"), ("ipv4/conf/wg0/rp_filter", "2"))
    seen = snapshot(
        veth(), veth(9, "wg0", flags=0), routes=kept + left, rules=rules, sysctls=(*sysctls, ("ipv4/conf/all/x", "1"))
    )
    guest = plan_network(seen, NetworkSettings()).guest
    assert guest.routes == kept
    assert guest.rules == rules[:1]
    assert guest.sysctls == (*sysctls[:2], ("ipv4/conf/all/x", "1"))


@pytest.mark.parametrize(
    "more",
    [
        {"routes": (Route(family="inet", destination="10.0.0.0/8", device="eth0", unsupported="encapsulation"),)},
        {"rules": (Rule(family="inet", priority=5, unsupported="l3mdev"),)},
    ],
)
def test_what_cannot_be_expressed_is_refused(more: dict[str, object]) -> None:
    with pytest.raises(Unsupported, match="not supported in a virtual machine"):
        plan_network(snapshot(veth(), **more), NetworkSettings())


def test_settings_come_from_the_configuration_and_the_host() -> None:
    section = SimpleNamespace(
        model="tcfilter", disable_vhost_net=False, rx_rate_limiter_max_rate=8, tx_rate_limiter_max_rate=9
    )
    settings = settings_from(section, vcpus=4, vhost_available=True)
    assert settings == NetworkSettings(vhost=True, vcpus=4, rx_rate_bps=8, tx_rate_bps=9)
    section.disable_vhost_net = True
    assert settings_from(section, vcpus=4, vhost_available=True).queues == 1


def test_recorded_ipvlan_vlan_and_macvlan() -> None:
    plan = plan_network(recorded("pod"), NetworkSettings())
    nics = {nic.name: nic for nic in plan.nics}
    assert {name: nic.kind for name, nic in nics.items()} == {
        "eth0": "ipvlan",
        "ipv1": "ipvlan",
        "vlan7": "vlan",
        "mac1": "macvlan",
    }
    # ipvlan and vlan devices have their parent's address: three times the same, but the NICs must differ.
    assert {nics[name].mac for name in ("eth0", "ipv1", "vlan7")} == {"02:00:00:00:10:00"}
    assert len({nic.nic_mac for nic in plan.nics}) == 4
    assert nics["vlan7"].mtu == 1400 and nics["mac1"].mac == "02:00:00:00:10:03"
    addresses = {entry.address: entry for interface in plan.guest.interfaces for entry in interface.addresses}
    assert addresses["10.3.0.2"] == Address(
        family="inet", device="vlan7", address="10.3.0.2", prefix_length=24, broadcast="10.3.0.255"
    )
    assert "fd00:1::2" in addresses
    defaults = {(route.family, route.table): route.gateway for route in plan.guest.routes if not route.destination}
    assert defaults == {("inet", 254): "10.1.0.1", ("inet6", 254): "fd00:1::1", ("inet", 100): "10.4.0.1"}
    assert [(rule.priority, rule.source, rule.table) for rule in plan.guest.rules] == [(500, "10.4.0.2/32", 100)]


def test_recorded_unknown_kind() -> None:
    with pytest.raises(Unsupported, match="interface dum0 is kind dummy"):
        plan_network(recorded("odd"), NetworkSettings())


@pytest.mark.parametrize("kind", ["ipvlan", "macvlan"])
def test_recorded_kinds_take_no_macvtap(kind: str) -> None:
    with pytest.raises(OciRuntimeError, match="takes no macvtap"):
        only = [link for link in recorded("pod").links if link.kind == kind]
        plan_network(snapshot(*only), NetworkSettings(model="macvtap"))
