"""The asyncio half of the shim: the task service and the control socket on one pod, to the end of both."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Awaitable, Callable
from typing import Any

from google.protobuf.message import Message

from oci_runtime.errors import OciRuntimeError
from oci_runtime.log import get_logger
from oci_runtime.sandbox.daemon import StateRecorder
from oci_runtime.sandbox.sandbox import Sandbox
from oci_runtime.sandbox.server import ControlServer
from oci_runtime.sandbox.virtual_machine import VirtualMachine
from oci_runtime.shim.boot import decode_options
from oci_runtime.shim.bootstrap import TERMINATION, Handover
from oci_runtime.shim.events import Channel, EventPublisher, ForwardChannel, ProgramChannel
from oci_runtime.shim.host_side import HostSide
from oci_runtime.shim.pod_start import StartedPod, start_pod
from oci_runtime.shim.proto import task_pb2 as pb
from oci_runtime.shim.service import SERVICES, TaskService
from oci_runtime.state.layout import Layout
from oci_runtime.state.recovery import recover
from oci_runtime.ttrpc import status
from oci_runtime.ttrpc.server import Method, TtrpcServer

log = get_logger(__name__)

# A shim that was started and never asked to create anything is of no use to anybody.
UNUSED_S = 120.0
HANG_UP_S = 2.0
FLUSH_S = 5.0
STOP_S = 15.0
_DETAIL_LINES = 4
_DETAIL_BYTES = 800
_SIGKILL = 9


class Shim:
    """One pod's shim: made when the process begins, `run` to its end."""

    def __init__(self, handover: Handover, started: StartedPod | None, failure: OciRuntimeError | None) -> None:
        self._handover = handover
        self._started = started
        self._failure = failure
        self._sandbox: Sandbox | None = None
        self._layout = Layout(handover.root)
        self._publisher = EventPublisher(handover.arguments.namespace, channels_of(handover))
        self._host = HostSide(self._layout, handover.sandbox_id, self._stand_in_lost)
        self._service = TaskService(self._boot, self._host, self._publisher, handover.arguments.namespace)
        self._tasks: set[asyncio.Task[Any]] = set()
        self._control: ControlServer | None = None

    async def run(self) -> int:
        """Serve until a Shutdown finds no task, or nobody ever wanted anything."""
        loop = asyncio.get_running_loop()
        for number in TERMINATION:
            loop.add_signal_handler(number, self._service.idle.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, TERMINATION)
        methods = {name: Method(kind, explained(handler)) for name, (kind, handler) in self._service.methods().items()}
        server = TtrpcServer({service: methods for service in SERVICES}, _report)
        publishing = self._spawn(self._publisher.run())
        if self._started is not None:
            self._open_pod(self._started)
        await server.listen(socket.socket(fileno=self._handover.listener))
        unused = self._spawn(self._leave_unused())
        await self._service.idle.wait()
        unused.cancel()
        log.info("shutting down")
        await self._end_pod()
        await self._publisher.flush(FLUSH_S)
        await _hang_up(server)
        publishing.cancel()
        await self._publisher.close()
        self._remove_directory()
        return 0

    # The pod

    async def _boot(self, request: pb.CreateTaskRequest) -> Sandbox:
        """The pod of the task service. Under CRI-O its machine is started here, with the options of Create."""
        if self._failure is not None:
            raise self._failure
        if self._sandbox is None:
            path = decode_options(request.options.type_url, request.options.value)
            # In the loop's thread: QEMU dies with the thread that starts it, and nobody else is served yet.
            self._open_pod(start_pod(self._handover, path, time.monotonic_ns()))
        assert self._sandbox is not None, "opened above"
        return self._sandbox

    def _open_pod(self, started: StartedPod) -> None:
        self._started = started
        launched = started.launched
        recorder = StateRecorder(self._layout)
        machine = VirtualMachine(launched)
        self._sandbox = Sandbox(machine, owner_id=launched.request.owner_id, on_change=recorder.changed)
        self._host.adopt(self._sandbox, started)
        self._control = ControlServer(self._sandbox, socket.socket(fileno=self._handover.control))
        self._spawn(self._control.serve())
        self._sandbox.begin()

    async def _end_pod(self) -> None:
        if self._sandbox is not None:
            try:
                await asyncio.wait_for(self._sandbox.shutdown(""), STOP_S)
            except Exception as error:  # noqa: BLE001 - whatever went wrong there, what is left is still undone
                log.exception("the pod does not end as it should", reason=f"{type(error).__name__}: {error}")
        await self._host.release_all()
        if self._control is not None:
            await self._control.finish(HANG_UP_S, HANG_UP_S)

    def _stand_in_lost(self, container_id: str) -> None:
        if self._sandbox is not None:
            self._spawn(self._kill(self._sandbox, container_id))

    @staticmethod
    async def _kill(sandbox: Sandbox, container_id: str) -> None:
        with contextlib.suppress(OciRuntimeError):
            await sandbox.kill(container_id, "", _SIGKILL)

    # The process

    async def _leave_unused(self) -> None:
        """End when nothing was created for a while, and whenever the pod is over and nobody has a task left to ask."""
        while True:
            await asyncio.sleep(UNUSED_S)
            await self._service.forget_deleted()
            if not len(self._service.tasks):
                log.warning("nobody has a task here any more")
                self._service.idle.set()

    def _remove_directory(self) -> None:
        """Cgroup and directory of the sandbox go last, while its lock is still ours."""
        if self._started is not None:
            self._started.leave_cgroup()
        from oci_runtime.cli.cleanup import undoers

        for problem in recover(self._handover.directory, undoers()):
            log.error("cannot undo", reason=problem)
        if self._started is not None:
            self._started.remove_cgroup()
        self._layout.discard()

    def _spawn(self, work: Awaitable[Any]) -> asyncio.Task[Any]:
        task = asyncio.ensure_future(work)
        assert isinstance(task, asyncio.Task), "coroutines become tasks"
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def serve(handover: Handover, started: StartedPod | None, failure: OciRuntimeError | None) -> int:
    """Run the shim; return the exit code of its process."""
    return await Shim(handover, started, failure).run()


def channels_of(handover: Handover) -> list[Channel]:
    """The ways to the engine: none under CRI-O."""
    channels: list[Channel] = []
    arguments = handover.arguments
    if handover.ttrpc_address:
        channels.append(ForwardChannel(handover.ttrpc_address.removeprefix("unix://")))
    if arguments.address and arguments.publish_binary:
        channels.append(ProgramChannel(arguments.publish_binary, arguments.address))
    return channels


def explained(handler: Callable[[Any], Awaitable[Message]]) -> Callable[[Any], Awaitable[Message]]:
    """Put the end of an error's detail (the guest's console) into its message: the engine shows nothing else."""

    async def answer(request: Any) -> Message:
        try:
            return await handler(request)
        except OciRuntimeError as error:
            log.info("call failed", call=type(request).__name__, error=error.message)
            lines = [line.strip() for line in error.detail.splitlines() if line.strip()]
            if not lines:
                raise
            tail = status.clip(" | ".join(lines[-_DETAIL_LINES:]), _DETAIL_BYTES)
            raise status.StatusError(status.code_of(error), f"{error.message} ({tail})") from error

    return answer


async def _hang_up(server: TtrpcServer) -> None:
    """Let the last answers out: their callers close the connections."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(server.wait_idle(), HANG_UP_S)
    await server.close()


def _report(where: str, error: BaseException) -> None:
    log.error("call failed", call=where, error=f"{type(error).__name__}: {error}")
