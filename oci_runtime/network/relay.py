"""Connections to localhost in the pod's namespace, carried to localhost in the guest.

CRI port-forward and probes dial 127.0.0.1 or ::1 inside the namespace; the server that they mean listens in the guest.
nftables redirects them to listening sockets here, the kernel remembers where they wanted to go, and two loops per
connection move bytes. Each loop has one piece in flight and waits until the other side took it: a slow reader slows the
writer down, on either end. An end of file is passed on by itself, so half-closed connections work.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Mapping
from typing import Protocol

from oci_runtime.errors import OciRuntimeError
from oci_runtime.log import get_logger

log = get_logger(__name__)

_SO_ORIGINAL_DST = 80  # the same number for both families
_SOCKADDR4 = struct.Struct("=2x2s4s")
_SOCKADDR6 = struct.Struct("=2x2s4x16s")
_RESET_ON_CLOSE = struct.pack("=ii", 1, 0)
PIECE_BYTES = 128 << 10
MAX_CONNECTIONS = 1024
DIAL_TIMEOUT_MS = 10_000
_ACCEPT_PAUSE_S = 0.1


class GuestDialer(Protocol):
    """What the relay needs of the agent's client."""

    async def dial(self, address: str, port: int, timeout_ms: int) -> int:
        """Connect in the guest; return a number for the connection."""

    async def conn_read(self, connection: int, max_bytes: int) -> tuple[bytes, bool]:
        """Wait for bytes; (data, end of file)."""

    async def conn_write(self, connection: int, data: bytes, eof: bool) -> int:
        """Write; return how much was taken, less than all if the server takes no more. eof: nothing follows."""

    async def conn_close(self, connection: int) -> None:
        """Close and forget the connection."""


class LocalhostRelay:
    """Serves the listening sockets (owned from now on) until `close`."""

    def __init__(self, listeners: Mapping[int, socket.socket], dialer: GuestDialer) -> None:
        self._listeners = dict(listeners)
        self._dialer = dialer
        self._room = asyncio.Semaphore(MAX_CONNECTIONS)
        self._connections: set[asyncio.Task[None]] = set()
        self._acceptors = [
            asyncio.create_task(self._accept(family, listener), name="localhost relay")
            for family, listener in self._listeners.items()
        ]

    @property
    def active(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    async def close(self) -> None:
        """Stop listening and cut all connections. Idempotent."""
        tasks = [*self._acceptors, *self._connections]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listener in self._listeners.values():
            listener.close()

    async def _accept(self, family: int, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._room.acquire()
            try:
                client, _ = await loop.sock_accept(listener)
            except OSError as error:
                self._room.release()
                log.warning("cannot accept a connection to localhost", reason=error.strerror)
                await asyncio.sleep(_ACCEPT_PAUSE_S)  # out of descriptors: some will be freed
                continue
            except BaseException:
                self._room.release()
                raise
            task = asyncio.create_task(self._serve(family, client))
            self._connections.add(task)
            task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._connections.discard(task)
        self._room.release()

    async def _serve(self, family: int, client: socket.socket) -> None:
        with client:
            client.setblocking(False)
            try:
                address, port = original_destination(client, family)
                connection = await self._dialer.dial(address, port, DIAL_TIMEOUT_MS)
            except (OSError, OciRuntimeError) as error:
                log.debug("connection to localhost refused", reason=str(error))
                _reset(client)
                return
            try:
                await self._carry(client, connection)
            except (OSError, OciRuntimeError) as error:
                log.debug("connection to localhost broke", port=port, reason=str(error))
                _reset(client)
            finally:
                with contextlib.suppress(OciRuntimeError):
                    await self._dialer.conn_close(connection)

    async def _carry(self, client: socket.socket, connection: int) -> None:
        """Both directions until both have ended; a failure of one ends the other."""
        directions = [
            asyncio.create_task(self._to_guest(client, connection)),
            asyncio.create_task(self._from_guest(client, connection)),
        ]
        try:
            await asyncio.gather(*directions)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)

    async def _to_guest(self, client: socket.socket, connection: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            data = await loop.sock_recv(client, PIECE_BYTES)
            if not data:
                await self._dialer.conn_write(connection, b"", True)
                return
            if await self._dialer.conn_write(connection, data, False) < len(data):
                return  # the server takes no more; what it still has to say, and its end, come the other way

    async def _from_guest(self, client: socket.socket, connection: int) -> None:
        loop = asyncio.get_running_loop()
        while True:
            data, eof = await self._dialer.conn_read(connection, PIECE_BYTES)
            if data:
                await loop.sock_sendall(client, data)
            if eof:
                client.shutdown(socket.SHUT_WR)
                return


def original_destination(client: socket.socket, family: int) -> tuple[str, int]:
    """Where a redirected connection wanted to go. Raises OSError when it was not redirected."""
    level = socket.IPPROTO_IP if family == socket.AF_INET else socket.IPPROTO_IPV6
    layout = _SOCKADDR4 if family == socket.AF_INET else _SOCKADDR6
    port, address = layout.unpack_from(client.getsockopt(level, _SO_ORIGINAL_DST, 28))
    return socket.inet_ntop(family, address), int.from_bytes(port, "big")


def _reset(client: socket.socket) -> None:
    """Make the coming close a reset: the peer sees that its connection failed, not that it ended."""
    with contextlib.suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
