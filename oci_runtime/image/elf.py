"""The few facts of ELF files that an image needs: libraries of a program, the PVH note of a kernel. Pure.

Source: System V ABI (ELF-64, little endian); xen/include/public/elfnote.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from oci_runtime.errors import InvalidInput

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<qQ")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_PT_LOAD, _PT_DYNAMIC, _PT_NOTE = 1, 2, 4
_DT_NULL, _DT_NEEDED, _DT_STRTAB = 0, 1, 5
_XEN_PHYS32_ENTRY = 18


@dataclass(frozen=True)
class Segment:
    """One program header. index: its place in the table."""

    index: int
    type: int
    flags: int
    offset: int
    address: int
    physical: int
    file_bytes: int
    memory_bytes: int
    align: int


def is_elf64(data: bytes) -> bool:
    """Whether `data` starts like a 64-bit little-endian ELF file."""
    return data[:6] == b"\x7fELF\x02\x01"


def read_segments(data: bytes) -> tuple[Segment, ...]:
    """Return the program headers; InvalidInput when `data` is not a complete ELF-64 file."""
    if not is_elf64(data) or len(data) < _HEADER.size:
        raise InvalidInput("not a 64-bit little-endian ELF file")
    fields = _HEADER.unpack_from(data)
    start, size, count = fields[5], fields[9], fields[10]
    if count and (size != _PROGRAM.size or start + size * count > len(data)):
        raise InvalidInput("ELF file with a broken program header table")
    segments = []
    for index in range(count):
        kind, flags, offset, address, physical, in_file, in_memory, align = _PROGRAM.unpack_from(
            data, start + index * size
        )
        if offset + in_file > len(data):
            raise InvalidInput(f"ELF file is cut off: segment {index} ends beyond byte {len(data)}")
        segments.append(Segment(index, kind, flags, offset, address, physical, in_file, in_memory, align))
    return tuple(segments)


def program_header_offset(data: bytes, index: int) -> int:
    """Return the file offset of program header `index`."""
    return int(_HEADER.unpack_from(data)[5]) + index * _PROGRAM.size


def pack_segment(segment: Segment) -> bytes:
    """Return the program header as it stands in the file."""
    return _PROGRAM.pack(
        segment.type, segment.flags, segment.offset, segment.address, segment.physical, segment.file_bytes,
        segment.memory_bytes, segment.align,
    )  # fmt: skip


def needed_libraries(data: bytes) -> tuple[str, ...]:
    """Return the sonames (DT_NEEDED) that a program or library asks for; () when it is static."""
    segments = read_segments(data)
    dynamic = next((segment for segment in segments if segment.type == _PT_DYNAMIC), None)
    if dynamic is None:
        return ()
    entries = []
    whole = dynamic.file_bytes - dynamic.file_bytes % _DYNAMIC.size
    for tag, value in _DYNAMIC.iter_unpack(data[dynamic.offset : dynamic.offset + whole]):
        if tag == _DT_NULL:
            break
        entries.append((tag, value))
    table = next((value for tag, value in entries if tag == _DT_STRTAB), 0)
    strings = _file_offset(segments, table)
    return tuple(_string(data, strings + value) for tag, value in entries if tag == _DT_NEEDED)


@dataclass(frozen=True)
class Section:
    """One section. header_offset: where its header stands in the file."""

    header_offset: int
    address: int


def find_section(data: bytes, name: bytes) -> Section | None:
    """Return the section called `name`, or None without such a section; InvalidInput when `data` is no ELF-64 file."""
    read_segments(data)
    start, size, count, names_index = (_HEADER.unpack_from(data)[index] for index in (6, 11, 12, 13))
    if size != _SECTION.size or not start or start + size * count > len(data) or names_index >= count:
        return None
    names_at = _SECTION.unpack_from(data, start + names_index * size)[4]
    for offset in range(start, start + size * count, size):
        section = _SECTION.unpack_from(data, offset)
        name_at = names_at + section[0]
        if data[name_at : name_at + len(name) + 1] == name + b"\0":
            return Section(offset, int(section[3]))
    return None


def pvh_entry(data: bytes) -> int | None:
    """Return the 32-bit entry point that a kernel offers to PVH loaders, or None when it has none."""
    for owner, kind, description in _notes(data):
        if owner == b"Xen\0" and kind == _XEN_PHYS32_ENTRY and len(description) in (4, 8):
            return int.from_bytes(description, "little")
    return None


def _notes(data: bytes) -> Iterator[tuple[bytes, int, bytes]]:
    for segment in read_segments(data):
        if segment.type != _PT_NOTE:
            continue
        at, end = segment.offset, segment.offset + segment.file_bytes
        while at + 12 <= end:
            name_bytes, description_bytes, kind = struct.unpack_from("<III", data, at)
            name_at = at + 12
            description_at = name_at + (name_bytes + 3 & ~3)
            if description_at + description_bytes > end:
                break
            yield data[name_at : name_at + name_bytes], kind, data[description_at : description_at + description_bytes]
            at = description_at + (description_bytes + 3 & ~3)


def _file_offset(segments: tuple[Segment, ...], address: int) -> int:
    for segment in segments:
        if segment.type == _PT_LOAD and segment.address <= address < segment.address + segment.file_bytes:
            return segment.offset + address - segment.address
    raise InvalidInput(f"ELF file names address {address:#x}, which no segment holds")


def _string(data: bytes, offset: int) -> str:
    end = data.find(b"\0", offset)
    if end < 0:
        raise InvalidInput(f"ELF file with a string at {offset} that does not end")
    return data[offset:end].decode("ascii", "replace")
