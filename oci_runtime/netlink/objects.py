"""What a network namespace holds: links, addresses, routes, rules, neighbours, read from the route family's messages.

Devices are named, not numbered: the same object means the same thing in the pod's namespace and in the guest.
Field names are those of `agent.proto`. Sources: linux/if_link.h, if_addr.h, rtnetlink.h, fib_rules.h, neighbour.h.
"""

from __future__ import annotations

import _socket as socket  # the guest does without the parts of `socket` that take time to import
import struct

from oci_runtime.netlink.codec import iterate_attributes, parse_attributes, parse_text, parse_u32
from oci_runtime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

IFF_UP = 0x1
IFF_RUNNING = 0x40
IFF_NOARP = 0x80
IFF_PROMISC = 0x100
IFF_ALLMULTI = 0x200
IFF_MULTICAST = 0x1000
IFF_LOWER_UP = 0x10000
_WORKING = IFF_UP | IFF_RUNNING | IFF_LOWER_UP
ARPHRD_ETHER = 1

# Only these flags of an address are a setting; the others tell what became of it.
IFA_F_NODAD = 0x02
IFA_F_PERMANENT = 0x80
IFA_F_NOPREFIXROUTE = 0x200
ADDRESS_SETTINGS = IFA_F_NOPREFIXROUTE

RTM_F_CLONED = 0x200
RTNH_F_DEAD = 1
RTNH_F_ONLINK = 4
RT_TABLE_MAIN = 254
RT_TABLE_LOCAL = 255
NUD_PERMANENT = 0x80
NTF_PROXY = 0x08

FAMILIES: dict[str, int] = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
FAMILY_NAMES = {number: name for name, number in FAMILIES.items()}
SCOPES = {"global": 0, "site": 200, "link": 253, "host": 254, "nowhere": 255}
PROTOCOLS = {"unspec": 0, "redirect": 1, "kernel": 2, "boot": 3, "static": 4, "ra": 9, "dhcp": 16}
ROUTE_TYPES = {
    "unicast": 1,
    "local": 2,
    "broadcast": 3,
    "anycast": 4,
    "multicast": 5,
    "blackhole": 6,
    "unreachable": 7,
    "prohibit": 8,
    "throw": 9,
}
RULE_ACTIONS = {"lookup": 1, "goto": 2, "nop": 3, "blackhole": 6, "unreachable": 7, "prohibit": 8}
# RTAX_*: names as iproute2 prints them.
METRICS = {
    "lock": 1,
    "mtu": 2,
    "window": 3,
    "rtt": 4,
    "rttvar": 5,
    "ssthresh": 6,
    "cwnd": 7,
    "advmss": 8,
    "reordering": 9,
    "hoplimit": 10,
    "initcwnd": 11,
    "features": 12,
    "rto_min": 13,
    "initrwnd": 14,
    "quickack": 15,
    "fastopen_no_cookie": 17,
}
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBi")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxxxiHBB")
_NEXT_HOP = struct.Struct("=HBBi")


class Value(Record):
    """A record of hashable values: it can be a member of a set. _TELLING: the fields in which most of them differ."""

    _TELLING: tuple[str, ...] = ()

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(tuple([getattr(self, name) for name in self._TELLING]))


class Link(Value):
    """A network device. kind: the kernel's word, "" for hardware; mac: "" where the address has not six bytes."""

    index: int
    name: str
    kind: str = ""
    mac: str = ""
    mtu: int = 1500
    flags: int = 0
    tx_queue_length: int = 1000
    link_type: int = ARPHRD_ETHER
    master: int = 0
    alias: str = ""
    tun_type: int = 0
    tun_queues: int = 0
    tun_multi_queue: bool = False
    permanent_mac: str = ""

    @property
    def up(self) -> bool:
        return bool(self.flags & IFF_UP)

    @property
    def works(self) -> bool:
        """True once a packet would go out: up, with a carrier that the kernel has taken note of."""
        return self.flags & _WORKING == _WORKING


class Address(Value):
    """An address of a device. flags: the settings among IFA_F_*; peer: "" unless point to point."""

    _TELLING = ("device", "address", "prefix_length")

    family: str
    device: str
    address: str
    prefix_length: int
    scope: str = "global"
    broadcast: str = ""
    peer: str = ""
    label: str = ""
    metric: int = 0
    flags: int = 0
    permanent: bool = True


class NextHop(Value):
    """One way of a multipath route. weight counts from 1."""

    _TELLING = ("gateway", "device")

    gateway: str = ""
    device: str = ""
    weight: int = 1
    onlink: bool = False


