"""Descriptors between the agent and a container's process: three pipes, or a pseudo terminal that crun hands over."""

from __future__ import annotations

import fcntl
import itertools
import os

from oci_runtime.errors import OciRuntimeError
from oci_runtime.guest.mounts import RUN

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket

_PIPE_BYTES = 256 << 10
_ACCEPT_S = 5.0
_F_SETPIPE_SZ = 1031
_numbers = itertools.count()


class Stdio:
    """What one process needs while it is being started: `child` goes to crun, the rest is the agent's.

    Use as a context manager: leaving it closes the child's side, and everything when `keep` was not called.
    """

    def __init__(self, *, terminal: bool, stdin: bool) -> None:
        """stdin: whether somebody will write to it; otherwise the process reads from /dev/null."""
        self.terminal = terminal
        self.stdin = stdout = stderr = -1
        self.stdout = stdout
        self.stderr = stderr
        self.master = -1
        self.console_socket = ""
        self._listener: socket.socket | None = None
        self._child: list[int] = []
        self._kept = False
        self._wants_stdin = stdin

    def __enter__(self) -> Stdio:
        try:
            if self.terminal:
                self._listen()
                self._child = [_open_null() for _ in range(3)]
            else:
                self._child.append(self._stdin_pipe() if self._wants_stdin else _open_null())
                self.stdout = self._output_pipe()
                self.stderr = self._output_pipe()
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    @property
    def child(self) -> tuple[int, int, int]:
        """The three descriptors for the process that crun starts."""
        return self._child[0], self._child[1], self._child[2]

    @property
    def arguments(self) -> list[str]:
        """crun's arguments about the terminal."""
        return ["--console-socket", self.console_socket] if self.terminal else []

    def take_master(self) -> None:
        """Receive the pseudo terminal that crun has sent. Raises OciRuntimeError when there is none."""
        import socket

        assert self._listener is not None
        self._listener.settimeout(_ACCEPT_S)
        try:
            connection, _ = self._listener.accept()
            with connection:
                connection.settimeout(_ACCEPT_S)
                _, fds, _, _ = socket.recv_fds(connection, 4096, 1)
        except OSError as error:
            raise OciRuntimeError(f"crun sent no terminal: {error}") from error
        if not fds:
            raise OciRuntimeError("crun sent no terminal: the message carries no descriptor")
        self.master = fds[0]
        os.set_inheritable(self.master, False)

    def keep(self) -> None:
        """The agent's ends now belong to somebody else."""
        self._kept = True

    def _listen(self) -> None:
        import socket

        os.makedirs(f"{RUN}/tty", mode=0o700, exist_ok=True)
        self.console_socket = f"{RUN}/tty/{next(_numbers)}"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(self.console_socket)
        self._listener.listen(1)

    def _stdin_pipe(self) -> int:
        read, self.stdin = os.pipe2(os.O_CLOEXEC)
        return read

    def _output_pipe(self) -> int:
        read, write = os.pipe2(os.O_CLOEXEC)
        self._child.append(write)
        try:
            fcntl.fcntl(read, _F_SETPIPE_SZ, _PIPE_BYTES)
        except OSError:
            pass  # the default of 64 KiB works as well
        return read

    def _close(self) -> None:
        fds = list(self._child)
        if not self._kept:
            fds += [fd for fd in (self.stdin, self.stdout, self.stderr, self.master) if fd >= 0]
        for fd in fds:
            os.close(fd)
        self._child = []
        if self._listener is not None:
            self._listener.close()
            try:
                os.unlink(self.console_socket)
            except FileNotFoundError:
                pass


def _open_null() -> int:
    return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
