"""Unpacking a kernel: every compression, what is dropped from it, and what is refused."""

from __future__ import annotations

import lzma
import shutil
import struct
import subprocess

import pytest

from oci_runtime.errors import InvalidInput, NotFound
from oci_runtime.image import tools, vmlinux
from oci_runtime.image.elf import read_segments
from oci_runtime.image.vmlinux import drop_trailing_zeros, extract_vmlinux
from tests.image_lab import bzimage, elf_file, gzip_payload, note

PVH = note(b"Xen\0", 18, (0x1000).to_bytes(8, "little"))
TEXT = (0x1000, b"code" * 100 + bytes(50), 500)
LAST = (0x4000, b"data" * 10 + bytes(0x2000 - 40), 0x3000)
KERNEL = elf_file(notes=PVH, loads=(TEXT, LAST), sections={b".text": 0x1000, b".bss": 0x5000})


def pack(program: str, *options: str) -> bytes:
    path = shutil.which(program)
    assert path, f"apt-get install {program}"
    packed = subprocess.run([path, *options, "-c"], input=KERNEL, capture_output=True, check=True).stdout
    return packed + struct.pack("<I", len(KERNEL))


@pytest.mark.parametrize("kind", ["plain", "gzip", "xz", "lz4", "zstd"])
def test_unpacks_every_compression(kind: str) -> None:
    payload = {
        "plain": lambda: KERNEL,
        "gzip": lambda: gzip_payload(KERNEL),
        "xz": lambda: lzma.compress(KERNEL) + struct.pack("<I", len(KERNEL)),
        "lz4": lambda: pack("lz4", "-l"),
        "zstd": lambda: pack("zstd"),
    }[kind]()
    assert extract_vmlinux(bzimage(payload)) == drop_trailing_zeros(KERNEL)


def test_loaded_bytes_stay_what_they_were() -> None:
    before, after = read_segments(KERNEL), read_segments(drop_trailing_zeros(KERNEL))
    slim = drop_trailing_zeros(KERNEL)
    for old, new in zip(before, after, strict=True):
        assert (new.type, new.address, new.offset) == (old.type, old.address, old.offset)
        content = KERNEL[old.offset : old.offset + old.file_bytes]
        kept = slim[new.offset : new.offset + new.file_bytes]
        assert kept + bytes(old.file_bytes - new.file_bytes) == content


def test_only_what_the_kernel_clears_itself_is_left_unwritten() -> None:
    _, text, last = read_segments(drop_trailing_zeros(KERNEL))
    assert text.memory_bytes == TEXT[2], "zeros of other segments are still written"
    assert last.memory_bytes == 0x5000 - 0x4000, "up to .bss"
    assert len(drop_trailing_zeros(KERNEL)) == last.offset + 40


def test_without_sections_all_memory_is_written() -> None:
    kernel = elf_file(notes=PVH, loads=(TEXT, LAST))
    assert [segment.memory_bytes for segment in read_segments(drop_trailing_zeros(kernel))][1:] == [500, 0x3000]


def test_a_kernel_without_pvh_entry_is_refused() -> None:
    with pytest.raises(InvalidInput, match="CONFIG_PVH"):
        extract_vmlinux(bzimage(elf_file(loads=(TEXT,))))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"MZ" + bytes(2000), "setup header"),
        (bzimage(KERNEL, version=0x207), "boot protocol 0x207 is too old"),
        (bzimage(KERNEL)[:-10], "cut off"),
        (bzimage(b"BZh91AY" + bytes(100)), "unknown compression .* 425a68"),
        (bzimage(gzip_payload(b"not a kernel" * 50)), "not an ELF file"),
    ],
)
def test_what_is_no_kernel_is_refused(image: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        extract_vmlinux(image)


def test_a_missing_unpacker_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = pack("lz4", "-l")
    monkeypatch.setattr(tools, "PATH", "/nonexistent")
    with pytest.raises(NotFound, match="apt-get install lz4"):
        vmlinux.extract_vmlinux(bzimage(payload))


def test_a_broken_stream_is_an_error_with_the_unpacker_s_words() -> None:
    payload = pack("zstd")
    with pytest.raises(Exception, match="zstd") as caught:
        extract_vmlinux(bzimage(payload[:40] + b"\xff" * 60 + payload[100:]))
    assert getattr(caught.value, "detail", "")
