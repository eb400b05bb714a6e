"""What tests need to play the other side of a terminal."""

from __future__ import annotations

import array
import fcntl
import os
import select
import socket
import struct
import subprocess
import termios
import time
from pathlib import Path

# For busybox's shell: shows the size of the window again and again until somebody has typed a line.
ASK = "while ! read -t 1 line; do stty size; done; echo got $line"


def receive_master(listener: socket.socket) -> int:
    """What conmon does with its console socket."""
    connection, _ = listener.accept()
    data, ancillary, _, _ = connection.recvmsg(100, socket.CMSG_SPACE(4))
    assert data
    ((_, kind, payload),) = ancillary
    assert kind == socket.SCM_RIGHTS
    return array.array("i", payload[:4])[0]


def read_until(fd: int, wanted: bytes, deadline_s: float = 20) -> bytes:
    """Read from a terminal until `wanted` appears."""
    data, end = b"", time.monotonic() + deadline_s
    while wanted not in data:
        ready, _, _ = select.select([fd], [], [], max(0, end - time.monotonic()))
        assert ready, f"no {wanted!r} in {data!r}"
        data += os.read(fd, 4096)
    return data


def set_size(fd: int, rows: int, columns: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


def listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return listener


def own_terminal(fd: int) -> None:
    """Make a terminal the controlling one of this new session."""
    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)


def run_silently(command: list[str], cwd: Path | None = None) -> None:
    """Run a command to its end, its streams on /dev/null: what it leaves behind may keep them."""
    null = subprocess.DEVNULL
    subprocess.run(command, cwd=cwd, check=True, timeout=60, stdin=null, stdout=null, stderr=null)
