"""Processes of containers: the first one and execs. Their start, signals, exits and standard streams."""

from __future__ import annotations

import fcntl
import itertools
import os
import struct
import termios

from oci_runtime import json_text
from oci_runtime.errors import AlreadyExists, InvalidInput, NotFound, OciRuntimeError, WrongState
from oci_runtime.guest.cgroups import kill_cgroup
from oci_runtime.guest.crun import run_crun
from oci_runtime.guest.facts import read_facts
from oci_runtime.guest.scheduling import apply_scheduling
from oci_runtime.guest.spec import plan_process
from oci_runtime.guest.stdio import Stdio
from oci_runtime.guest.streams import Input, Output
from oci_runtime.ttrpc.proto import agent_lean as pb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oci_runtime.guest.agent import Agent
    from oci_runtime.guest.containers import Container
    from oci_runtime.guest.reaper import Child
    from oci_runtime.guest.server import Call

MAX_EXECS = 1024
MAX_ID_BYTES = 255
_ID_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.+-")
_OOM_EXIT = 137
_numbers = itertools.count()


class Process:
    """One process that the host asked for, from its start until the host removes it."""

    def __init__(self, agent: Agent, container: Container, exec_id: str, child: Child, stdio: Stdio) -> None:
        """Takes over the agent's descriptors of `stdio`. Runs in a worker thread."""
        self.exec_id = exec_id
        self.child = child
        self.terminal = stdio.master
        self.oom_killed = False
        self._agent = agent
        self._container = container
        self._oom_kills = container.oom.kills
        loop = agent.loop
        self.stdin: Input | None = None
        self.stderr: Output | None = None
        if stdio.terminal:
            self.stdout = Output(loop, os.dup(stdio.master), _output_answer, tty=True)
            self.stdin = Input(loop, os.dup(stdio.master), _input_answer, tty=True)
        else:
            self.stdout = Output(loop, stdio.stdout, _output_answer)
            self.stderr = Output(loop, stdio.stderr, _output_answer)
            if stdio.stdin >= 0:
                self.stdin = Input(loop, stdio.stdin, _input_answer)
        stdio.keep()
        agent.reaper.when_done(child, lambda _: agent.loop.call(self._exited))

    def close(self) -> None:
        """Give all descriptors back; in the loop's thread. Idempotent."""
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()
        if self.terminal >= 0:
            os.close(self.terminal)
            self.terminal = -1

    def _exited(self) -> None:
        kills = self._container.oom.check()
        self.oom_killed = kills > self._oom_kills and self.child.exit_code == _OOM_EXIT
        self.stdout.writer_ended()
        if self.stderr is not None:
            self.stderr.writer_ended()
        if self.stdin is not None:
            self.stdin.close()


