"""Byte streams between descriptors of the guest and calls of the host.

Output is pulled, input is pushed with back pressure. `Output` answers one read at a time from a descriptor, and buffers
nothing: a reader that does not come stops the writer. `Input` writes what it is given and answers when all of it has
been taken. All of it runs in the event loop.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios

from oci_runtime.errors import OciRuntimeError
from oci_runtime.guest.loop import HANGUP, READ, WRITE
from oci_runtime.ttrpc.status import RESOURCE_EXHAUSTED, StatusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable
    from typing import Any

    from oci_runtime.guest.loop import Loop
    from oci_runtime.guest.server import Call
    from oci_runtime.ttrpc.lean import Message
else:
    from _collections import deque  # the package would bring six modules along

# What a pipe holds; a larger buffer would only cost the guest the zeroing of its pages.
MAX_READ_BYTES = 256 << 10
MAX_WAITING = 16
# What a terminal's line discipline may still be moving when its last process has ended.
_TTY_GRACE_S = 0.05


class _Stream:
    """A descriptor, and the calls that wait for it in their order, each with what it wants. Owns the descriptor."""

    def __init__(self, loop: Loop, fd: int, *, tty: bool) -> None:
        self._loop = loop
        self._fd = fd
        self._tty = tty
        self._calls: deque[tuple[Call, Any]] = deque()
        self._ended = False
        os.set_blocking(fd, False)

    def _wait(self, call: Call, wanted: object, what: str) -> None:
        """Serve a call when its turn comes. Raises StatusError when too many wait."""
        if len(self._calls) >= MAX_WAITING:
            raise StatusError(RESOURCE_EXHAUSTED, f"{MAX_WAITING} {what} wait on this stream already")
        self._calls.append((call, wanted))
        call.on_cancel = lambda: self._forget(call)
        if len(self._calls) == 1:
            self._serve()

    def _serve(self, events: int = 0) -> None:
        """Serve as many calls as can be; watch the descriptor for the rest."""
        raise NotImplementedError

    def _forget(self, call: Call) -> None:
        self._calls = deque(entry for entry in self._calls if entry[0] is not call)
        if not self._calls:
            self._unwatch()

    def _unwatch(self) -> None:
        if not self._ended:
            self._loop.unwatch(self._fd)

    def _end(self) -> None:
        if not self._ended:
            self._unwatch()
            self._ended = True
            os.close(self._fd)


class Output(_Stream):
    """The read end of a process's stdout or stderr, of a pty master, or of a socket."""

    def __init__(self, loop: Loop, fd: int, answer: Callable[[bytes, bool], Message], *, tty: bool = False) -> None:
        """answer: makes the reply from the bytes and the end-of-file mark."""
        super().__init__(loop, fd, tty=tty)
        self._answer = answer
        # Bytes still owed after the writer's end; None while it lives.
        self._remaining: int | None = None

    def read(self, call: Call, max_bytes: int) -> None:
        """Answer `call` with the next bytes: at least one, or none with eof. Raises StatusError when too many wait."""
        self._wait(call, min(max_bytes or MAX_READ_BYTES, MAX_READ_BYTES), "reads")

    def writer_ended(self) -> None:
        """The process has ended: deliver what is there, then end of file, even if a grandchild holds the other end."""
        if self._ended or self._remaining is not None:
            return
        if self._tty:
            self._remaining = MAX_READ_BYTES
            self._loop.later(_TTY_GRACE_S, self._tty_quiet)
        else:
            self._remaining = struct.unpack("i", fcntl.ioctl(self._fd, termios.FIONREAD, b"\0\0\0\0"))[0]
        self._serve()

    def close(self) -> None:
        """Give the descriptor back; reads that wait get end of file. Idempotent."""
        self._end()
        while self._calls:
            self._calls.popleft()[0].reply(self._answer(b"", True))

    def _tty_quiet(self) -> None:
        self._remaining = 0
        self._serve()

    def _serve(self, events: int = 0) -> None:
        while self._calls:
            call, limit = self._calls[0]
            try:
                data = b"" if self._ended else self._take(limit)
            except OSError as error:
                self._end()
                self._calls.popleft()
                call.fail(OciRuntimeError(f"read: {error.strerror}"))
                continue
            if data is None:
                self._loop.watch(self._fd, READ, self._serve)
                return
            if not data:
                self._end()
            self._calls.popleft()
            call.reply(self._answer(data, not data))
        self._unwatch()

    def _take(self, limit: int) -> bytes | None:
        """The next bytes; empty at the end; None when there are none yet."""
        if self._remaining == 0 and not self._tty:
            return b""
        if self._remaining:
            limit = min(limit, self._remaining)
        try:
            data = os.read(self._fd, limit)
        except BlockingIOError:
            return b"" if self._remaining == 0 or (self._remaining and not self._tty) else None
        except OSError as error:
            if error.errno == errno.EIO and self._tty:
                return b""  # the last process has closed the terminal
            raise
        if self._remaining and not self._tty:
            self._remaining -= len(data)
        return data


class Input(_Stream):
    """The write end of a process's stdin, of a pty master, or of a socket."""

    def __init__(self, loop: Loop, fd: int, answer: Callable[[int], Message], *, tty: bool = False) -> None:
        """answer: makes the reply from the number of bytes. tty: closing the input does not close the terminal."""
        super().__init__(loop, fd, tty=tty)
        self._answer = answer
        self._closing = False

    def write(self, call: Call, data: bytes) -> None:
        """Answer `call` when all of `data` is taken; a smaller number means that nobody reads any more.

        Raises StatusError when too many writes wait.
        """
        if self._closing or self._ended:
            call.reply(self._answer(0))
            return
        self._wait(call, (memoryview(data), len(data)), "writes")

    def close_when_written(self) -> None:
        """End the input after the writes that wait; returns at once. A terminal stays open. Idempotent."""
        if self._tty or self._ended:
            return
        self._closing = True
        if not self._calls:
            self._end()

    def close(self) -> None:
        """Give the descriptor back at once; writes that wait learn how far they came. Idempotent."""
        self._end()
        while self._calls:
            call, (rest, total) = self._calls.popleft()
            call.reply(self._answer(total - len(rest)))

    def _serve(self, events: int = 0) -> None:
        while self._calls:
            call, (data, total) = self._calls[0]
            try:
                written = os.write(self._fd, data) if data else 0
            except BlockingIOError:
                if events & HANGUP and not self._tty:
                    self.close()  # a pipe that is full and has lost its reader
                    return
                self._loop.watch(self._fd, WRITE, self._serve)
                return
            except OSError:
                self.close()  # the reader is gone
                return
            if written < len(data):
                self._calls[0] = (call, (data[written:], total))
                continue
            self._calls.popleft()
            call.reply(self._answer(total))
        if self._closing:
            self._end()
        else:
            self._unwatch()
