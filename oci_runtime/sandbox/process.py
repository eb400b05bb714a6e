"""Containers and processes of a pod as the sandbox process sees them: names, states, exits, streams' progress."""

from __future__ import annotations

import asyncio
import enum
import time
from dataclasses import dataclass, field
from typing import Any

from oci_runtime.errors import NotFound, WrongState

KILLED = 137  # 128 + SIGKILL: what a process gets whose end nobody could see


class Status(enum.Enum):
    """The OCI container states, with runc's `paused`."""

    CREATING = "creating"
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"


MOVES: dict[Status, frozenset[Status]] = {
    Status.CREATING: frozenset({Status.CREATED, Status.STOPPED}),
    Status.CREATED: frozenset({Status.RUNNING, Status.STOPPED}),
    Status.RUNNING: frozenset({Status.PAUSED, Status.STOPPED}),
    Status.PAUSED: frozenset({Status.RUNNING, Status.STOPPED}),
    Status.STOPPED: frozenset(),
}


@dataclass(frozen=True)
class ExitStatus:
    """How a process ended. code: 0-255, signals as 128 + n. reason: empty unless the pod, not the process, failed."""

    code: int
    exited_at_ns: int
    oom_killed: bool = False
    reason: str = ""

    @classmethod
    def killed(cls, reason: str) -> ExitStatus:
        """The status of a process that went down with its pod."""
        return cls(KILLED, time.time_ns(), reason=reason)


class Process:
    """One process of a container: its first one (`exec_id` empty) or an exec.

    `exit` completes once, whatever happens to the guest. `drained` is set when nobody has output left to read.
    """

    def __init__(self, container_id: str, exec_id: str, *, terminal: bool) -> None:
        self.container_id = container_id
        self.exec_id = exec_id
        self.terminal = terminal
        self.guest_pid = 0
        self.exit: asyncio.Future[ExitStatus] = asyncio.get_running_loop().create_future()
        self._readers = 0
        self._open_streams = {False} if terminal else {False, True}  # stderr or not
        self._drained = asyncio.Event()
        self._drained.set()

    def finish(self, status: ExitStatus) -> None:
        """Record the end; the first report wins."""
        if not self.exit.done():
            self.exit.set_result(status)

    @property
    def exit_code(self) -> int | None:
        """The code it ended with, None while it runs."""
        return self.exit.result().code if self.exit.done() else None

    def add_reader(self) -> None:
        """Somebody reads the output from now on: the pod is kept until it has all of it."""
        self._readers += 1
        self._check_drained()

    def remove_reader(self) -> None:
        """The reader is gone."""
        self._readers -= 1
        self._check_drained()

    def note_end_of_output(self, stderr: bool) -> None:
        """A reader has seen the end of one output."""
        self._open_streams.discard(stderr)
        self._check_drained()

    def _check_drained(self) -> None:
        if self._readers and self._open_streams:
            self._drained.clear()
        else:
            self._drained.set()

    async def wait_drained(self) -> None:
        """Return when all output was read to its end, or nobody reads it. Safe to cancel."""
        await self._drained.wait()


@dataclass
class Container:
    """One container of the pod. pid: the host's stand-in (proxy or holder), 0 where there is none."""

    id: str
    bundle: str
    spec: dict[str, Any]
    pid: int = 0
    status: Status = Status.CREATING
    processes: dict[str, Process] = field(default_factory=dict)
    oom_killed: bool = False
    oom_notice: asyncio.Task[None] | None = None
    unpaused: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.unpaused.set()

    @property
    def init(self) -> Process:
        """Its first process."""
        return self.processes[""]

    def process(self, exec_id: str) -> Process:
        """Its first process (exec_id is empty) or one of its execs. Raises NotFound."""
        process = self.processes.get(exec_id)
        if process is None:
            raise NotFound(f"exec {exec_id} does not exist in container {self.id}")
        return process

    def move(self, status: Status) -> None:
        """Change the status; WrongState when the move is not allowed."""
        if status not in MOVES[self.status]:
            raise WrongState(f"container {self.id} is {self.status.value}, cannot become {status.value}")
        self.status = status
        if status is Status.PAUSED:
            self.unpaused.clear()
        else:
            self.unpaused.set()

    def describe(self) -> dict[str, Any]:
        """What `vmpod list` and the pod's tree show of it."""
        return {
            "id": self.id,
            "status": self.status.value,
            "pid": self.pid,
            "bundle": self.bundle,
            "processes": len(self.processes),
        }

    def require(self, *allowed: Status) -> None:
        """WrongState unless the container is in one of `allowed`. The words for a stopped one are runc's contract."""
        if self.status in allowed:
            return
        if self.status in (Status.STOPPED, Status.CREATING):
            raise WrongState(f"container not running: {self.id} is {self.status.value}")
        wanted = " or ".join(status.value for status in allowed)
        raise WrongState(f"container {self.id} is {self.status.value}, not {wanted}")
