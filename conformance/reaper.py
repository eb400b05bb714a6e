"""The process above the runner: the subreaper that conmon and containerd's shim are to their containers.

`supervise` forks. The parent becomes a child subreaper that collects every orphan at once, as an init does, and reports
pid and status through a pipe; the child goes on as the runner and asks this module for exit codes. So the runner's own
children stay its own, and no dead process ever lingers because nobody waited for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import struct
import threading

from conformance import host

_RECORD = struct.Struct("=ii")
PR_SET_PDEATHSIG = 1

_statuses: dict[int, int] = {}
_changed = threading.Condition()


def supervise() -> None:
    """Fork; return in the child, which is the runner from now on. The parent ends with the child's exit code."""
    read_end, write_end = os.pipe()
    host.become_subreaper()
    child = os.fork()
    if child:
        os.close(read_end)
        _collect(child, write_end)
    os.close(write_end)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    threading.Thread(target=_listen, args=(read_end,), daemon=True).start()


def _collect(child: int, report: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, frame: host.send_signal(child, received))
    while True:
        pid, status = os.waitpid(-1, 0)
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
        with contextlib.suppress(BrokenPipeError):
            os.write(report, _RECORD.pack(pid, status))


def _listen(descriptor: int) -> None:
    with os.fdopen(descriptor, "rb") as stream:
        while record := stream.read(_RECORD.size):
            pid, status = _RECORD.unpack(record)
            with _changed:
                _statuses[pid] = 128 + os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
                _changed.notify_all()


def subreaper() -> int:
    """Return the pid that orphans of this run get as their parent."""
    return os.getppid()


class Watch:
    """Waits for one orphan of this run, from the moment when its pid is known."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.code: int | None = None
        self._descriptor = -1
        process = host.read_process(pid)
        if process is not None and process.state not in "ZX":
            with _changed:
                _statuses.pop(pid, None)  # of an older process with this number
            self._descriptor = os.pidfd_open(pid)

    def wait(self, deadline_s: float) -> bool:
        """Wait for the end; False when the deadline passed first. Then `code` is set.

        `code` is 128+n for a signal, and None for a process that never became a child of the subreaper.
        """
        if self.code is not None:
            return True
        if self._descriptor >= 0:
            poller = select.poll()
            poller.register(self._descriptor, select.POLLIN)
            if not poller.poll(deadline_s * 1000):
                return False
        with _changed:
            _changed.wait_for(lambda: self.pid in _statuses, 2.0)
            self.code = _statuses.pop(self.pid, None)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        return True
