"""Pseudo-terminals: made raw, sized, handed over through a console socket."""

from __future__ import annotations

import _socket
import fcntl
import os
import struct
import termios

from oci_runtime.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_SIZE = struct.Struct("=HHHH")


def window_size(fd: int) -> tuple[int, int]:
    """Return (rows, columns) of a terminal, (0, 0) when it has none."""
    try:
        rows, columns, _, _ = _SIZE.unpack(fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(_SIZE.size)))
    except OSError:
        return 0, 0
    return rows, columns


def set_window_size(fd: int, rows: int, columns: int) -> None:
    """Set the size of a terminal; whoever has it in the foreground gets SIGWINCH. Raises OSError."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, _SIZE.pack(rows, columns, 0, 0))


def make_raw(fd: int) -> list[Any]:
    """Let every byte pass unchanged: the guest's terminal does the line discipline. Return the former attributes."""
    before = termios.tcgetattr(fd)
    after = termios.tcgetattr(fd)
    after[0] &= ~(
        termios.IGNBRK
        | termios.BRKINT
        | termios.PARMRK
        | termios.ISTRIP
        | termios.INLCR
        | termios.IGNCR
        | termios.ICRNL
        | termios.IXON
    )
    after[1] &= ~termios.OPOST
    after[2] = (after[2] & ~(termios.CSIZE | termios.PARENB)) | termios.CS8
    after[3] &= ~(termios.ECHO | termios.ECHONL | termios.ICANON | termios.ISIG | termios.IEXTEN)
    after[6][termios.VMIN] = 1
    after[6][termios.VTIME] = 0
    termios.tcsetattr(fd, termios.TCSANOW, after)
    return before


def restore(fd: int, attributes: list[Any]) -> None:
    """Give a terminal its former attributes back; one that is gone is no error."""
    try:
        termios.tcsetattr(fd, termios.TCSADRAIN, attributes)
    except termios.error:
        return


def open_pty(rows: int = 0, columns: int = 0) -> tuple[int, int]:
    """Return (master, slave) of a new raw terminal, both close-on-exec. Raises HostError."""
    try:
        master, slave = os.openpty()
    except OSError as error:
        raise HostError.from_oserror(error, "openpty", "/dev/ptmx") from error
    make_raw(slave)
    if rows or columns:
        set_window_size(slave, rows, columns)
    return master, slave


def send_master(socket_path: str, master: int) -> None:
    """Hand the master's descriptor to whoever listens on a console socket. Raises HostError.

    The payload is the device's name, as runc sends it. A path that is too long for an address goes through /proc.
    """
    directory, name = os.path.split(os.path.abspath(socket_path))
    anchor = -1
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        if len(os.fsencode(socket_path)) > 107:
            anchor = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            socket_path = f"/proc/self/fd/{anchor}/{name}"
        sock.connect(socket_path)
        sock.sendmsg([b"/dev/ptmx"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("=i", master))])
    except OSError as error:
        raise HostError.from_oserror(error, "connect console socket", socket_path) from error
    finally:
        sock.close()
        if anchor >= 0:
            os.close(anchor)
