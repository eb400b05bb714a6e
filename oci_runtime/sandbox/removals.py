"""Stopped containers leave the guest and the share as soon as their output is read: a `delete` finds that done.

What an engine may still ask for, status and exit code, is the pod's and stays until the `delete`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from oci_runtime.errors import OciRuntimeError
from oci_runtime.log import get_logger
from oci_runtime.sandbox.process import Container

log = get_logger(__name__)


class Removals:
    """The removals of a pod, at most one at a time for each container. remove: does it; may be repeated."""

    def __init__(self, remove: Callable[[Container], Coroutine[Any, Any, None]]) -> None:
        self._remove = remove
        self._waiting: dict[str, asyncio.Task[None]] = {}
        self._work: dict[str, asyncio.Task[None]] = {}

    def begin(self, container: Container) -> None:
        """A container has ended: remove it once nobody has output of it left to read. A failure is left to `finish`."""
        self._waiting[container.id] = asyncio.create_task(self._when_drained(container))

    async def _when_drained(self, container: Container) -> None:
        for process in list(container.processes.values()):
            await process.wait_drained()
        try:
            await self.finish(container)
        except OciRuntimeError as error:
            log.info("a stopped container is removed when it is deleted", container=container.id, reason=error.message)

    async def finish(self, container: Container) -> None:
        """Return when the container is removed, whoever still reads its output. Raises what the removal raises.

        Joins the removal that is at work. After a failure the next call tries anew. Safe to cancel.
        """
        work = self._work.get(container.id)
        if work is None:
            work = self._work[container.id] = asyncio.create_task(self._remove(container))
            work.add_done_callback(lambda done: self._note(container.id, done))
        await asyncio.shield(work)

    def forget(self, container_id: str) -> None:
        """The container is deleted, its name free again."""
        self._work.pop(container_id, None)
        waiting = self._waiting.pop(container_id, None)
        if waiting is not None:
            waiting.cancel()

    def stop(self) -> None:
        """The pod is ending, which takes all of them away: begin nothing more. What is at work fails with the guest."""
        for waiting in self._waiting.values():
            waiting.cancel()
        self._waiting.clear()

    def _note(self, container_id: str, work: asyncio.Task[None]) -> None:
        if (work.cancelled() or work.exception() is not None) and self._work.get(container_id) is work:
            del self._work[container_id]
