"""One client of the control socket, in asyncio: frames with descriptors, then perhaps a stream.

asyncio's own streams drop SCM_RIGHTS, so this reads the socket itself. Limits are those of docs/internals.md.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

from oci_runtime.control.frames import HEADER, MAX_FDS, body_length, decode_body, encode_frame
from oci_runtime.control.stream import StreamDecoder, StreamError
from oci_runtime.errors import Unavailable

_READ_BYTES = 256 * 1024


class Connection:
    """A connected control socket. Writers may be several tasks: each frame is written whole."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._write_lock = asyncio.Lock()
        self._stream = StreamDecoder()

    async def read_request(self) -> tuple[dict[str, Any], list[int]] | None:
        """Return the next request and its descriptors, or None at the end of the connection.

        Raises InvalidInput for a frame that is too large or no JSON object; its descriptors are closed then.
        """
        fds: list[int] = []
        try:
            header = await self._read_header(fds)
            if header is None:
                for fd in fds:
                    os.close(fd)
                return None
            request = decode_body(await self._read_exactly(body_length(header)))
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        return request, fds

    async def _read_header(self, fds: list[int]) -> bytes | None:
        data = b""
        while len(data) < HEADER.size:
            await self._readable()
            try:
                chunk, received, _flags, _address = socket.recv_fds(self._sock, HEADER.size - len(data), MAX_FDS)
            except BlockingIOError:
                continue
            except ConnectionError:
                return None
            fds.extend(received)
            if not chunk:
                return None
            data += chunk
        return data

    async def _readable(self) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._sock, _complete, ready)
        try:
            await ready
        finally:
            self._loop.remove_reader(self._sock)

    async def wait_closed(self) -> None:
        """Return when the peer is gone; never, when it has sent something that waits to be read."""
        while True:
            await self._readable()
            try:
                if not self._sock.recv(1, socket.MSG_PEEK):
                    return
            except BlockingIOError:
                continue
            except ConnectionError:
                return
            await self._loop.create_future()

    async def _read_exactly(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            chunk = await self._loop.sock_recv(self._sock, min(length - len(data), 1 << 18))
            if not chunk:
                raise Unavailable("control connection ended in the middle of a frame")
            data += chunk
        return bytes(data)

    async def answer(self, **fields: Any) -> None:
        """Send `{"ok": true, …}`."""
        await self.send({"ok": True, **fields})

    async def send(self, message: dict[str, Any]) -> None:
        """Send one JSON frame."""
        await self.send_raw(encode_frame(message))

    async def send_raw(self, frame: bytes) -> None:
        """Send an encoded frame, waiting while the peer does not read."""
        async with self._write_lock:
            await self._loop.sock_sendall(self._sock, frame)

    async def read_stream(self) -> list[tuple[int, bytes]]:
        """Return the next stream events; none at the end of the connection, or when it breaks the rules."""
        while True:
            try:
                data = await self._loop.sock_recv(self._sock, _READ_BYTES)
                events = self._stream.feed(data)
            except (ConnectionError, StreamError):
                return []
            if events or not data:
                return events

    def close(self) -> None:
        """Close the socket; idempotent."""
        self._sock.close()


def _complete(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