def check_id(value: str, what: str) -> str:
    """A name that may become a file name. Raises InvalidInput."""
    if not value or len(value) > MAX_ID_BYTES or not set(value) <= _ID_CHARS or not value[0].isalnum():
        raise InvalidInput(f"{what} {value[:80]!r}: letters, digits and _.+- are allowed, the first a letter or digit")
    return value


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object. Raises InvalidInput."""
    try:
        value = json_text.loads(data)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{what} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"{what} is not a JSON object")
    return value


def start_with_crun(
    agent: Agent, container: Container, exec_id: str, words: list[str], stdio: Stdio, program: str, *more: int
) -> Process:
    """Let crun start a process detached, and adopt it. `words` end before the pid file's and terminal's arguments.

    The container's id must be the last of `words`. more: descriptors for crun, from 3 on. Runs in a worker thread.
    Raises what `run_crun` raises.
    """
    number = next(_numbers)
    pid_file = f"{container.directory}/pid-{number}"
    arguments = [*words[:-1], "--pid-file", pid_file, *stdio.arguments, words[-1]]
    with agent.reaper.adopting() as strangers:
        log_path = f"{container.directory}/log-{number}"
        run_crun(agent, arguments, log_path=log_path, stdio=(*stdio.child, *more), program=program)
        try:
            with open(pid_file, encoding="utf-8") as file:
                pid = int(file.read())
            os.unlink(pid_file)
        except (OSError, ValueError) as error:
            raise OciRuntimeError(f"crun {words[0]} left no pid: {error}") from error
        name = f"exec {exec_id} of {container.id}" if exec_id else f"container {container.id}"
        child = agent.reaper.adopt(pid, name, strangers)
    try:
        if stdio.terminal:
            stdio.take_master()
    except OciRuntimeError:
        agent.reaper.kill(child, 9)
        raise
    return Process(agent, container, exec_id, child, stdio)


def exec_process(agent: Agent, request: pb.ExecProcessRequest) -> pb.ProcessResponse:
    """Start a further process in a container that is created or running."""
    exec_id = check_id(request.exec_id, "exec id")
    container = agent.container(request.container_id)
    plan = parse_object(request.process_json, "process")
    warnings: list[str] = []
    plan_process(plan, read_facts(), warnings)
    with container.exec_slot(exec_id, MAX_EXECS):
        try:
            process = _start_exec(agent, container, exec_id, plan, stdin=request.stdin)
        except (OciRuntimeError, OSError):
            container.require_running()  # what was missing has gone with the container
            raise
        container.add_process(process)
        try:
            apply_scheduling(process.child.pid, plan)
        except OciRuntimeError as error:
            warnings.append(error.message)  # it runs already
    return pb.ProcessResponse(pid=process.child.pid, warnings=warnings)


def _start_exec(agent: Agent, container: Container, exec_id: str, plan: dict[str, Any], *, stdin: bool) -> Process:
    path = f"{container.directory}/exec-{next(_numbers)}.json"
    with open(path, "w", encoding="utf-8") as file:
        file.write(json_text.dumps(plan))
    try:
        with Stdio(terminal=bool(plan.get("terminal")), stdin=stdin) as stdio:
            words = ["exec", "--detach", "--process", path, container.id]
            return start_with_crun(agent, container, exec_id, words, stdio, plan["args"][0])
    finally:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass


def signal_process(agent: Agent, request: pb.SignalProcessRequest) -> pb.Empty:
    """Send a signal to a process, or to all of its container. Raises NotFound for an exec that has ended."""
    if not 0 <= request.signal <= 64:
        raise InvalidInput(f"signal {request.signal}: 1 to 64 are known")
    container = agent.container(request.container_id)
    if request.all:
        kill_cgroup(container.cgroup, request.signal)
        return pb.Empty()
    process = agent.process(request.container_id, request.exec_id)
    if not agent.reaper.kill(process.child, request.signal):
        if request.exec_id:
            raise NotFound(f"no such process: exec {request.exec_id!r} of {request.container_id!r} has ended")
        raise WrongState("container not running")
    return pb.Empty()


def wait_process(agent: Agent, request: pb.ProcessRequest, call: Call) -> None:
    """Answer when the process has ended; also for one that has ended already, until it is removed."""
    process = agent.process(request.container_id, request.exec_id)

    def ended(child: Child) -> None:
        agent.loop.call(lambda: answer(child))

    def answer(child: Child) -> None:
        call.reply(
            pb.WaitProcessResponse(
                exit_code=child.exit_code or 0, exited_at_ns=child.exited_at_ns, oom_killed=process.oom_killed
            )
        )

    agent.reaper.when_done(process.child, ended)


def remove_process(agent: Agent, request: pb.ProcessRequest) -> pb.Empty:
    """Forget an exec that has ended, with its streams. Raises WrongState while it runs."""
    if not request.exec_id:
        raise InvalidInput("the first process of a container goes with RemoveContainer")
    process = agent.process(request.container_id, request.exec_id)
    if process.child.exit_code is None:
        raise WrongState(f"exec {request.exec_id!r} of container {request.container_id!r} is still running")
    agent.container(request.container_id).drop_process(request.exec_id)
    process.close()
    return pb.Empty()


def write_stdin(agent: Agent, request: pb.WriteStdinRequest, call: Call) -> None:
    """Write to a process's standard input; answers when all is written, with less when nobody reads any more."""
    process = agent.process(request.container_id, request.exec_id)
    if process.stdin is None:
        raise WrongState(f"process {request.exec_id!r} of {request.container_id!r} was started without standard input")
    process.stdin.write(call, request.data)


def close_stdin(agent: Agent, request: pb.ProcessRequest) -> pb.Empty:
    """End a process's standard input after the writes that wait; a terminal stays open. Never waits."""
    process = agent.process(request.container_id, request.exec_id)
    if process.stdin is not None:
        process.stdin.close_when_written()
    return pb.Empty()


def read_output(agent: Agent, request: pb.ReadOutputRequest, call: Call) -> None:
    """Answer with the next bytes of an output; a terminal has no stderr."""
    process = agent.process(request.container_id, request.exec_id)
    stream = process.stderr if request.stderr else process.stdout
    if stream is None:
        call.reply(_output_answer(b"", True))
    else:
        stream.read(call, request.max_bytes)


def close_output(agent: Agent, request: pb.ReadOutputRequest) -> pb.Empty:
    """Nobody will read this output any more: writing to it gives EPIPE from now on. A terminal stays open."""
    process = agent.process(request.container_id, request.exec_id)
    stream = process.stderr if request.stderr else process.stdout
    if stream is not None and process.terminal < 0:
        stream.close()
    return pb.Empty()


def resize_tty(agent: Agent, request: pb.ResizeTtyRequest) -> pb.Empty:
    """Set the size of a process's terminal."""
    process = agent.process(request.container_id, request.exec_id)
    if process.terminal < 0:
        raise WrongState(f"process {request.exec_id!r} of {request.container_id!r} has no terminal")
    if request.rows > 0xFFFF or request.columns > 0xFFFF:
        raise InvalidInput(f"terminal size {request.rows}x{request.columns}: at most 65535")
    fcntl.ioctl(process.terminal, termios.TIOCSWINSZ, struct.pack("HHHH", request.rows, request.columns, 0, 0))
    return pb.Empty()


def require_new(container: Container, exec_id: str) -> None:
    """Raises AlreadyExists when the exec's name is taken."""
    if exec_id in container.processes:
        raise AlreadyExists(f"exec {exec_id!r} of container {container.id!r} already exists")


def _output_answer(data: bytes, eof: bool) -> pb.ReadOutputResponse:
    return pb.ReadOutputResponse(data=data, eof=eof)


def _input_answer(written: int) -> pb.WriteStdinResponse:
    return pb.WriteStdinResponse(written=written)
