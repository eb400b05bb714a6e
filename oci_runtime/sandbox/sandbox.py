"""The pod: one virtual machine, its containers, and the order in which everything begins and ends.

`Sandbox` is what both front doors talk to: the control socket's server and the containerd task service. Operations on
one container are serialised by that container's lock; reading the state takes none, so a hung guest never hangs it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from oci_runtime.agent.client import AgentClient
from oci_runtime.bundle.capabilities import warn_of_unknown
from oci_runtime.errors import AlreadyExists, InvalidInput, NotFound, OciRuntimeError, Unavailable, WrongState
from oci_runtime.log import get_logger
from oci_runtime.sandbox.arrivals import Arrivals
from oci_runtime.sandbox.events import EventFeed, SandboxEvent
from oci_runtime.sandbox.guest_events import follow_guest
from oci_runtime.sandbox.oom import OomNotices
from oci_runtime.sandbox.process import KILLED, Container, ExitStatus, Process, Status
from oci_runtime.sandbox.removals import Removals
from oci_runtime.sandbox.request import CreateRequest
from oci_runtime.sandbox.steps import try_all
from oci_runtime.sandbox.virtual_machine import VirtualMachine

log = get_logger(__name__)

_SIGKILL = 9
# A broken link to the guest is noticed by its callers first; why it broke follows within moments.
_LOSS_S = 1.0
# A process that was killed may still wait for a file system. The pod of others does not end for that soon; a machine
# that ends with this container ends its processes as well.
_KILLED_S = 10.0
_LAST_KILLED_S = 2.0
Warnings = tuple[str, ...]
MAX_CONTAINERS = 256
MAX_EXECS = 1024


class Sandbox:
    """One pod. `on_change` is told of every change of a container's state, in order, before anybody else sees it."""

    def __init__(self, machine: VirtualMachine, *, owner_id: str, on_change: Callable[[Container], None]) -> None:
        self.machine = machine
        self.owner_id = owner_id
        self.containers: dict[str, Container] = {}
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._on_change = on_change
        self.oom_notices = OomNotices()  # others may be put here before `begin`
        self._locks: dict[str, asyncio.Lock] = {}
        self._arrivals = Arrivals()
        self._removals = Removals(machine.remove_container)
        self._events = EventFeed()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending: asyncio.Task[None] | None = None
        self._end_reason = ""
        self._owner_seen = False

    # Beginning

    def begin(self) -> None:
        """Start to bring the machine up and to watch it; returns at once."""
        self._spawn(self._bring_up())

    async def _bring_up(self) -> None:
        try:
            await self.machine.bring_up()
        except OciRuntimeError as error:
            await self._end(error.message)
            return
        agent = await self.machine.agent()
        self._spawn(follow_guest(agent, self.containers, self.oom_notices, self._events))
        exit_reason = await self.machine.lost()
        await self._end(exit_reason)

    # Containers

    async def create_container(self, request: CreateRequest) -> Warnings:
        """Create a container up to, not including, its process's first instruction; return the guest's warnings.

        Boot errors surface here. After a failure nothing of the container is left, on the host or in the guest.
        """
        descriptors = list(request.descriptors)
        try:
            if self._ending is not None:
                raise self._refusal(request)
            if request.container_id in self.containers:
                raise AlreadyExists(f"container {request.container_id} already exists in this pod")
            if len(self.containers) >= MAX_CONTAINERS:
                raise InvalidInput(f"pod has {MAX_CONTAINERS} containers, no more are taken")
            container = Container(request.container_id, request.bundle, request.spec, request.pid)
            process = Process(container.id, "", terminal=request.terminal)
            container.processes[""] = process
            self.containers[container.id] = container
            async with self._lock(container.id), contextlib.AsyncExitStack() as undo:
                undo.callback(self._forget, container)
                warnings = await self._make(request, container, undo)
                if self._ending is not None:  # who ends the pod has counted only those that were there
                    raise self._refusal(request)
                container.move(Status.CREATED)
                undo.pop_all()
        finally:
            self.machine.release(descriptors)
        self._owner_seen = self._owner_seen or container.id == self.owner_id
        self._changed(container, "created")
        self._spawn(self._watch(container, process))
        self._arrive(process)
        return (*warn_of_unknown(request.spec.get("process") or {}), *warnings)

    async def _make(self, request: CreateRequest, container: Container, undo: contextlib.AsyncExitStack) -> Warnings:
        try:
            return await self.machine.create_container(request, container, undo, self.owner_id)
        except Unavailable as error:
            boot_failed = error.message == self.machine.failure
            if boot_failed or (self._ending is None and not await self.machine.is_lost(_LOSS_S)):
                raise
            raise self._refusal(request) from error

    async def start(self, container_id: str) -> None:
        """Let the created container's process run."""
        container = self.container(container_id)
        async with self._lock(container_id):
            if container.status is not Status.CREATED:
                raise WrongState(
                    f"cannot start container {container_id}: it is {container.status.value}, only a created one starts"
                )
            agent = await self._agent()
            await agent.start_container(container_id)
            # A very short process may have been reported before the answer to start.
            if container.status is Status.CREATED:
                container.move(Status.RUNNING)
                self._changed(container, "started")

    async def delete(self, container_id: str, *, force: bool = False) -> ExitStatus:
        """Remove a stopped container (any, with `force`) from the guest and the share; return how it ended."""
        container = self.container(container_id)
        if container.status is Status.CREATING and force:
            # The guest may not know it yet. Wait for the creation's end: it may take the container away itself.
            async with self._lock(container_id):
                container = self.container(container_id)
        if container.status not in (Status.STOPPED, Status.CREATED) and not force:
            raise WrongState(
                f"cannot delete container {container_id}: it is {container.status.value}; stop it first or use --force"
            )
        if container.status is not Status.STOPPED:
            await self._kill_for_delete(container)
        async with self._lock(container_id):
            if container_id not in self.containers:
                raise NotFound(f"container {container_id} does not exist")
            await self._remove(container)
            self._forget(container)
        self._events.publish(SandboxEvent("deleted", container_id, status=container.init.exit.result()))
        if not self.containers and not self._owner_seen:
            self._spawn(self._end("the last container was deleted"))
        return container.init.exit.result()

    async def _remove(self, container: Container) -> None:
        try:
            if self._ending is None:
                await self._removals.finish(container)
        except OciRuntimeError:
            if self._ending is None:  # else it goes with the machine
                raise
        if self._ending is not None and self.machine.writes_disks:
            await asyncio.shield(self._ending)  # whoever had lent a disk takes it back now, with all that was written

    async def _kill_for_delete(self, container: Container) -> None:
        try:
            if self._ending is None:
                agent = await self._agent()
                timeout_s = self.machine.config.runtime.kill_timeout_s
                await agent.signal_process(container.id, "", _SIGKILL, all=True, timeout_s=timeout_s)
            patience_s = _LAST_KILLED_S if container.id == self.owner_id else _KILLED_S
            await asyncio.wait_for(asyncio.shield(container.init.exit), patience_s)
        except (OciRuntimeError, TimeoutError) as error:
            if container.init.exit.done():
                return
            reason = str(error) or "it was killed, and has not ended"
            await self._end(f"guest does not answer while container {container.id} is deleted: {reason}")

    # Processes

    async def exec(
        self, container_id: str, exec_id: str, process: dict[str, Any], *, stdin: bool, ignore_paused: bool = False
    ) -> int:
        """Run another process in a created or running container; return its pid in the guest.

        ignore_paused: in a paused one, wait until it is resumed or has ended.
        """
        container = self.container(container_id)
        if ignore_paused:
            await container.unpaused.wait()
        container.require(Status.CREATED, Status.RUNNING)
        if not exec_id or exec_id in container.processes:
            raise AlreadyExists(f"exec {exec_id!r} already exists in container {container_id}")
        if len(container.processes) >= MAX_EXECS:
            raise InvalidInput(f"container {container_id} has {MAX_EXECS} execs, no more are taken")
        record = Process(container_id, exec_id, terminal=bool(process.get("terminal")))
        container.processes[exec_id] = record
        try:
            agent = await self._agent()
            response = await agent.exec_process(container_id, exec_id, json.dumps(process).encode(), stdin=stdin)
        except BaseException:
            container.processes.pop(exec_id, None)
            self._arrivals.forget((container_id, exec_id))
            raise
        record.guest_pid = response.pid
        self._events.publish(SandboxEvent("started", container_id, exec_id))
        self._spawn(self._watch(container, record))
        self._arrive(record)
        return response.pid

    async def kill(self, container_id: str, exec_id: str, signal: int, *, all_processes: bool = False) -> None:
        """Send a signal to one process, or to all of the container. SIGKILL to a guest that is hung ends the pod."""
        container = self.container(container_id)
        process = container.process(exec_id)
        if process.exit.done():
            raise WrongState(f"container not running: process {exec_id or 'init'} of {container_id} has ended")
        if not exec_id:
            container.require(Status.CREATED, Status.RUNNING, Status.PAUSED)
        if self._ending is not None and signal == _SIGKILL:
            return await asyncio.shield(self._ending)  # which kills it: engines kill all containers of a pod at once
        agent = await self._agent()
        try:
            await agent.signal_process(
                container_id, exec_id, signal, all=all_processes, timeout_s=self.machine.config.runtime.kill_timeout_s
            )
        except Unavailable as error:
            if await self.machine.is_lost(_LOSS_S):
                raise WrongState(f"container not running: {self.machine.failure}") from error
            if signal != _SIGKILL or exec_id:
                raise
            await self._end(f"guest does not answer to SIGKILL for container {container_id}")

    async def wait(self, container_id: str, exec_id: str = "") -> ExitStatus:
        """Wait for the end of a process. Safe to cancel."""
        return await asyncio.shield(self.container(container_id).process(exec_id).exit)

    async def wait_for_process(self, container_id: str, exec_id: str) -> Process:
        """Return the process, waiting for one that is still to be created. Safe to cancel."""
        self._require_alive()
        key = (container_id, exec_id)
        container = self.containers.get(container_id)
        process = container.processes.get(exec_id) if container is not None else None
        if process is not None and process.guest_pid:
            self._arrivals.forget(key)
            return process
        return await asyncio.shield(self._arrivals.expect(key))

    def abandon(self, container_id: str, exec_id: str) -> None:
        """The stand-in of a process that is still to be created is gone: it dies as soon as it exists."""
        self._arrivals.abandon((container_id, exec_id))

    async def delete_exec(self, container_id: str, exec_id: str) -> ExitStatus:
        """Forget an ended exec."""
        container = self.container(container_id)
        process = container.process(exec_id)
        if not process.exit.done():
            raise WrongState(f"exec {exec_id} of container {container_id} is running")
        container.processes.pop(exec_id, None)
        if self._ending is None:
            with contextlib.suppress(OciRuntimeError):
                await (await self._agent()).remove_process(container_id, exec_id)
        return process.exit.result()

    async def _kill_abandoned(self, process: Process) -> None:
        with contextlib.suppress(OciRuntimeError):
            await self.kill(process.container_id, process.exec_id, _SIGKILL)
        self.release_exec(process)

    def release_exec(self, process: Process) -> None:
        """Nobody will ask for this exec again: forget it as soon as it has ended. A first process stays."""
        if process.exec_id:
            self._spawn(self._forget_exec(process))

    async def _forget_exec(self, process: Process) -> None:
        await asyncio.shield(process.exit)
        with contextlib.suppress(OciRuntimeError):
            await self.delete_exec(process.container_id, process.exec_id)

    # Streams

    async def read_output(self, process: Process, *, stderr: bool, max_bytes: int) -> tuple[bytes, bool]:
        """Return the next output bytes, or (b"", True) at the end; a guest that is gone is an end, too."""
        try:
            agent = await self._agent()
            data, eof = await agent.read_output(
                process.container_id, process.exec_id, stderr=stderr, max_bytes=max_bytes
            )
        except (Unavailable, NotFound, WrongState):
            data, eof = b"", True
        if eof:
            process.note_end_of_output(stderr)
        return data, eof

    async def write_stdin(self, process: Process, data: bytes) -> None:
        """Write all of `data`, waiting while the process does not read. Data for a closed stdin is dropped."""
        agent = await self._agent()
        view = memoryview(data)
        while view:
            written = await agent.write_stdin(process.container_id, process.exec_id, bytes(view))
            if not written:
                return
            view = view[written:]

    async def close_stdin(self, process: Process) -> None:
        """Let the process see the end of its input."""
        await (await self._agent()).close_stdin(process.container_id, process.exec_id)

    async def close_output(self, process: Process, *, stderr: bool) -> None:
        """Nobody reads this output any more: the process gets EPIPE when it writes."""
        await (await self._agent()).close_output(process.container_id, process.exec_id, stderr=stderr)

    async def resize(self, process: Process, rows: int, columns: int) -> None:
        """Set the size of the process's terminal, in characters."""
        await (await self._agent()).resize_tty(process.container_id, process.exec_id, rows, columns)

    # Resources

    async def pause(self, container_id: str) -> None:
        """Freeze the container's cgroup in the guest."""
        container = self.container(container_id)
        async with self._lock(container_id):
            container.require(Status.RUNNING)
            await (await self._agent()).pause_container(container_id)
            container.move(Status.PAUSED)
            self._changed(container, "paused")

    async def resume(self, container_id: str) -> None:
        """Thaw it."""
        container = self.container(container_id)
        async with self._lock(container_id):
            container.require(Status.PAUSED)
            await (await self._agent()).resume_container(container_id)
            container.move(Status.RUNNING)
            self._changed(container, "resumed")

    async def update(self, container_id: str, resources: dict[str, Any]) -> Warnings:
        """Apply OCI linux.resources in the guest; return what could not be done."""
        container = self.container(container_id)
        container.require(Status.CREATED, Status.RUNNING, Status.PAUSED)
        return await (await self._agent()).update_container(container_id, json.dumps(resources).encode())

    async def stats(self, container_id: str) -> Any:
        """The guest's cgroup figures of a container (agent_pb2.StatsContainerResponse)."""
        self.container(container_id).require(Status.CREATED, Status.RUNNING, Status.PAUSED)
        return await (await self._agent()).stats_container(container_id)

    async def processes(self, container_id: str) -> tuple[Any, ...]:
        """The container's processes in the guest (agent_pb2.ProcessInfo)."""
        self.container(container_id).require(Status.CREATED, Status.RUNNING, Status.PAUSED)
        return await (await self._agent()).list_processes(container_id)

    def subscribe(self) -> AsyncIterator[SandboxEvent]:
        """Return the events from now to the end of the pod. A subscriber that does not read loses the oldest ones."""
        return self._events.follow()

    # End

    async def shutdown(self, reason: str) -> None:
        """End the pod: every process, the machine, everything on the host. Idempotent; returns when it is done."""
        await self._end(reason)

    async def _watch(self, container: Container, process: Process) -> None:
        """Wait in the guest for one process, and record its end."""
        try:
            agent = await self._agent()
            response = await agent.wait_process(process.container_id, process.exec_id)
            oom = response.oom_killed or (container.oom_killed and response.exit_code == KILLED)
            status = ExitStatus(response.exit_code, response.exited_at_ns, oom)
            if oom:
                await self.oom_notices.tell(container)
        except OciRuntimeError as error:
            # One that has ended already went with its container, which the guest has forgotten meanwhile. Else the link
            # is gone: why follows within moments, and ends the pod by itself.
            explained = isinstance(error, Unavailable) and await self.machine.is_lost(_LOSS_S)
            if self._ending is None and not process.exit.done() and not explained:
                await self._give_up(container, process, error.message)
            return
        self._record_exit(container, process, status)
        if not process.exec_id and container.id == self.owner_id:
            self._spawn(self._end_after_output(container))
        elif not process.exec_id and self._ending is None:
            self._removals.begin(container)

    async def _give_up(self, container: Container, process: Process, reason: str) -> None:
        """The guest is there and does not tell how a process ends: an exec goes alone."""
        if not process.exec_id:
            return await self._end(f"lost the guest: {reason}")
        log.warning("an exec is given up", container=container.id, exec=process.exec_id, reason=reason)
        with contextlib.suppress(OciRuntimeError):
            await self.kill(container.id, process.exec_id, _SIGKILL)
        self._record_exit(container, process, ExitStatus.killed(reason))

    def _record_exit(self, container: Container, process: Process, status: ExitStatus) -> None:
        if process.exit.done():
            return
        if process.exec_id:
            process.finish(status)
            self._events.publish(SandboxEvent("exit", container.id, process.exec_id, status))
            return
        for other in container.processes.values():
            if other is not process and not other.exit.done():
                other.finish(ExitStatus(KILLED, status.exited_at_ns, reason="its container ended"))
                self._events.publish(SandboxEvent("exit", container.id, other.exec_id, other.exit.result()))
        # A paused container that is killed is thawed by the guest.
        container.move(Status.STOPPED)
        process.finish(status)
        self._changed(container, "exit", status)

    async def _end_after_output(self, container: Container) -> None:
        """The container that the machine exists for has ended: let the readers finish, then end the pod."""
        await container.init.wait_drained()
        await self._end("")

    async def _end(self, reason: str) -> None:
        if self._ending is None:
            self._ending = asyncio.create_task(self._end_once(reason))
        await asyncio.shield(self._ending)

    async def _end_once(self, reason: str) -> None:
        if reason:
            self._end_reason = reason
            log.info("pod ends", reason=reason)
        self.machine.failure = self.machine.failure or reason
        self._removals.stop()
        # Containers learn before the machine goes: whatever happens to it from here on, they are over.
        await try_all(
            (
                ("guest", self.machine.quiesce),
                ("containers", lambda: self._end_containers(reason or "its pod ended")),
                ("machine", self.machine.close),
            )
        )
        self._events.close()
        if not self.ended.done():
            self.ended.set_result(reason)

    async def _end_containers(self, reason: str) -> None:
        self._arrivals.close(Unavailable(reason))
        for container in list(self.containers.values()):
            if container.status is not Status.CREATING:
                self._record_exit(container, container.init, ExitStatus.killed(reason))

    # What the pod looks like

    def container(self, container_id: str) -> Container:
        """Return a container; NotFound when there is none of that id."""
        container = self.containers.get(container_id)
        if container is None:
            raise NotFound(f"container {container_id} does not exist")
        return container

    def describe(self) -> list[dict[str, Any]]:
        """The containers as `vmpod list` and the pod's tree show them."""
        return [container.describe() for container in self.containers.values()]

    # Helpers

    async def _agent(self) -> AgentClient:
        self._require_alive()
        return await self.machine.agent()

    def _refusal(self, request: CreateRequest) -> WrongState:
        reason = self.machine.failure or self._end_reason or "its sandbox container ended"
        return request.refusal(self.machine.sandbox_id, reason, self.machine.console_tail())

    def _require_alive(self) -> None:
        if self._ending is not None:
            reason = self.machine.failure or "its pod has ended"
            raise WrongState(f"container not running: {reason}", detail=self.machine.console_tail())

    def _lock(self, container_id: str) -> asyncio.Lock:
        return self._locks.setdefault(container_id, asyncio.Lock())

    def _forget(self, container: Container) -> None:
        self.containers.pop(container.id, None)
        self._locks.pop(container.id, None)
        self._removals.forget(container.id)
        self._arrivals.forget((container.id, ""))

    def _arrive(self, process: Process) -> None:
        if not self._arrivals.arrive(process):
            self._spawn(self._kill_abandoned(process))

    def _changed(self, container: Container, kind: str, status: ExitStatus | None = None) -> None:
        self._on_change(container)
        self._events.publish(SandboxEvent(kind, container.id, status=status))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
