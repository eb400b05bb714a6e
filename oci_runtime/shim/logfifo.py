"""The shim's log: lines in containerd's form to the engine's `log` fifo, and to standard error (the sandbox's file).

The fifo may have no reader, lose it and get it back: writing never waits, and what cannot go is only in the file.
"""

from __future__ import annotations

import os

from oci_runtime.log import Sink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class FifoSink(Sink):
    """A log sink with two ends. fields: added to every line, as the engine's other shims do."""

    def __init__(self, fifo: str, *, level: str, fields: dict[str, Any]) -> None:
        super().__init__(level=level)
        self.fields = fields
        self._fifo = fifo
        self._fifo_fd = -1

    def emit(self, data: bytes) -> None:
        """Write one line to both."""
        super().emit(data)
        # containerd copies its shims' lines to its own log, CRI-O to its standard error.
        try:
            if self._fifo_fd < 0:
                self._fifo_fd = os.open(self._fifo, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            os.write(self._fifo_fd, data)
        except BlockingIOError:
            return
        except OSError:
            if self._fifo_fd >= 0:
                os.close(self._fifo_fd)
                self._fifo_fd = -1
