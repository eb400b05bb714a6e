"""The opposite of `objects`: values turned into request bodies of the route family. Pure; devices come as numbers.

Raises ValueError for a value that cannot be expressed (an address that is none, an unknown name).
"""

from __future__ import annotations

import _socket as socket  # the guest does without the parts of `socket` that take time to import
import struct

from oci_runtime.netlink import objects
from oci_runtime.netlink.codec import attribute, nested, text, u8, u32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from oci_runtime.netlink.objects import Address, Neighbour, NextHop, Route, Rule

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34

RTNLGRP_LINK = 1
RTNLGRP_NEIGH = 3
RTNLGRP_IPV4_IFADDR = 5
RTNLGRP_IPV4_ROUTE = 7
RTNLGRP_IPV4_RULE = 8
RTNLGRP_IPV6_IFADDR = 9
RTNLGRP_IPV6_ROUTE = 11
RTNLGRP_IPV6_RULE = 19

IN6_ADDR_GEN_MODE_NONE = 1
# Below this MTU the kernel has no IPv6 on a device (RFC 8200), and refuses its settings.
IPV6_MIN_MTU = 1280
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBi")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_NEXT_HOP = struct.Struct("=HBBi")

DUMP_LINKS = _LINK.pack(0, 0, 0, 0, 0)
DUMP_ADDRESSES = _ADDRESS.pack(0, 0, 0, 0, 0)
DUMP_ROUTES = DUMP_RULES = _ROUTE.pack(0, 0, 0, 0, 0, 0, 0, 0, 0)
DUMP_NEIGHBOURS = _NEIGHBOUR.pack(0, 0, 0, 0, 0)
DUMP_PROXY_NEIGHBOURS = _NEIGHBOUR.pack(0, 0, 0, objects.NTF_PROXY, 0)


def link(
    index: int,
    *,
    up: bool | None = None,
    flags: int = 0,
    mask: int = 0,
    name: str = "",
    mac: str = "",
    mtu: int = 0,
    tx_queue_length: int = -1,
    no_ipv6_addresses: bool = False,
) -> bytes:
    """Change a device: only what is given. flags and mask: further IFF_* bits, and which of them count.

    no_ipv6_addresses: the kernel makes no link-local address of its own; left out where the MTU allows no IPv6.
    """
    no_ipv6_addresses = no_ipv6_addresses and (not mtu or mtu >= IPV6_MIN_MTU)
    if up is not None:
        flags, mask = flags | (objects.IFF_UP if up else 0), mask | objects.IFF_UP
    parts = [
        text(3, name) if name else b"",
        attribute(1, parse_mac(mac)) if mac else b"",
        u32(4, mtu) if mtu else b"",
        u32(13, tx_queue_length) if tx_queue_length >= 0 else b"",
        nested(26, nested(socket.AF_INET6, u8(8, IN6_ADDR_GEN_MODE_NONE))) if no_ipv6_addresses else b"",
    ]
    return _LINK.pack(0, 0, index, flags, mask) + b"".join(parts)


def address(wanted: Address, index: int, *, no_detection: bool = True) -> bytes:
    """An address to add or delete. no_detection: without duplicate address detection."""
    family = _family(wanted.family)
    flags = wanted.flags | (objects.IFA_F_NODAD if no_detection and family == socket.AF_INET6 else 0)
    own = _pack_ip(family, wanted.address)
    far = _pack_ip(family, wanted.peer) if wanted.peer else own
    parts = [
        attribute(2, own),
        attribute(1, far),
        attribute(4, _pack_ip(family, wanted.broadcast)) if wanted.broadcast else b"",
        text(3, wanted.label) if wanted.label else b"",
        u32(8, flags) if flags else b"",
        u32(9, wanted.metric) if wanted.metric else b"",
    ]
    scope = _number(objects.SCOPES, wanted.scope, "scope")
    return _ADDRESS.pack(family, _length(wanted.prefix_length, family), flags & 0xFF, scope, index) + b"".join(parts)


def route(wanted: Route, device_index: Callable[[str], int]) -> bytes:
    """A route to add or delete. device_index: finds a device's number by its name."""
    family = _family(wanted.family)
    destination, length = _pack_prefix(family, wanted.destination)
    parts = [
        attribute(1, destination) if length else b"",
        _pack_gateway(family, wanted.gateway, wanted.via_family) if wanted.gateway else b"",
        u32(4, device_index(wanted.device)) if wanted.device else b"",
        attribute(7, _pack_ip(family, wanted.source)) if wanted.source else b"",
        u32(6, wanted.metric) if wanted.metric else b"",
        u32(15, wanted.table),
        _pack_next_hops(family, wanted.next_hops, device_index) if wanted.next_hops else b"",
        u8(20, wanted.preference) if wanted.preference else b"",
        _pack_metrics(wanted.metrics) if wanted.metrics else b"",
    ]
    header = _ROUTE.pack(
        family,
        length,
        0,
        wanted.tos,
        min(wanted.table, 252) if wanted.table > 255 else wanted.table,
        _number(objects.PROTOCOLS, wanted.protocol, "protocol"),
        _number(objects.SCOPES, wanted.scope, "scope"),
        _number(objects.ROUTE_TYPES, wanted.type, "route type"),
        objects.RTNH_F_ONLINK if wanted.onlink else 0,
    )
    return header + b"".join(parts)


