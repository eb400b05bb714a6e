"""A task's standard streams on the host: what the addresses in Create and Exec mean, and how they are opened.

A fifo is opened for both directions at once. That never waits for the other side, a reader that goes away for a while
(containerd restarts) is no broken pipe, and a full fifo stops the guest's process, nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import parse_qsl, unquote, urlsplit

from oci_runtime.errors import HostError, InvalidInput, NotFound, Unavailable
from oci_runtime.host.spawn import Child, SpawnPlan, kill, kill_and_reap, reap, spawn
from oci_runtime.sandbox.threads import in_thread

FIFO_BYTES = 1 << 20
READ_BYTES = 256 * 1024
LOGGER_READY_S = 10.0
LOGGER_END_S = 3.0


@dataclass(frozen=True)
class StdioAddresses:
    """The three addresses of a task as the engine sent them; empty ones are not connected."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False


class Sink(Protocol):
    """Where output goes. `write` waits while the other side does not read; OSError means that nobody ever will."""

    async def write(self, data: bytes) -> None: ...

    def close(self) -> None: ...


class NullSink:
    """Output that nobody asked for."""

    async def write(self, data: bytes) -> None:
        """Drop the data."""

    def close(self) -> None:
        """Nothing is open."""


class PipeSink:
    """The writing end of a fifo or pipe."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    async def write(self, data: bytes) -> None:
        """Write all of `data`. Safe to cancel: some of it may have been written then."""
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await _ready(self._fd, writing=True)

    def close(self) -> None:
        """Let the reader see the end. Idempotent."""
        self._fd = _close(self._fd)


class FileSink:
    """A log file, appended to."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    async def write(self, data: bytes) -> None:
        """Append all of `data`, also when cancelled: the descriptor must not be closed under the writing."""
        await in_thread(_write_all, self._fd, data)

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._fd = _close(self._fd)


class FifoSource:
    """A task's standard input. It ends when `finish` was called (CloseIO) and no writer is left."""

    def __init__(self, path: str) -> None:
        self._fd = _open_fifo(path, os.O_RDONLY)
        try:
            # While this end is open a client may come and go without ending the input.
            self._keeper = os.open(f"/proc/self/fd/{self._fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            os.close(self._fd)
            raise HostError.from_oserror(error, "open", path) from error

    async def read(self) -> bytes:
        """Return the next bytes, or b"" at the end. Safe to cancel."""
        while True:
            await _ready(self._fd, writing=False)
            with contextlib.suppress(BlockingIOError):
                return os.read(self._fd, READ_BYTES)

    def finish(self) -> None:
        """No further client will come. Idempotent."""
        self._keeper = _close(self._keeper)

    def close(self) -> None:
        """Stop reading: writers get EPIPE. Idempotent."""
        self.finish()
        self._fd = _close(self._fd)


class LogProgram:
    """The program of a binary:// address: it reads stdout on fd 3, stderr on fd 4 and closes fd 5 when ready."""

    def __init__(self, child: Child, ready: int) -> None:
        self._child = child
        self._ready = ready

    async def wait_ready(self) -> None:
        """Raises: Unavailable when the program ends, or says nothing for ten seconds."""
        try:
            await asyncio.wait_for(_ready(self._ready, writing=False), LOGGER_READY_S)
            os.read(self._ready, 1)
        except TimeoutError:
            raise Unavailable(f"log program (pid {self._child.pid}) is not ready after {LOGGER_READY_S:g} s") from None
        finally:
            self._ready = _close(self._ready)
        code = reap(self._child)
        if code:
            raise Unavailable(f"log program ended with code {code} before it was ready")

    async def end(self) -> None:
        """Wait for it to finish reading, then SIGTERM, then SIGKILL. Its pipes are closed before."""
        for number in (0, signal.SIGTERM):
            if number:
                kill(self._child, number)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(_ready(self._child.pidfd, writing=False), LOGGER_END_S)
                break
        kill_and_reap(self._child)
        os.close(self._child.pidfd)


def open_source(address: str) -> FifoSource | None:
    """Open a task's input; None for an empty address. Raises: InvalidInput, NotFound, HostError."""
    return FifoSource(_fifo_path(address, "stdin")) if address else None


def open_sink(address: str, name: str) -> Sink:
    """Open one output (not binary://). name: "stdout" or "stderr", for the errors. Raises as `open_source`."""
    if not address:
        return NullSink()
    if address.startswith("file:"):
        return FileSink(_open_log_file(unquote(urlsplit(address).path), name))
    fd = _open_fifo(_fifo_path(address, name), os.O_RDWR)
    with contextlib.suppress(OSError):  # a larger one means fewer wake-ups; the limit for it may be reached
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, FIFO_BYTES)
    return PipeSink(fd)


