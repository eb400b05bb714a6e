"""The blocking client of a sandbox's control socket: what each verb of the command line talks through."""

from __future__ import annotations

import _socket
import os
import struct

from oci_runtime.control.frames import ConnectionLost, Silent, receive_frame, send_frame
from oci_runtime.errors import InvalidInput, NotFound, from_wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Self

SOCKET_NAME = "control.sock"
# struct sockaddr_un has 108 bytes for the path, one of them for the terminating NUL.
_MAX_SOCKET_PATH_BYTES = 107


class Absent(NotFound):
    """There is no control socket: the sandbox is gone, or not there yet."""


class SocketDirectory:
    """Gives a short path to a socket in `directory`, however long the directory's own path is.

    The short form goes through /proc/self/fd and is valid while the object is open (use it as a context manager).
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._fd = -1

    def path(self, name: str = SOCKET_NAME) -> str:
        """Return a path that fits into a socket address. Raises OSError when the directory is missing."""
        plain = os.path.join(self._directory, name)
        if len(os.fsencode(plain)) <= _MAX_SOCKET_PATH_BYTES:
            return plain
        if self._fd < 0:
            self._fd = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return f"/proc/self/fd/{self._fd}/{name}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def listen(directory: str, name: str = SOCKET_NAME, backlog: int = 128) -> _socket.socket:
    """Bind a listening socket in `directory`, replacing a stale one. Raises OSError."""
    with SocketDirectory(directory) as short:
        path = short.path(name)
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            sock.bind(path)
            sock.listen(backlog)
        except BaseException:
            sock.close()
            raise
        return sock


def _timeval(seconds: float) -> bytes:
    """struct timeval; zero would mean to wait for ever."""
    whole, rest = divmod(max(1, int(seconds * 1e6)), 1_000_000)
    return struct.pack("@ll", whole, rest)


class Client:
    """One connection to a sandbox process. Each call sends one request and reads its answer."""

    def __init__(self, sock: _socket.socket) -> None:
        self._sock = sock

    @classmethod
    def connect(cls, directory: str, timeout_s: float | None = None) -> Client:
        """Connect to the control socket in a sandbox directory.

        timeout_s bounds this and each later send and receive; None waits for ever.
        Raises Absent when there is no socket, ConnectionLost when nobody listens on it, Silent when nobody accepts.
        """
        sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
        try:
            with SocketDirectory(directory) as short:
                if timeout_s is not None:
                    # A socket that does not block is refused at once when many commands wait already.
                    sock.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDTIMEO, _timeval(timeout_s))
                sock.connect(short.path())
                sock.settimeout(timeout_s)
        except FileNotFoundError as error:
            sock.close()
            raise Absent(f"control socket in {directory} does not exist") from error
        except BlockingIOError as error:
            sock.close()
            raise Silent(f"the sandbox process took no connection within {timeout_s:g} s") from error
        except OSError as error:
            sock.close()
            raise ConnectionLost(f"control socket in {directory}: {error.strerror or error}") from error
        return cls(sock)

    def call(self, op: str, fds: Sequence[int] = (), /, **arguments: Any) -> dict[str, Any]:
        """Perform one operation and return its answer. Raises the error that the sandbox process reports."""
        send_frame(self._sock, {"op": op, **arguments}, fds)
        return self._answer()

    def receive(self) -> dict[str, Any]:
        """Return the next frame that the sandbox process sends by itself (after op `events`)."""
        return self._answer()

    def fileno(self) -> int:
        """Return the connection's descriptor, to wait for it."""
        return self._sock.fileno()

    def begin_attach(self, container_id: str, exec_id: str = "") -> None:
        """Ask for the stdio stream of a process that may not exist yet.

        From then on the process dies with this connection: a command that is killed leaves no process behind.
        """
        send_frame(self._sock, {"op": "attach", "id": container_id, "exec_id": exec_id})

    def finish_attach(self) -> int:
        """Wait until the connection is the stream and return its descriptor; the client is used up."""
        self._answer()
        self._sock.settimeout(None)
        return self._sock.detach()

    def close(self) -> None:
        """Close the connection; idempotent."""
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(self) -> dict[str, Any]:
        answer, fds = receive_frame(self._sock)
        for fd in fds:
            os.close(fd)
        error = answer.get("error")
        if error is None:
            return answer
        if not isinstance(error, dict):
            raise InvalidInput(f"control socket: malformed error {error!r}")
        raise from_wire(str(error.get("kind")), str(error.get("message")), str(error.get("detail") or ""))
