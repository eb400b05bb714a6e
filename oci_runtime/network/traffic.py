"""Traffic control as netlink requests: the ingress redirection that joins two devices, and rate limits. Pure.

What is ours carries a mark (a filter priority, a qdisc handle) by which an undo without memory finds it again. There
are two: the second says that the device had a transmit queue of length 0. The kernel gives such a device the default
length when a qdisc is attached, of whatever kind, and keeps it; so the undo has to set it back.
Source: linux/pkt_sched.h, pkt_cls.h, tc_act/tc_mirred.h.
"""

from __future__ import annotations

import socket
import struct

from oci_runtime.netlink import requests
from oci_runtime.netlink.codec import attribute, nested, parse_attributes, parse_text, text
from oci_runtime.netlink.connection import Connection

RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTFILTER, RTM_GETTFILTER = 44, 46
_CREATE_EXCLUSIVE = 0x600

Request = tuple[int, bytes, int]

_TC = struct.Struct("=BxxxiIII")
_INGRESS_PARENT = 0xFFFFFFF1
_INGRESS_HANDLE = 0xFFFF0000
_ROOT = 0xFFFFFFFF
# "vm": nobody else picks these by chance.
_MARK = 0x766D
_MARK_QUEUELESS = 0x766E
# Smaller numbers are looked at first.
_MARK_ADVERTISEMENTS = 0x766C
_MARK_ANSWERS = 0x766B
_MARK_ARP = 0x766A
_ETH_P_ALL = 0x0003
_ETH_P_IP = 0x0800
_ETH_P_ARP = 0x0806
_ETH_P_IPV6 = 0x86DD
# The ports from which the namespace's own kernel asks name servers (hear_answers): 0xF000 of 0xF000. No guest uses
# them by itself, its range ends below.
OWN_PORTS = (61440, 65535)
_U32_TERMINAL = 1
_EGRESS_REDIRECT = 1
_EGRESS_MIRROR = 2
_ACTION_OK = 0
_ACTION_STOLEN = 4
_ETHERNET = 1
_MAX_BURST_MS = 50
_MIN_BURST_BYTES = 128 << 10
_MAX_DELAY_MS = 50


def add_ingress(index: int) -> Request:
    """Give a device an ingress qdisc; EEXIST when it has one."""
    body = _TC.pack(0, index, _INGRESS_HANDLE, _INGRESS_PARENT, 0) + text(1, "ingress")
    return RTM_NEWQDISC, body, _CREATE_EXCLUSIVE


def delete_ingress(index: int) -> Request:
    """Take the ingress qdisc away, with its filters."""
    return RTM_DELQDISC, _TC.pack(0, index, _INGRESS_HANDLE, _INGRESS_PARENT, 0), 0


def redirect(source: int, target: int, *, queueless: bool = False) -> Request:
    """Send every frame that arrives at device `source` out of device `target`. queueless: remember that of `source`."""
    everything = ((0, 0, 0),)
    return _filter(source, _mark(queueless), _ETH_P_ALL, everything, (_ACTION_STOLEN, _EGRESS_REDIRECT, target))


def share_advertisements(source: int, target: int) -> Request:
    """Send what IPv6 routers announce at device `source` both ways: out of `target`, and up to the kernel here.

    A kernel that took an address or a route from an announcement must hear the next ones, or lets both expire.
    """
    router_advertisement = ((0x0000FF00, 58 << 8, 4), (0xFF000000, 134 << 24, 40))
    action = (_ACTION_OK, _EGRESS_MIRROR, target)
    return _filter(source, _MARK_ADVERTISEMENTS, _ETH_P_IPV6, router_advertisement, action)


def hear_answers(source: int, target: int) -> list[Request]:
    """Let the kernel here ask name servers through device `source`, whose frames go to `target`.

    It gets the answers (from port 53 to one of OWN_PORTS, over UDP or TCP), and hears ARP as the guest does.
    """
    everything = ((0, 0, 0),)
    arp = _filter(source, _MARK_ARP, _ETH_P_ARP, everything, (_ACTION_OK, _EGRESS_MIRROR, target))
    plain_header = (0xFF000000, 0x45000000, 0)
    ports = (0xFFFFF000, 53 << 16 | OWN_PORTS[0], 20)
    answers = [
        _filter(source, _MARK_ANSWERS, _ETH_P_IP, (plain_header, (0x00FF0000, protocol << 16, 8), ports), None)
        for protocol in (socket.IPPROTO_UDP, socket.IPPROTO_TCP)
    ]
    return [arp, *answers]


