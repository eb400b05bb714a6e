"""What happens to the processes of a pod, told to whoever follows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from oci_runtime.sandbox.process import ExitStatus

_MAX_WAITING = 1024


@dataclass(frozen=True)
class SandboxEvent:
    """Something that happened to a process: kind is created, started, exit, oom, paused, resumed or deleted."""

    kind: str
    container_id: str
    exec_id: str = ""
    status: ExitStatus | None = None
    time_ns: int = field(default_factory=time.time_ns)


class EventFeed:
    """Events from the moment of `follow` to the end of the pod. A follower that does not read loses the oldest ones."""

    def __init__(self) -> None:
        self._queues: set[asyncio.Queue[SandboxEvent | None]] = set()
        self._closed = False

    def publish(self, event: SandboxEvent) -> None:
        """Tell all followers."""
        for queue in self._queues:
            _offer(queue, event)

    def close(self) -> None:
        """The pod is over: followers come to their end."""
        self._closed = True
        for queue in self._queues:
            _offer(queue, None)

    def follow(self) -> AsyncIterator[SandboxEvent]:
        """Return the events from now on; iterate over it, or it is kept for ever."""
        queue: asyncio.Queue[SandboxEvent | None] = asyncio.Queue(_MAX_WAITING)
        self._queues.add(queue)
        if self._closed:
            _offer(queue, None)
        return self._iterate(queue)

    async def _iterate(self, queue: asyncio.Queue[SandboxEvent | None]) -> AsyncIterator[SandboxEvent]:
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._queues.discard(queue)


def _offer(queue: asyncio.Queue[SandboxEvent | None], item: SandboxEvent | None) -> None:
    """Put an item into a queue, dropping the oldest one when it is full."""
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(item)
