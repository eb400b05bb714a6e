"""The asyncio half of the sandbox process: pod, control socket, and the records on disk that follow the pod."""

from __future__ import annotations

import asyncio
import signal
import socket

from oci_runtime.errors import OciRuntimeError, Unavailable
from oci_runtime.host.processes import start_time
from oci_runtime.log import get_logger
from oci_runtime.sandbox.launch import Launched
from oci_runtime.sandbox.oom import OomNotices
from oci_runtime.sandbox.process import Container, Status
from oci_runtime.sandbox.sandbox import Sandbox
from oci_runtime.sandbox.server import ControlServer
from oci_runtime.sandbox.virtual_machine import VirtualMachine
from oci_runtime.state import records
from oci_runtime.state.endings import leave_reason
from oci_runtime.state.layout import Layout

log = get_logger(__name__)
_REQUESTS_S = 10.0


async def run_sandbox(launched: Launched, listen_fd: int) -> int:
    """Serve the pod until it has ended and everybody was told; return the process's exit code."""
    machine = VirtualMachine(launched)
    recorder = StateRecorder(Layout(launched.root))
    request = launched.request
    sandbox = Sandbox(machine, owner_id=request.owner_id, on_change=recorder.changed)
    sandbox.oom_notices = OomNotices(request.events_address, request.events_namespace)
    server = ControlServer(sandbox, socket.socket(fileno=listen_fd))
    serving = asyncio.create_task(server.serve())
    stop_tasks: set[asyncio.Task[None]] = set()

    def terminate() -> None:
        task = asyncio.create_task(sandbox.shutdown("the sandbox process was asked to terminate"))
        stop_tasks.add(task)
        task.add_done_callback(stop_tasks.discard)

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    sandbox.begin()
    reason = await sandbox.ended
    log.info("pod has ended", reason=reason)
    # A command whose request is still on its way learns of no other end than that of its connection.
    detail = machine.console_tail() if reason else ""
    leave_reason(launched.directory, Unavailable(reason or "the container that it was for has ended", detail=detail))
    await server.finish(_REQUESTS_S)
    await asyncio.gather(serving, return_exceptions=True)
    return 0


class StateRecorder:
    """Writes a container's status into its record whenever it changes."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def changed(self, container: Container) -> None:
        """Update `state.json`; a container whose record is gone was deleted, and a full disk must not end the pod.

        Nobody else writes it once a container is created, so that no change is lost.
        """
        changes: dict[str, object] = {"status": container.status.value}
        if container.status is Status.CREATED:
            changes |= {"creator": 0, "creator_start": 0}
            if container.pid:
                changes |= {"pid": container.pid, "pid_start": start_time(container.pid)}
        if container.status is Status.STOPPED:
            changes["exit_code"] = container.init.exit_code
        try:
            records.update(self._layout, container.id, **changes)
        except OciRuntimeError as error:
            log.error("cannot record the state", container=container.id, reason=error.message)
