"""Processes and their stand-ins find each other: a stand-in attaches before its process exists, and may have gone.

Keys are (container id, exec id); the exec id of a first process is empty.
"""

from __future__ import annotations

import asyncio

from oci_runtime.sandbox.process import Process

Key = tuple[str, str]
# Marks of processes that never come are only worth so much memory.
_MAX_ABANDONED = 1024


class Arrivals:
    """Who waits for which process, and which processes nobody wants any more."""

    def __init__(self) -> None:
        self._waiting: dict[Key, asyncio.Future[Process]] = {}
        self._abandoned: dict[Key, None] = {}

    def expect(self, key: Key) -> asyncio.Future[Process]:
        """Return what completes when the process is there. Shared by all who wait for it: shield it."""
        self._abandoned.pop(key, None)
        return self._waiting.setdefault(key, asyncio.get_running_loop().create_future())

    def abandon(self, key: Key) -> None:
        """The stand-in is gone, perhaps before the request that makes the process was read: it dies when it comes."""
        waiting = self._waiting.pop(key, None)
        if waiting is not None:
            waiting.cancel()
        self._abandoned[key] = None
        if len(self._abandoned) > _MAX_ABANDONED:
            del self._abandoned[next(iter(self._abandoned))]

    def arrive(self, process: Process) -> bool:
        """Tell those who wait; False when the process was abandoned before."""
        key = (process.container_id, process.exec_id)
        waiting = self._waiting.pop(key, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(process)
        is_wanted = key not in self._abandoned
        self.forget(key)
        return is_wanted

    def forget(self, key: Key) -> None:
        """The process does not come: its name is free again."""
        self._abandoned.pop(key, None)

    def close(self, error: Exception) -> None:
        """No process comes any more."""
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(error)
                waiting.exception()  # it is nobody's fault if no one waits
