"""The stream codec that proxy and sandbox process share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_runtime.control import stream

_KINDS = st.sampled_from(sorted(stream.KINDS))


@given(st.lists(st.tuples(_KINDS, st.binary(max_size=300)), max_size=8), st.integers(1, 50))
def test_frames_survive_any_cut(frames: list[tuple[int, bytes]], size: int) -> None:
    data = b"".join(stream.encode(kind, payload) for kind, payload in frames)
    decoder = stream.StreamDecoder()
    events = [event for start in range(0, len(data), size) for event in decoder.feed(data[start : start + size])]
    for kind in stream.PIECEMEAL:
        sent = b"".join(payload for other, payload in frames if other == kind)
        assert b"".join(payload for other, payload in events if other == kind) == sent
    whole = [frame for frame in frames if frame[0] not in stream.PIECEMEAL]
    assert [event for event in events if event[0] not in stream.PIECEMEAL] == whole


def test_bytes_are_handed_out_as_they_come() -> None:
    decoder = stream.StreamDecoder()
    frame = stream.encode(stream.STDOUT, b"abcdef")
    assert decoder.feed(frame[:8]) == [(stream.STDOUT, b"abc")]
    assert decoder.feed(frame[8:]) == [(stream.STDOUT, b"def")]
    assert decoder.feed(stream.encode_exit(3)) == [(stream.EXIT, b"\x00\x00\x00\x03")]


@pytest.mark.parametrize(
    "header",
    [
        stream.HEADER.pack(99, 0),
        stream.HEADER.pack(stream.STDOUT, stream.MAX_PAYLOAD_BYTES + 1),
        stream.HEADER.pack(stream.ERROR, stream.MAX_GATHERED_BYTES + 1),
    ],
)
def test_a_broken_stream_is_refused(header: bytes) -> None:
    with pytest.raises(stream.StreamError, match="frame of kind"):
        stream.StreamDecoder().feed(header)


def test_numbers_and_windows() -> None:
    for frame, number in ((stream.encode_exit(137), 137), (stream.encode_signal(15), 15), (stream.encode_credit(9), 9)):
        ((_, payload),) = stream.StreamDecoder().feed(frame)
        assert stream.decode_number(payload) == number
    ((_, payload),) = stream.StreamDecoder().feed(stream.encode_window(24, 80))
    assert stream.decode_window(payload) == (24, 80)
    for decode in (stream.decode_number, stream.decode_window):
        with pytest.raises(stream.StreamError):
            decode(b"xyz")
