"""ttRPC's framing without any I/O, shared by host and guest.

A frame is a 10-byte header (data length u32, stream id u32, both big endian, type u8, flags u8) and its data.
Source: PROTOCOL.md of github.com/containerd/ttrpc.
"""

from __future__ import annotations

import struct

from oci_runtime.errors import InvalidInput

HEADER = struct.Struct(">IIBB")
MAX_DATA_BYTES = 4 << 20
# A peer that announces more than this has lost the framing, or wants us to read for ever.
MAX_SKIPPED_BYTES = 64 << 20

REQUEST = 1
RESPONSE = 2
DATA = 3

FLAG_REMOTE_OPEN = 2


class FramingLost(InvalidInput):
    """The byte stream is not ttRPC (any more): the connection cannot be used further."""


class Frame:
    """One frame. `oversized` is the length of data that was announced beyond the limit and skipped, else 0."""

    __slots__ = ("data", "flags", "kind", "oversized", "stream_id")

    def __init__(self, stream_id: int, kind: int, data: bytes, flags: int = 0, oversized: int = 0) -> None:
        self.stream_id = stream_id
        self.kind = kind
        self.data = data
        self.flags = flags
        self.oversized = oversized

    def __repr__(self) -> str:
        return f"Frame({self.stream_id}, {self.kind}, {len(self.data)} bytes, flags={self.flags})"


def encode_parts(stream_id: int, kind: int, parts: list[bytes]) -> list[bytes]:
    """The same in pieces, for writev: a short one in front of `parts`."""
    length = sum(map(len, parts))
    if length > MAX_DATA_BYTES:
        raise InvalidInput(f"message of {length} bytes: ttRPC allows {MAX_DATA_BYTES}")
    return [HEADER.pack(length, stream_id, kind, 0), *parts]


def encode_frame(stream_id: int, kind: int, data: bytes, flags: int = 0) -> bytes:
    """The bytes of one frame. Raises InvalidInput when the data exceeds 4 MiB."""
    if len(data) > MAX_DATA_BYTES:
        raise InvalidInput(f"message of {len(data)} bytes: ttRPC allows {MAX_DATA_BYTES}")
    return HEADER.pack(len(data), stream_id, kind, flags) + data


class FrameParser:
    """Cuts a byte stream into frames; holds at most one frame's data."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._skip = 0
        self._lost = ""

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes as they arrive and return the frames that they complete.

        An oversized frame is returned at once, without its data, which is then skipped.
        Raises FramingLost, and again at every later call.
        """
        if self._lost:
            raise FramingLost(self._lost)
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        at = 0
        while True:
            if self._skip:
                skipped = min(self._skip, len(buffer) - at)
                at += skipped
                self._skip -= skipped
            if self._skip or len(buffer) - at < HEADER.size:
                break
            length, stream_id, kind, flags = HEADER.unpack_from(buffer, at)
            self._check(length, stream_id, kind)
            if length > MAX_DATA_BYTES:
                frames.append(Frame(stream_id, kind, b"", flags, oversized=length))
                at += HEADER.size
                self._skip = length
                continue
            start = at + HEADER.size
            if len(buffer) - start < length:
                break
            at = start + length
            with memoryview(buffer) as view:
                frames.append(Frame(stream_id, kind, bytes(view[start:at]), flags))
        if at:
            del buffer[:at]
        return frames

    def finish(self) -> None:
        """Say that the stream has ended. Raises FramingLost when that was in the middle of a frame."""
        if self._buffer or self._skip:
            self._lost = "the connection ended in the middle of a ttRPC frame"
            raise FramingLost(self._lost)

    def _check(self, length: int, stream_id: int, kind: int) -> None:
        if kind not in (REQUEST, RESPONSE, DATA):
            self._lost = f"not a ttRPC frame: type {kind}"
        elif stream_id == 0:
            self._lost = "not a ttRPC frame: stream 0"
        elif length > MAX_SKIPPED_BYTES:
            self._lost = f"not a ttRPC frame: length {length}"
        if self._lost:
            raise FramingLost(self._lost)
