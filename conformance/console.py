"""The terminal side of a caller: the socket that receives the pty's master, and a reader with deadlines."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import socket
import struct
import termios
import time
from pathlib import Path

from conformance.runtime import CheckFailed, DeadlineMissed

# Longer than the second in which the checks' scripts print the size once.
_NUDGE_S = 1.5


class Terminal:
    """The master of a pseudo terminal."""

    def __init__(self, master: int) -> None:
        self.master = master
        self.seen = b""

    def write(self, data: bytes) -> None:
        """Type something."""
        os.write(self.master, data)

    def resize(self, rows: int, columns: int) -> None:
        """Set the window size, as an engine does when its user's window changes."""
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize_until(self, rows: int, columns: int, marker: bytes, deadline_s: float) -> None:
        """Resize, again and again, until the marker comes, for clients that begin to listen for WINCH at some time.

        docker and ctr pass the first size on and only then listen: a change between the two is lost.
        Raises DeadlineMissed.
        """
        end = time.monotonic() + deadline_s
        while True:
            self.resize(rows, columns)
            try:
                self.read_until(marker, min(_NUDGE_S, deadline_s))
                return
            except DeadlineMissed:
                if time.monotonic() > end:
                    raise
            self.resize(rows, columns + 1)  # the kernel signals nothing but changes

    def size(self) -> tuple[int, int]:
        """Return rows and columns."""
        rows, columns, _, _ = struct.unpack("HHHH", fcntl.ioctl(self.master, termios.TIOCGWINSZ, b"\0" * 8))
        return rows, columns

    def read_until(self, marker: bytes, deadline_s: float) -> bytes:
        """Read until the marker shows up in what was not consumed yet; return that part. Raises DeadlineMissed."""
        end = time.monotonic() + deadline_s
        while marker not in self.seen:
            if not self._fill(end):
                raise CheckFailed(f"the terminal closed before {marker!r} came; it gave {self.seen[-500:]!r}")
        head, _, self.seen = self.seen.partition(marker)
        return head + marker

    def read_to_end(self, deadline_s: float) -> bytes:
        """Read until the other side is gone. Raises DeadlineMissed."""
        end = time.monotonic() + deadline_s
        while self._fill(end):
            pass
        rest, self.seen = self.seen, b""
        return rest

    def close(self) -> None:
        """Hang up."""
        if self.master >= 0:
            os.close(self.master)
            self.master = -1

    def _fill(self, end: float) -> bool:
        """Read once; False at the end (EIO of a hung-up pty, or EOF)."""
        left = end - time.monotonic()
        if left <= 0 or not select.select([self.master], [], [], left)[0]:
            raise DeadlineMissed(f"the terminal stayed silent; so far it gave {self.seen[-500:]!r}")
        try:
            data = os.read(self.master, 65536)
        except OSError as error:
            if error.errno == errno.EIO:
                return False
            raise
        self.seen += data
        return bool(data)


class ConsoleSocket:
    """A listening `--console-socket`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen(1)

    def receive(self, deadline_s: float) -> Terminal:
        """Return the terminal that the runtime sends. Raises CheckFailed when none arrives in time."""
        self._socket.settimeout(deadline_s)
        try:
            connection, _ = self._socket.accept()
        except TimeoutError:
            raise CheckFailed("nothing connected to the console socket") from None
        with connection:
            connection.settimeout(deadline_s)
            _, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4 * 4))
        descriptors = array.array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(data[: len(data) - len(data) % 4])
        if len(descriptors) != 1:
            raise CheckFailed(f"the console socket got {len(descriptors)} descriptors instead of 1")
        return Terminal(descriptors[0])

    def close(self) -> None:
        """Stop listening."""
        self._socket.close()
        self.path.unlink(missing_ok=True)
