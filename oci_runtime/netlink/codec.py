"""Netlink messages and attributes as bytes: pure, and strict about lengths that a peer announces.

Source: the kernel's UAPI header linux/netlink.h.
"""

from __future__ import annotations

import struct
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")

NLMSG_ERROR = 2
NLMSG_DONE = 3

NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTERRUPTED = 0x10
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_APPEND = 0x800
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200

NLA_F_NESTED = 0x8000
_NLA_TYPE_MASK = 0x3FFF


class MalformedMessage(ValueError):
    """A length in a netlink message does not fit the bytes that came."""


def message(kind: int, flags: int, sequence: int, body: bytes) -> bytes:
    """One message with its header, padded to four bytes."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, sequence, 0) + body + bytes(-len(body) % 4)


def iterate_messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (type, flags, sequence, body) of each message of a datagram. Raises MalformedMessage."""
    offset = 0
    while len(data) - offset >= HEADER.size:
        length, kind, flags, sequence, _ = HEADER.unpack_from(data, offset)
        if length < HEADER.size or offset + length > len(data):
            raise MalformedMessage(f"netlink message of {length} bytes in a datagram of {len(data)}")
        yield kind, flags, sequence, data[offset + HEADER.size : offset + length]
        offset += (length + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute with its padding."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def nested(kind: int, *children: bytes) -> bytes:
    """An attribute that holds attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(children))


def u8(kind: int, value: int) -> bytes:
    """An attribute of one byte."""
    return attribute(kind, bytes((value,)))


def u32(kind: int, value: int) -> bytes:
    """An attribute of a 32-bit number in the machine's order."""
    return attribute(kind, struct.pack("=I", value))


def text(kind: int, value: str) -> bytes:
    """An attribute of a zero-terminated string."""
    return attribute(kind, value.encode() + b"\0")


def iterate_attributes(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (type without flags, value) of each attribute from `offset` on. Raises MalformedMessage."""
    while len(data) - offset >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size or offset + length > len(data):
            raise MalformedMessage(f"netlink attribute of {length} bytes, {len(data) - offset} are left")
        yield kind & _NLA_TYPE_MASK, data[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def parse_attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """All attributes by type; of a repeated type the last one counts, as in the kernel."""
    return dict(iterate_attributes(data, offset))


def parse_u32(value: bytes | None, default: int = 0) -> int:
    """A 32-bit number, `default` when the attribute is absent. Raises MalformedMessage."""
    if value is None:
        return default
    if len(value) < 4:
        raise MalformedMessage(f"netlink number of {len(value)} bytes, 4 are needed")
    return int.from_bytes(value[:4], sys.byteorder)


def parse_text(value: bytes | None) -> str:
    """A zero-terminated string, "" when the attribute is absent."""
    return (value or b"").split(b"\0", 1)[0].decode(errors="replace")
