"""Events that the host learns by a long poll: a bounded history, oldest dropped first."""

from __future__ import annotations

import time

from oci_runtime.ttrpc.proto.agent_lean import Event, NextEventRequest
from oci_runtime.ttrpc.status import RESOURCE_EXHAUSTED, StatusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque

    from oci_runtime.guest.agent import Agent
    from oci_runtime.guest.loop import Loop, Timer
    from oci_runtime.guest.server import Call
else:
    from _collections import deque  # the package would bring six modules along

_HISTORY = 256
_MAX_WAITING = 8
_MAX_TIMEOUT_MS = 3_600_000


class Events:
    """The history and the calls that wait for its next entry. Runs in the event loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._sequence = 0
        self._history: deque[Event] = deque(maxlen=_HISTORY)
        self._waiting: dict[Call, tuple[int, Timer]] = {}

    def publish(self, kind: str, container_id: str = "") -> None:
        """Add an event and answer the calls that wait for it; callable from every thread."""
        if not self._loop.in_loop():
            self._loop.soon(lambda: self.publish(kind, container_id))
            return
        self._sequence += 1
        event = Event(sequence=self._sequence, kind=kind, container_id=container_id, time_ns=time.time_ns())
        self._history.append(event)
        waiting, self._waiting = self._waiting, {}
        for call, (after, timer) in waiting.items():
            if self._sequence > after:
                timer.cancel()
                call.reply(event)
            else:
                self._waiting[call] = (after, timer)

    def wait(self, call: Call, after: int, timeout_ms: int) -> None:
        """Answer `call` with the oldest event after `after`, or with an empty one after `timeout_ms` (0: an hour)."""
        for event in self._history:
            if event.sequence > after:
                call.reply(event)
                return
        if len(self._waiting) >= _MAX_WAITING:
            raise StatusError(RESOURCE_EXHAUSTED, f"{_MAX_WAITING} calls wait for events already")
        delay_s = min(timeout_ms or _MAX_TIMEOUT_MS, _MAX_TIMEOUT_MS) / 1000
        timer = self._loop.later(delay_s, lambda: self._expire(call))
        self._waiting[call] = (after, timer)
        call.on_cancel = lambda: self._forget(call)

    def _expire(self, call: Call) -> None:
        if self._waiting.pop(call, None) is not None:
            call.reply(Event(sequence=self._sequence))

    def _forget(self, call: Call) -> None:
        entry = self._waiting.pop(call, None)
        if entry is not None:
            entry[1].cancel()


def next_event(agent: Agent, request: NextEventRequest, call: Call) -> None:
    """The NextEvent method."""
    agent.events.wait(call, request.after, request.timeout_ms)
