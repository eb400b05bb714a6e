"""An asyncio ttRPC server: a registry of services, served on any number of connections.

A bad call (unknown method, broken payload, failing handler, missed deadline) gets a status and harms no other call;
only a stream that is no longer ttRPC ends its connection.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError, Message

from oci_runtime.errors import InvalidInput, OciRuntimeError, Unsupported
from oci_runtime.ttrpc import frames
from oci_runtime.ttrpc.proto import ttrpc_pb2
from oci_runtime.ttrpc.status import RESOURCE_EXHAUSTED, StatusError, code_of, message_of

MAX_CALLS = 1024

Handler = Callable[[Any], Awaitable[Message]]
# Told of exceptions that are not OciRuntimeErrors: (service and method, exception).
OnError = Callable[[str, BaseException], None]


@dataclass(frozen=True)
class Method:
    """request: the message class of the request. handler: a coroutine function from request to response."""

    request: type[Message]
    handler: Handler


# service name -> method name -> method
Services = Mapping[str, Mapping[str, Method]]


class TtrpcServer:
    """Serves `services` until `close`. Handlers of one connection run beside each other."""

    def __init__(self, services: Services, on_error: OnError | None = None) -> None:
        self._services = services
        self._on_error = on_error or (lambda _where, _error: None)
        self._connections: set[_Connection] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._listeners: list[asyncio.Server] = []

    async def listen(self, sock: socket.socket) -> None:
        """Accept connections on a listening Unix socket, which the server then owns."""
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        self._listeners.append(await loop.create_unix_server(self._protocol, sock=sock))

    async def serve(self, sock: socket.socket) -> None:
        """Serve one connected socket, which the server then owns; returns at once."""
        sock.setblocking(False)
        await asyncio.get_running_loop().create_connection(self._protocol, sock=sock)

    async def wait_idle(self) -> None:
        """Return when no connection is open. Safe to cancel."""
        await self._idle.wait()

    async def close(self) -> None:
        """Stop listening, cancel the calls, end the connections. Idempotent."""
        listeners, self._listeners = self._listeners, []
        for listener in listeners:
            listener.close()
        connections = list(self._connections)
        for connection in connections:
            connection.abort()
        for connection in connections:
            await connection.finished()

    def _protocol(self) -> _Connection:
        return _Connection(self._services, self._on_error, self._connections, self._idle)


class _Connection(asyncio.Protocol):
    def __init__(self, services: Services, on_error: OnError, registry: set[_Connection], idle: asyncio.Event) -> None:
        """idle: set while the registry is empty."""
        self._services = services
        self._on_error = on_error
        self._registry = registry
        self._idle = idle
        self._parser = frames.FrameParser()
        self._transport: asyncio.Transport | None = None
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._writable = asyncio.Event()
        self._writable.set()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def finished(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._registry.add(self)
        self._idle.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        """Calls go on: what a client has begun is not undone by its leaving, only the answers are dropped."""
        self._registry.discard(self)
        if not self._registry:
            self._idle.set()
        self._transport = None
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        try:
            received = self._parser.feed(data)
        except frames.FramingLost as error:
            self._on_error("connection", error)
            self.abort()
            return
        for frame in received:
            if frame.kind == frames.REQUEST:
                self._begin(frame)

    def _begin(self, frame: frames.Frame) -> None:
        stream_id = frame.stream_id
        if stream_id in self._tasks:
            self._on_error("connection", InvalidInput(f"stream {stream_id} is used by two calls"))
            self.abort()
            return
        task = asyncio.get_running_loop().create_task(self._answer(frame))
        self._tasks[stream_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(stream_id, None))

    async def _answer(self, frame: frames.Frame) -> None:
        where = f"stream {frame.stream_id}"
        response = ttrpc_pb2.Response()
        try:
            self._check(frame)
            request = _decode(ttrpc_pb2.Request, frame.data, "request")
            where = f"{request.service}/{request.method}"
            response.payload = (await self._run(request)).SerializeToString()
            if len(response.payload) > frames.MAX_DATA_BYTES - 64:
                size = len(response.payload)
                raise StatusError(RESOURCE_EXHAUSTED, f"answer of {size} bytes does not fit a message")
        except Exception as error:  # noqa: BLE001 - every call gets an answer
            if not isinstance(error, (OciRuntimeError, TimeoutError)):
                self._on_error(where, error)
            response = ttrpc_pb2.Response()
            response.status.code = code_of(error)
            response.status.message = message_of(error)
        # A client that does not read its answers must not fill our memory with them.
        await self._writable.wait()
        if self._transport is not None:
            data = response.SerializeToString()
            self._transport.write(frames.encode_frame(frame.stream_id, frames.RESPONSE, data))

    def _check(self, frame: frames.Frame) -> None:
        if frame.oversized:
            raise StatusError(RESOURCE_EXHAUSTED, f"request of {frame.oversized} bytes: 4 MiB are allowed")
        if frame.stream_id % 2 == 0:
            raise InvalidInput(f"stream {frame.stream_id}: those of a client are odd")
        if frame.flags & frames.FLAG_REMOTE_OPEN:
            raise Unsupported("streaming calls are not supported")
        if len(self._tasks) > MAX_CALLS:
            raise StatusError(RESOURCE_EXHAUSTED, f"more than {MAX_CALLS} calls wait for an answer")

    async def _run(self, request: ttrpc_pb2.Request) -> Message:
        service = self._services.get(request.service)
        if service is None:
            raise Unsupported(f"unknown service {request.service!r}")
        method = service.get(request.method)
        if method is None:
            raise Unsupported(f"unknown method {request.method!r} of {request.service}")
        message = _decode(method.request, request.payload, request.method)
        timeout_s = request.timeout_nano / 1e9 if request.timeout_nano > 0 else None
        async with asyncio.timeout(timeout_s):
            return await method.handler(message)


def _decode(kind: type[Any], data: bytes, what: str) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise InvalidInput(f"{what}: malformed message: {error}") from None