class Route(Value):
    """A route. destination: a prefix, or "" for the default route; metrics: (name, value) pairs, sorted."""

    _TELLING = ("destination", "gateway", "device", "table", "metric")

    family: str
    destination: str = ""
    gateway: str = ""
    device: str = ""
    source: str = ""
    scope: str = "global"
    metric: int = 0
    table: int = RT_TABLE_MAIN
    protocol: str = "boot"
    type: str = "unicast"
    onlink: bool = False
    next_hops: tuple[NextHop, ...] = ()
    via_family: str = ""
    tos: int = 0
    preference: int = 0
    metrics: tuple[tuple[str, int], ...] = ()
    unsupported: str = ""


class Rule(Value):
    """A policy rule. suppress_prefix_length is one more than iproute2 prints, 0 for none."""

    _TELLING = ("priority", "family", "table")

    family: str
    priority: int = 0
    source: str = ""
    destination: str = ""
    table: int = 0
    input_interface: str = ""
    output_interface: str = ""
    mark: int = 0
    mask: int = 0
    action: str = "lookup"
    tos: int = 0
    invert: bool = False
    ip_protocol: int = 0
    source_ports: str = ""
    destination_ports: str = ""
    goto: int = 0
    suppress_prefix_length: int = 0
    uid_range: str = ""
    protocol: str = "unspec"
    unsupported: str = ""


class Neighbour(Value):
    """A static neighbour entry; a proxy entry has no mac."""

    _TELLING = ("device", "address")

    address: str
    device: str
    mac: str = ""
    state: int = NUD_PERMANENT
    flags: int = 0


def parse_link(body: bytes) -> Link:
    """An RTM_NEWLINK or RTM_DELLINK message."""
    _, link_type, index, flags, _ = _LINK.unpack_from(body)
    attributes = parse_attributes(body, _LINK.size)
    info = parse_attributes(attributes.get(18, b""))
    kind = parse_text(info.get(1))
    data = parse_attributes(info.get(2, b"")) if kind == "tun" else {}
    mac = attributes.get(1, b"")
    return Link(
        index=index,
        name=parse_text(attributes.get(3)),
        kind=kind,
        mac=mac.hex(":") if len(mac) == 6 else "",
        mtu=parse_u32(attributes.get(4)),
        flags=flags,
        tx_queue_length=parse_u32(attributes.get(13)),
        link_type=link_type,
        master=parse_u32(attributes.get(10)),
        alias=parse_text(attributes.get(20)),
        tun_type=data.get(3, b"\0")[0],
        tun_queues=parse_u32(data.get(8)),
        tun_multi_queue=bool(data.get(7, b"\0")[0]),
        permanent_mac=attributes.get(54, b"").hex(":"),
    )


def parse_address(body: bytes, names: Mapping[int, str]) -> Address:
    """An RTM_NEWADDR message; `names` maps device numbers to names."""
    family, prefix_length, _, scope, index = _ADDRESS.unpack_from(body)
    attributes = parse_attributes(body, _ADDRESS.size)
    own, far = attributes.get(2), attributes.get(1)
    flags = parse_u32(attributes.get(8), body[2])
    device = names.get(index, "")
    label = parse_text(attributes.get(3))
    return Address(
        family=FAMILY_NAMES.get(family, str(family)),
        device=device,
        address=_ip(family, own or far),
        prefix_length=prefix_length,
        scope=_name(SCOPES, scope),
        broadcast=_ip(family, attributes.get(4)),
        peer=_ip(family, far) if own and far and own != far else "",
        label="" if label == device else label,
        metric=parse_u32(attributes.get(9)),
        flags=flags & ADDRESS_SETTINGS,
        permanent=bool(flags & IFA_F_PERMANENT),
    )


def parse_route(body: bytes, names: Mapping[int, str]) -> Route | None:
    """An RTM_NEWROUTE message; None for what is no configuration (cache entries, dead routes, the local table)."""
    family, length, source_length, tos, table, protocol, scope, kind, flags = _ROUTE.unpack_from(body)
    if flags & (RTM_F_CLONED | RTNH_F_DEAD) or table == RT_TABLE_LOCAL or family not in FAMILY_NAMES:
        return None
    attributes = parse_attributes(body, _ROUTE.size)
    table = parse_u32(attributes.get(15), table)
    next_hops = tuple(_next_hops(attributes.get(9, b""), family, names))
    gateway, via_family = _gateway(attributes, family)
    return Route(
        family=FAMILY_NAMES[family],
        destination=f"{_ip(family, attributes.get(1) or bytes(16))}/{length}" if length or 1 in attributes else "",
        gateway=gateway,
        device=names.get(parse_u32(attributes.get(4)), ""),
        source=_ip(family, attributes.get(7)),
        scope=_name(SCOPES, scope),
        metric=parse_u32(attributes.get(6)),
        table=table,
        protocol=_name(PROTOCOLS, protocol),
        type=_name(ROUTE_TYPES, kind),
        onlink=bool(flags & RTNH_F_ONLINK) and not next_hops,
        next_hops=next_hops,
        via_family=via_family,
        tos=tos,
        preference=attributes.get(20, b"\0")[0],
        metrics=_metrics(attributes.get(8, b"")),
        unsupported="encapsulation" if 21 in attributes or 22 in attributes else "source prefix" * bool(source_length),
    )


