"""Stand in the foreground for a process: relay it here (`exec`), or wait for its proxy (`run`)."""

from __future__ import annotations

import _socket
import json
import os
import signal

from oci_runtime.errors import OciRuntimeError, Unavailable, from_wire
from oci_runtime.host.terminal import make_raw, restore, window_size
from oci_runtime.proxy.outputs import standard_outputs
from oci_runtime.proxy.relay import Relay
from oci_runtime.proxy.signals import JOB_CONTROL, catch_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any

_CHECK_S = 1.0
# Not passed on to a proxy: its own children, and what job control does to this process.
_NOT_FORWARDED = frozenset({signal.SIGCHLD, signal.SIGPIPE, signal.SIGURG, *JOB_CONTROL})


def give_size(process: dict[str, Any]) -> None:
    """Let a process that gets a terminal see the size of ours from its first moment."""
    fd = RawTerminal(wanted=bool(process.get("terminal"))).fd
    rows, columns = window_size(fd) if fd >= 0 else (0, 0)
    if rows and columns:
        process.setdefault("consoleSize", {"height": rows, "width": columns})


class RawTerminal:
    """The terminal among descriptors 0-2, raw while the context lasts; `fd` is -1 without one, or if none is wanted."""

    def __init__(self, *, wanted: bool) -> None:
        self.fd = next((fd for fd in (0, 1, 2) if os.isatty(fd)), -1) if wanted else -1
        self._before: list[Any] = []

    def __enter__(self) -> RawTerminal:
        if self.fd >= 0:
            self._before = make_raw(self.fd)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._before:
            restore(self.fd, self._before)


def relay_here(stream_fd: int, *, terminal: bool) -> int:
    """Relay an attached stream with this process's own streams and signals; return the exit code.

    Raises what the sandbox process reports instead of an end.
    """
    wakeup = catch_signals(JOB_CONTROL)
    sock = _socket.socket(fileno=stream_fd)
    with RawTerminal(wanted=terminal) as raw:
        relay = Relay(sock, 0, standard_outputs(), wakeup, raw.fd)
        code = relay.run()
    if relay.error:
        raise _reported(relay.error)
    return code


def _reported(payload: bytes) -> OciRuntimeError:
    try:
        reason = json.loads(payload)
        return from_wire(str(reason["kind"]), str(reason["message"]), str(reason.get("detail") or ""))
    except (ValueError, KeyError, TypeError):
        return Unavailable("lost the process: the sandbox process gave no reason")


class ForegroundWait:
    """Wait for a child that stands for a container, and pass on the signals that this process gets.

    Make it before the child can end; from then on signals are not handled but kept for `wait`.
    """

    def __init__(self) -> None:
        self._signals = signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP} - set(JOB_CONTROL)
        signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)

    def unblock(self) -> None:
        """In a child that becomes another program: let signals through again."""
        signal.pthread_sigmask(signal.SIG_UNBLOCK, self._signals)
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)

    def wait(self, pid: int) -> int:
        """Return the exit code of the child, 128 + n for signal n."""
        while True:
            received = signal.sigtimedwait(self._signals, _CHECK_S)
            done, status = os.waitpid(pid, os.WNOHANG)
            if done:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            if received is not None and received.si_signo not in _NOT_FORWARDED:
                os.kill(pid, received.si_signo)