def _filter(
    source: int,
    priority: int,
    protocol: int,
    keys: tuple[tuple[int, int, int], ...],
    action: tuple[int, int, int] | None,
) -> Request:
    """A u32 filter at the ingress of `source`. keys: (mask, value, offset) from the network header on, all must match.

    action: what becomes of the packet here, what mirred does with it, and with which device; None: it stays here.
    """
    header = _TC.pack(0, source, 0, _INGRESS_HANDLE, priority << 16 | socket.htons(protocol))
    selector = struct.pack("=BBBxHHhhI", _U32_TERMINAL, 0, len(keys), 0, 0, 0, 0, 0)
    for mask, value, offset in keys:
        selector += struct.pack(">II", mask, value) + struct.pack("=ii", offset, 0)
    options = attribute(5, selector)
    if action is not None:
        verdict, eaction, target = action
        mirred = struct.pack("=IIiiiiI", 0, 0, verdict, 0, 0, eaction, target)
        options += nested(7, nested(1, text(1, "mirred"), nested(2, attribute(2, mirred))))
    return RTM_NEWTFILTER, header + text(1, "u32") + nested(2, options), _CREATE_EXCLUSIVE


def limit_rate(index: int, rate_bps: int, mtu: int, *, queueless: bool = False) -> Request:
    """Shape what leaves a device to `rate_bps` bits per second with a token bucket. queueless: remember that."""
    rate = max(1, rate_bps // 8)
    burst = max(rate * _MAX_BURST_MS // 1000, _MIN_BURST_BYTES, mtu * 2)
    limit = min(burst + rate * _MAX_DELAY_MS // 1000, 0xFFFFFFFF)
    spec = struct.pack("=BBHhHI", 0, _ETHERNET, 0, 0, 0, min(rate, 0xFFFFFFFF))
    options = struct.pack("=12s12sIII", spec, bytes(12), limit, 0, 0)
    large = attribute(4, struct.pack("=Q", rate)) if rate >= 1 << 32 else b""
    body = _TC.pack(0, index, _mark(queueless) << 16, _ROOT, 0) + text(1, "tbf")
    body += nested(2, attribute(1, options), attribute(6, struct.pack("=I", min(burst, 0xFFFFFFFF))), large)
    return RTM_NEWQDISC, body, _CREATE_EXCLUSIVE


def delete_limit(index: int, *, queueless: bool = False) -> Request:
    """Take the token bucket away; the device gets the qdisc back that it had from birth."""
    return RTM_DELQDISC, _TC.pack(0, index, _mark(queueless) << 16, _ROOT, 0), 0


def empty_queue(index: int) -> Request:
    """Give a device back its queue of length 0."""
    return requests.RTM_NEWLINK, requests.link(index, tx_queue_length=0), 0


def find_own(connection: Connection) -> list[Request]:
    """The requests that take away every qdisc in the namespace that bears our mark. Raises OSError."""
    found = []
    queueless = set()
    for body in connection.dump(RTM_GETQDISC, _TC.pack(0, 0, 0, 0, 0)):
        _, index, handle, parent, _ = _TC.unpack_from(body)
        kind = parse_text(parse_attributes(body, _TC.size).get(1))
        mark = 0
        if kind == "tbf" and parent == _ROOT and handle >> 16 in (_MARK, _MARK_QUEUELESS):
            mark = handle >> 16
            found.append(delete_limit(index, queueless=mark == _MARK_QUEUELESS))
        elif kind == "ingress":
            mark = _own_filter(connection, index)
            found += [delete_ingress(index)] if mark else []
        if mark == _MARK_QUEUELESS:
            queueless.add(index)
    return found + [empty_queue(index) for index in sorted(queueless)]


def _own_filter(connection: Connection, index: int) -> int:
    """The mark of our filter at a device's ingress, 0 when there is none."""
    filters = connection.dump(RTM_GETTFILTER, _TC.pack(0, index, 0, _INGRESS_HANDLE, 0))
    marks = {_TC.unpack_from(body)[4] >> 16 for body in filters} & {_MARK, _MARK_QUEUELESS}
    return max(marks, default=0)


def _mark(queueless: bool) -> int:
    return _MARK_QUEUELESS if queueless else _MARK
