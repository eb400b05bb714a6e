"""Netlink messages: the codec's lengths, and every value surviving the way to the kernel's form and back."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_runtime.netlink import codec, objects, requests, wire
from oci_runtime.netlink.objects import Address, Neighbour, NextHop, Route, Rule
from oci_runtime.ttrpc.proto import agent_lean, agent_pb2

NAMES = {1: "lo", 2: "eth0", 3: "net1"}
INDEXES = {name: index for index, name in NAMES.items()}

ROUTES = (
    Route(family="inet", destination="", gateway="10.0.0.1", device="eth0"),
    Route(family="inet", destination="10.0.0.0/24", device="eth0", source="10.0.0.2", scope="link", protocol="kernel"),
    Route(family="inet", destination="10.9.0.0/16", type="blackhole", table=100),
    Route(family="inet", destination="10.8.0.0/16", gateway="fe80::1", via_family="inet6", device="net1", metric=7),
    Route(family="inet", destination="192.0.2.0/24", gateway="198.51.100.1", device="net1", onlink=True, tos=8),
    Route(
        family="inet",
        destination="203.0.113.0/24",
        next_hops=(NextHop(gateway="10.0.0.5", device="eth0", weight=3), NextHop(gateway="10.0.0.6", device="net1")),
        metrics=(("advmss", 1300), ("mtu", 1340)),
    ),
    Route(family="inet6", destination="", gateway="fe80::1", device="eth0", metric=1024, preference=1, table=5000),
    Route(family="inet6", destination="fd00::/64", device="eth0", metric=256, protocol="kernel"),
    Route(
        family="inet6",
        destination="2001:db8::/32",
        next_hops=(NextHop(gateway="fe80::1", device="eth0"), NextHop(gateway="fe80::2", device="net1", weight=256)),
    ),
    Route(family="inet", destination="10.7.0.0/16", device="eth0", scope="77", protocol="186"),
)
RULES = (
    Rule(family="inet", priority=100, source="10.0.0.2/32", table=100, mask=0),
    Rule(family="inet6", priority=99, destination="fd00::/64", table=5000, invert=True, protocol="static"),
    Rule(family="inet", priority=50, mark=1, mask=15, ip_protocol=6, destination_ports="80-90", table=200, tos=8),
    Rule(family="inet", priority=40, input_interface="lo", output_interface="eth0", action="unreachable"),
    Rule(family="inet", priority=30, uid_range="0-1000", source_ports="53-53", table=7, suppress_prefix_length=1),
    Rule(family="inet", priority=20, action="goto", goto=50),
)
ADDRESSES = (
    Address(family="inet", device="eth0", address="10.0.0.2", prefix_length=24, broadcast="10.0.0.255"),
    Address(family="inet", device="eth0", address="10.0.0.2", prefix_length=32, peer="10.0.0.1", scope="link"),
    Address(family="inet", device="net1", address="10.1.0.2", prefix_length=8, label="net1:a", metric=9),
    Address(family="inet6", device="eth0", address="fd00::2", prefix_length=64, flags=objects.IFA_F_NOPREFIXROUTE),
    Address(family="inet6", device="eth0", address="fe80::1", prefix_length=64, scope="link"),
)
NEIGHBOURS = (
    Neighbour(address="10.0.0.9", device="eth0", mac="02:00:00:00:00:09"),
    Neighbour(address="fd00::9", device="net1", mac="02:00:00:00:00:0a", flags=0x80),
    Neighbour(address="10.0.0.8", device="eth0", state=0, flags=objects.NTF_PROXY),
)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.destination or "default")
def test_a_route_survives(route: Route) -> None:
    assert objects.parse_route(requests.route(route, INDEXES.__getitem__), NAMES) == route


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule.priority))
def test_a_rule_survives(rule: Rule) -> None:
    assert objects.parse_rule(requests.rule(rule)) == rule


@pytest.mark.parametrize("address", ADDRESSES, ids=lambda address: address.address)
def test_an_address_survives(address: Address) -> None:
    body = requests.address(address, INDEXES[address.device], no_detection=False)
    assert objects.parse_address(body, NAMES) == address.replace(permanent=False)


@pytest.mark.parametrize("entry", NEIGHBOURS, ids=lambda entry: entry.address)
def test_a_neighbour_survives(entry: Neighbour) -> None:
    assert objects.parse_neighbour(requests.neighbour(entry, INDEXES[entry.device]), NAMES) == entry


@pytest.mark.parametrize("pb", [agent_pb2, agent_lean], ids=["protobuf", "lean"])
def test_values_cross_the_agents_protocol(pb: Any) -> None:
    def again(message: Any) -> Any:
        return type(message).FromString(message.SerializeToString())

    for route in ROUTES:
        assert wire.route_from_message(again(wire.route_to_message(pb, route))) == route
    for rule in RULES:
        assert wire.rule_from_message(again(wire.rule_to_message(pb, rule))) == rule
    for address in ADDRESSES:
        assert wire.address_from_message(again(wire.address_to_message(pb, address)), address.device) == address
    for entry in NEIGHBOURS:
        assert wire.neighbour_from_message(again(wire.neighbour_to_message(pb, entry))) == entry


def test_addresses_are_added_without_duplicate_detection() -> None:
    body = requests.address(ADDRESSES[3], 2)
    assert body[2] & objects.IFA_F_NODAD
    assert not requests.address(ADDRESSES[0], 2)[2] & objects.IFA_F_NODAD


@pytest.mark.parametrize(
    ("route", "words"),
    [
        (Route(family="inet", destination="10.0.0.0/33"), "prefix length 33"),
        (Route(family="inet", destination="10.0.0/24"), "'10.0.0' is not an address"),
        (Route(family="inet", destination="fd00::/64"), "'fd00::' is not an address of family inet"),
        (Route(family="inet", destination="10.0.0.0/x"), "'10.0.0.0/x' is not a prefix"),
        (Route(family="ipx"), "family 'ipx'"),
        (Route(family="inet", scope="galaxy"), "scope 'galaxy'"),
        (Route(family="inet", type="300"), "route type '300'"),
        (Route(family="inet", metrics=(("speed", 1),)), "metric 'speed'"),
        (Route(family="inet", next_hops=(NextHop(gateway="10.0.0.1", weight=0),)), "weight 0"),
    ],
)
def test_what_is_no_route_is_refused_with_its_value(route: Route, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        requests.route(route, INDEXES.__getitem__)


@pytest.mark.parametrize("mac", ["", "02:00:00:00:00", "02:00:00:00:00:00:01", "020000000001", "zz:00:00:00:00:01"])
def test_what_is_no_hardware_address_is_refused(mac: str) -> None:
    with pytest.raises(ValueError, match=r"hardware address|non-hexadecimal"):
        requests.parse_mac(mac)


def test_cached_dead_and_local_routes_are_no_configuration() -> None:
    body = bytearray(requests.route(ROUTES[0], INDEXES.__getitem__))
    for flags in (objects.RTM_F_CLONED, objects.RTNH_F_DEAD):
        body[8:12] = flags.to_bytes(4, "little")
        assert objects.parse_route(bytes(body), NAMES) is None
    local = ROUTES[1].replace(table=objects.RT_TABLE_LOCAL)
    assert objects.parse_route(requests.route(local, INDEXES.__getitem__), NAMES) is None


def test_learned_neighbours_are_no_configuration() -> None:
    learned = NEIGHBOURS[0].replace(state=0x02)
    assert objects.parse_neighbour(requests.neighbour(learned, 2), NAMES) is None


@given(st.lists(st.tuples(st.integers(1, 0x3FFF), st.binary(max_size=40)), max_size=20))
def test_attributes_survive(entries: list[tuple[int, bytes]]) -> None:
    data = b"".join(codec.attribute(kind, value) for kind, value in entries)
    assert len(data) % 4 == 0
    assert list(codec.iterate_attributes(data)) == entries


@given(st.binary(max_size=200))
def test_garbage_never_does_more_than_raise(data: bytes) -> None:
    for parse in (
        lambda: list(codec.iterate_attributes(data)),
        lambda: list(codec.iterate_messages(data)),
        lambda: codec.parse_u32(data),
    ):
        try:
            parse()
        except codec.MalformedMessage:
            pass


def test_lengths_that_lie_are_refused() -> None:
    whole = codec.message(16, 1, 7, b"12345678")
    assert list(codec.iterate_messages(whole)) == [(16, 1, 7, b"12345678")]
    with pytest.raises(codec.MalformedMessage):
        list(codec.iterate_messages(whole[:-1]))
    with pytest.raises(codec.MalformedMessage):
        list(codec.iterate_attributes(b"\x03\x00\x01\x00"))
    with pytest.raises(codec.MalformedMessage):
        list(codec.iterate_attributes(b"\x09\x00\x01\x00abcd"))
