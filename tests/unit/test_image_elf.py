"""ELF facts: against this machine's programs, hand-made files and broken ones."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oci_runtime.errors import InvalidInput
from oci_runtime.image.elf import find_section, needed_libraries, pvh_entry, read_segments
from tests.image_lab import elf_file, note

INTERPRETER = Path(sys.executable).resolve()
READERS: tuple[Callable[[bytes], object], ...] = (
    read_segments,
    needed_libraries,
    pvh_entry,
    lambda data: find_section(data, b".bss"),
)


def test_libraries_of_a_real_program_are_those_that_the_loader_finds() -> None:
    loader = next(Path("/lib64").glob("ld-linux*"))
    listed = subprocess.run([loader, "--list", INTERPRETER], capture_output=True, text=True, check=True).stdout
    found = {Path(line.split()[0]).name for line in listed.splitlines()}
    needed = needed_libraries(INTERPRETER.read_bytes())
    assert "libc.so.6" in needed
    assert set(needed) <= found


def test_a_static_program_needs_nothing() -> None:
    assert needed_libraries(Path("/usr/bin/busybox").read_bytes()) == ()


@pytest.mark.parametrize("width", [4, 8])
def test_pvh_entry_is_the_note_of_type_18(width: int) -> None:
    other = note(b"GNU\0", 18, bytes(4)) + note(b"Xen\0", 6, b"linux\0")
    data = elf_file(notes=other + note(b"Xen\0", 18, (0x1000550).to_bytes(width, "little")))
    assert pvh_entry(data) == 0x1000550


def test_no_pvh_entry_without_the_note() -> None:
    assert pvh_entry(elf_file(notes=note(b"Xen\0", 6, b"linux\0"))) is None


def _address(data: bytes, name: bytes) -> int:
    section = find_section(data, name)
    assert section is not None
    return section.address


def test_sections_are_found_by_their_whole_name() -> None:
    data = elf_file(sections={b".text": 0x1000, b".bss": 0x3000})
    assert _address(data, b".bss") == 0x3000
    assert find_section(data, b".bs") is None
    assert find_section(elf_file(), b".bss") is None


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n", b"\x7fELF\x01\x01" + bytes(100), elf_file()[:60]])
def test_what_is_no_elf_file_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInput, match="ELF"):
        read_segments(data)


def test_a_segment_beyond_the_end_is_refused() -> None:
    data = bytearray(elf_file(notes=note(b"Xen\0", 18, bytes(4))))
    struct.pack_into("<Q", data, 64 + 32, 1 << 40)
    with pytest.raises(InvalidInput, match="segment 0 ends beyond byte"):
        read_segments(bytes(data))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 0x3FF), st.integers(0, 255)), max_size=12), st.integers(1, 0x400))
def test_broken_files_end_in_an_answer_or_invalid_input(changes: list[tuple[int, int]], length: int) -> None:
    data = bytearray(INTERPRETER.read_bytes()[:0x400] + elf_file(notes=note(b"Xen\0", 18, bytes(4))))
    for offset, value in changes:
        data[offset] = value
    for reader in READERS:
        for candidate in (bytes(data), bytes(data[:length])):
            try:
                reader(candidate)
            except InvalidInput:
                continue
