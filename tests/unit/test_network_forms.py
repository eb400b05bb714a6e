"""Interfaces and routes given by hand: what is taken, what is refused, and how it changes the guest's network."""

from __future__ import annotations

from typing import Any

import pytest

from oci_runtime.errors import InvalidInput
from oci_runtime.netlink.objects import Address, Neighbour, NextHop, Route, Rule
from oci_runtime.network import forms
from oci_runtime.network.plan import GuestInterface, GuestNetwork
from oci_runtime.sandbox.network import apply_wishes, build_request
from oci_runtime.ttrpc.proto import agent_pb2 as pb


def interface(name: str = "eth1") -> GuestInterface:
    return GuestInterface(
        name=name,
        match_mac="02:00:00:00:00:01",
        mac="02:00:00:00:00:01",
        mtu=1500,
        tx_queue_length=1000,
        up=True,
        noarp=False,
        multicast=True,
        promiscuous=False,
        all_multicast=False,
        addresses=(Address(family="inet", device=name, address="10.0.0.2", prefix_length=24),),
    )


def test_an_interface_by_its_device_alone() -> None:
    assert forms.parse_interface({"device": "eth1"}) == {"device": "eth1", "name": "eth1"}
    assert forms.parse_interface({"name": "eth1"})["device"] == "eth1"


def test_an_interface_with_everything() -> None:
    wish = forms.parse_interface(
        {
            "device": "eth1",
            "name": "data",
            "mac": "02:00:00:00:00:09",
            "mtu": 9000,
            "addresses": [{"address": "10.5.0.2/16"}, {"address": "fd00::2", "prefix_length": 64}],
        }
    )
    assert [entry.prefix_length for entry in wish["addresses"]] == [16, 64]
    assert {entry.device for entry in wish["addresses"]} == {"data"}


