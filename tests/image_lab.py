"""What the tests of the image share: small ELF files, kernels and images made by hand."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oci_runtime.image.cpio import CpioArchive
from oci_runtime.image.digest import sha256_file
from oci_runtime.image.firststage import BASE_ADDRESS

_ALIGN = 16
_EXECVE = 59
_ROW_BYTES = 80


def note(owner: bytes, kind: int, content: bytes) -> bytes:
    """One ELF note."""
    padded = (part + bytes(-len(part) % 4) for part in (owner, content))
    return struct.pack("<III", len(owner), len(content), kind) + b"".join(padded)


def elf_file(
    *, notes: bytes = b"", loads: tuple[tuple[int, bytes, int], ...] = (), sections: Mapping[bytes, int] | None = None
) -> bytes:
    """An ELF-64 file. loads: address, content, bytes in memory. sections: name -> address."""
    count = len(loads) + bool(notes)
    body_at = 64 + 56 * count
    headers, body = b"", b""
    parts = [(4, 0, notes, len(notes))] if notes else []
    parts += [(1, address, content, memory) for address, content, memory in loads]
    for kind, address, content, memory in parts:
        offset = body_at + len(body)
        headers += struct.pack("<IIQQQQQQ", kind, 7, offset, address, address, len(content), memory, _ALIGN)
        body += content
    names, table = b"\0", b""
    if sections is not None:
        table = bytes(64)
        for name, address in sections.items():
            table += struct.pack("<IIQQQQIIQQ", len(names), 1, 2, address, 0, 0, 0, 0, 1, 0)
            names += name + b"\0"
        table += struct.pack("<IIQQQQIIQQ", 0, 3, 0, 0, body_at + len(body), len(names), 0, 0, 1, 0)
        body += names
    table_at = body_at + len(body) if sections is not None else 0
    section_count = len(sections) + 2 if sections is not None else 0
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, 0x1000, 64, table_at, 0, 64, 56, count,
        64 if section_count else 0, section_count, max(section_count - 1, 0),
    )  # fmt: skip
    return header + headers + body + table


def bzimage(payload: bytes, *, version: int = 0x20F) -> bytes:
    """A bzImage with one setup sector and `payload` behind 100 bytes of decompressor."""
    setup = bytearray(1024)
    setup[0x1F1] = 1
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, version)
    struct.pack_into("<II", setup, 0x248, 100, len(payload))
    return bytes(setup) + bytes(100) + payload


def gzip_payload(content: bytes) -> bytes:
    """Content packed as the kernel's build does it: a gzip stream and the unpacked size."""
    packer = zlib.compressobj(wbits=31)
    return packer.compress(content) + packer.flush() + struct.pack("<I", len(content))


def write_image(store: Path, digest: str = "0123456789abcdef", name: str = "default", **changes: Any) -> Path:
    """Put an image with small assets into a store under a name; return its directory. changes: of the manifest."""
    directory = store / digest
    directory.mkdir(parents=True)
    assets = {}
    for asset in ("kernel", "initrd", "rootfs"):
        (directory / asset).write_bytes(asset.encode() * 1000)
        assets[asset] = {"bytes": (directory / asset).stat().st_size, "sha256": sha256_file(directory / asset)}
    manifest = {
        "format": 1,
        "hash": digest,
        "assets": assets,
        "kernel_parameters": ["quiet", "panic=-1"],
        "kernel_release": "6.1.0-test",
        "agent_version": "0",
        "has_9p": False,
        "tree": "tree0",
    } | changes
    (directory / "manifest.json").write_text(json.dumps(manifest))
    (store / name).symlink_to(digest)
    return directory


def replace_agent(initrd: bytes, argv: tuple[str, ...]) -> bytes:
    """The image's initrd, followed by its first stage again, which now executes `argv` in place of the agent."""
    program = bytearray(archive_member(initrd, b"init"))
    entry, segment = struct.unpack_from("<Q", program, 24)[0] - BASE_ADDRESS, 64
    at = struct.unpack_from("<Q", program, entry + 2)[0] - BASE_ADDRESS
    while struct.unpack_from("<Q", program, at)[0] != _EXECVE:
        at += _ROW_BYTES
    pointers = []
    for text in argv:
        pointers.append(BASE_ADDRESS + len(program))
        program += text.encode() + b"\0"
    program += bytes(-len(program) % 8)
    struct.pack_into("<QQ", program, at + 8, pointers[0], BASE_ADDRESS + len(program))
    program += struct.pack(f"<{len(pointers) + 1}Q", *pointers, 0)
    struct.pack_into("<QQ", program, segment + 32, len(program), len(program))
    extra = CpioArchive()
    extra.add_file("init", bytes(program), 0o755)
    return initrd + extra.finish()


def archive_member(archive: bytes, wanted: bytes) -> bytes:
    """The content of one file of a "newc" archive."""
    position = 0
    while True:
        assert archive[position : position + 6] == b"070701", f"no {wanted.decode()} in the archive"
        size, name_size = (int(archive[position + at : position + at + 8], 16) for at in (54, 94))
        name = archive[position + 110 : position + 110 + name_size - 1]
        start = -(-(position + 110 + name_size) // 4) * 4
        if name == wanted:
            return archive[start : start + size]
        position = -(-(start + size) // 4) * 4
