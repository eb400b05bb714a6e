"""Unpack a distribution's bzImage into the ELF kernel that QEMU boots directly (PVH): the guest unpacks nothing.

Source: Documentation/arch/x86/boot.rst (setup header, protocol 2.08 and later: payload_offset, payload_length).
"""

from __future__ import annotations

import lzma
import struct
import zlib
from dataclasses import replace

from oci_runtime.errors import InvalidInput
from oci_runtime.image.elf import (
    find_section,
    is_elf64,
    pack_segment,
    program_header_offset,
    pvh_entry,
    read_segments,
)
from oci_runtime.image.tools import run_filter

_SETUP_SECTORS = 0x1F1
_MAGIC_AT, _MAGIC = 0x202, b"HdrS"
_VERSION_AT = 0x206
_PAYLOAD_AT = 0x248
_PT_LOAD = 1


def extract_vmlinux(bzimage: bytes) -> bytes:
    """Return the ELF kernel inside `bzimage`, without the zeros that it need not carry.

    Raises InvalidInput when it is no bzImage, uses an unknown compression, or its kernel has no PVH entry point;
    NotFound when the program that unpacks it is missing.
    """
    vmlinux = _decompress(_payload(bzimage))
    if not is_elf64(vmlinux):
        raise InvalidInput("the kernel's payload is not an ELF file")
    if pvh_entry(vmlinux) is None:
        raise InvalidInput("the kernel has no PVH entry point; it needs CONFIG_PVH=y")
    return drop_trailing_zeros(vmlinux)


def drop_trailing_zeros(vmlinux: bytes) -> bytes:
    """Shorten the file by the zeros at the end of its segments, the last segment by what the kernel clears itself.

    QEMU writes every byte that a segment occupies in memory, in the file or not: leaving out .bss and what follows it
    (the heap of the early kernel, scratch space) spares the host pages that the guest may never use. All other memory
    keeps its zeros, whatever was there before.
    """
    output = bytearray(vmlinux)
    bss = find_section(vmlinux, b".bss")
    end = 0
    for segment in read_segments(vmlinux):
        if segment.type == _PT_LOAD:
            used = len(vmlinux[segment.offset : segment.offset + segment.file_bytes].rstrip(b"\0"))
            memory_bytes = segment.memory_bytes
            if bss is not None and segment.address < bss.address < segment.address + memory_bytes:
                memory_bytes = bss.address - segment.address
                used = min(used, memory_bytes)
            segment = replace(segment, file_bytes=used, memory_bytes=memory_bytes)
            at = program_header_offset(vmlinux, segment.index)
            packed = pack_segment(segment)
            output[at : at + len(packed)] = packed
        end = max(end, segment.offset + segment.file_bytes)
    struct.pack_into("<Q", output, 0x28, 0)  # e_shoff
    struct.pack_into("<HHH", output, 0x3A, 0, 0, 0)  # e_shentsize, e_shnum, e_shstrndx
    return bytes(output[:end])


def _payload(bzimage: bytes) -> bytes:
    if bzimage[_MAGIC_AT : _MAGIC_AT + 4] != _MAGIC:
        raise InvalidInput("not a bzImage: the setup header is missing")
    (version,) = struct.unpack_from("<H", bzimage, _VERSION_AT)
    if version < 0x208:
        raise InvalidInput(f"boot protocol {version:#x} is too old, 2.08 is needed")
    offset, length = struct.unpack_from("<II", bzimage, _PAYLOAD_AT)
    start = (bzimage[_SETUP_SECTORS] + 1) * 512 + offset
    payload = bzimage[start : start + length]
    if len(payload) != length:
        raise InvalidInput("the kernel is cut off")
    return payload


def _decompress(payload: bytes) -> bytes:
    if is_elf64(payload):
        return payload
    if payload.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor(lzma.FORMAT_XZ).decompress(payload)
    if payload.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(wbits=31).decompress(payload)
    # The last four bytes are the unpacked size, not part of the stream.
    if payload.startswith(b"\x02\x21\x4c\x18"):
        return run_filter(["lz4", "-dc"], payload[:-4])
    if payload.startswith(b"\x28\xb5\x2f\xfd"):
        return run_filter(["zstd", "-dc"], payload[:-4])
    raise InvalidInput(f"kernel payload of unknown compression (starts with {payload[:6].hex()})")
