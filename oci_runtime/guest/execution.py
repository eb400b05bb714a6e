"""Knows when a container's first process has turned from crun's into the container's program.

crun's process waits for the start with a pipe's writing end, which it has marked to be closed when it executes the
program. So the other end tells of that moment, or of the death of a process that never came so far. Nobody has to look
again and again, and what crun does in between, such as hooks inside, is waited for.
"""

from __future__ import annotations

import os

from oci_runtime.guest.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oci_runtime.guest.loop import Loop

# A hook inside may have left a process behind that keeps the pipe open for ever.
_LIMIT_S = 60.0


class Execution:
    """One pipe, from the creation of a container to its removal."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._read, self.child = os.pipe2(os.O_CLOEXEC)
        self._waiting: list[Callable[[], None]] = []

    def given(self) -> None:
        """The process has its end, `child`; ours is closed."""
        os.close(self.child)
        self.child = -1

    def when_done(self, callback: Callable[[], None]) -> None:
        """Call back once: at once, later, or after a minute at the latest. In the loop's thread."""
        if self._read < 0:
            callback()
            return
        if not self._waiting:
            self._loop.watch(self._read, READ, lambda _: self.close())
            self._loop.later(_LIMIT_S, self.close)
        self._waiting.append(callback)

    def close(self) -> None:
        """Give the descriptors back; who waits is called. In the loop's thread. Idempotent."""
        if self.child >= 0:
            self.given()
        if self._read >= 0:
            self._loop.unwatch(self._read)
            os.close(self._read)
            self._read = -1
        waiting, self._waiting = self._waiting, []
        for callback in waiting:
            callback()
