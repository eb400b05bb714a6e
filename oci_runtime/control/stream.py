"""The stream that a control connection turns into after `attach`: typed frames of at most 1 MiB.

Shared by the proxy and by the sandbox process's server. Sans-I/O; bytes frames are handed out in pieces as they arrive,
so that no side ever holds a whole one.
"""

from __future__ import annotations

import struct

STDIN = 0
STDIN_EOF = 1
WINDOW = 2
SIGNAL = 3
OUTPUT_CLOSED = 4  # u32: STDOUT or STDERR, whose reader is gone
STDOUT = 16
STDERR = 17
EXIT = 18
ERROR = 19
CREDIT = 20  # u32: bytes of stdin that the process has taken, which the proxy may send anew

MAX_PAYLOAD_BYTES = 1 << 20
# Bytes of standard input that may be on the way before the process has taken any of them.
INITIAL_CREDIT_BYTES = 256 << 10
# Window size, signal number, exit code and the JSON of an error are gathered before they are handed out.
MAX_GATHERED_BYTES = 1 << 16
HEADER = struct.Struct(">BI")
WINDOW_FORMAT = struct.Struct(">HH")
NUMBER_FORMAT = struct.Struct(">I")
PIECEMEAL = frozenset({STDIN, STDOUT, STDERR})
KINDS = frozenset({STDIN, STDIN_EOF, WINDOW, SIGNAL, OUTPUT_CLOSED, STDOUT, STDERR, EXIT, ERROR, CREDIT})


class StreamError(ValueError):
    """The peer broke the stream protocol."""


def encode(kind: int, payload: bytes | bytearray | memoryview = b"") -> bytes:
    """Return one frame. payload: at most MAX_PAYLOAD_BYTES bytes."""
    return HEADER.pack(kind, len(payload)) + payload


def encode_window(rows: int, columns: int) -> bytes:
    """Return the frame that announces a terminal's size in characters."""
    return encode(WINDOW, WINDOW_FORMAT.pack(rows & 0xFFFF, columns & 0xFFFF))


def encode_signal(number: int) -> bytes:
    """Return the frame that asks for a signal to be delivered."""
    return encode(SIGNAL, NUMBER_FORMAT.pack(number))


def encode_output_closed(kind: int) -> bytes:
    """Return the frame that says that nobody reads STDOUT or STDERR any more."""
    return encode(OUTPUT_CLOSED, NUMBER_FORMAT.pack(kind))


def encode_exit(code: int) -> bytes:
    """Return the last frame of a stream: the exit code (128 + n for signal n)."""
    return encode(EXIT, NUMBER_FORMAT.pack(code))


def encode_credit(count: int) -> bytes:
    """Return the frame that lets the proxy send `count` further bytes of standard input."""
    return encode(CREDIT, NUMBER_FORMAT.pack(count))


def decode_number(payload: bytes) -> int:
    """Return the number in the payload of SIGNAL, EXIT or CREDIT. Raises StreamError."""
    if len(payload) != NUMBER_FORMAT.size:
        raise StreamError(f"number of {len(payload)} bytes")
    return int(NUMBER_FORMAT.unpack(payload)[0])


def decode_window(payload: bytes) -> tuple[int, int]:
    """Return (rows, columns). Raises StreamError."""
    if len(payload) != WINDOW_FORMAT.size:
        raise StreamError(f"window size of {len(payload)} bytes")
    rows, columns = WINDOW_FORMAT.unpack(payload)
    return int(rows), int(columns)


class StreamDecoder:
    """Turn received bytes into (kind, payload) pairs.

    STDIN, STDOUT and STDERR come in pieces of at most what one `feed` brought; every other frame comes whole.
    """

    def __init__(self) -> None:
        self._header = bytearray()
        self._kind = -1
        self._left = 0
        self._gathered = bytearray()

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return the events in `data`. Raises StreamError on an unknown kind or an excessive length."""
        events: list[tuple[int, bytes]] = []
        position = 0
        while position < len(data) or (self._kind >= 0 and self._left == 0):
            if self._kind < 0:
                wanted = HEADER.size - len(self._header)
                self._header += data[position : position + wanted]
                position = min(position + wanted, len(data))
                if len(self._header) == HEADER.size:
                    self._begin()
                continue
            piece = data[position : position + self._left]
            position += len(piece)
            self._left -= len(piece)
            self._take(piece, events)
        return events

    def _begin(self) -> None:
        self._kind, self._left = HEADER.unpack(self._header)
        self._header.clear()
        limit = MAX_PAYLOAD_BYTES if self._kind in PIECEMEAL else MAX_GATHERED_BYTES
        if self._kind not in KINDS or self._left > limit:
            raise StreamError(f"frame of kind {self._kind} and {self._left} bytes")

    def _take(self, piece: bytes, events: list[tuple[int, bytes]]) -> None:
        kind = self._kind
        if self._left == 0:
            self._kind = -1
        if kind in PIECEMEAL:
            if piece:
                events.append((kind, piece))
            return
        self._gathered += piece
        if self._kind < 0:
            events.append((kind, bytes(self._gathered)))
            self._gathered.clear()
