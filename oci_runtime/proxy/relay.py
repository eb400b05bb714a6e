"""Carry bytes, signals and window sizes between standard streams and the stream of a sandbox process.

One thread, one poll loop, bounded buffers. Nothing is read from the stream while output is stuck, so back pressure
reaches the process in the guest; standard input is only read while the other side has given credit for it.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import time

from oci_runtime.control import stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.proxy.outputs import Output

READ_BYTES = 1 << 16
# What a process is worth whose end nobody could see: 128 + SIGKILL.
LOST = 137
# Output that nobody reads is given up when the sandbox process is gone for so long.
_STUCK_S = 10.0


class Relay:
    """The relay of one process.

    sock: the attached stream; the relay owns it. stdin: descriptor, -1 for none. outputs: opened, by stream kind.
    wakeup: a pipe that delivers signal numbers as bytes. terminal: descriptor whose window size counts, -1 for none.
    """

    def __init__(
        self, sock: _socket.socket, stdin: int, outputs: dict[int, Output], wakeup: int, terminal: int = -1
    ) -> None:
        self.error = b""
        self._sock = sock
        self._stdin = stdin
        self._outputs = outputs
        self._wakeup = wakeup
        self._terminal = terminal
        self._decoder = stream.StreamDecoder()
        self._to_send = bytearray()
        self._credit = stream.INITIAL_CREDIT_BYTES
        self._closed: set[int] = set()
        self._code = -1
        self._lost = False
        self._stuck_until = 0.0

    def run(self) -> int:
        """Relay until the process has ended and its output is out; return its exit code, LOST without one."""
        if self._terminal >= 0:
            self._send_window()
        while True:
            stuck = any(output.pending for output in self._outputs.values())
            if not stuck and (self._code >= 0 or self._lost):
                return self._code if self._code >= 0 else LOST
            if stuck and self._is_hopeless():
                return self._code if self._code >= 0 else LOST
            self._step(stuck)

    def _is_hopeless(self) -> bool:
        """True when output has been stuck for long with nobody left on the other side."""
        if not self._lost:
            return False
        now = time.monotonic()
        self._stuck_until = self._stuck_until or now + _STUCK_S
        return now > self._stuck_until

    def _step(self, stuck: bool) -> None:
        poll = select.poll()
        poll.register(self._wakeup, select.POLLIN)
        if not self._lost and self._code < 0:
            # Without any flag poll still reports that the peer is gone.
            flags = (0 if stuck else select.POLLIN) | (select.POLLOUT if self._to_send else 0)
            poll.register(self._sock, flags)
        if self._wants_stdin():
            poll.register(self._stdin, select.POLLIN)
        for output in self._outputs.values():
            if output.pending:
                poll.register(output.fd, select.POLLOUT)
        events = dict(poll.poll(1000 if self._lost else None))
        if self._wakeup in events:
            self._take_signals()
        self._flush_outputs(events)
        if not self._lost and self._sock.fileno() in events:
            self._serve_socket(events[self._sock.fileno()], stuck)
        if self._stdin in events and self._wants_stdin():
            self._read_stdin()

    def _wants_stdin(self) -> bool:
        return self._stdin >= 0 and self._credit > 0 and len(self._to_send) < READ_BYTES and not self._lost

    def _flush_outputs(self, events: dict[int, int]) -> None:
        for output in self._outputs.values():
            if output.pending and output.fd in events and output.flush():
                self._stuck_until = 0.0
        self._report_closed()

    def _serve_socket(self, events: int, stuck: bool) -> None:
        if events & select.POLLOUT:
            self._send()
        if events & select.POLLIN and not stuck:
            self._receive()
        elif events & (select.POLLHUP | select.POLLERR):
            # Gone, perhaps with output and the exit code still to be read once the stuck output is out.
            if stuck:
                self._drain_socket()
            else:
                self._receive()

    def _drain_socket(self) -> None:
        """Take over what a peer that is gone has sent: at most the kernel's socket buffer."""
        while not self._lost and self._code < 0:
            self._receive()

    def _receive(self) -> None:
        try:
            data = self._sock.recv(READ_BYTES, _socket.MSG_DONTWAIT)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._lost = True
            return
        try:
            for kind, payload in self._decoder.feed(data):
                self._handle(kind, payload)
        except stream.StreamError:
            self._lost = True

    def _handle(self, kind: int, payload: bytes) -> None:
        if kind in self._outputs:
            self._outputs[kind].put(payload)
            self._report_closed()
        elif kind == stream.EXIT:
            self._code = stream.decode_number(payload) & 0xFF
        elif kind == stream.CREDIT:
            self._credit += stream.decode_number(payload)
        elif kind == stream.ERROR:
            self.error = payload
            self._lost = True

    def _report_closed(self) -> None:
        """Let the process know, once, that an output has lost its reader: it shall get EPIPE as on the host."""
        for kind, output in self._outputs.items():
            if output.broken and kind not in self._closed:
                self._closed.add(kind)
                self._queue(stream.encode_output_closed(kind))

    def _read_stdin(self) -> None:
        try:
            data = os.read(self._stdin, min(READ_BYTES, self._credit))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return
            data = b""
        if data:
            self._credit -= len(data)
            self._queue(stream.encode(stream.STDIN, data))
        else:
            self._stdin = -1
            self._queue(stream.encode(stream.STDIN_EOF))

    def _take_signals(self) -> None:
        for number in os.read(self._wakeup, 256):
            if number == 28:  # SIGWINCH
                if self._terminal >= 0:
                    self._send_window()
            else:
                self._queue(stream.encode_signal(number))

    def _send_window(self) -> None:
        from oci_runtime.host.terminal import window_size

        rows, columns = window_size(self._terminal)
        if rows or columns:
            self._queue(stream.encode_window(rows, columns))

    def _queue(self, frame: bytes) -> None:
        self._to_send += frame
        self._send()

    def _send(self) -> None:
        if self._lost or not self._to_send:
            return
        try:
            sent = self._sock.send(self._to_send, _socket.MSG_DONTWAIT | _socket.MSG_NOSIGNAL)
            del self._to_send[:sent]
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            # The end shows on the receiving side, behind whatever is still to be read there.
            self._to_send.clear()
