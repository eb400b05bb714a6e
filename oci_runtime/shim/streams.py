"""The pumps between a guest process and its standard streams on the host: one task for each direction.

Each pump waits for the slower side, so nothing piles up in memory. A host side that fails for good is replaced by
nothing: the process goes on, its output is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib

from oci_runtime.errors import OciRuntimeError
from oci_runtime.log import get_logger
from oci_runtime.sandbox.process import Process
from oci_runtime.shim import stdio
from oci_runtime.shim.pod import Pod

log = get_logger(__name__)


class Streams:
    """The open streams of one process. Made by `open_streams`, started by `attach`, ended by `close`."""

    def __init__(
        self,
        source: stdio.FifoSource | None,
        stdout: stdio.Sink,
        stderr: stdio.Sink,
        program: stdio.LogProgram | None = None,
    ) -> None:
        self._source = source
        self._stdout = stdout
        self._stderr = stderr
        self._program = program
        self._output: list[asyncio.Task[None]] = []
        self._input: asyncio.Task[None] | None = None

    @property
    def has_input(self) -> bool:
        """Whether somebody may write to the process."""
        return self._source is not None

    def attach(self, pod: Pod, process: Process) -> None:
        """Start to carry bytes."""
        process.add_reader()
        self._output = [asyncio.create_task(_pump(pod, process, self._stdout, stderr=False))]
        if not process.terminal:
            self._output.append(asyncio.create_task(_pump(pod, process, self._stderr, stderr=True)))
        release = asyncio.gather(*self._output, return_exceptions=True)
        release.add_done_callback(lambda _done: process.remove_reader())
        if self._source is not None:
            self._input = asyncio.create_task(_feed(pod, process, self._source))

    def close_input(self) -> None:
        """The engine's CloseIO: the input ends when its last writer is gone. Never waits."""
        if self._source is not None:
            self._source.finish()

    async def drain(self, deadline_s: float) -> bool:
        """Wait until all output has arrived where it goes; False when that takes longer than `deadline_s`."""
        if not self._output:
            return True
        _done, pending = await asyncio.wait(self._output, timeout=deadline_s)
        return not pending

    async def close(self) -> None:
        """Stop the pumps and close everything; output that was not taken by then is lost. Idempotent."""
        tasks = [*self._output, *([self._input] if self._input else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._source is not None:
            self._source.close()
        self._stdout.close()
        self._stderr.close()
        if self._program is not None:
            program, self._program = self._program, None
            await program.end()


async def open_streams(addresses: stdio.StdioAddresses, container_id: str, namespace: str) -> Streams:
    """Open what the engine named. Raises: InvalidInput, NotFound, HostError, Unavailable; nothing is open then."""
    async with contextlib.AsyncExitStack() as undo:
        source = stdio.open_source(addresses.stdin)
        if source is not None:
            undo.callback(source.close)
        if stdio.is_log_program(addresses.stdout):
            program, stdout, stderr = stdio.start_log_program(addresses.stdout, container_id, namespace)
            streams = Streams(source, stdout, stderr, program)
            undo.push_async_callback(streams.close)
            await program.wait_ready()
            undo.pop_all()
            return streams
        out = stdio.open_sink(addresses.stdout, "stdout")
        undo.callback(out.close)
        err = stdio.open_sink("" if addresses.terminal else addresses.stderr, "stderr")
        undo.pop_all()
        return Streams(source, out, err)


async def _pump(pod: Pod, process: Process, sink: stdio.Sink, *, stderr: bool) -> None:
    """Carry one output to its end, then let its reader see that."""
    usable = True
    try:
        while True:
            data, eof = await pod.read_output(process, stderr=stderr, max_bytes=stdio.READ_BYTES)
            if data and usable:
                try:
                    await sink.write(data)
                except OSError as error:
                    usable = False
                    log.warning("output is dropped", container=process.container_id, error=str(error))
            if eof:
                return
    except OciRuntimeError as error:
        log.warning("output ends early", container=process.container_id, error=error.message)
    finally:
        sink.close()


async def _feed(pod: Pod, process: Process, source: stdio.FifoSource) -> None:
    """Carry input until it ends or the process is gone."""
    try:
        while data := await source.read():
            await pod.write_stdin(process, data)
        if not process.terminal:  # a terminal has no end of input, its client types one
            await pod.close_stdin(process)
    except (OciRuntimeError, OSError) as error:
        log.debug("input ends early", container=process.container_id, error=str(error))
    finally:
        source.close()