def is_log_program(address: str) -> bool:
    """Whether an address names a program that takes both outputs."""
    return address.startswith("binary:")


def start_log_program(address: str, container_id: str, namespace: str) -> tuple[LogProgram, PipeSink, PipeSink]:
    """Start the program of a binary:// address; return it with the sinks for stdout and stderr.

    The query of the address becomes arguments: `?a=b&c` is `a b c`. Raises: InvalidInput, NotFound, HostError.
    """
    argv = log_program_argv(address)
    pipes = [os.pipe2(os.O_CLOEXEC) for _ in range(3)]
    (out_read, out_write), (err_read, err_write), (ready_read, ready_write) = pipes
    try:
        environ = {**os.environ, "CONTAINER_ID": container_id, "CONTAINER_NAMESPACE": namespace}
        fds: Mapping[int, int] = {3: out_read, 4: err_read, 5: ready_write}
        child = spawn(SpawnPlan(argv=argv, fds=fds, environ=environ, no_new_privileges=False))
    except BaseException:
        for fd in (out_write, err_write, ready_read):
            os.close(fd)
        raise
    finally:
        for fd in (out_read, err_read, ready_write):
            os.close(fd)
    for fd in (out_write, err_write, ready_read):
        os.set_blocking(fd, False)
    return LogProgram(child, ready_read), PipeSink(out_write), PipeSink(err_write)


def log_program_argv(address: str) -> Sequence[str]:
    """The command line of a binary:// address. Raises: InvalidInput."""
    parts = urlsplit(address)
    path = unquote(parts.path)
    if parts.netloc or not os.path.isabs(path):
        raise InvalidInput(f"log program {address!r}: an absolute path is expected, as in binary:///usr/bin/logger")
    arguments = [word for pair in parse_qsl(parts.query, keep_blank_values=True) for word in pair]
    return [path, *(word for word in arguments if word)]


def _fifo_path(address: str, name: str) -> str:
    path = unquote(urlsplit(address).path) if address.startswith("fifo:") else address
    if not os.path.isabs(path):
        raise InvalidInput(f"{name} {address!r}: an absolute path, fifo://, file:// or binary:// is expected")
    return path


def _open_fifo(path: str, flags: int) -> int:
    try:
        fd = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"fifo {path}: no such file") from error
    except OSError as error:
        raise HostError.from_oserror(error, "open", path) from error
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise InvalidInput(f"{path}: not a fifo; a log file is written as file://{path}")
    return fd


def _open_log_file(path: str, name: str) -> int:
    if not os.path.isabs(path):
        raise InvalidInput(f"{name}: the log file {path!r} is not an absolute path")
    try:
        os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
        # Without O_NONBLOCK a fifo in place of the file would wait for a reader.
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o644)
    except OSError as error:
        raise HostError.from_oserror(error, "open", path) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise InvalidInput(f"{name}: {path} is not a regular file")
    return fd


async def _ready(fd: int, *, writing: bool) -> None:
    """Wait until a descriptor is readable or writable."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    add, remove = (loop.add_writer, loop.remove_writer) if writing else (loop.add_reader, loop.remove_reader)
    add(fd, _set, ready)
    try:
        await ready
    finally:
        remove(fd)


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _close(fd: int) -> int:
    if fd >= 0:
        os.close(fd)
    return -1
