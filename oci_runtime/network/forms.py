"""The pod's network as plain JSON values: what `vmpod network` prints and takes."""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from oci_runtime.errors import InvalidInput
from oci_runtime.netlink import requests
from oci_runtime.netlink.objects import Address, NextHop, Route

_ADDRESS = {"address": str, "prefix_length": int, "scope": str, "broadcast": str, "peer": str}
_INTERFACE = {"device": str, "name": str, "mac": str, "mtu": int, "addresses": list}
_SHOWN_ONLY = ("up", "tx_queue_length", "noarp", "multicast", "promiscuous", "all_multicast", "match_mac")
_HOP = {"gateway": str, "device": str, "weight": int, "onlink": bool}
_ROUTE = {
    "family": str,
    "destination": str,
    "gateway": str,
    "device": str,
    "source": str,
    "scope": str,
    "metric": int,
    "table": int,
    "protocol": str,
    "type": str,
    "onlink": bool,
    "tos": int,
    "preference": int,
    "via_family": str,
    "next_hops": list,
    "metrics": dict,
}
MAX_ROUTES = 4096
MAX_ADDRESSES = 256


def show_interface(message: Any) -> dict[str, Any]:
    """An Interface message of the guest."""
    shown = {"name": message.name, "mac": message.mac, "mtu": message.mtu, "up": message.up}
    shown["addresses"] = [_shown(entry, _ADDRESS) for entry in message.addresses]
    return shown


def show_route(message: Any) -> dict[str, Any]:
    """A Route message of the guest; fields that say nothing are left out, except the destination."""
    shown = _shown(message, {name: kind for name, kind in _ROUTE.items() if name not in ("next_hops", "metrics")})
    shown["destination"] = message.destination or "default"
    if message.next_hops:
        shown["next_hops"] = [_shown(hop, _HOP) for hop in message.next_hops]
    if message.metrics:
        shown["metrics"] = dict(message.metrics)
    return shown


def parse_interface(value: object) -> dict[str, Any]:
    """The wish of `add-iface`: `device` and what is to differ from it (name, mac, mtu, addresses).

    Raises InvalidInput naming the field.
    """
    fields = _checked(value, "interface", {**_INTERFACE, **dict.fromkeys(_SHOWN_ONLY, object)})
    wish: dict[str, Any] = {name: entry for name, entry in fields.items() if name in _INTERFACE}
    device = wish.get("device") or wish.get("name") or ""
    if not device:
        raise InvalidInput("interface: needs `device`, the interface's name in the pod's network namespace")
    wish["device"] = device
    wish["name"] = _check_name(wish.get("name") or device)
    if "mac" in wish:
        _valid("mac", lambda: requests.parse_mac(wish["mac"]))
    if "mtu" in wish and not 68 <= wish["mtu"] <= 65535:
        raise InvalidInput(f"interface {device}: MTU {wish['mtu']} is not within 68-65535")
    if "addresses" in wish:
        if len(wish["addresses"]) > MAX_ADDRESSES:
            raise InvalidInput(f"interface {device}: more than {MAX_ADDRESSES} addresses")
        wish["addresses"] = tuple(_parse_address(entry, wish["name"]) for entry in wish["addresses"])
    return wish


def parse_routes(value: object, devices: Iterable[str]) -> tuple[Route, ...]:
    """The wish of `update-routes`: all routes of the guest. devices: its interfaces. Raises InvalidInput."""
    if not isinstance(value, list) or len(value) > MAX_ROUTES:
        raise InvalidInput(f"routes: must be a list of at most {MAX_ROUTES} objects")
    known = {name: index for index, name in enumerate((*devices, "lo"), start=1)}

    def index_of(name: str) -> int:
        if name not in known:
            raise ValueError(f"the pod has no interface {name!r}")
        return known[name]

    routes = tuple(_parse_route(entry) for entry in value)
    for route in routes:
        _valid(f"route {route.destination or 'default'}", functools.partial(requests.route, route, index_of))
    return routes


def _parse_route(value: object) -> Route:
    fields = _checked(value, "route", _ROUTE)
    if fields.get("destination") == "default":
        fields["destination"] = ""
    hops = tuple(NextHop(**_checked(hop, "next hop", _HOP)) for hop in fields.pop("next_hops", ()))
    metrics = fields.pop("metrics", {})
    if not all(isinstance(entry, int) for entry in metrics.values()):
        raise InvalidInput("route: metrics must be numbers")
    gateway = fields.get("gateway") or (hops[0].gateway if hops else "")
    hint = f"{fields.get('destination', '')}{gateway}{fields.get('source', '')}"
    fields.setdefault("family", "inet6" if ":" in hint else "inet")
    return Route(**fields, next_hops=hops, metrics=tuple(sorted(metrics.items())))


def _parse_address(value: object, device: str) -> Address:
    fields = _checked(value, "address", _ADDRESS)
    address = str(fields.get("address", ""))
    if "/" in address:
        address, _, length = address.partition("/")
        if not (length.isascii() and length.isdigit()):
            raise InvalidInput(f"address {fields['address']!r}: not an address and a prefix length")
        fields |= {"address": address, "prefix_length": int(length)}
    family = "inet6" if ":" in address else "inet"
    fields.setdefault("prefix_length", 128 if family == "inet6" else 32)
    fields.setdefault("address", "")
    wanted = Address(family=family, device=device, **fields)
    _valid(f"address {address!r}", lambda: requests.address(wanted, 1))
    return wanted


def _checked(value: object, what: str, kinds: Mapping[str, type]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{what}: must be an object")
    for name, entry in value.items():
        kind = kinds.get(name)
        if kind is None:
            raise InvalidInput(f"{what}: unknown field {name!r}; known are {', '.join(kinds)}")
        if not isinstance(entry, kind) or (kind is int and not _is_u32(entry)):
            raise InvalidInput(f"{what}: {name} is {entry!r}, must be {_WORDS.get(kind, kind.__name__)}")
    return dict(value)


def _is_u32(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 32


_WORDS = {str: "a text", int: "a number of 32 bits", bool: "true or false", list: "a list", dict: "an object"}


def _check_name(name: str) -> str:
    bad = set("/: \t\n\0")
    if not 0 < len(name.encode()) <= 15 or name in (".", "..", "lo") or bad & set(name):
        raise InvalidInput(f"interface {name!r}: a name has 1 to 15 bytes without spaces, slashes and colons")
    return name


def _valid(what: str, check: Callable[[], object]) -> None:
    try:
        check()
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"{what}: {error}") from None
    except struct.error:
        raise InvalidInput(f"{what}: a number is out of range") from None


def _shown(message: Any, fields: Mapping[str, type]) -> dict[str, Any]:
    return {name: getattr(message, name) for name in fields if getattr(message, name)}
