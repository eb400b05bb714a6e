"""Where the time of a pod's start-up went: named phases, kept beside the sandbox's record.

Import-light: the first phases are taken before asyncio is loaded. Times are nanoseconds of CLOCK_MONOTONIC on the host;
the guest's phases arrive on the guest's own clock and are moved onto the host's by the moment of its first answer.
"""

from __future__ import annotations

import os
import time

from oci_runtime import json_text
from oci_runtime.errors import HostError
from oci_runtime.host.files import write_atomic
from oci_runtime.log import get_logger

FILE_NAME = "timeline.json"
_MAX_PHASES = 512
# What has just ended when the guest notes a moment of this name: parts of the host's phase "agent answers".
_GUEST_PHASES = {
    "first-stage": "guest kernel",
    "modules": "guest modules",
    "root": "guest root mounted",
    "agent": "guest agent started",
    "imported": "guest agent imports",
    "channel": "guest channel open",
    "hello": "guest greeted",
}


class Timeline:
    """Phases of one sandbox. `origin_ns`: when the engine's command began, CLOCK_MONOTONIC."""

    def __init__(self, origin_ns: int | None = None) -> None:
        self.origin_ns = time.monotonic_ns() if origin_ns is None else origin_ns
        self._phases: list[tuple[str, int, int]] = []

    def add(self, name: str, start_ns: int, end_ns: int | None = None) -> None:
        """Record that phase `name` ran from `start_ns` to `end_ns` (default: now)."""
        if len(self._phases) < _MAX_PHASES:
            self._phases.append((name, start_ns, time.monotonic_ns() if end_ns is None else end_ns))

    def add_guest(self, phases: list[tuple[str, int]], answered_ns: int, guest_now_ns: int) -> None:
        """Add the guest's moments `(name, monotonic_ns of the guest)`: each ends a phase that began at the one before.

        answered_ns and guest_now_ns are the same moment on the host's and on the guest's clock. Names that the host
        does not know are left out: they are the guest's own words.
        """
        shift_ns = answered_ns - guest_now_ns
        begin_ns = shift_ns
        for name, end_ns in phases:
            if name in _GUEST_PHASES:
                end = max(end_ns + shift_ns, self.origin_ns)
                self.add(_GUEST_PHASES[name], max(begin_ns, self.origin_ns), end)
            begin_ns = end_ns + shift_ns

    def as_dicts(self) -> list[dict[str, object]]:
        """The phases in order of their start: name, start_ms and duration_ms from the origin."""
        rows = sorted(self._phases, key=lambda phase: (phase[1], -phase[2]))
        return [
            {
                "name": name,
                "start_ms": round((start - self.origin_ns) / 1e6, 2),
                "duration_ms": round((end - start) / 1e6, 2),
            }
            for name, start, end in rows
        ]

    def save(self, directory: str) -> None:
        """Write the phases to `directory`; a failure is not worth failing a pod for."""
        text = json_text.dumps({"phases": self.as_dicts()})
        try:
            write_atomic(os.path.join(directory, FILE_NAME), text.encode(), sync=False)
        except HostError as error:
            get_logger(__name__).warning(error.message)
