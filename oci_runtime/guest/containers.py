"""Containers: create, start, remove. crun does the work; the agent keeps the table and owns the processes."""

from __future__ import annotations

import os
from _thread import allocate_lock

from oci_runtime import json_text
from oci_runtime.errors import AlreadyExists, InvalidInput, OciRuntimeError, WrongState
from oci_runtime.guest.cgroups import OomWatch, cgroup_path, remove_cgroup
from oci_runtime.guest.crun import let_run, remove_state, remove_tree, run_crun
from oci_runtime.guest.disks import NODES, find_disks, make_nodes, plan_disks, remove_nodes
from oci_runtime.guest.execution import Execution
from oci_runtime.guest.facts import read_facts
from oci_runtime.guest.mounts import RUN
from oci_runtime.guest.processes import Process, check_id, parse_object, require_new, start_with_crun
from oci_runtime.guest.scheduling import apply_scheduling
from oci_runtime.guest.share import check_sources, forget_share, make_dev, settle_destinations, share_directories
from oci_runtime.guest.spec import plan_container
from oci_runtime.guest.stdio import Stdio
from oci_runtime.guest.sysctl import write_sysctls
from oci_runtime.ttrpc.proto import agent_lean as pb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.guest.agent import Agent
    from oci_runtime.guest.disks import Numbers
    from oci_runtime.guest.server import Call

MAX_CONTAINERS = 512
_REAP_S = 10.0


class Container:
    """One container. `lock` serialises what changes its state; execs run beside each other."""

    def __init__(self, agent: Agent, container_id: str) -> None:
        self.id = container_id
        self.directory = f"{RUN}/containers/{container_id}"
        self.cgroup = cgroup_path(container_id)
        self.nodes = f"{NODES}/{container_id}"
        self.disks: Numbers = {}
        self.lock = allocate_lock()
        self.share_directories: frozenset[str] = frozenset()
        self.started = False
        self.paused = False
        self.removing = False
        self.processes: dict[str, Process] = {}
        self.oom = OomWatch(agent.loop, self.cgroup, lambda: agent.events.publish("oom", container_id))
        self._agent = agent
        self.starting: set[str] = set()
        self.execution: Execution | None = None

    def require_running(self) -> Process:
        """The first process, while it lives. Raises WrongState."""
        process = self.processes.get("")
        if process is None or process.child.exit_code is not None or self.removing:
            raise WrongState(f"container not running: {self.id!r} has stopped")
        return process

    def exec_slot(self, exec_id: str, limit: int) -> ExecSlot:
        """A context manager that reserves the name of an exec while it starts."""
        return ExecSlot(self._agent, self, exec_id, limit)

    def reserve(self, exec_id: str, limit: int) -> None:
        """Take the name of an exec. The agent's lock is held. Raises AlreadyExists, WrongState, InvalidInput."""
        self.require_running()
        if self.paused:
            raise WrongState(f"cannot exec in container {self.id!r}: it is paused")
        require_new(self, exec_id)
        if exec_id in self.starting:
            raise AlreadyExists(f"exec {exec_id!r} of container {self.id!r} already exists")
        if len(self.processes) + len(self.starting) > limit:
            raise InvalidInput(f"container {self.id!r} has {limit} execs, no more are taken")
        self.starting.add(exec_id)

    def add_process(self, process: Process) -> None:
        """Put a started process into the table; one that comes too late for a removed container is killed."""
        with self._agent.lock:
            if not self.removing:
                self.processes[process.exec_id] = process
                return
        self._agent.reaper.kill(process.child, 9)
        self._agent.loop.call(process.close)
        raise WrongState(f"container {self.id!r} was removed")

    def drop_process(self, exec_id: str) -> None:
        """Take an exec out of the table."""
        with self._agent.lock:
            self.processes.pop(exec_id, None)


class ExecSlot:
    """The name of an exec, taken for the time of a block (contextlib's import is not worth it)."""

    def __init__(self, agent: Agent, container: Container, exec_id: str, limit: int) -> None:
        self._agent = agent
        self._container = container
        self._exec_id = exec_id
        self._limit = limit

    def __enter__(self) -> None:
        with self._agent.lock:
            self._container.reserve(self._exec_id, self._limit)

    def __exit__(self, *_: object) -> None:
        with self._agent.lock:
            self._container.starting.discard(self._exec_id)


