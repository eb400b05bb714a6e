"""A small protobuf codec for the guest, where importing the protobuf package would cost a tenth of the boot.

A message class is made from a row of a table on first use (`oci_runtime.ttrpc.proto.agent_lean`, written by
`scripts/proto.sh`). It has one attribute per field, as protobuf's own classes have; a repeated field is a list, a map a
dict, an absent message None. Kinds: `s` string, `b` bytes, `i` int32/int64, `u` uint32/uint64, `B` bool, `m` message;
`r` before a kind means repeated, `M` is a map from string.
Source: protobuf's encoding specification, wire types 0 and 2, skipping 1 and 5.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, ClassVar, Self

_VARINT = 0
_LENGTH = 2
_MASK64 = (1 << 64) - 1
MAX_DEPTH = 16
_LONG_BYTES = 8192


class DecodeError(ValueError):
    """The bytes are not a message of this type."""


class Message:
    """Base of the generated classes."""

    NAME: ClassVar[str]
    FIELDS: ClassVar[dict[int, tuple[str, str, type[Message] | str | None]]]

    def __init__(self, **values: Any) -> None:
        for name, kind, _ in self.FIELDS.values():
            if name in values:
                value = values.pop(name)
                setattr(self, name, list(value) if kind[0] == "r" else dict(value) if kind[0] == "M" else value)
            else:
                setattr(self, name, _default(kind))
        if values:
            raise TypeError(f"{self.NAME} has no field {next(iter(values))}")

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.__dict__ == self.__dict__

    def __repr__(self) -> str:
        return f"{self.NAME}({', '.join(f'{name}={value!r}' for name, value in self.__dict__.items() if value)})"

    def SerializeToString(self) -> bytes:
        """Encode; fields that hold their default are left out, as proto3 wants it."""
        return b"".join(self.parts())

    def parts(self) -> list[bytes]:
        """The same in pieces, of which long byte strings are not copies: emulated memory is slow to copy."""
        parts: list[bytes] = []
        out = bytearray()
        for number, (name, kind, other) in self.FIELDS.items():
            value = getattr(self, name)
            if kind[0] == "r":
                for item in value:
                    _put(out, number, kind[1], item)
            elif kind[0] == "M":
                for key, item in value.items():
                    entry = bytearray()
                    _put(entry, 1, "s", key)
                    _put(entry, 2, str(other), item)
                    _put(out, number, "b", entry)
            elif kind == "b" and len(value) >= _LONG_BYTES:
                _put_varint(out, number << 3 | _LENGTH)
                _put_varint(out, len(value))
                parts += (bytes(out), value)
                out.clear()
            elif value is not None and (value or kind == "m"):
                _put(out, number, kind, value)
        if out:
            parts.append(bytes(out))
        return parts

    @classmethod
    def FromString(cls, data: bytes | memoryview, depth: int = 0, *, views: bool = False) -> Self:
        """Decode; unknown fields are skipped. Raises DecodeError.

        views: fields of bytes become memoryviews of `data`, for callers that only pass them on.
        """
        if depth > MAX_DEPTH:
            raise DecodeError(f"{cls.NAME}: nested too deeply")
        message = cls()
        view = memoryview(data)
        try:
            for number, wire, value in _fields(view):
                field = cls.FIELDS.get(number)
                if field is None:
                    continue
                if views and field[1] == "b" and wire == _LENGTH:
                    setattr(message, field[0], value)
                else:
                    _store(message, field, wire, value, depth)
        except (IndexError, UnicodeDecodeError) as error:
            raise DecodeError(f"{cls.NAME}: {error}") from None
        return message


def build(name: str, row: tuple[tuple[int, str, str, str], ...], find: Callable[[str], type[Message]]) -> type[Message]:
    """Make the class of one table row; `find` gives the classes that its fields refer to."""
    fields: dict[int, tuple[str, str, type[Message] | str | None]] = {}
    for number, field, kind, other in row:
        fields[number] = (field, kind, find(other) if kind[-1] == "m" else other or None)
    return type(name, (Message,), {"NAME": name, "FIELDS": fields, "__hash__": None})


def _default(kind: str) -> Any:
    if kind[0] == "r":
        return []
    if kind[0] == "M":
        return {}
    return {"s": "", "b": b"", "i": 0, "u": 0, "B": False, "m": None}[kind]


def length_prefix(number: int, length: int) -> bytes:
    """What stands before a field of bytes."""
    out = bytearray()
    _put_varint(out, number << 3 | _LENGTH)
    _put_varint(out, length)
    return bytes(out)


def _put_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _put(out: bytearray, number: int, kind: str, value: Any) -> None:
    if kind in "iuB":
        _put_varint(out, number << 3 | _VARINT)
        _put_varint(out, int(value) & _MASK64)
        return
    data = value.SerializeToString() if kind == "m" else value.encode() if kind == "s" else value
    _put_varint(out, number << 3 | _LENGTH)
    _put_varint(out, len(data))
    out += data


def _get_varint(view: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _MASK64, at
        shift += 7
        if shift > 63:
            raise DecodeError("a number has more than ten bytes")


def _fields(view: memoryview) -> Any:
    """Yield (number, wire type, int or memoryview) for each field of a message."""
    at, end = 0, len(view)
    while at < end:
        tag, at = _get_varint(view, at)
        number, wire = tag >> 3, tag & 7
        value: int | memoryview
        if number == 0:
            raise DecodeError("field number 0")
        if wire == _VARINT:
            value, at = _get_varint(view, at)
        else:
            if wire == _LENGTH:
                length, at = _get_varint(view, at)
            elif wire in (1, 5):
                length = 8 if wire == 1 else 4
            else:
                raise DecodeError(f"wire type {wire}")
            if length > end - at:
                raise DecodeError("a field is longer than its message")
            value = view[at : at + length]
            at += length
        yield number, wire, value


def _scalar(kind: str, wire: int, value: Any, other: Any, depth: int) -> Any:
    if kind in "iuB":
        if wire != _VARINT:
            raise DecodeError(f"wire type {wire} for a number")
        if kind == "i":
            return value - (1 << 64) if value >> 63 else value
        return bool(value) if kind == "B" else value
    if wire != _LENGTH:
        raise DecodeError(f"wire type {wire} for bytes")
    if kind == "b":
        return bytes(value)
    return str(value, "utf-8") if kind == "s" else other.FromString(value, depth + 1)


def _store(message: Message, field: tuple[str, str, Any], wire: int, value: Any, depth: int) -> None:
    name, kind, other = field
    if kind[0] == "r":
        getattr(message, name).append(_scalar(kind[1], wire, value, other, depth))
    elif kind[0] == "M":
        if wire != _LENGTH:
            raise DecodeError(f"wire type {wire} for a map entry")
        key, item = "", _default(other)
        for number, inner, part in _fields(value):
            if number == 1:
                key = _scalar("s", inner, part, None, depth)
            elif number == 2:
                item = _scalar(other, inner, part, None, depth)
        getattr(message, name)[key] = item
    else:
        setattr(message, name, _scalar(kind, wire, value, other, depth))
