"""The console log: bounded, printable, with its beginning and its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from oci_runtime.errors import HostError
from oci_runtime.vm.console import ConsoleLog


def test_short_output_is_kept_whole(tmp_path: Path) -> None:
    log = ConsoleLog(tmp_path / "log")
    log.write(b"one\r\ntwo\n")
    log.write(b"three")
    log.close()
    assert (tmp_path / "log").read_text() == "one\ntwo\nthree"
    assert log.tail(2) == "two\nthree"


def test_a_chatty_guest_costs_a_bounded_file_and_memory(tmp_path: Path) -> None:
    log = ConsoleLog(tmp_path / "log", limit_bytes=1000)
    for number in range(100_000):
        log.write(b"%06d\n" % number)
    assert len(log._recent) <= 2 * 500
    log.close()
    text = (tmp_path / "log").read_text()
    assert len(text) < 1200
    assert text.startswith("000000\n000001\n")
    assert text.endswith("099998\n099999\n")
    assert f"[... {700_000 - 1000} bytes of console output dropped ...]" in text


@pytest.mark.parametrize("size", [499, 500, 501, 1000, 1001])
def test_nothing_is_lost_or_doubled_at_the_seam(tmp_path: Path, size: int) -> None:
    log = ConsoleLog(tmp_path / "log", limit_bytes=1000)
    data = bytes(ord("a") + index % 26 for index in range(size))
    for start in range(0, size, 7):
        log.write(data[start : start + 7])
    log.close()
    text = (tmp_path / "log").read_bytes()
    if size <= 1000:
        assert text == data
    else:
        assert text[:500] == data[:500] and text[-500:] == data[-500:] and b"1 bytes" in text


def test_control_characters_cannot_reach_a_terminal(tmp_path: Path) -> None:
    log = ConsoleLog(tmp_path / "log")
    log.write(b"\x1b]0;owned\x07\x1b[2Jtext\x00\x7f\xc2\x9b31m\ttab\xff\n")
    log.close()
    text = (tmp_path / "log").read_text()
    assert text == "\\x1b]0;owned\\x07\\x1b[2Jtext\\x00\\x7f\\x9b31m\ttab\ufffd\n"
    assert log.tail(1) == text.rstrip("\n")


def test_characters_split_between_reads_stay_whole(tmp_path: Path) -> None:
    log = ConsoleLog(tmp_path / "log")
    for byte in "für 日本\n".encode():
        log.write(bytes([byte]))
    assert log.tail(1) == "für 日本"


def test_closing_twice_and_writing_afterwards_is_harmless(tmp_path: Path) -> None:
    log = ConsoleLog(tmp_path / "log")
    log.write(b"text\n")
    log.close()
    log.close()
    log.write(b"late\n")
    assert log.tail(1) == "late"
    assert (tmp_path / "log").read_text() == "text\n"


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="create console log .*: No such file or directory"):
        ConsoleLog(tmp_path / "missing" / "log")


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "log").symlink_to(tmp_path / "target")
    with pytest.raises(HostError):
        ConsoleLog(tmp_path / "log")
    assert (tmp_path / "target").read_text() == "precious"
