"""What the task service knows, as messages: answers and events of containerd's API."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.timestamp_pb2 import Timestamp

from oci_runtime.shim.proto import events_pb2 as events
from oci_runtime.shim.proto import task_pb2 as pb
from oci_runtime.shim.proto import types_pb2 as types

if TYPE_CHECKING:
    from oci_runtime.sandbox.process import ExitStatus
    from oci_runtime.shim.tasks import Task, TaskProcess

# The engine reads a missing moment as 1970 or as year 1, depending on its version; runc's shim sends year 1.
_NEVER = Timestamp(seconds=-62135596800)
_PROCESS_DETAILS = "containerd.runc.v1.ProcessDetails"

_Answer = TypeVar("_Answer", pb.DeleteResponse, pb.WaitResponse, pb.StateResponse)


def with_exit(response: _Answer, status: ExitStatus) -> _Answer:
    """Add to an answer how a process ended."""
    response.exit_status = status.code
    if status.exited_at_ns:
        response.exited_at.CopyFrom(_timestamp(status.exited_at_ns))
    return response


def state_response(task: Task, process: TaskProcess) -> pb.StateResponse:
    """What State answers about a process."""
    response = pb.StateResponse(
        id=process.exec_id or task.id,
        bundle=task.bundle,
        pid=process.pid,
        status=task.status(process),  # type: ignore[arg-type]  # one of the enum's numbers
        stdin=process.stdio.stdin,
        stdout=process.stdio.stdout,
        stderr=process.stdio.stderr,
        terminal=process.stdio.terminal,
        exec_id=process.exec_id,
        exited_at=_NEVER,
    )
    return with_exit(response, process.ended) if process.ended is not None else response


def process_rows(stand_in: int, processes: Iterable[Any]) -> list[types.ProcessInfo]:
    """The stand-in on the host, then the guest's processes (agent_pb2.ProcessInfo); execs with their ids."""
    rows = [types.ProcessInfo(pid=stand_in)]
    for process in processes:
        info = None
        if process.exec_id:
            name = process.exec_id.encode()
            info = AnyMessage(type_url=_PROCESS_DETAILS, value=b"\x0a" + _length(name) + name)
        rows.append(types.ProcessInfo(pid=process.pid, info=info))
    return rows


def create_event(request: pb.CreateTaskRequest, pid: int) -> events.TaskCreate:
    """A container was created."""
    io = events.TaskIO(stdin=request.stdin, stdout=request.stdout, stderr=request.stderr, terminal=request.terminal)
    return events.TaskCreate(container_id=request.id, bundle=request.bundle, rootfs=request.rootfs, io=io, pid=pid)


def exit_event(process: TaskProcess, status: ExitStatus) -> events.TaskExit:
    """A process has ended."""
    event = events.TaskExit(
        container_id=process.container_id,
        id=process.exec_id or process.container_id,
        pid=process.pid,
        exit_status=status.code,
    )
    event.exited_at.CopyFrom(_timestamp(status.exited_at_ns))
    return event


def delete_event(init: TaskProcess, status: ExitStatus) -> events.TaskDelete:
    """A container was deleted."""
    event = events.TaskDelete(container_id=init.container_id, pid=init.pid, exit_status=status.code)
    event.exited_at.CopyFrom(_timestamp(status.exited_at_ns))
    return event


def _timestamp(moment_ns: int) -> Timestamp:
    return Timestamp(seconds=moment_ns // 10**9, nanos=moment_ns % 10**9)


def _length(data: bytes) -> bytes:
    """A protobuf length of less than 16384."""
    return bytes([len(data)]) if len(data) < 0x80 else bytes([len(data) & 0x7F | 0x80, len(data) >> 7])