def rule(wanted: Rule) -> bytes:
    """A policy rule to add or delete."""
    family = _family(wanted.family)
    source, source_length = _pack_prefix(family, wanted.source)
    destination, length = _pack_prefix(family, wanted.destination)
    parts = [
        attribute(1, destination) if wanted.destination else b"",
        attribute(2, source) if wanted.source else b"",
        text(3, wanted.input_interface) if wanted.input_interface else b"",
        text(17, wanted.output_interface) if wanted.output_interface else b"",
        u32(4, wanted.goto) if wanted.goto else b"",
        u32(6, wanted.priority),
        u32(10, wanted.mark) + u32(16, wanted.mask) if wanted.mark or wanted.mask else b"",
        u32(15, wanted.table),
        u32(14, wanted.suppress_prefix_length - 1) if wanted.suppress_prefix_length else b"",
        u8(22, wanted.ip_protocol) if wanted.ip_protocol else b"",
        _pack_range(23, wanted.source_ports, "=HH"),
        _pack_range(24, wanted.destination_ports, "=HH"),
        _pack_range(20, wanted.uid_range, "=II"),
        u8(21, _number(objects.PROTOCOLS, wanted.protocol, "protocol")),
    ]
    action = _number(objects.RULE_ACTIONS, wanted.action, "rule action")
    table = wanted.table if wanted.table < 256 else 0
    flags = 2 if wanted.invert else 0
    header = _ROUTE.pack(family, length, source_length, wanted.tos, table, 0, 0, action, flags)
    return header + b"".join(parts)


def neighbour(wanted: Neighbour, index: int) -> bytes:
    """A static or proxy neighbour entry to add or delete."""
    family = socket.AF_INET6 if ":" in wanted.address else socket.AF_INET
    parts = attribute(1, _pack_ip(family, wanted.address))
    if wanted.mac:
        parts += attribute(2, bytes.fromhex(wanted.mac.replace(":", "")))
    return _NEIGHBOUR.pack(family, index, wanted.state, wanted.flags, 0) + parts


def parse_mac(mac: str) -> bytes:
    """The six bytes of a hardware address. Raises ValueError."""
    raw = bytes.fromhex(mac.replace(":", ""))
    if len(raw) != 6 or mac.count(":") != 5:
        raise ValueError(f"{mac!r} is not a hardware address of six bytes")
    return raw


def _family(name: str) -> int:
    if name not in objects.FAMILIES:
        raise ValueError(f"family {name!r} is neither inet nor inet6")
    return objects.FAMILIES[name]


def _pack_ip(family: int, value: str) -> bytes:
    try:
        return socket.inet_pton(family, value)
    except (OSError, ValueError):
        raise ValueError(f"{value!r} is not an address of family {objects.FAMILY_NAMES[family]}") from None


def _length(length: int, family: int) -> int:
    if not 0 <= length <= (128 if family == socket.AF_INET6 else 32):
        raise ValueError(f"prefix length {length} is out of range")
    return length


def _pack_prefix(family: int, prefix: str) -> tuple[bytes, int]:
    if not prefix:
        return b"", 0
    network, slash, length = prefix.partition("/")
    if slash and not (length.isascii() and length.isdigit()):
        raise ValueError(f"{prefix!r} is not a prefix")
    full = 128 if family == socket.AF_INET6 else 32
    return _pack_ip(family, network), _length(int(length) if slash else full, family)


def _number(table: Mapping[str, int], name: str, what: str) -> int:
    number = table.get(name, int(name) if name.isascii() and name.isdigit() else -1)
    if not 0 <= number <= 255:
        raise ValueError(f"{what} {name!r} is unknown")
    return number


def _pack_range(kind: int, value: str, layout: str) -> bytes:
    if not value:
        return b""
    first, _, last = value.partition("-")
    try:
        return attribute(kind, struct.pack(layout, int(first), int(last or first)))
    except struct.error:
        raise ValueError(f"range {value!r} is too large") from None


def _pack_gateway(family: int, gateway: str, via_family: str) -> bytes:
    if not via_family or via_family == objects.FAMILY_NAMES[family]:
        return attribute(5, _pack_ip(family, gateway))
    other = _family(via_family)
    return attribute(18, struct.pack("=H", other) + _pack_ip(other, gateway))


def _pack_next_hops(family: int, hops: tuple[NextHop, ...], device_index: Callable[[str], int]) -> bytes:
    packed = b""
    for hop in hops:
        other = "inet6" if ":" in hop.gateway else "inet"
        gateway = _pack_gateway(family, hop.gateway, other) if hop.gateway else b""
        flags = objects.RTNH_F_ONLINK if hop.onlink else 0
        if not 1 <= hop.weight <= 256:
            raise ValueError(f"next hop weight {hop.weight} is not within 1-256")
        index = device_index(hop.device) if hop.device else 0
        packed += _NEXT_HOP.pack(_NEXT_HOP.size + len(gateway), flags, hop.weight - 1, index) + gateway
    return attribute(9, packed)


def _pack_metrics(metrics: tuple[tuple[str, int], ...]) -> bytes:
    unknown = [name for name, _ in metrics if name not in objects.METRICS]
    if unknown:
        raise ValueError(f"route metric {unknown[0]!r} is unknown")
    return nested(8, *(u32(objects.METRICS[name], value) for name, value in metrics))
