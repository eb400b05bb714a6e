"""Write the tables and type stubs of oci_runtime.ttrpc.lean from a protobuf descriptor set.

Usage: lean_messages.py DESCRIPTORS OUTPUT-WITHOUT-SUFFIX
"""

from __future__ import annotations

import sys
from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorSet

_KINDS = {
    FieldDescriptorProto.TYPE_STRING: "s",
    FieldDescriptorProto.TYPE_BYTES: "b",
    FieldDescriptorProto.TYPE_INT32: "i",
    FieldDescriptorProto.TYPE_INT64: "i",
    FieldDescriptorProto.TYPE_UINT32: "u",
    FieldDescriptorProto.TYPE_UINT64: "u",
    FieldDescriptorProto.TYPE_BOOL: "B",
    FieldDescriptorProto.TYPE_MESSAGE: "m",
}
_TYPES = {"s": "str", "b": "bytes", "i": "int", "u": "int", "B": "bool"}


def row(message: DescriptorProto, field: FieldDescriptorProto) -> tuple[int, str, str, str]:
    """One table row: number, name, kind, and the message's name or a map's value kind."""
    kind = _KINDS.get(field.type)
    if kind is None:
        raise SystemExit(f"{message.name}.{field.name}: this type is unknown to oci_runtime.ttrpc.lean")
    other = field.type_name.rpartition(".")[2]
    repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
    entry = next((nested for nested in message.nested_type if nested.name == other and nested.options.map_entry), None)
    if entry is not None:
        value = _KINDS.get(entry.field[1].type, "")
        if entry.field[0].type != FieldDescriptorProto.TYPE_STRING or value not in _TYPES:
            raise SystemExit(f"{message.name}.{field.name}: only maps from string to a scalar are known")
        return field.number, field.name, "M", value
    if repeated and kind in "iuB":
        raise SystemExit(f"{message.name}.{field.name}: packed numbers are unknown to oci_runtime.ttrpc.lean")
    return field.number, field.name, ("r" if repeated else "") + kind, other


def annotation(kind: str, other: str) -> tuple[str, str]:
    """The attribute's type, and the constructor argument's."""
    if kind == "M":
        return f"dict[str, {_TYPES[other]}]", f"Mapping[str, {_TYPES[other]}]"
    item = other if kind[-1] == "m" else _TYPES[kind[-1]]
    if kind[0] == "r":
        return f"list[{item}]", f"Iterable[{item}]"
    return (f"{item} | None",) * 2 if kind == "m" else (item, item)


def main() -> None:
    """Write OUTPUT.py and OUTPUT.pyi."""
    (file,) = FileDescriptorSet.FromString(Path(sys.argv[1]).read_bytes()).file
    source = ['"""Written by scripts/proto.sh. Do not edit."""', "from oci_runtime.ttrpc.lean import Message, build"]
    stub = [
        '"""Written by scripts/proto.sh. Do not edit."""',
        "from collections.abc import Iterable, Mapping",
        "from oci_runtime.ttrpc.lean import Message",
    ]
    source.append("_TABLE: dict[str, tuple[tuple[int, str, str, str], ...]] = {")
    for message in file.message_type:
        rows = tuple(row(message, field) for field in message.field)
        source.append(f"    {message.name!r}: {rows!r},")
        stub.append(f"class {message.name}(Message):")
        stub += [f"    {name}: {annotation(kind, other)[0]}" for _, name, kind, other in rows]
        arguments = "".join(f", {name}: {annotation(kind, other)[1]} = ..." for _, name, kind, other in rows)
        stub.append(f"    def __init__(self{', *' if rows else ''}{arguments}) -> None: ...")
    source += [
        "}",
        "def __getattr__(name: str) -> type[Message]:",
        "    if name not in _TABLE:",
        "        raise AttributeError(name)",
        "    def find(other: str) -> type[Message]:",
        "        return globals().get(other) or __getattr__(other)",
        "    globals()[name] = made = build(name, _TABLE[name], find)",
        "    return made",
    ]
    output = Path(sys.argv[2])
    output.with_suffix(".py").write_text("\n".join(source) + "\n")
    output.with_suffix(".pyi").write_text("\n".join(stub) + "\n")


main()
