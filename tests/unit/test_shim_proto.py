"""Our .proto files against the descriptors that containerd carries: same names, numbers, types, labels and methods."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FileDescriptor

from oci_runtime.shim.proto import (
    events_pb2,
    forward_pb2,
    metrics_v1_pb2,
    metrics_v2_pb2,
    options_pb2,
    task_pb2,
    types_pb2,
)

GZIP_MAGIC = b"\x1f\x8b\x08\x00\x00"
OURS: tuple[FileDescriptor, ...] = tuple(
    module.DESCRIPTOR
    for module in (events_pb2, forward_pb2, metrics_v1_pb2, metrics_v2_pb2, options_pb2, task_pb2, types_pb2)
)
# Younger than the oldest containerd that we serve, so its binary may not know them.
YOUNGER = {"config_body", "RuntimeInfo", "RuntimeVersion"}
PACKAGES = {
    "io.containerd.cgroups.v1",
    "io.containerd.cgroups.v2",
    "containerd.events",
    "containerd.services.events.ttrpc.v1",
    "runtimeoptions.v1",
    "containerd.task.v2",
    "containerd.types",
    "containerd.v1.types",
}


def embedded_descriptors(binary: Path) -> Iterator[descriptor_pb2.FileDescriptorProto]:
    """Yield the compressed file descriptors inside a Go program."""
    data = binary.read_bytes()
    at = data.find(GZIP_MAGIC)
    while at >= 0:
        try:
            raw = zlib.decompressobj(31).decompress(data[at : at + 400_000])
            found = descriptor_pb2.FileDescriptorProto.FromString(raw)
        except Exception:  # noqa: BLE001 - most matches of the magic are something else
            found = None
        if found is not None and found.package in PACKAGES:
            yield found
        at = data.find(GZIP_MAGIC, at + 1)


@pytest.fixture(scope="module")
def theirs() -> dict[tuple[str, str], descriptor_pb2.DescriptorProto]:
    program = shutil.which("containerd")
    assert program, "containerd is not installed"
    messages = {
        (file.package, message.name): message
        for file in embedded_descriptors(Path(program))
        for message in file.message_type
    }
    assert len(messages) > 60
    return messages


def our_messages() -> list[Descriptor]:
    found = [message for file in OURS for message in file.message_types_by_name.values()]
    return [message for message in found if message.name not in YOUNGER]


@pytest.mark.parametrize("message", our_messages(), ids=lambda message: str(message.full_name))
def test_fields_are_those_of_containerd(
    message: Descriptor, theirs: dict[tuple[str, str], descriptor_pb2.DescriptorProto]
) -> None:
    candidates = [theirs.get((package, message.name)) for package in (message.file.package, "containerd.v1.types")]
    reference = next(found for found in candidates if found is not None)
    real = {field.name: field for field in reference.field}
    for field in message.fields:
        if field.name in YOUNGER and field.name not in real:
            continue
        other = real[field.name]
        assert (field.number, field.type, field.is_repeated) == (
            other.number,
            other.type,
            other.label == other.LABEL_REPEATED,
        )
        named = field.message_type or field.enum_type
        if named is not None and not other.type_name.endswith("Entry"):
            assert other.type_name.rsplit(".", 1)[1] == named.name


def test_task_statuses_are_those_of_containerd() -> None:
    program = shutil.which("containerd")
    assert program, "containerd is not installed"
    enums = {
        enum.name: {value.name: value.number for value in enum.value}
        for file in embedded_descriptors(Path(program))
        for enum in file.enum_type
    }
    assert enums["Status"] == dict(types_pb2.Status.items())