def test_what_list_ifaces_prints_can_be_given_back() -> None:
    message = pb.Interface(name="eth1", mac="02:00:00:00:00:01", mtu=1500, up=True)
    message.addresses.append(pb.IpAddress(address="10.0.0.2", prefix_length=24, scope="global"))
    wish = forms.parse_interface(forms.show_interface(message))
    assert wish["addresses"] == interface().addresses


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "interface: must be an object"),
        ({}, "needs `device`"),
        ({"device": 7}, "device is 7, must be a text"),
        ({"device": "eth1", "color": "red"}, "unknown field 'color'"),
        ({"device": "eth1", "mtu": True}, "mtu is True, must be a number"),
        ({"device": "eth1", "mtu": 20}, "MTU 20 is not within"),
        ({"device": "eth1", "mac": "02:00"}, "mac: '02:00' is not a hardware address"),
        ({"device": "eth1", "name": "a/b"}, "interface 'a/b'"),
        ({"device": "eth1", "name": "x" * 16}, "a name has 1 to 15 bytes"),
        ({"device": "lo"}, "interface 'lo'"),
        ({"device": "eth1", "addresses": [{"address": "10.0.0.2/x"}]}, "not an address and a prefix length"),
        ({"device": "eth1", "addresses": [{"address": "10.0.0"}]}, "'10.0.0' is not an address"),
        ({"device": "eth1", "addresses": [{"address": "10.0.0.1/40"}]}, "prefix length 40"),
        ({"device": "eth1", "addresses": [{"prefix_length": 8}]}, "'' is not an address"),
        ({"device": "eth1", "addresses": [{"address": "10.0.0.1"}] * 300}, "more than 256 addresses"),
    ],
)
def test_what_is_no_interface(value: object, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        forms.parse_interface(value)
    assert words in caught.value.message


def test_routes() -> None:
    routes = forms.parse_routes(
        [
            {"destination": "default", "gateway": "10.0.0.1", "device": "eth1"},
            {"destination": "fd00::/8", "gateway": "fe80::1", "device": "eth1", "metric": 5, "metrics": {"mtu": 1300}},
            {"destination": "10.9.0.0/16", "type": "blackhole"},
            {"next_hops": [{"gateway": "fe80::1", "device": "eth1"}, {"gateway": "fe80::2", "device": "eth1"}]},
        ],
        ["eth1"],
    )
    assert routes[0] == Route(family="inet", gateway="10.0.0.1", device="eth1")
    assert (routes[1].family, routes[1].metrics) == ("inet6", (("mtu", 1300),))
    assert routes[2].type == "blackhole"
    assert routes[3].family == "inet6" and routes[3].next_hops[1] == NextHop(gateway="fe80::2", device="eth1")


def test_what_list_routes_prints_can_be_given_back() -> None:
    message = pb.Route(family="inet", gateway="10.0.0.1", device="eth1", scope="global", table=254, protocol="boot")
    message.type = "unicast"
    assert forms.parse_routes([forms.show_route(message)], ["eth1"]) == (
        Route(family="inet", gateway="10.0.0.1", device="eth1"),
    )


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, "routes: must be a list"),
        ([7], "route: must be an object"),
        ([{"gateway": "10.0.0.1", "device": "eth9"}], "the pod has no interface 'eth9'"),
        ([{"destination": "10.0.0.0/33"}], "prefix length 33"),
        ([{"destination": "x/8", "type": "blackhole"}], "'x' is not an address"),
        ([{"metric": -1}], "metric is -1"),
        ([{"metric": 1 << 32}], "metric is 4294967296"),
        ([{"tos": 256}], "route default: a number is out of range"),
        ([{"metrics": {"mtu": "big"}}], "metrics must be numbers"),
        ([{"metrics": {"speed": 1}}], "metric 'speed'"),
        ([{"scope": "far"}], "scope 'far'"),
        ([{"next_hops": [{"gateway": "10.0.0.1", "weight": 0}]}], "weight 0"),
        ([{}] * 5000, "at most 4096"),
    ],
)
def test_what_is_no_list_of_routes(value: object, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        forms.parse_routes(value, ["eth1"])
    assert words in caught.value.message


def test_a_renamed_device_is_renamed_everywhere() -> None:
    guest = GuestNetwork(
        interfaces=(interface("eth0"), interface()),
        routes=(
            Route(family="inet", device="eth1"),
            Route(family="inet", next_hops=(NextHop(device="eth1"), NextHop(device="eth0"))),
        ),
        rules=(Rule(family="inet", input_interface="eth1"),),
        neighbours=(Neighbour(address="10.0.0.9", device="eth1"),),
        sysctls=(("ipv4/conf/eth1/rp_filter", "2"), ("core/somaxconn", "9")),
    )
    changed = apply_wishes(guest, {"eth1": forms.parse_interface({"device": "eth1", "name": "data", "mtu": 1400})})
    assert [(entry.name, entry.mtu) for entry in changed.interfaces] == [("eth0", 1500), ("data", 1400)]
    assert changed.routes[0].device == "data"
    assert [hop.device for hop in changed.routes[1].next_hops] == ["data", "eth0"]
    assert changed.rules[0].input_interface == "data" and changed.neighbours[0].device == "data"
    assert changed.sysctls == (("ipv4/conf/data/rp_filter", "2"), ("core/somaxconn", "9"))
    assert apply_wishes(guest, {}) is guest


def test_a_wished_name_yields_to_an_interface_that_comes_later() -> None:
    wish = forms.parse_interface(
        {"device": "eth1", "name": "data", "mtu": 1400, "addresses": [{"address": "10.5.0.2/16"}]}
    )
    guest = GuestNetwork(interfaces=(interface(), interface("data")), routes=(Route(family="inet", device="eth1"),))
    changed = apply_wishes(guest, {"eth1": wish})
    assert [(entry.name, entry.mtu) for entry in changed.interfaces] == [("eth1", 1400), ("data", 1500)]
    assert [entry.device for entry in changed.interfaces[0].addresses] == ["eth1"]
    assert {route.device for route in changed.routes} == {"eth1"}


def test_new_addresses_bring_the_routes_to_their_networks() -> None:
    old = Route(family="inet", destination="10.0.0.0/24", device="eth1", protocol="kernel", scope="link")
    guest = GuestNetwork(interfaces=(interface(),), routes=(old, old.replace(device="eth0")))
    wish = forms.parse_interface(
        {"device": "eth1", "addresses": [{"address": "10.5.1.2/16"}, {"address": "fd05::2/64"}]}
    )
    routes = apply_wishes(guest, {"eth1": wish}).routes
    assert [(route.destination, route.device, route.source, route.metric) for route in routes] == [
        ("10.0.0.0/24", "eth0", "", 0),
        ("10.5.0.0/16", "eth1", "10.5.1.2", 0),
        ("fd05::/64", "eth1", "", 256),
    ]


def test_the_request_says_it_all() -> None:
    guest = GuestNetwork(interfaces=(interface(),), routes=(Route(family="inet", device="eth1"),))
    request: Any = build_request(guest, ["eth9"])
    assert request.replace_routes and list(request.remove_interfaces) == ["eth9"]
    assert request.interfaces[0].addresses[0].address == "10.0.0.2"
    assert request.interfaces[0].match_mac == "02:00:00:00:00:01" and request.interfaces[0].up
    assert request.routes[0].device == "eth1" and request.wait_device_ms > 0