def parse_rule(body: bytes) -> Rule:
    """An RTM_NEWRULE message."""
    family, length, source_length, tos, table, _, _, action, flags = _ROUTE.unpack_from(body)
    attributes = parse_attributes(body, _ROUTE.size)
    suppressed = parse_u32(attributes.get(14), 0xFFFFFFFF)
    return Rule(
        family=FAMILY_NAMES.get(family, str(family)),
        priority=parse_u32(attributes.get(6)),
        source=_prefix(family, attributes.get(2), source_length),
        destination=_prefix(family, attributes.get(1), length),
        table=parse_u32(attributes.get(15), table),
        input_interface=parse_text(attributes.get(3)),
        output_interface=parse_text(attributes.get(17)),
        mark=parse_u32(attributes.get(10)),
        mask=parse_u32(attributes.get(16)),
        action=_name(RULE_ACTIONS, action),
        tos=tos,
        invert=bool(flags & 2),
        ip_protocol=attributes.get(22, b"\0")[0],
        source_ports=_range(attributes.get(23), "=HH"),
        destination_ports=_range(attributes.get(24), "=HH"),
        goto=parse_u32(attributes.get(4)),
        suppress_prefix_length=(suppressed + 1) & 0xFFFFFFFF,
        uid_range=_range(attributes.get(20), "=II"),
        protocol=_name(PROTOCOLS, attributes.get(21, b"\0")[0]),
        unsupported="l3mdev" if attributes.get(19, b"\0")[0] else "tunnel" if any(attributes.get(12, b"")) else "",
    )


def parse_neighbour(body: bytes, names: Mapping[int, str]) -> Neighbour | None:
    """An RTM_NEWNEIGH message; None unless it is a static or a proxy entry of one of the two families."""
    family, index, state, flags, _ = _NEIGHBOUR.unpack_from(body)
    attributes = parse_attributes(body, _NEIGHBOUR.size)
    static = state & NUD_PERMANENT or flags & NTF_PROXY
    if family not in FAMILY_NAMES or not static or 1 not in attributes:
        return None
    return Neighbour(
        address=_ip(family, attributes[1]),
        device=names.get(index, ""),
        mac=attributes.get(2, b"").hex(":"),
        state=state & NUD_PERMANENT,
        flags=flags & (NTF_PROXY | 0x80),
    )


def _ip(family: int, value: bytes | None) -> str:
    if not value:
        return ""
    return socket.inet_ntop(family, value[: 16 if family == socket.AF_INET6 else 4])


def _prefix(family: int, value: bytes | None, length: int) -> str:
    return f"{_ip(family, value)}/{length}" if value else ""


def _name(table: Mapping[str, int], number: int) -> str:
    return next((name for name, value in table.items() if value == number), str(number))


def _range(value: bytes | None, layout: str) -> str:
    return "{}-{}".format(*struct.unpack_from(layout, value)) if value else ""


def _gateway(attributes: Mapping[int, bytes], family: int) -> tuple[str, str]:
    """The gateway and, where it is of the other family (RTA_VIA), that family."""
    via = attributes.get(18)
    if via is None:
        return _ip(family, attributes.get(5)), ""
    (other,) = struct.unpack_from("=H", via)
    return _ip(other, via[2:]), FAMILY_NAMES.get(other, str(other))


def _next_hops(data: bytes, family: int, names: Mapping[int, str]) -> list[NextHop]:
    found: list[NextHop] = []
    offset = 0
    while len(data) - offset >= _NEXT_HOP.size:
        length, flags, hops, index = _NEXT_HOP.unpack_from(data, offset)
        if length < _NEXT_HOP.size or offset + length > len(data):
            break
        gateway, _ = _gateway(parse_attributes(data[offset : offset + length], _NEXT_HOP.size), family)
        onlink = bool(flags & RTNH_F_ONLINK)
        found.append(NextHop(gateway=gateway, device=names.get(index, ""), weight=hops + 1, onlink=onlink))
        offset += (length + 3) & ~3
    return found


def _metrics(data: bytes) -> tuple[tuple[str, int], ...]:
    known = {number: name for name, number in METRICS.items()}
    found = [(known[kind], parse_u32(value)) for kind, value in iterate_attributes(data) if kind in known]
    return tuple(sorted(found))
