"""ttRPC's framing: cuts, limits, garbage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_runtime.errors import InvalidInput
from oci_runtime.ttrpc import frames
from oci_runtime.ttrpc.frames import DATA, HEADER, MAX_DATA_BYTES, REQUEST, RESPONSE, FrameParser, encode_frame

_FRAMES = st.lists(
    st.tuples(st.integers(1, 2**32 - 1), st.sampled_from([REQUEST, RESPONSE, DATA]), st.binary(max_size=300)),
    max_size=6,
)


@given(_FRAMES, st.lists(st.integers(1, 40), min_size=1))
def test_any_cut_of_the_stream_gives_the_same_frames(wanted: list[tuple[int, int, bytes]], cuts: list[int]) -> None:
    stream = b"".join(encode_frame(*frame) for frame in wanted)
    parser = FrameParser()
    found = []
    at = 0
    for index in range(len(stream)):
        size = cuts[index % len(cuts)]
        found += parser.feed(stream[at : at + size])
        at += size
    assert [(frame.stream_id, frame.kind, frame.data) for frame in found] == wanted
    parser.finish()


def test_header_is_that_of_the_specification() -> None:
    assert encode_frame(5, RESPONSE, b"ab", flags=2) == b"\0\0\0\2\0\0\0\5\2\2ab"


def test_largest_message_passes_and_one_byte_more_does_not() -> None:
    data = bytes(MAX_DATA_BYTES)
    assert FrameParser().feed(encode_frame(1, REQUEST, data))[0].data == data
    with pytest.raises(InvalidInput, match="4194305 bytes"):
        encode_frame(1, REQUEST, data + b"x")


def test_oversized_frame_is_reported_at_once_and_skipped() -> None:
    parser = FrameParser()
    length = MAX_DATA_BYTES + 7
    (frame,) = parser.feed(HEADER.pack(length, 9, REQUEST, 0))
    assert (frame.stream_id, frame.oversized, frame.data) == (9, length, b"")
    for _ in range(length // 65536):
        assert parser.feed(bytes(65536)) == []
    rest = length % 65536
    (after,) = parser.feed(bytes(rest) + encode_frame(11, REQUEST, b"next"))
    assert after.data == b"next"
    parser.finish()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", "type"),
        (HEADER.pack(0, 1, 0, 0), "type 0"),
        (HEADER.pack(0, 1, 4, 0), "type 4"),
        (HEADER.pack(0, 0, REQUEST, 0), "stream 0"),
        (HEADER.pack(2**32 - 1, 1, REQUEST, 0), "length 4294967295"),
        (bytes(10), "type 0"),
    ],
)
def test_garbage_loses_the_framing_for_good(data: bytes, reason: str) -> None:
    parser = FrameParser()
    with pytest.raises(frames.FramingLost, match=reason):
        parser.feed(data)
    with pytest.raises(frames.FramingLost, match=reason):
        parser.feed(encode_frame(1, REQUEST, b""))


@pytest.mark.parametrize("cut", [1, 9, 10, 12])
def test_truncation_is_an_error(cut: int) -> None:
    parser = FrameParser()
    assert parser.feed(encode_frame(1, REQUEST, b"abc")[:cut]) == []
    with pytest.raises(frames.FramingLost, match="in the middle"):
        parser.finish()


@given(st.binary(max_size=2000))
def test_random_bytes_never_raise_anything_else_and_hold_little(data: bytes) -> None:
    parser = FrameParser()
    try:
        parser.feed(data)
        parser.finish()
    except frames.FramingLost:
        pass
    assert len(parser._buffer) <= len(data)
