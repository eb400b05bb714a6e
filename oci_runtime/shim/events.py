"""Events to containerd: one queue, sent in order, each one repeated until somebody takes it.

Two ways lead there: Forward over ttRPC (TTRPC_ADDRESS), and the engine's own `publish` command where that fails. CRI-O
offers neither, and hears of ends through Wait.
"""

from __future__ import annotations

import asyncio
import collections
import os
import socket
import time
from collections.abc import Sequence
from typing import Protocol

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from oci_runtime.errors import OciRuntimeError, Unavailable
from oci_runtime.log import get_logger
from oci_runtime.sandbox.oom import FORWARD_SERVICE
from oci_runtime.shim.proto.forward_pb2 import Envelope, ForwardRequest
from oci_runtime.ttrpc.client import TtrpcClient

log = get_logger(__name__)

MAX_QUEUED = 4096
MAX_AGE_S = 600.0
RETRY_FIRST_S = 0.1
RETRY_LAST_S = 5.0
SEND_S = 5.0
PROGRAM_S = 15.0


class Channel(Protocol):
    """One way to the engine. `send` raises OciRuntimeError, OSError or TimeoutError when the event was not taken."""

    async def send(self, envelope: Envelope) -> None: ...

    async def close(self) -> None: ...


class EventPublisher:
    """Takes events without waiting; `run` sends them. Without channels everything is dropped."""

    def __init__(self, namespace: str, channels: Sequence[Channel]) -> None:
        self._namespace = namespace
        self._channels = tuple(channels)
        self._queue: collections.deque[tuple[Envelope, float]] = collections.deque()
        self._filled = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def publish(self, topic: str, event: Message) -> None:
        """Queue an event. Beyond 4096 the oldest is dropped: the engine asks for states when it is back."""
        log.debug("event", topic=topic)
        if not self._channels:
            return
        packed = AnyMessage(type_url=event.DESCRIPTOR.full_name, value=event.SerializeToString())
        now_ns = time.time_ns()
        moment = Timestamp(seconds=now_ns // 10**9, nanos=now_ns % 10**9)
        envelope = Envelope(timestamp=moment, namespace=self._namespace, topic=topic, event=packed)
        if len(self._queue) >= MAX_QUEUED:
            dropped, _age = self._queue.popleft()
            log.warning("event dropped, too many wait", topic=dropped.topic)
        self._queue.append((envelope, time.monotonic()))
        self._filled.set()
        self._empty.clear()

    async def run(self) -> None:
        """Send what is queued, for ever."""
        while True:
            await self._filled.wait()
            while self._queue:
                envelope, queued_s = self._queue[0]
                if await self._deliver(envelope, queued_s + MAX_AGE_S) and self._queue[0][0] is envelope:
                    self._queue.popleft()
            self._filled.clear()
            self._empty.set()

    async def flush(self, deadline_s: float) -> bool:
        """Wait until everything was sent; False when that takes too long."""
        try:
            await asyncio.wait_for(self._empty.wait(), deadline_s)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Close the channels."""
        for channel in self._channels:
            await channel.close()

    async def _deliver(self, envelope: Envelope, until_s: float) -> bool:
        """Send one event over the first channel that takes it; True when it was sent or is too old to be of use."""
        delay_s = RETRY_FIRST_S
        while True:
            reason = ""
            for channel in self._channels:
                try:
                    await channel.send(envelope)
                    return True
                except (OciRuntimeError, OSError, TimeoutError) as error:
                    reason = str(error) or type(error).__name__
            if time.monotonic() + delay_s > until_s:
                log.warning("event given up", topic=envelope.topic, reason=reason)
                return True
            log.debug("event is sent again later", topic=envelope.topic, reason=reason)
            await asyncio.sleep(delay_s)
            delay_s = min(2 * delay_s, RETRY_LAST_S)


class ForwardChannel:
    """The Events service of containerd; the connection is made when it is needed, and anew after it was lost."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._client: TtrpcClient | None = None

    async def send(self, envelope: Envelope) -> None:
        """Forward one event."""
        request = ForwardRequest(envelope=envelope).SerializeToString()
        try:
            if self._client is None:
                self._client = await self._connect()
            await self._client.call(FORWARD_SERVICE, "Forward", request, SEND_S)
        except (Unavailable, OSError, TimeoutError):
            await self.close()
            raise

    async def _connect(self) -> TtrpcClient:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        try:
            await asyncio.wait_for(asyncio.get_running_loop().sock_connect(sock, self._path), SEND_S)
        except BaseException:
            sock.close()
            raise
        return await TtrpcClient.connect(sock, "containerd")

    async def close(self) -> None:
        """Drop the connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()


class ProgramChannel:
    """The engine's `publish` command: a process for each event, so only where ttRPC does not work."""

    def __init__(self, program: str, address: str) -> None:
        self._program = program
        self._address = address

    async def send(self, envelope: Envelope) -> None:
        """Run the command with the event on its standard input."""
        arguments = ["--address", self._address, "publish", "--topic", envelope.topic]
        process = await asyncio.create_subprocess_exec(
            self._program,
            *arguments,
            "--namespace",
            envelope.namespace,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", os.defpath)},
        )
        try:
            _out, errors = await asyncio.wait_for(process.communicate(envelope.event.SerializeToString()), PROGRAM_S)
        except BaseException:
            process.kill()
            await process.wait()
            raise
        if process.returncode:
            shown = errors.decode("utf-8", "replace").strip().replace("\n", " ")[-500:]
            raise Unavailable(f"{self._program} publish: exit status {process.returncode}: {shown}")

    async def close(self) -> None:
        """Nothing is open."""
