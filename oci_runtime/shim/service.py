"""containerd's task service (versions 2 and 3) on top of a pod.

State, Connect and Wait answer from records of this process, so that a hung guest never hangs them. Operations on one
process are serialised by its own locks; nothing is held across tasks.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message

from oci_runtime.bundle.decode import decode_process, decode_resources
from oci_runtime.bundle.ids import validate_id
from oci_runtime.bundle.load import parse_json_object
from oci_runtime.errors import AlreadyExists, InvalidInput, NotFound, OciRuntimeError, Unsupported, WrongState
from oci_runtime.log import get_logger
from oci_runtime.sandbox.process import ExitStatus
from oci_runtime.shim import messages, metrics
from oci_runtime.shim.events import EventPublisher
from oci_runtime.shim.pod import HostSide, Pod
from oci_runtime.shim.proto import events_pb2 as events
from oci_runtime.shim.proto import task_pb2 as pb
from oci_runtime.shim.stdio import StdioAddresses
from oci_runtime.shim.streams import open_streams
from oci_runtime.shim.tasks import MAX_EXECS, Task, TaskProcess, TaskTable

if TYPE_CHECKING:
    pass

log = get_logger(__name__)

SERVICES = ("containerd.task.v2.Task", "containerd.task.v3.Task")
DRAIN_S = 10.0
EXIT_S = 10.0
MAX_SIGNAL = 64

Handler = Callable[[Any], Awaitable[Message]]
Boot = Callable[[pb.CreateTaskRequest], Awaitable[Pod]]


class TaskService:
    """All methods of the service. `idle` is set when a Shutdown finds no task left: the process should end then.

    boot: gives the pod, always the same one; the first Create asks for it, and gets the error of a pod that cannot be.
    """

    def __init__(self, boot: Boot, host: HostSide, publisher: EventPublisher, namespace: str) -> None:
        self.tasks = TaskTable()
        self.idle = asyncio.Event()
        self._boot = boot
        self._booted: Pod | None = None
        self._follower: asyncio.Task[None] | None = None
        self._host = host
        self._publisher = publisher
        self._namespace = namespace
        self._unified = metrics.host_is_unified()
        self._creations: dict[str, asyncio.Task[pb.CreateTaskResponse]] = {}

    def methods(self) -> dict[str, tuple[type[Message], Handler]]:
        """Every method by its name on the wire, with its request's class."""
        return {
            "State": (pb.StateRequest, self.state),
            "Create": (pb.CreateTaskRequest, self.create),
            "Start": (pb.StartRequest, self.start),
            "Delete": (pb.DeleteRequest, self.delete),
            "Pids": (pb.PidsRequest, self.pids),
            "Pause": (pb.PauseRequest, self.pause),
            "Resume": (pb.ResumeRequest, self.resume),
            "Checkpoint": (pb.CheckpointTaskRequest, self.checkpoint),
            "Kill": (pb.KillRequest, self.kill),
            "Exec": (pb.ExecProcessRequest, self.exec),
            "ResizePty": (pb.ResizePtyRequest, self.resize_pty),
            "CloseIO": (pb.CloseIORequest, self.close_io),
            "Update": (pb.UpdateTaskRequest, self.update),
            "Wait": (pb.WaitRequest, self.wait),
            "Stats": (pb.StatsRequest, self.stats),
            "Connect": (pb.ConnectRequest, self.connect),
            "Shutdown": (pb.ShutdownRequest, self.shutdown),
        }

    @property
    def _pod(self) -> Pod:
        assert self._booted is not None, "a task is ready only after its pod was booted"
        return self._booted

    async def _follow_pod(self) -> None:
        """Follow what the pod says on its own: out-of-memory kills, and deletions by hand. Ends with the pod."""
        async for event in self._pod.subscribe():
            if event.kind == "oom":
                with contextlib.suppress(NotFound):
                    self._report_oom(self.tasks.get(event.container_id))
            elif event.kind == "deleted":
                await self.forget_deleted()

    async def forget_deleted(self) -> None:
        """Drop the tasks whose containers were deleted behind the service's back (`delete`, or the command line).

        Nobody will ask for them any more; when none is left, nobody will ask for a shutdown either.
        """
        for task in self.tasks.all():
            if not task.ready or task.init.deleting or task.id in self._pod.containers:
                continue
            log.info("deleted from outside", container=task.id)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.shield(task.init.exit), EXIT_S)
            for process in [*task.execs.values(), task.init]:
                await _dispose(process)
            await self._host.release(task.id)
            self.tasks.remove(task.id)
            if not len(self.tasks):
                self.idle.set()

    # Life of a container

    async def create(self, request: pb.CreateTaskRequest) -> pb.CreateTaskResponse:
        """Create a container; the virtual machine boots in here for the first one of a pod."""
        if request.checkpoint:
            raise Unsupported("a container cannot be restored from a checkpoint in a virtual machine yet")
        validate_id(request.id)
        stdio = StdioAddresses(request.stdin, request.stdout, request.stderr, request.terminal)
        task = Task(request.id, request.bundle, TaskProcess(request.id, "", stdio))
        self.tasks.add(task)
        # A Delete may come while this runs (CRI-O after its timeout): it cancels the work and waits for its undo.
        work = asyncio.create_task(self._create(task, request))
        self._creations[task.id] = work
        work.add_done_callback(lambda _: self._note_creation(task))
        try:
            return await work
        except asyncio.CancelledError:  # with the work's undo behind it, whoever was cancelled
            caller = asyncio.current_task()
            if caller is not None and caller.cancelling():
                raise
            raise WrongState(f"container {task.id} was deleted while it was being created") from None

    def _note_creation(self, task: Task) -> None:
        """A creation is over; one that failed, or was cancelled before its first step, leaves no task."""
        self._creations.pop(task.id, None)
        if not task.ready:
            self.tasks.remove(task.id)

    async def _create(self, task: Task, request: pb.CreateTaskRequest) -> pb.CreateTaskResponse:
        init = task.init
        async with contextlib.AsyncExitStack() as undo:
            if self._booted is None:
                self._booted = await self._boot(request)
                self._follower = asyncio.create_task(self._follow_pod())
            undo.push_async_callback(self._host.release, task.id)
            prepared = await self._host.prepare(request)
            # From here on the descriptors are the pod's.
            with contextlib.ExitStack() as descriptors:
                for _description, fd in prepared.descriptors:
                    descriptors.callback(os.close, fd)
                streams = await open_streams(init.stdio, task.id, self._namespace)
                undo.push_async_callback(streams.close)
                descriptors.pop_all()
            for warning in await self._pod.create_container(dataclasses.replace(prepared, stdin=streams.has_input)):
                log.warning(warning, container=task.id)
            init.guest = await self._pod.wait_for_process(task.id, "")
            undo.pop_all()
        init.pid, init.streams = prepared.pid, streams
        task.ready = True
        streams.attach(self._pod, init.guest)
        self._publisher.publish("/tasks/create", messages.create_event(request, init.pid))
        init.watcher = asyncio.create_task(self._watch(task, init))
        return pb.CreateTaskResponse(pid=init.pid)

    async def start(self, request: pb.StartRequest) -> pb.StartResponse:
        """Start the created container, or run the exec that was added."""
        task = self._ready(request.id)
        process = task.process(request.exec_id)
        async with process.start_lock:
            if process.started:
                raise WrongState(f"{process.title} has been started before")
            if request.exec_id:
                await self._start_exec(task, process)
            else:
                await self._pod.start(task.id)
                process.started = True
                self._publisher.publish("/tasks/start", events.TaskStart(container_id=task.id, pid=process.pid))
        if not request.exec_id:
            await self._host.started(task.id)
        return pb.StartResponse(pid=process.pid)

    async def _start_exec(self, task: Task, process: TaskProcess) -> None:
        streams = await open_streams(process.stdio, task.id, self._namespace)
        try:
            process.pid = await self._pod.exec(task.id, process.exec_id, process.spec, stdin=streams.has_input)
            process.guest = await self._pod.wait_for_process(task.id, process.exec_id)
        except BaseException:
            await streams.close()
            raise
        process.streams = streams
        streams.attach(self._pod, process.guest)
        if process.input_closed:
            streams.close_input()
        process.started = True
        self._publisher.publish(
            "/tasks/exec-started",
            events.TaskExecStarted(container_id=task.id, exec_id=process.exec_id, pid=process.pid),
        )
        process.watcher = asyncio.create_task(self._watch(task, process))
        if process.size is not None:
            with contextlib.suppress(OciRuntimeError):
                await self._pod.resize(process.guest, *process.size)

    async def delete(self, request: pb.DeleteRequest) -> pb.DeleteResponse:
        """Delete an ended container or exec; one that never started; and a container whose Create is still at work."""
        creation = self._creations.get(request.id)
        if creation is not None and not request.exec_id:
            if not creation.cancelling():  # else its undo is at work, which must not be disturbed
                creation.cancel()
            await asyncio.wait({creation})
            return messages.with_exit(pb.DeleteResponse(), ExitStatus.killed("deleted while it was created"))
        task = self._ready(request.id)
        process = task.process(request.exec_id)
        if process.deleting:
            raise NotFound(f"{process.title} is being deleted")
        process.deleting = True
        try:
            status = await (self._delete_exec if request.exec_id else self._delete_container)(task, process)
        finally:
            process.deleting = False
        return messages.with_exit(pb.DeleteResponse(pid=process.pid), status)

    async def _delete_container(self, task: Task, init: TaskProcess) -> ExitStatus:
        if init.started and init.ended is None:
            raise WrongState(f"cannot delete container {task.id}: it is running, kill it first")
        if init.streams is not None and init.ended is not None:
            await init.streams.drain(DRAIN_S)
        try:
            await self._pod.delete(task.id, force=init.ended is None)
        except NotFound:
            log.debug("the pod does not know the container any more", container=task.id)
        status = await asyncio.wait_for(asyncio.shield(init.exit), DRAIN_S)
        for process in [*task.execs.values(), init]:
            await _dispose(process)
        await self._host.release(task.id)
        self.tasks.remove(task.id)
        self._publisher.publish("/tasks/delete", messages.delete_event(init, status))
        return status

    async def _delete_exec(self, task: Task, process: TaskProcess) -> ExitStatus:
        status = process.ended
        if process.started:
            if status is None:
                raise WrongState(f"cannot delete exec {process.exec_id}: it is running, kill it first")
            if process.streams is not None:
                await process.streams.drain(DRAIN_S)
            with contextlib.suppress(NotFound):
                await self._pod.delete_exec(task.id, process.exec_id)
        elif process.start_lock.locked():
            raise WrongState(f"cannot delete exec {process.exec_id}: it is being started")
        await _dispose(process)
        task.execs.pop(process.exec_id, None)
        return status or ExitStatus(0, 0)

    async def _watch(self, task: Task, process: TaskProcess) -> None:
        """Wait for the end of a process; report it after its start, and after the ends of the container's execs."""
        try:
            status = await self._pod.wait(task.id, process.exec_id)
        except NotFound:
            status = ExitStatus.killed("deleted")
        async with process.start_lock:
            pass
        if not process.exec_id:
            watchers = [other.watcher for other in task.execs.values() if other.watcher and other.ended is None]
            if watchers:
                await asyncio.wait(watchers, timeout=1)
            await self._host.ended(task.id)
        if status.oom_killed:
            self._report_oom(task)
        process.exit.set_result(status)
        self._publisher.publish("/tasks/exit", messages.exit_event(process, status))

    # Processes

    async def exec(self, request: pb.ExecProcessRequest) -> Message:
        """Add an exec; Start runs it."""
        task = self._ready(request.id)
        validate_id(request.exec_id, "exec id")
        if task.init.ended is not None:
            raise WrongState(f"container not running: {task.id} has ended")
        if request.exec_id in task.execs:
            raise AlreadyExists(f"exec {request.exec_id} already exists in container {request.id}")
        if len(task.execs) >= MAX_EXECS:
            raise InvalidInput(f"container {task.id} has {MAX_EXECS} execs: delete some of them")
        spec = _decode_process(request.spec)
        spec["terminal"] = request.terminal
        stdio = StdioAddresses(request.stdin, request.stdout, request.stderr, request.terminal)
        process = TaskProcess(task.id, request.exec_id, stdio)
        process.spec = spec
        task.execs[request.exec_id] = process
        self._publisher.publish(
            "/tasks/exec-added", events.TaskExecAdded(container_id=task.id, exec_id=request.exec_id)
        )
        return Empty()

    async def kill(self, request: pb.KillRequest) -> Message:
        """Send a signal; signal 0 asks whether the process lives. An ended process is NotFound, as with runc's shim."""
        task = self._ready(request.id)
        process = task.process(request.exec_id)
        if request.signal > MAX_SIGNAL:
            raise InvalidInput(f"signal {request.signal} does not exist")
        if process.ended is not None:
            if request.all and not request.exec_id:
                return Empty()  # the rest of the container ended with its first process
            raise NotFound(f"process already finished: {process.title}")
        if request.exec_id and not process.started:
            raise WrongState(f"{process.title} is not running")
        if request.signal:
            try:
                await self._pod.kill(task.id, request.exec_id, request.signal, all_processes=request.all)
            except (NotFound, WrongState) as error:
                raise NotFound(f"process already finished: {process.title}") from error
        return Empty()

    async def close_io(self, request: pb.CloseIORequest) -> Message:
        """No further input will come. Never waits, not even for a Start that is at work."""
        process = self._ready(request.id).process(request.exec_id)
        if request.stdin:
            process.input_closed = True
            if process.streams is not None:
                process.streams.close_input()
        return Empty()

    async def resize_pty(self, request: pb.ResizePtyRequest) -> Message:
        """Set the terminal's size; one that comes before the process is kept for it."""
        process = self._ready(request.id).process(request.exec_id)
        if process.ended is not None:
            raise WrongState(f"cannot resize the terminal of {process.title}: it has ended")
        if not (0 < request.width <= 0xFFFF and 0 < request.height <= 0xFFFF):
            return Empty()  # clients without a terminal send 0
        process.size = (request.height, request.width)
        if process.guest is not None and process.stdio.terminal:
            await self._pod.resize(process.guest, *process.size)
        return Empty()

    async def wait(self, request: pb.WaitRequest) -> pb.WaitResponse:
        """Answer when the process has ended; its result stays until Delete."""
        process = self._known(request.id).process(request.exec_id)
        return messages.with_exit(pb.WaitResponse(), await asyncio.shield(process.exit))

    async def state(self, request: pb.StateRequest) -> pb.StateResponse:
        """What this process knows of a task; asks nobody."""
        task = self._ready(request.id)
        process = task.process(request.exec_id)
        return messages.state_response(task, process)

    async def pids(self, request: pb.PidsRequest) -> pb.PidsResponse:
        """The stand-in on the host, then the container's processes in the guest, with the guest's numbers."""
        task = self._ready(request.id)
        if task.init.ended is not None:
            return pb.PidsResponse()
        return pb.PidsResponse(processes=messages.process_rows(task.init.pid, await self._pod.processes(task.id)))

    # Resources

    async def pause(self, request: pb.PauseRequest) -> Message:
        """Freeze a container."""
        task = self._ready(request.id)
        await self._pod.pause(task.id)
        task.paused = True
        self._publisher.publish("/tasks/paused", events.TaskPaused(container_id=task.id))
        return Empty()

    async def resume(self, request: pb.ResumeRequest) -> Message:
        """Thaw it."""
        task = self._ready(request.id)
        await self._pod.resume(task.id)
        task.paused = False
        self._publisher.publish("/tasks/resumed", events.TaskResumed(container_id=task.id))
        return Empty()

    async def update(self, request: pb.UpdateTaskRequest) -> Message:
        """Apply linux.resources in the guest."""
        task = self._ready(request.id)
        if task.init.ended is not None:
            raise WrongState(f"container not running: {task.id} has ended")
        resources = parse_json_object(request.resources.value, "resources")
        decode_resources(resources, "resources")
        for warning in await self._pod.update(task.id, resources):
            log.warning(warning, container=task.id)
        await self._host.update(task.id, resources)
        return Empty()

    async def stats(self, request: pb.StatsRequest) -> pb.StatsResponse:
        """The guest's figures; those of the pod's own container include what the pod costs beside them."""
        task = self._ready(request.id)
        if task.init.ended is not None:
            raise NotFound(f"container {task.id} has ended and has no figures")
        own = await self._pod.stats(task.id)
        overhead = metrics.Overhead()
        if task.id == self._pod.owner_id:
            others = [other.id for other in self.tasks.all() if other is not task and other.ready]
            answers = await asyncio.gather(*(self._pod.stats(other) for other in others), return_exceptions=True)
            used = [own, *(answer for answer in answers if not isinstance(answer, BaseException))]
            overhead = await self._host.overhead(task.id, used)
        return pb.StatsResponse(stats=metrics.pack_metrics(own, overhead, unified=self._unified))

    async def checkpoint(self, request: pb.CheckpointTaskRequest) -> Message:
        """Not possible yet."""
        self._ready(request.id)
        raise Unsupported("a container in a virtual machine cannot be checkpointed yet")

    # The shim itself

    async def connect(self, request: pb.ConnectRequest) -> pb.ConnectResponse:
        """Pids of the shim and of the container's stand-in."""
        return pb.ConnectResponse(shim_pid=os.getpid(), task_pid=self._ready(request.id).init.pid)

    async def shutdown(self, request: pb.ShutdownRequest) -> Message:
        """End the shim, if no task is left in it (or at once, when asked so)."""
        if request.now or not len(self.tasks):
            self.idle.set()
        return Empty()

    # Helpers

    def _known(self, container_id: str) -> Task:
        return self.tasks.get(container_id)

    def _ready(self, container_id: str) -> Task:
        task = self.tasks.get(container_id)
        if not task.ready:
            raise WrongState(f"container {container_id} is still being created")
        return task

    def _report_oom(self, task: Task) -> None:
        """Tell of an out-of-memory kill once: an event for containerd, an empty file for CRI-O."""
        if task.oom_reported:
            return
        task.oom_reported = True
        with contextlib.suppress(OSError):
            os.close(os.open(os.path.join(task.bundle, "oom"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644))
        self._publisher.publish("/tasks/oom", events.TaskOOM(container_id=task.id))


async def _dispose(process: TaskProcess) -> None:
    if process.streams is not None:
        await process.streams.close()


def _decode_process(spec: AnyMessage) -> dict[str, Any]:
    process = parse_json_object(spec.value, "process of exec")
    decode_process(process, "process of exec")
    return process
