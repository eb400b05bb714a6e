"""Children of PID 1: the one place that starts processes and the one place that waits for them.

The agent is PID 1, so every orphan of the guest becomes its child, and two waiters would steal each other's exits. The
first process of a container and its execs are orphans too, by intent: crun starts them and leaves. Whoever lets crun
work does so inside `adopting()`, which remembers the exits of strangers during that time, so that a process that ends
before its pid is known is not lost.
"""

from __future__ import annotations

import os
import select
import time
from _thread import allocate_lock

from oci_runtime.errors import NotFound, OciRuntimeError, Unavailable
from oci_runtime.guest.flag import Flag
from oci_runtime.guest.log import log_exception

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/"}
# What Python ignores must not stay ignored in the children.
_DEFAULT_SIGNALS = tuple(number for number in range(1, 32) if number not in (9, 19))
_SIGKILL = 9
_MAX_STRANGERS = 4096


class Child:
    """A process that the agent will wait for. `exit_code` is None while it lives, then 0-255 (128+n for signal n)."""

    __slots__ = ("_callbacks", "_done", "exit_code", "exited_at_ns", "name", "pid", "signal")

    def __init__(self, pid: int, name: str) -> None:
        self.pid = pid
        self.name = name
        self.exit_code: int | None = None
        self.signal = 0
        self.exited_at_ns = 0
        self._done = Flag()
        self._callbacks: list[Callable[[Child], None]] = []

    def wait(self, timeout_s: float) -> int:
        """Wait for the end in a worker thread; return the exit code. Raises Unavailable after `timeout_s`."""
        if not self._done.wait(timeout_s):
            raise Unavailable(f"{self.name} (pid {self.pid}) did not end within {timeout_s:g} s")
        assert self.exit_code is not None
        return self.exit_code

    def _finish(self, status: int, at_ns: int) -> list[Callable[[Child], None]]:
        code = os.waitstatus_to_exitcode(status)
        self.signal = max(0, -code)
        self.exit_code = code if code >= 0 else 128 - code
        self.exited_at_ns = at_ns
        self._done.set()
        callbacks, self._callbacks = self._callbacks, []
        return callbacks


class Reaper:
    """Owner of every wait. `reap` runs in the loop's thread; the rest may be called from any thread."""

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._children: dict[int, Child] = {}
        self._listeners: list[dict[int, tuple[int, int]]] = []

    def reap(self) -> None:
        """Collect every child that has ended and run its callbacks."""
        while True:
            with self._lock:
                try:
                    pid, status = os.waitpid(-1, os.WNOHANG)
                except ChildProcessError:
                    return
                if pid == 0:
                    return
                at_ns = time.time_ns()
                child = self._children.pop(pid, None)
                if child is None:
                    for strangers in self._listeners:
                        if len(strangers) < _MAX_STRANGERS:
                            strangers[pid] = (status, at_ns)
                    continue
                callbacks = child._finish(status, at_ns)
            _run(callbacks, child)

    def spawn(
        self, argv: Sequence[str], *, stdio: tuple[int, ...], environment: Mapping[str, str] | None = None
    ) -> Child:
        """Start `argv` with the descriptors as its 0, 1, 2, … and nothing else. Raises NotFound, OciRuntimeError."""
        program = find_program(argv[0])
        actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(stdio)]
        with self._lock:
            try:
                pid = os.posix_spawn(
                    program,
                    [os.fsencode(word) for word in argv],
                    dict(environment if environment is not None else ENVIRONMENT),
                    file_actions=actions,
                    setsigmask=(),
                    setsigdef=_DEFAULT_SIGNALS,
                )
            except OSError as error:
                raise OciRuntimeError(f"start of {program} in the guest: {error.strerror}") from error
            child = Child(pid, os.path.basename(program))
            self._children[pid] = child
        return child

    def adopting(self) -> Adoption:
        """A context manager that remembers strangers' exits during its block, for `adopt`."""
        return Adoption(self)

    def adopt(self, pid: int, name: str, strangers: dict[int, tuple[int, int]]) -> Child:
        """Make the orphan `pid` a known child, within the `adopting` block in which it was started."""
        child = Child(pid, name)
        with self._lock:
            ended = strangers.pop(pid, None)
            if ended is None:
                self._children[pid] = child
            else:
                child._finish(*ended)
        return child

    def when_done(self, child: Child, callback: Callable[[Child], None]) -> None:
        """Call back once when `child` has ended: at once, or later in the loop's thread."""
        with self._lock:
            if child.exit_code is None:
                child._callbacks.append(callback)
                return
        _run([callback], child)

    def kill(self, child: Child, number: int) -> bool:
        """Send a signal; False when the child has ended. Its pid cannot have been reused: only `reap` frees it."""
        with self._lock:
            if child.exit_code is not None:
                return False
            os.kill(child.pid, number)
            return True

    def run(
        self, argv: Sequence[str], *, timeout_s: float, stdin: bytes = b"", max_output_bytes: int = 1 << 20
    ) -> tuple[int, bytes, bytes]:
        """Run a program of the guest to its end in a worker thread; return (exit code, stdout, stderr), both clipped.

        At the deadline the program is killed. Raises NotFound, OciRuntimeError, Unavailable.
        """
        output, errors = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
        source = os.memfd_create("stdin")
        try:
            os.write(source, stdin)
            os.lseek(source, 0, os.SEEK_SET)
            child = self.spawn(argv, stdio=(source, output[1], errors[1]))
        except BaseException:
            _close((output[0], errors[0]))
            raise
        finally:
            _close((source, output[1], errors[1]))
        try:
            outputs = _collect(child, (output[0], errors[0]), time.monotonic() + timeout_s, max_output_bytes)
            if outputs is None:
                raise Unavailable(f"{argv[0]} in the guest did not end within {timeout_s:g} s")
            return child.wait(timeout_s), *outputs
        finally:
            _close((output[0], errors[0]))
            self.kill(child, _SIGKILL)