def create_container(agent: Agent, request: pb.CreateContainerRequest) -> pb.ProcessResponse:
    """Create a container up to its first instruction. After a failure nothing of it is left."""
    container = Container(agent, check_id(request.container_id, "container id"))
    spec = parse_object(request.spec_json, "spec")
    with agent.lock:
        if container.id in agent.containers:
            raise AlreadyExists(f"container {container.id!r} already exists in the guest")
        if len(agent.containers) >= MAX_CONTAINERS:
            raise InvalidInput(f"the guest has {MAX_CONTAINERS} containers, no more are taken")
        agent.containers[container.id] = container
    try:
        with container.lock:
            container.disks = find_disks(agent, request.disks)
            warnings: list[str] = []
            make_nodes(plan_disks(spec, container.disks, container.nodes, warnings))
            plan = plan_container(
                spec,
                container.id,
                read_facts(),
                pid_namespace_path=_pid_namespace(agent, request.pid_namespace_of),
                in_pod_ipc=request.in_pod_ipc,
                in_pod_uts=request.in_pod_uts,
            )
            container.share_directories = share_directories(plan.spec)
            check_sources(plan.spec)
            settle_destinations(plan.spec)
            make_dev(plan.spec)
            write_sysctls(plan.sysctls)
            process = _create(agent, container, plan.spec, request.stdin)
            _finish_cgroup(container, plan.cgroup_files)
            apply_scheduling(process.child.pid, plan.spec["process"])
    except BaseException:
        _clean_up(agent, container)
        raise
    return pb.ProcessResponse(pid=process.child.pid, warnings=[*warnings, *plan.warnings])


def _create(agent: Agent, container: Container, spec: dict[str, object], stdin: bool) -> Process:
    remove_tree(container.directory)
    os.makedirs(container.directory, mode=0o700)
    with open(f"{container.directory}/config.json", "w", encoding="utf-8") as file:
        file.write(json_text.dumps(spec))
    init = spec["process"]
    assert isinstance(init, dict)
    container.execution = execution = Execution(agent.loop)
    with Stdio(terminal=bool(init.get("terminal")), stdin=stdin) as stdio:
        words = ["create", "--bundle", container.directory, container.id]
        process = start_with_crun(agent, container, "", words, stdio, str(init["args"][0]), execution.child)
    execution.given()
    container.add_process(process)
    agent.loop.call(container.oom.start)
    return process


def _finish_cgroup(container: Container, files: list[tuple[str, str]]) -> None:
    for name, value in files:
        try:
            with open(f"{container.cgroup}/{name}", "w", encoding="utf-8") as file:
                file.write(value)
        except OSError as error:
            raise OciRuntimeError(f"cannot set {name} to {value!r} in the guest: {error.strerror}") from error


def start_container(agent: Agent, request: pb.ContainerRequest) -> pb.Empty:
    """Let the first process of a created container run. Raises WrongState."""
    container = agent.container(request.container_id)
    with container.lock:
        process = container.require_running()
        if container.started:
            raise WrongState(f"container {container.id!r} is running already")
        if not let_run(container.id):
            _start_with_crun(agent, container, process)
        container.started = True
    return pb.Empty()


def wait_executed(agent: Agent, request: pb.ContainerRequest, call: Call) -> None:
    """Answer when the first process of a started container has become the program, or has ended. Raises WrongState."""
    container = agent.container(request.container_id)
    if container.execution is None or not container.started:
        raise WrongState(f"container {container.id!r} has not been started")
    container.execution.when_done(lambda: call.reply(pb.Empty()))


def _start_with_crun(agent: Agent, container: Container, process: Process) -> None:
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        log_path = f"{container.directory}/log-start"
        run_crun(agent, ["start", container.id], log_path=log_path, stdio=(null, null, null), program="")
    except OciRuntimeError:
        agent.reaper.kill(process.child, 9)
        raise
    finally:
        os.close(null)


def remove_container(agent: Agent, request: pb.ContainerRequest) -> pb.Empty:
    """Kill what is left of a container and forget it. Raises NotFound, Unavailable."""
    container = agent.container(request.container_id)
    with container.lock:
        _clean_up(agent, container)
    return pb.Empty()


def _clean_up(agent: Agent, container: Container) -> None:
    """Undo everything of a container; each step is tried, the table entry goes only when its processes are gone."""
    with agent.lock:
        container.removing = True
        processes = list(container.processes.values())
    remove_cgroup(container.cgroup)
    for process in processes:
        agent.reaper.kill(process.child, 9)
        process.child.wait(_REAP_S)
    agent.loop.call(lambda: _close_streams(container, processes))
    remove_state(container.id)
    remove_tree(container.directory)
    remove_nodes(container.nodes)
    forget_share(agent, container.share_directories)
    with agent.lock:
        container.processes.clear()
        if agent.containers.get(container.id) is container:
            del agent.containers[container.id]


def _close_streams(container: Container, processes: list[Process]) -> None:
    container.oom.close()
    if container.execution is not None:
        container.execution.close()
    for process in processes:
        process.close()


def _pid_namespace(agent: Agent, container_id: str) -> str:
    """The path of another container's pid namespace. Raises NotFound, WrongState."""
    if not container_id:
        return ""
    process = agent.container(container_id).require_running()
    return f"/proc/{process.child.pid}/ns/pid"
