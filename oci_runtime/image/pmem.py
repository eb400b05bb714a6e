"""The header that makes an NVDIMM's content mappable (DAX): without it the guest copies the image into its own memory.

An NVDIMM without labels is a "raw" namespace, which has no page structures and therefore no DAX. A "pfn" superblock in
the image's second page turns it into an "fsdax" one; the file system then starts at DATA_OFFSET_BYTES.
Source: Linux drivers/nvdimm/pfn.h and pfn_devs.c (nd_pfn_validate), nd_fletcher64.
"""

from __future__ import annotations

import struct

# The data's place and the image's size are multiples of this: memory is added to a guest in such pieces.
ALIGN_BYTES = 2 << 20
DATA_OFFSET_BYTES = ALIGN_BYTES
_PAGE_BYTES = 4096
_STRUCT_PAGE_BYTES = 64
_MODE_RAM = 1  # page structures in the guest's RAM: the image itself is read-only
_FIELDS = struct.Struct("<16s16s16sIHHQQIIIIIH")


def plan_header(data_bytes: int) -> bytes:
    """Return the DATA_OFFSET_BYTES that stand before `data_bytes` of file system (a multiple of ALIGN_BYTES)."""
    if data_bytes <= 0 or data_bytes % ALIGN_BYTES:
        raise ValueError(f"a pmem image of {data_bytes} bytes is not a multiple of {ALIGN_BYTES}")
    block = bytearray(_PAGE_BYTES)
    _FIELDS.pack_into(
        block, 0, b"NVDIMM_PFN_INFO", b"vmpod-root-image", bytes(16), 0, 1, 4, DATA_OFFSET_BYTES,
        data_bytes // _PAGE_BYTES, _MODE_RAM, 0, 0, ALIGN_BYTES, _PAGE_BYTES, _STRUCT_PAGE_BYTES,
    )  # fmt: skip
    struct.pack_into("<Q", block, _PAGE_BYTES - 8, fletcher64(block))
    return bytes(_PAGE_BYTES) + bytes(block) + bytes(DATA_OFFSET_BYTES - 2 * _PAGE_BYTES)


def fletcher64(data: bytes | bytearray) -> int:
    """Return the checksum that the kernel's libnvdimm uses, over little-endian 32-bit words."""
    low = high = 0
    for (word,) in struct.iter_unpack("<I", data):
        low = (low + word) & 0xFFFFFFFF
        high = (high + low) & 0xFFFFFFFFFFFFFFFF
    return ((high << 32) | low) & 0xFFFFFFFFFFFFFFFF
