"""QEMU as a process of the host: its end (pidfd), its messages (stderr) and the guest's console."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

from oci_runtime.errors import OciRuntimeError, Unavailable
from oci_runtime.host.spawn import describe_exit, kill, kill_and_reap, reap
from oci_runtime.vm.console import LIMIT_BYTES, ConsoleLog
from oci_runtime.vm.launch import QemuLaunch

_STDERR_BYTES = 16 * 1024
_READ_BYTES = 64 * 1024
# From the end of QEMU's connections to the end of its process.
_END_S = 0.5


class QemuProcess:
    """Owns a launch, except its agent socket and (once QMP is connected) its QMP socket.

    ended: completes with the exit code, or minus the signal's number, when the process is gone; console and messages
    have been read to their end by then.
    """

    def __init__(self, launch: QemuLaunch, console_log: Path, console_bytes: int = LIMIT_BYTES) -> None:
        """Start watching. Raises: HostError (console log); QEMU is then dead and the launch closed."""
        self.launch = launch
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._stderr = bytearray()
        self._closed = False
        try:
            self.console = ConsoleLog(console_log, console_bytes)
        except OciRuntimeError:
            kill_and_reap(launch.child)
            launch.close()
            raise
        loop = asyncio.get_running_loop()
        launch.console.setblocking(False)
        os.set_blocking(launch.stderr, False)
        loop.add_reader(launch.console.fileno(), self._read_console)
        loop.add_reader(launch.stderr, self._read_stderr)
        loop.add_reader(launch.pidfd, self._on_exit)

    def messages(self) -> str:
        """What QEMU wrote to stderr (the last 16 KiB)."""
        return self._stderr.decode("utf-8", "replace").strip()

    async def explain(self, error: Unavailable) -> Unavailable:
        """What it means that QEMU's monitor does not talk: QEMU's own end, if that comes within moments."""
        await asyncio.wait([self.ended], timeout=_END_S)
        if not self.ended.done():
            return Unavailable(error.message, detail=self.messages())
        how = describe_exit(self.ended.result(), self.messages())
        return Unavailable(f"QEMU ({self.launch.settings.qemu}) ended at once: {how}", detail=self.messages())

    def kill(self) -> None:
        """SIGKILL; `ended` completes soon after. Idempotent."""
        if not self.ended.done():
            kill(self.launch.child)

    def close(self) -> None:
        """Close everything; the process must have ended. Idempotent."""
        if self._closed:
            return
        self._closed = True
        loop = asyncio.get_running_loop()
        for descriptor in (self.launch.console.fileno(), self.launch.stderr, self.launch.pidfd):
            loop.remove_reader(descriptor)
        self.console.close()
        self.launch.close()

    def _read_console(self) -> None:
        data = self._read(lambda: self.launch.console.recv(_READ_BYTES), self.launch.console.fileno())
        if data:
            self.console.write(data)

    def _read_stderr(self) -> None:
        data = self._read(lambda: os.read(self.launch.stderr, _READ_BYTES), self.launch.stderr)
        self._stderr += data
        del self._stderr[:-_STDERR_BYTES]

    def _read(self, read: Callable[[], bytes], descriptor: int) -> bytes:
        try:
            data = read()
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(descriptor)
        return data

    def _on_exit(self) -> None:
        code = reap(self.launch.child)
        if code is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.launch.pidfd)
        # Bounded: a socket buffer's worth. The far ends are closed, so reading cannot block.
        for _ in range(64):
            before = len(self._stderr), self.console.total_bytes
            self._read_console()
            self._read_stderr()
            if before == (len(self._stderr), self.console.total_bytes):
                break
        if not self.ended.done():
            self.ended.set_result(code)
