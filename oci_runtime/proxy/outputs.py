"""Write to descriptors that belong to somebody else, without ever blocking and without making them non-blocking.

O_NONBLOCK is a property of the open file description, which the engine and other processes share: setting it breaks
them. So a pipe or a terminal is opened anew through /proc, which gives a description of our own; sockets take a flag
per call; where neither works, a pipe that poll calls writable takes PIPE_BUF bytes without blocking.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import stat

from oci_runtime.control import stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# Linux guarantees this much when poll reports a pipe as writable.
_PIPE_BUF = 4096
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Output:
    """One of standard output and error. `pending` holds what could not be written yet. Opening one needs /proc."""

    def __init__(self, fd: int) -> None:
        self.pending = b""
        self.fd, self._write = _open_output(fd)
        self.broken = self.fd < 0

    def put(self, data: bytes) -> None:
        """Write what can be written now and keep the rest. Data for a reader that is gone is dropped."""
        self.pending = self.pending + data if self.pending else data
        self.flush()

    def flush(self) -> bool:
        """Write more of `pending`; True when something was written or dropped."""
        progress = False
        while self.pending and not self.broken:
            try:
                written = self._write(self.pending)
            except (BlockingIOError, InterruptedError):
                return progress
            except OSError as error:
                if error.errno in _FULL:
                    # A log file on a full disk: the bytes are lost, but there may be room for later ones.
                    self.pending = b""
                    return True
                # EPIPE, EIO of a terminal whose master is gone.
                self.broken = True
                break
            progress = True
            self.pending = self.pending[written:]
        if self.broken:
            progress = bool(self.pending) or progress
            self.pending = b""
        return progress


def standard_outputs() -> dict[int, Output]:
    """Open standard output and error for a relay, by the kind of their frames."""
    return {stream.STDOUT: Output(1), stream.STDERR: Output(2)}


def _open_output(fd: int) -> tuple[int, Callable[[bytes], int]]:
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return -1, len
    if stat.S_ISSOCK(mode):
        sock = _socket.socket(fileno=os.dup(fd))
        return sock.fileno(), lambda data: sock.send(data, _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL)
    if stat.S_ISREG(mode):
        return fd, lambda data: os.write(fd, data)
    try:
        own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
        return own, lambda data: os.write(own, data)
    except OSError:
        return fd, lambda data: _write_when_ready(fd, data)


def _write_when_ready(fd: int, data: bytes) -> int:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    if not poll.poll(0):
        raise BlockingIOError
    return os.write(fd, data[:_PIPE_BUF])
