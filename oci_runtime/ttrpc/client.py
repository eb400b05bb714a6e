"""An asyncio ttRPC client: many calls at once on one connection, each with its own deadline.

The peer is not trusted: frames are bounded, an answer that nobody asked for ends the connection, and every call that
waits then fails with `Unavailable` and the reason.
"""

from __future__ import annotations

import asyncio
import socket

from google.protobuf.message import DecodeError

from oci_runtime.errors import OciRuntimeError, Unavailable
from oci_runtime.ttrpc import frames
from oci_runtime.ttrpc.proto import ttrpc_pb2
from oci_runtime.ttrpc.status import DETAIL_URL, MAX_DETAIL_BYTES, MAX_MESSAGE_BYTES, clip, error_of

MAX_CALLS = 4096
_MAX_STREAM_ID = 0xFFFFFFFF


class TtrpcClient(asyncio.Protocol):
    """One connection. Make it with `connect`; safe to use from several tasks of one event loop."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._transport: asyncio.Transport | None = None
        self._parser = frames.FrameParser()
        self._calls: dict[int, asyncio.Future[bytes]] = {}
        self._next_id = 1
        self._writable = asyncio.Event()
        self._writable.set()
        self._reason = ""
        self._closed = asyncio.Event()

    @classmethod
    async def connect(cls, sock: socket.socket, peer: str = "the peer") -> TtrpcClient:
        """Speak over a connected stream socket, which the client then owns. peer: its name in errors."""
        sock.setblocking(False)
        client = cls(peer)
        await asyncio.get_running_loop().create_connection(lambda: client, sock=sock)
        return client

    async def call(self, service: str, method: str, payload: bytes, timeout_s: float | None) -> bytes:
        """Call and return the answer's payload.

        timeout_s: None waits for ever. A call that is cancelled or times out is still carried out by the peer.
        Raises the error that the peer's status stands for; Unavailable at the deadline and when the peer is lost.
        """
        if self._reason:
            raise Unavailable(f"{method}: {self._reason}")
        if len(self._calls) >= MAX_CALLS:
            raise Unavailable(f"{method}: {MAX_CALLS} calls to {self._peer} wait for an answer already")
        try:
            async with asyncio.timeout(timeout_s):
                return await self._call(service, method, payload, timeout_s)
        except TimeoutError:
            raise Unavailable(f"{method}: no answer from {self._peer} within {timeout_s:g} s") from None
        except OciRuntimeError as error:
            if isinstance(error, _Lost):
                raise Unavailable(f"{method}: {self._reason}") from None
            raise

    async def close(self) -> None:
        """End the connection; calls that wait fail. Idempotent."""
        self._lose("the connection was closed")
        if self._transport is not None:
            await self._closed.wait()

    async def closed(self) -> None:
        """Return when the connection has ended, for whatever reason."""
        await self._closed.wait()

    async def _call(self, service: str, method: str, payload: bytes, timeout_s: float | None) -> bytes:
        nanoseconds = int(timeout_s * 1e9) if timeout_s else 0
        request = ttrpc_pb2.Request(service=service, method=method, payload=payload, timeout_nano=nanoseconds)
        data = request.SerializeToString()
        await self._writable.wait()
        if self._reason or self._transport is None:
            raise _Lost("lost")
        if self._next_id > _MAX_STREAM_ID:
            self._lose(f"all stream ids of the connection to {self._peer} are used up")
            raise _Lost("lost")
        stream_id = self._next_id
        frame = frames.encode_frame(stream_id, frames.REQUEST, data)
        self._next_id += 2
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._calls[stream_id] = future
        try:
            self._transport.write(frame)
            return await future
        finally:
            self._calls.pop(stream_id, None)

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            self._parser.finish()
        except frames.FramingLost as error:
            self._lose(str(error))
        self._lose(f"lost the connection to {self._peer}" + (f": {exc}" if exc else ""))
        self._closed.set()

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._parser.feed(data):
                self._answered(frame)
        except frames.FramingLost as error:
            self._lose(f"{self._peer} does not speak ttRPC: {error}")

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _answered(self, frame: frames.Frame) -> None:
        if frame.kind != frames.RESPONSE or frame.stream_id >= self._next_id or frame.stream_id % 2 == 0:
            self._lose(f"{self._peer} does not speak ttRPC: {frame!r} answers no call")
            return
        future = self._calls.pop(frame.stream_id, None)
        if future is None or future.done():
            return  # the caller has given up
        try:
            if frame.oversized:
                raise Unavailable(f"answer of {frame.oversized} bytes from {self._peer}: 4 MiB are allowed")
            future.set_result(_payload(frame.data, self._peer))
        except OciRuntimeError as error:
            future.set_exception(error)

    def _lose(self, reason: str) -> None:
        if self._reason:
            return
        self._reason = reason
        self._writable.set()
        calls, self._calls = self._calls, {}
        for future in calls.values():
            if not future.done():
                future.set_exception(_Lost("lost"))
        if self._transport is not None:
            self._transport.abort()


class _Lost(OciRuntimeError):
    """The connection has ended under a call."""


def _payload(data: bytes, peer: str) -> bytes:
    """The payload of a response. Raises what its status says."""
    try:
        response = ttrpc_pb2.Response.FromString(data)
    except DecodeError:
        raise Unavailable(f"{peer} sent an answer that is not a ttRPC response") from None
    status = response.status
    if not status.code:
        return response.payload
    detail = next((any_.value for any_ in status.details if any_.type_url == DETAIL_URL), b"")
    text = detail[:MAX_DETAIL_BYTES].decode("utf-8", "replace")
    raise error_of(status.code, one_line(clip(status.message, MAX_MESSAGE_BYTES)), text)


def one_line(text: str) -> str:
    """`text` without line ends and other control characters, which a hostile peer could aim at a terminal or a log."""
    return "".join(char if char.isprintable() else " " for char in text)
