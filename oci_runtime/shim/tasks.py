"""What the engine knows of a pod's tasks: containers and execs by its names, with their streams, pids and ends.

These records outlive the virtual machine: an engine asks for a state or an exit code until it has deleted the task.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from oci_runtime.errors import AlreadyExists, NotFound
from oci_runtime.sandbox.process import ExitStatus, Process
from oci_runtime.shim.proto import types_pb2
from oci_runtime.shim.stdio import StdioAddresses
from oci_runtime.shim.streams import Streams

MAX_EXECS = 1024


class TaskProcess:
    """A task's first process (`exec_id` empty) or an exec.

    exit: completes once, after the oom file was written and before the exit event is sent. start_lock: held while the
    process is started, so that its start is reported before its end.
    """

    def __init__(self, container_id: str, exec_id: str, stdio: StdioAddresses) -> None:
        self.container_id = container_id
        self.exec_id = exec_id
        self.stdio = stdio
        self.pid = 0
        self.started = False
        self.deleting = False
        self.spec: dict[str, Any] = {}
        self.guest: Process | None = None
        self.size: tuple[int, int] | None = None  # rows, columns that came before the process
        self.streams: Streams | None = None
        self.input_closed = False
        self.exit: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        self.watcher: asyncio.Task[None] | None = None
        self.start_lock = asyncio.Lock()

    @property
    def title(self) -> str:
        """How messages call it."""
        return f"exec {self.exec_id} of container {self.container_id}" if self.exec_id else self.container_id

    @property
    def ended(self) -> ExitStatus | None:
        """How it ended, None while it has not."""
        return self.exit.result() if self.exit.done() else None


@dataclass
class Task:
    """One container. ready: False while Create is at work."""

    id: str
    bundle: str
    init: TaskProcess
    ready: bool = False
    paused: bool = False
    oom_reported: bool = False
    execs: dict[str, TaskProcess] = field(default_factory=dict)

    def process(self, exec_id: str) -> TaskProcess:
        """The first process or an exec. Raises: NotFound."""
        if not exec_id:
            return self.init
        found = self.execs.get(exec_id)
        if found is None:
            raise NotFound(f"exec {exec_id} does not exist in container {self.id}")
        return found

    def status(self, process: TaskProcess) -> int:
        """The status of a process as containerd numbers it."""
        if process.exit.done():
            return types_pb2.STOPPED
        if not process.started:
            return types_pb2.CREATED
        return types_pb2.PAUSED if self.paused and process is self.init else types_pb2.RUNNING


class TaskTable:
    """All tasks of the pod by id."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}

    def __len__(self) -> int:
        return len(self._tasks)

    def all(self) -> list[Task]:
        """The tasks, oldest first."""
        return list(self._tasks.values())

    def add(self, task: Task) -> None:
        """Raises: AlreadyExists."""
        if task.id in self._tasks:
            raise AlreadyExists(f"container {task.id} already exists in this pod")
        self._tasks[task.id] = task

    def get(self, container_id: str) -> Task:
        """The task, ready or not. Raises: NotFound."""
        task = self._tasks.get(container_id)
        if task is None:
            raise NotFound(f"container {container_id} does not exist")
        return task

    def remove(self, container_id: str) -> None:
        """Forget a task. Idempotent."""
        self._tasks.pop(container_id, None)
