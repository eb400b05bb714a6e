"""Docker's name server for the guest.

In a network that a user made, Docker's resolv.conf names 127.0.0.11: a server that dockerd runs inside the container's
network namespace. The agent takes the guest's queries at that address, this relay asks in the namespace.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Protocol

from oci_runtime.errors import OciRuntimeError
from oci_runtime.log import get_logger

log = get_logger(__name__)

ADDRESS = "127.0.0.11"
PORT = 53
MAX_AT_ONCE = 128
# Longer than dockerd waits for the servers that it asks in turn.
_ANSWER_S = 15.0
_MAX_MESSAGE_BYTES = 65535
_AS_IN_PROC = "0B00007F:"


class Query(Protocol):
    """A query of the guest."""

    id: int
    data: bytes
    tcp: bool


class QuerySource(Protocol):
    """What the relay needs of the agent's client."""

    async def next_query(self) -> Query:
        """Wait for the next query."""

    async def answer_query(self, number: int, data: bytes) -> None:
        """Bring the answer."""


def is_served() -> bool:
    """Whether somebody listens at Docker's address in the calling thread's namespace."""
    try:
        with open("/proc/thread-self/net/udp") as file:
            return any(line.split()[1].startswith(_AS_IN_PROC) for line in file.readlines()[1:])
    except OSError:
        return False


class ResolverRelay:
    """Carries queries until `close`. open_socket: makes a non-blocking socket of a type in the pod's namespace."""

    def __init__(self, source: QuerySource, open_socket: Callable[[int], Awaitable[socket.socket]]) -> None:
        self._source = source
        self._open_socket = open_socket
        self._room = asyncio.Semaphore(MAX_AT_ONCE)
        self._queries: set[asyncio.Task[None]] = set()
        self._task = asyncio.create_task(self._serve(), name="resolver relay")

    async def close(self) -> None:
        """Stop. Idempotent."""
        tasks = [self._task, *self._queries]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self) -> None:
        try:
            while True:
                await self._room.acquire()
                query = await self._source.next_query()
                task = asyncio.create_task(self._treat(query))
                self._queries.add(task)
                task.add_done_callback(self._forget)
        except OciRuntimeError as error:
            log.debug("no more name queries of the guest", reason=error.message)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._queries.discard(task)
        self._room.release()

    async def _treat(self, query: Query) -> None:
        """Ask, and bring the answer; the guest's resolver asks again when there is none."""
        try:
            with await self._open_socket(socket.SOCK_STREAM if query.tcp else socket.SOCK_DGRAM) as server:
                async with asyncio.timeout(_ANSWER_S):
                    answer = await (_ask_stream if query.tcp else _ask_datagram)(server, query.data)
            await self._source.answer_query(query.id, answer)
        except (OSError, TimeoutError, OciRuntimeError) as error:
            log.debug("name query without an answer", reason=str(error))


async def _ask_datagram(server: socket.socket, data: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(server, (ADDRESS, PORT))
    await loop.sock_sendall(server, data)
    return await loop.sock_recv(server, _MAX_MESSAGE_BYTES)


async def _ask_stream(server: socket.socket, data: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_connect(server, (ADDRESS, PORT))
    await loop.sock_sendall(server, len(data).to_bytes(2, "big") + data)
    length = int.from_bytes(await _exactly(server, 2), "big")
    return await _exactly(server, length)


async def _exactly(server: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = await asyncio.get_running_loop().sock_recv(server, size - len(data))
        if not piece:
            raise ConnectionResetError("the name server ended the connection")
        data += piece
    return data
