"""The control socket of a sandbox process: one small function per op, as docs/internals.md lists them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from oci_runtime.errors import InvalidInput, OciRuntimeError, to_wire
from oci_runtime.log import get_logger
from oci_runtime.sandbox import stats as stats_form
from oci_runtime.sandbox.connection import Connection
from oci_runtime.sandbox.events import SandboxEvent
from oci_runtime.sandbox.executed import wait_executed
from oci_runtime.sandbox.request import CreateRequest
from oci_runtime.sandbox.sandbox import Sandbox
from oci_runtime.sandbox.stream import serve_stream

log = get_logger(__name__)
_ACCEPT_PAUSE_S = 0.5

Request = dict[str, Any]
Answer = dict[str, Any]


class ControlServer:
    """Accepts connections on the listening socket until `finish`."""

    def __init__(self, sandbox: Sandbox, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._sandbox = sandbox
        self._listener = listener
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams: set[asyncio.Task[Any]] = set()
        self._idle: set[asyncio.Task[Any]] = set()
        self._serving: asyncio.Task[Any] | None = None
        self._ops: dict[str, Callable[[Request, list[int]], Awaitable[Answer]]] = {
            "create": self._create,
            "start": self._start,
            "exec": self._exec,
            "kill": self._kill,
            "delete": self._delete,
            "state": self._state,
            "ps": self._ps,
            "pause": self._pause,
            "resume": self._resume,
            "update": self._update,
            "stats": self._stats,
            "info": self._info,
            "timeline": self._timeline,
            "network": self._network,
            "iptables": self._iptables,
            "volume": self._volume,
            "shutdown": self._shutdown,
        }

    async def serve(self) -> None:
        """Accept until `finish`."""
        loop = asyncio.get_running_loop()
        self._serving = asyncio.current_task()
        while True:
            try:
                sock, _address = await loop.sock_accept(self._listener)
            except OSError as error:
                # Out of descriptors: clients wait in the backlog until some are free again.
                log.error("cannot accept on the control socket", reason=str(error))
                await asyncio.sleep(_ACCEPT_PAUSE_S)
                continue
            task = asyncio.create_task(self._serve_connection(Connection(sock)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def finish(self, requests_s: float, streams_s: float | None = None) -> None:
        """Accept nobody any more, let requests have their answers and streams send their exits; then close.

        streams_s: how long an engine that reads its output slowly is waited for, None for as long as it takes.
        """
        if self._serving is not None:
            self._serving.cancel()
            await asyncio.gather(self._serving, return_exceptions=True)
        self._listener.close()  # who connects from now on learns at once that nobody will answer
        for task in self._idle:
            task.cancel()  # its client asks for nothing, and may itself wait for our end
        for tasks, timeout_s in ((self._tasks - self._streams - self._idle, requests_s), (self._streams, streams_s)):
            if tasks:
                await asyncio.wait(tasks, timeout=timeout_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve_connection(self, connection: Connection) -> None:
        with contextlib.suppress(ConnectionError):
            try:
                while (received := await self._next_request(connection)) is not None:
                    request, fds = received
                    op = request.get("op")
                    if op == "attach":
                        await self._attach(request, fds, connection)
                        return
                    if op == "events":
                        await self._events(request, fds, connection)
                        return
                    await self._serve_request(request, fds, connection)
                    if self._sandbox.ended.done():
                        return
            except OciRuntimeError as error:
                await connection.send({"error": to_wire(error)})
            finally:
                connection.close()

    async def _next_request(self, connection: Connection) -> tuple[Request, list[int]] | None:
        current: asyncio.Task[Any] | None = asyncio.current_task()
        assert current is not None, "a connection is served by a task"
        self._idle.add(current)
        try:
            return await connection.read_request()
        finally:
            self._idle.discard(current)

    async def _serve_request(self, request: Request, fds: list[int], connection: Connection) -> None:
        handler = self._ops.get(str(request.get("op")))
        try:
            if handler is None:
                raise InvalidInput(f"unknown operation {str(request.get('op'))[:64]!r} on the control socket")
            if handler != self._create:
                _close_all(fds)
            answer = await handler(request, fds)
        except OciRuntimeError as error:
            failure = error
        except (KeyError, TypeError, ValueError) as error:
            log.exception("malformed request", op=request.get("op"))
            failure = InvalidInput(f"malformed control request: {error!r}")
        except Exception as error:  # noqa: BLE001 - whatever it is: a connection that just ends means a dead process
            log.exception("operation failed", op=request.get("op"))
            failure = OciRuntimeError(f"{request.get('op')} failed in the sandbox process: {error!r}")
        else:
            await connection.answer(**answer)
            return
        await connection.send({"error": to_wire(failure)})

    # Streams

    async def _attach(self, request: Request, fds: list[int], connection: Connection) -> None:
        _close_all(fds)
        arrival = asyncio.create_task(self._sandbox.wait_for_process(request["id"], request.get("exec_id", "")))
        gone = asyncio.create_task(connection.wait_closed())
        try:
            await asyncio.wait({arrival, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not arrival.done():
                self._sandbox.abandon(request["id"], request.get("exec_id", ""))
                return
            process = arrival.result()
        finally:
            arrival.cancel()
            gone.cancel()
            await asyncio.gather(arrival, gone, return_exceptions=True)
        await connection.answer()
        current: asyncio.Task[Any] | None = asyncio.current_task()
        assert current is not None, "a connection is served by a task"
        self._streams.add(current)
        try:
            await serve_stream(self._sandbox, process, connection)
        finally:
            self._streams.discard(current)
            self._sandbox.release_exec(process)

    async def _events(self, request: Request, fds: list[int], connection: Connection) -> None:
        _close_all(fds)
        following = asyncio.create_task(self._send_events(request["id"], self._sandbox.subscribe(), connection))
        gone = asyncio.create_task(connection.wait_closed())
        try:
            await asyncio.wait({following, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            following.cancel()
            gone.cancel()
            await asyncio.gather(following, gone, return_exceptions=True)

    @staticmethod
    async def _send_events(container_id: str, events: AsyncIterator[SandboxEvent], connection: Connection) -> None:
        await connection.answer()
        async for event in events:
            if event.container_id == container_id:
                await connection.send({"kind": event.kind, "id": event.container_id, "exec_id": event.exec_id})
                if event.kind == "deleted":
                    return

    # Operations

    async def _create(self, request: Request, fds: list[int]) -> Answer:
        descriptions = request.get("fds", [])
        if len(descriptions) != len(fds):
            _close_all(fds)
            raise InvalidInput(f"create describes {len(descriptions)} descriptors and carries {len(fds)}")
        warnings = await self._sandbox.create_container(
            CreateRequest(
                container_id=request["id"],
                bundle=request["bundle"],
                spec=request["spec"],
                pid=int(request.get("pid", 0)),
                descriptors=tuple(zip(descriptions, fds, strict=True)),
                guest_mounts=tuple(request.get("guest_mounts", ())),
                pid_namespace_of=request.get("pid_namespace_of", ""),
                stdin=bool(request.get("stdin", True)),
            )
        )
        return {"warnings": list(warnings)}

    async def _start(self, request: Request, _fds: list[int]) -> Answer:
        await self._sandbox.start(request["id"])
        if request.get("executed"):
            await wait_executed(self._sandbox.machine, request["id"])
        return {}

    async def _exec(self, request: Request, _fds: list[int]) -> Answer:
        pid = await self._sandbox.exec(
            request["id"],
            request["exec_id"],
            request["process"],
            stdin=bool(request.get("stdin", True)),
            ignore_paused=bool(request.get("ignore_paused")),
        )
        return {"pid": pid}

    async def _kill(self, request: Request, _fds: list[int]) -> Answer:
        signal_number = int(request["signal"])
        if not 0 <= signal_number <= signal.SIGRTMAX:
            raise InvalidInput(f"signal {signal_number} does not exist")
        await self._sandbox.kill(
            request["id"], request.get("exec_id", ""), signal_number, all_processes=bool(request.get("all"))
        )
        return {}

    async def _delete(self, request: Request, _fds: list[int]) -> Answer:
        status = await self._sandbox.delete(request["id"], force=bool(request.get("force")))
        last = not self._sandbox.containers
        if last:
            await self._sandbox.shutdown("")
        return {"exit_code": status.code, "last": last}

    async def _state(self, request: Request, _fds: list[int]) -> Answer:
        container = self._sandbox.container(request["id"])
        return {"status": container.status.value, "pid": container.pid}

    async def _ps(self, request: Request, _fds: list[int]) -> Answer:
        processes = await self._sandbox.processes(request["id"])
        return {"processes": [stats_form.process_row(process) for process in processes]}

    async def _pause(self, request: Request, _fds: list[int]) -> Answer:
        await self._sandbox.pause(request["id"])
        return {}

    async def _resume(self, request: Request, _fds: list[int]) -> Answer:
        await self._sandbox.resume(request["id"])
        return {}

    async def _update(self, request: Request, _fds: list[int]) -> Answer:
        return {"warnings": list(await self._sandbox.update(request["id"], request["resources"]))}

    async def _stats(self, request: Request, _fds: list[int]) -> Answer:
        return {"stats": stats_form.runc_stats(await self._sandbox.stats(request["id"]))}

    async def _info(self, _request: Request, _fds: list[int]) -> Answer:
        return {"info": await self._sandbox.machine.describe(), "containers": self._sandbox.describe()}

    async def _timeline(self, _request: Request, _fds: list[int]) -> Answer:
        return {"phases": self._sandbox.machine.timeline.as_dicts()}

    async def _network(self, request: Request, _fds: list[int]) -> Answer:
        return await self._sandbox.machine.network_operation(request)

    async def _iptables(self, request: Request, _fds: list[int]) -> Answer:
        return await self._sandbox.machine.iptables_operation(request)

    async def _volume(self, request: Request, _fds: list[int]) -> Answer:
        return await self._sandbox.machine.volume_operation(request)

    async def _shutdown(self, request: Request, _fds: list[int]) -> Answer:
        await self._sandbox.shutdown(str(request.get("reason", "shut down by request")))
        return {}


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
    fds.clear()