class Adoption:
    """The exits of strangers (pid: status, time) while the block runs."""

    def __init__(self, reaper: Reaper) -> None:
        self._reaper = reaper
        self._strangers: dict[int, tuple[int, int]] = {}

    def __enter__(self) -> dict[int, tuple[int, int]]:
        with self._reaper._lock:
            self._reaper._listeners.append(self._strangers)
        return self._strangers

    def __exit__(self, *_: object) -> None:
        listeners = self._reaper._listeners
        with self._reaper._lock:
            listeners[:] = [entry for entry in listeners if entry is not self._strangers]


def find_program(name: str) -> str:
    """The absolute path of a program of the guest's image. Raises NotFound."""
    candidates = [name] if name.startswith("/") else [f"{directory}/{name}" for directory in PATH.split(":")]
    for path in candidates:
        if os.access(path, os.X_OK):
            return path
    raise NotFound(f"the guest's image has no program {name}")


def _run(callbacks: Sequence[Callable[[Child], None]], child: Child) -> None:
    for callback in callbacks:
        try:
            callback(child)
        except Exception as error:  # noqa: BLE001 - the next callback must run, and PID 1 must not end
            log_exception(f"exit of {child.name}", error)


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def _collect(child: Child, fds: tuple[int, int], deadline: float, limit: int) -> tuple[bytes, bytes] | None:
    """Collect both outputs until they end, or until the child has ended and nothing is left; None at the deadline."""
    poll = select.poll()
    outputs = {fd: bytearray() for fd in fds}
    waiting = set(fds)
    for fd in fds:
        poll.register(fd, select.POLLIN)
    while waiting:
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0:
            return None
        # A grandchild may keep the pipes open: once the child has ended, what is there is all.
        ended = child.exit_code is not None
        ready = poll.poll(0 if ended else min(remaining_s, 0.2) * 1000)
        if ended and not ready:
            break
        for fd, _ in ready:
            data = os.read(fd, 1 << 16)
            if data:
                outputs[fd] += data[: max(0, limit - len(outputs[fd]))]
            else:
                poll.unregister(fd)
                waiting.discard(fd)
    return bytes(outputs[fds[0]]), bytes(outputs[fds[1]])
