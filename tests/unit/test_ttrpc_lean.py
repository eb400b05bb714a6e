"""The guest's small codec against protobuf itself: what one writes the other reads, for every message of the agent."""

from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError as ProtobufDecodeError
from google.protobuf.message import Message as ProtobufMessage
from hypothesis import given, settings
from hypothesis import strategies as st

from oci_runtime.ttrpc import lean
from oci_runtime.ttrpc.proto import agent_lean, agent_pb2, ttrpc_lean, ttrpc_pb2

_MODULES = ((agent_pb2, agent_lean), (ttrpc_pb2, ttrpc_lean))
_MESSAGES = [
    (getattr(full, name), getattr(small, name))
    for full, small in _MODULES
    for name in full.DESCRIPTOR.message_types_by_name
]
_SCALARS = {
    FieldDescriptor.TYPE_STRING: st.text(max_size=20),
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=40),
    FieldDescriptor.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    FieldDescriptor.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    FieldDescriptor.TYPE_UINT32: st.integers(0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: st.integers(0, 2**64 - 1),
    FieldDescriptor.TYPE_BOOL: st.booleans(),
}


def values(descriptor: Descriptor) -> st.SearchStrategy[dict[str, Any]]:
    """Values for some fields of a message, as plain Python."""
    fields: dict[str, st.SearchStrategy[Any]] = {}
    for field in descriptor.fields:
        other = field.message_type
        if other is not None and other.GetOptions().map_entry:
            value = _SCALARS[other.fields_by_name["value"].type]
            fields[field.name] = st.dictionaries(st.text(max_size=5), value, max_size=3)
            continue
        one = values(other) if other is not None else _SCALARS[field.type]
        fields[field.name] = st.lists(one, max_size=3) if field.is_repeated else one
    return st.fixed_dictionaries({}, optional=fields)


def make(kind: type[lean.Message], given_values: dict[str, Any]) -> lean.Message:
    """A lean message of plain values."""
    arguments = {}
    for name, field_kind, other in kind.FIELDS.values():
        if name in given_values:
            value = given_values[name]
            if field_kind == "rm":
                value = [make(other, item) for item in value]  # type: ignore[arg-type]
            elif field_kind == "m":
                value = make(other, value)  # type: ignore[arg-type]
            arguments[name] = value
    return kind(**arguments)


@pytest.mark.parametrize(("full", "small"), _MESSAGES, ids=lambda kind: kind.__name__)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_both_codecs_agree(full: type[ProtobufMessage], small: type[lean.Message], data: st.DataObject) -> None:
    given_values = data.draw(values(full.DESCRIPTOR))  # type: ignore[arg-type]
    reference = full(**given_values)
    message = make(small, given_values)
    assert full.FromString(message.SerializeToString()) == reference
    assert small.FromString(reference.SerializeToString()) == message


@given(st.binary(max_size=200))
def test_random_bytes_decode_or_are_refused(data: bytes) -> None:
    """Whatever protobuf takes, the lean codec takes, unless the bytes have groups, which proto3 does not write."""
    for full, small in ((agent_pb2.UpdateNetworkRequest, agent_lean.UpdateNetworkRequest),):
        try:
            small.FromString(data)
        except lean.DecodeError:
            continue
        full_or_refused(full, data)


def full_or_refused(full: type[ProtobufMessage], data: bytes) -> None:
    """protobuf also refuses numbers of fields that do not exist; nothing else may come out of it."""
    try:
        full.FromString(data)
    except ProtobufDecodeError:
        pass


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x0a\x05ab", "longer than its message"),
        (b"\x0a", "index out of bounds"),
        (b"\x0a\x02\xff\xfe", "utf-8"),
        (b"\x08\x01", "wire type 0 for bytes"),
        (b"\x12\x01a", "wire type 2 for a number"),
        (b"\x10" + b"\xff" * 10 + b"\x01", "ten bytes"),
        (b"\x03", "field number 0"),
        (b"\x0b", "wire type 3"),
    ],
)
def test_broken_messages_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(lean.DecodeError, match=reason):
        agent_lean.HelloRequest.FromString(data)


def test_unknown_fields_are_skipped() -> None:
    extra = b"\xf8\x07\x05" + b"\xfa\x07\x03abc" + b"\xf9\x07" + bytes(8) + b"\xfd\x07" + bytes(4)
    message = agent_lean.HelloRequest.FromString(extra + agent_lean.HelloRequest(version="1").SerializeToString())
    assert message == agent_lean.HelloRequest(version="1")


def test_nesting_is_bounded() -> None:
    table = (((1, "inner", "m", "Nested"),),)
    kind = lean.build("Nested", table[0], lambda _: lean.Message)
    kind.FIELDS[1] = ("inner", "m", kind)
    data = b""
    for _ in range(lean.MAX_DEPTH + 2):
        size = len(data)
        data = b"\x0a" + (bytes([size]) if size < 128 else bytes([size & 127 | 128, size >> 7])) + data
    with pytest.raises(lean.DecodeError, match="nested too deeply"):
        kind.FromString(data)


def test_a_misspelt_field_is_an_error() -> None:
    with pytest.raises(TypeError, match="HelloRequest has no field verison"):
        agent_lean.HelloRequest(verison="1")  # type: ignore[call-arg]
