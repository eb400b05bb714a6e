"""The stream behind op `attach`: a process's standard streams, signals and exit, between the guest and a proxy.

Three tasks at most: one pump per output, one reader of what the proxy sends. Each waits for the slower side, so a proxy
that does not read stops the guest's process and nothing is kept in memory.
"""

from __future__ import annotations

import asyncio
import contextlib

from oci_runtime.control import stream as codec
from oci_runtime.errors import OciRuntimeError
from oci_runtime.log import get_logger
from oci_runtime.sandbox.connection import Connection
from oci_runtime.sandbox.process import Process
from oci_runtime.sandbox.sandbox import Sandbox

log = get_logger(__name__)

READ_BYTES = 256 * 1024
_SIGKILL = 9


async def serve_stream(sandbox: Sandbox, process: Process, connection: Connection) -> None:
    """Carry the streams until the process has ended and its exit was sent, or the proxy is gone.

    A proxy that goes away before the exit takes its process with it: SIGKILL.
    """
    process.add_reader()
    reader = asyncio.create_task(_read_proxy(sandbox, process, connection))
    writer = asyncio.create_task(_write_proxy(sandbox, process, connection))
    try:
        await asyncio.wait({reader, writer}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        process.remove_reader()
        for task in (reader, writer):
            task.cancel()
        await asyncio.gather(reader, writer, return_exceptions=True)
    if not process.exit.done():
        log.info("proxy is gone, killing its process", container=process.container_id, exec=process.exec_id)
        with contextlib.suppress(OciRuntimeError):
            await sandbox.kill(process.container_id, process.exec_id, _SIGKILL)


async def _write_proxy(sandbox: Sandbox, process: Process, connection: Connection) -> None:
    """Send output until its end, then the exit."""
    outputs = (False,) if process.terminal else (False, True)
    pumps = [asyncio.create_task(_pump(sandbox, process, connection, stderr=stderr)) for stderr in outputs]
    try:
        await asyncio.gather(*pumps)
        status = await asyncio.shield(process.exit)
        await connection.send_raw(codec.encode_exit(status.code))
    except ConnectionError:
        return
    finally:
        for pump in pumps:
            pump.cancel()


async def _pump(sandbox: Sandbox, process: Process, connection: Connection, *, stderr: bool) -> None:
    kind = codec.STDERR if stderr else codec.STDOUT
    while True:
        data, eof = await sandbox.read_output(process, stderr=stderr, max_bytes=READ_BYTES)
        if data:
            await connection.send_raw(codec.encode(kind, data))
        if eof:
            return


async def _read_proxy(sandbox: Sandbox, process: Process, connection: Connection) -> None:
    """Carry out what the proxy sends until its connection ends, or it sends more input than it has credit for."""
    stdin = _StdinQueue()
    feeder = asyncio.create_task(_feed(sandbox, process, connection, stdin))
    try:
        while events := await connection.read_stream():
            for kind, payload in events:
                if kind == codec.STDIN and not stdin.put(payload):
                    log.warning("proxy sent more input than agreed", container=process.container_id)
                    return
                if kind == codec.STDIN_EOF:
                    stdin.put(None)
                elif kind in (codec.WINDOW, codec.SIGNAL, codec.OUTPUT_CLOSED):
                    await _control(sandbox, process, kind, payload)
    finally:
        feeder.cancel()
        await asyncio.gather(feeder, return_exceptions=True)


class _StdinQueue:
    """Input on its way to the process, bounded by the credit that the proxy was given."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._bytes = 0

    def put(self, data: bytes | None) -> bool:
        """Queue input (None: its end); False when it exceeds the credit."""
        self._bytes += len(data or b"")
        self._queue.put_nowait(data)
        return self._bytes <= codec.INITIAL_CREDIT_BYTES

    async def get(self) -> bytes | None:
        return await self._queue.get()

    def taken(self, data: bytes) -> None:
        """The process has these bytes: their credit goes back to the proxy."""
        self._bytes -= len(data)


async def _feed(sandbox: Sandbox, process: Process, connection: Connection, stdin: _StdinQueue) -> None:
    """Write the proxy's input to the process; once that fails, take and drop it, so that the proxy is never stuck."""
    usable = True
    while True:
        data = await stdin.get()
        try:
            if usable and data is None:
                await sandbox.close_stdin(process)
            elif usable and data:
                await sandbox.write_stdin(process, data)
        except OciRuntimeError:
            usable = False
        if data:
            stdin.taken(data)
            with contextlib.suppress(ConnectionError):
                await connection.send_raw(codec.encode_credit(len(data)))


async def _control(sandbox: Sandbox, process: Process, kind: int, payload: bytes) -> None:
    """A window size, a signal or a lost reader; one that comes too late, or is malformed, is nobody's error."""
    with contextlib.suppress(OciRuntimeError, codec.StreamError):
        if kind == codec.WINDOW:
            rows, columns = codec.decode_window(payload)
            await sandbox.resize(process, rows, columns)
        elif kind == codec.OUTPUT_CLOSED:
            await sandbox.close_output(process, stderr=codec.decode_number(payload) == codec.STDERR)
        else:
            await sandbox.kill(process.container_id, process.exec_id, codec.decode_number(payload))
