"""The streaming half of the CRI: exec, attach and port-forward over a WebSocket, in channels as Kubernetes has them.

Sources: RFC 6455; the channel protocol v4.channel.k8s.io (0 stdin, 1 stdout, 2 stderr, 3 status as JSON, 4 size).
"""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

PROTOCOL = "v4.channel.k8s.io"
STDIN, STDOUT, STDERR, STATUS, RESIZE = range(5)
_BINARY, _CLOSE, _PING, _PONG = 2, 8, 9, 10
_HEADER_BYTES = 16384


class WebSocket:
    """One connection; every message is a channel number and bytes."""

    def __init__(self, url: str, timeout_s: float = 60.0) -> None:
        """Connect. Raises: ConnectionError with the server's answer when it refuses."""
        parts = urlsplit(url)
        assert parts.hostname, url
        self._sock = socket.create_connection((parts.hostname, parts.port or 80), timeout_s)
        self._buffer = b""
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        key = base64.b64encode(os.urandom(16)).decode()
        self._sock.sendall(
            f"GET {target} HTTP/1.1\r\nHost: {parts.netloc}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            f"Sec-WebSocket-Protocol: {PROTOCOL}\r\n\r\n".encode()
        )
        while b"\r\n\r\n" not in self._buffer:
            self._fill()
            if len(self._buffer) > _HEADER_BYTES:
                raise ConnectionError("answer without an end")
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        if not head.startswith(b"HTTP/1.1 101"):
            raise ConnectionError(head.decode(errors="replace"))

    def send(self, channel: int, data: bytes) -> None:
        """Send a message."""
        self._send(_BINARY, bytes([channel]) + data)

    def receive(self) -> tuple[int, bytes] | None:
        """Return the next message with content, None at the end of the connection."""
        while True:
            try:
                opcode, payload = self._frame()
            except ConnectionError:
                return None
            if opcode == _CLOSE:
                return None
            if opcode == _PING:
                self._send(_PONG, payload)
            elif payload:
                return payload[0], payload[1:]

    def close(self) -> None:
        """Hang up. Idempotent."""
        self._sock.close()

    def _send(self, opcode: int, payload: bytes) -> None:
        mask = os.urandom(4)
        size = len(payload)
        if size < 126:
            length = bytes([0x80 | size])
        elif size < 1 << 16:
            length = struct.pack(">BH", 0x80 | 126, size)
        else:
            length = struct.pack(">BQ", 0x80 | 127, size)
        repeated = (mask * (size // 4 + 1))[:size]
        masked = (int.from_bytes(payload, "big") ^ int.from_bytes(repeated, "big")).to_bytes(size, "big")
        self._sock.sendall(bytes([0x80 | opcode]) + length + mask + masked)

    def _frame(self) -> tuple[int, bytes]:
        """One message, put together from its fragments; control frames stand alone."""
        parts = b""
        kind = 0
        while True:
            first, second = self._take(2)
            size = second & 0x7F
            if size == 126:
                (size,) = struct.unpack(">H", self._take(2))
            elif size == 127:
                (size,) = struct.unpack(">Q", self._take(8))
            payload = self._take(size)
            opcode = first & 0x0F
            if opcode >= _CLOSE:
                return opcode, payload
            kind = opcode or kind
            parts += payload
            if first & 0x80:
                return kind, parts

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._fill()
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _fill(self) -> None:
        data = self._sock.recv(1 << 16)
        if not data:
            raise ConnectionError("the connection has ended")
        self._buffer += data


@dataclass
class Streamed:
    """What came out of an exec or attach. exit_code: None when no status was sent."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int | None = None
    status: dict[str, Any] = field(default_factory=dict)


def read_all(connection: WebSocket) -> Streamed:
    """Read a process's output to the end of its stream."""
    result = Streamed()
    while (message := connection.receive()) is not None:
        channel, data = message
        if channel == STDOUT:
            result.stdout += data
        elif channel == STDERR:
            result.stderr += data
        elif channel == STATUS:
            result.status = json.loads(data)
            result.exit_code = _exit_code(result.status)
    return result


def read_until(connection: WebSocket, wanted: bytes, timeout_s: float = 60.0) -> bytes:
    """Read standard output until it holds `wanted`. Raises: TimeoutError, ConnectionError."""
    seen = b""
    until = time.monotonic() + timeout_s
    while wanted not in seen:
        if time.monotonic() > until:
            raise TimeoutError(f"{wanted!r} does not come, but {seen[-500:]!r}")
        message = connection.receive()
        if message is None:
            raise ConnectionError(f"the stream ended after {seen[-500:]!r}")
        if message[0] == STDOUT:
            seen += message[1]
    return seen


def resize(connection: WebSocket, width: int, height: int) -> None:
    """Tell the size of the terminal."""
    connection.send(RESIZE, json.dumps({"Width": width, "Height": height}).encode())


def _exit_code(status: dict[str, Any]) -> int | None:
    if status.get("status") == "Success":
        return 0
    for cause in (status.get("details") or {}).get("causes") or ():
        if cause.get("reason") == "ExitCode":
            return int(cause["message"])
    return None
