"""A pod of plain host processes behind the task service, and a client that speaks to it as containerd does."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import pty
import signal
import socket
import struct
import termios
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from oci_runtime.errors import AlreadyExists, NotFound, OciRuntimeError, WrongState
from oci_runtime.sandbox.events import SandboxEvent
from oci_runtime.sandbox.process import ExitStatus, Process
from oci_runtime.sandbox.request import CreateRequest
from oci_runtime.shim.events import EventPublisher
from oci_runtime.shim.metrics import Overhead
from oci_runtime.shim.proto import task_pb2 as pb
from oci_runtime.shim.proto.forward_pb2 import Envelope
from oci_runtime.shim.service import SERVICES, TaskService
from oci_runtime.shim.serving import explained
from oci_runtime.ttrpc.client import TtrpcClient
from oci_runtime.ttrpc.proto import agent_pb2
from oci_runtime.ttrpc.server import Method, TtrpcServer

PROCESS_TYPE = "types.containerd.io/opencontainers/runtime-spec/1/Process"


class HostProcess:
    """A process of the host that plays one of the guest's."""

    def __init__(self, record: Process, document: dict[str, Any]) -> None:
        self.record = record
        self.document = document
        self.popen: asyncio.subprocess.Process | None = None
        self.output: dict[bool, int] = {}
        self.input = -1
        self.started = asyncio.Event()
        self.size = (0, 0)

    def apply_size(self) -> None:
        """Give the terminal its size, if there is one by now."""
        if self.input >= 0:
            fcntl.ioctl(self.input, termios.TIOCSWINSZ, struct.pack("HHHH", *self.size, 0, 0))

    async def start(self) -> None:
        """Run it. Raises: NotFound for a missing program."""
        child: dict[str, Any]
        if self.document.get("terminal"):
            master, slave = pty.openpty()
            self.output, self.input = {False: master}, os.dup(master)
            self.apply_size()
            child = dict.fromkeys(("stdin", "stdout", "stderr"), slave)
        else:
            out, err, inp = os.pipe(), os.pipe(), os.pipe()
            self.output, self.input = {False: out[0], True: err[0]}, inp[1]
            child = {"stdin": inp[0], "stdout": out[1], "stderr": err[1]}
        try:
            self.popen = await asyncio.create_subprocess_exec(*self.document["args"], **child, start_new_session=True)
        except FileNotFoundError as error:
            raise NotFound(f'exec: "{self.document["args"][0]}": executable file not found in $PATH') from error
        finally:
            for fd in set(child.values()):
                os.close(fd)
        for fd in (*self.output.values(), self.input):
            os.set_blocking(fd, False)
        self.record.guest_pid = self.popen.pid
        self.started.set()


class HostPod:
    """The part of Sandbox that the task service uses, on host processes. hang: methods that never answer."""

    owner_id = "c"

    def __init__(self) -> None:
        self.processes_: dict[tuple[str, str], HostProcess] = {}
        self.requests: dict[str, CreateRequest] = {}
        self.hang: set[str] = set()
        self.fail: dict[str, OciRuntimeError] = {}
        self.paused: set[str] = set()
        self.events: asyncio.Queue[SandboxEvent] = asyncio.Queue()
        self.tasks: set[asyncio.Task[None]] = set()

    @property
    def containers(self) -> dict[str, CreateRequest]:
        """The containers by their ids."""
        return {id_: request for id_, request in self.requests.items() if (id_, "") in self.processes_}

    async def _enter(self, method: str) -> None:
        if method in self.fail:
            raise self.fail.pop(method)
        if method in self.hang:
            await asyncio.get_running_loop().create_future()

    def _find(self, container_id: str, exec_id: str = "") -> HostProcess:
        found = self.processes_.get((container_id, exec_id))
        if found is None:
            raise NotFound(f"{container_id} {exec_id} does not exist")
        return found

    async def create_container(self, request: CreateRequest) -> tuple[str, ...]:
        await self._enter("create_container")
        document = request.spec["process"]
        record = Process(request.container_id, "", terminal=bool(document.get("terminal")))
        self.processes_[request.container_id, ""] = HostProcess(record, document)
        self.requests[request.container_id] = request
        return ()

    async def start(self, container_id: str) -> None:
        await self._enter("start")
        process = self._find(container_id)
        if process.started.is_set():
            raise WrongState("started already")
        await process.start()
        self._watch(process)

    def _watch(self, process: HostProcess) -> None:
        task = asyncio.create_task(self._wait(process))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _wait(self, process: HostProcess) -> None:
        assert process.popen is not None
        code = await process.popen.wait()
        process.record.finish(ExitStatus(code if code >= 0 else 128 - code, time.time_ns()))

    async def delete(self, container_id: str, *, force: bool = False) -> ExitStatus:
        await self._enter("delete")
        process = self._find(container_id)
        if not process.record.exit.done():
            if not force:
                raise WrongState("running")
            process.record.finish(ExitStatus.killed("deleted"))
        for key in [key for key in self.processes_ if key[0] == container_id]:
            del self.processes_[key]
        return process.record.exit.result()

    async def exec(self, container_id: str, exec_id: str, process: dict[str, Any], *, stdin: bool) -> int:
        await self._enter("exec")
        if (container_id, exec_id) in self.processes_:
            raise AlreadyExists(exec_id)
        record = Process(container_id, exec_id, terminal=bool(process.get("terminal")))
        host = HostProcess(record, process)
        await host.start()
        self.processes_[container_id, exec_id] = host
        self._watch(host)
        return record.guest_pid

    async def kill(self, container_id: str, exec_id: str, signal: int, *, all_processes: bool = False) -> None:
        await self._enter("kill")
        process = self._find(container_id, exec_id)
        if process.record.exit.done():
            raise WrongState("container not running")
        if process.popen is None:
            process.record.finish(ExitStatus.killed("killed before its start"))
        else:
            os.killpg(process.popen.pid, signal)

    async def wait(self, container_id: str, exec_id: str = "") -> ExitStatus:
        return await asyncio.shield(self._find(container_id, exec_id).record.exit)

    async def wait_for_process(self, container_id: str, exec_id: str) -> Process:
        return self._find(container_id, exec_id).record

    async def delete_exec(self, container_id: str, exec_id: str) -> ExitStatus:
        return self.processes_.pop((container_id, exec_id)).record.exit.result()

    async def read_output(self, process: Process, *, stderr: bool, max_bytes: int) -> tuple[bytes, bool]:
        await self._enter("read_output")
        host = self._find(process.container_id, process.exec_id)
        started: asyncio.Future[Any] = asyncio.ensure_future(host.started.wait())
        await asyncio.wait([started, process.exit], return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        fd = host.output.get(stderr, -1)
        while fd >= 0:
            try:
                data = os.read(fd, max_bytes)
            except BlockingIOError:
                await _readable(fd)
                continue
            except OSError:
                data = b""  # a terminal whose last user is gone
            if data:
                return data, False
            break
        process.note_end_of_output(stderr)
        return b"", True

    async def write_stdin(self, process: Process, data: bytes) -> None:
        host = self._find(process.container_id, process.exec_id)
        await host.started.wait()
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(host.input, view) :]
            except BlockingIOError:
                await asyncio.sleep(0.01)
            except OSError as error:
                raise WrongState(f"stdin: {error}") from error

    async def close_stdin(self, process: Process) -> None:
        host = self._find(process.container_id, process.exec_id)
        await host.started.wait()
        os.close(host.input)

    async def resize(self, process: Process, rows: int, columns: int) -> None:
        host = self._find(process.container_id, process.exec_id)
        host.size = (rows, columns)
        host.apply_size()

    async def pause(self, container_id: str) -> None:
        self.paused.add(container_id)

    async def resume(self, container_id: str) -> None:
        self.paused.discard(container_id)

    async def update(self, container_id: str, resources: dict[str, Any]) -> tuple[str, ...]:
        return ()

    async def stats(self, container_id: str) -> Any:
        await self._enter("stats")
        return agent_pb2.StatsContainerResponse(
            cpu={"usage_usec": 1000, "user_usec": 600, "system_usec": 400},
            memory_usage=4096,
            memory_limit=2**64 - 1,
            memory={"anon": 1024, "file": 2048},
            pids_current=1,
            pids_limit=2**64 - 1,
        )

    async def processes(self, container_id: str) -> tuple[Any, ...]:
        return tuple(
            agent_pb2.ProcessInfo(pid=host.record.guest_pid, exec_id=exec_id)
            for (owner, exec_id), host in self.processes_.items()
            if owner == container_id
        )

    async def subscribe(self) -> AsyncIterator[SandboxEvent]:
        while True:
            yield await self.events.get()

    async def shutdown(self, reason: str) -> None:
        """End everything, as the loss of a machine does."""
        for host in self.processes_.values():
            if host.popen is not None and host.popen.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(host.popen.pid, signal.SIGKILL)
            host.record.finish(ExitStatus.killed(reason))


class NoHost:
    """The host's side without a host: a fixed pid, the bundle's process."""

    def __init__(self) -> None:
        self.prepared: set[str] = set()

    async def prepare(self, request: pb.CreateTaskRequest) -> CreateRequest:
        spec = json.loads((Path(request.bundle) / "config.json").read_text())
        self.prepared.add(request.id)
        return CreateRequest(request.id, request.bundle, spec, pid=os.getpid())

    async def started(self, container_id: str) -> None: ...

    async def ended(self, container_id: str) -> None: ...

    async def release(self, container_id: str) -> None:
        self.prepared.discard(container_id)

    async def update(self, container_id: str, resources: dict[str, Any]) -> None: ...

    async def overhead(self, container_id: str, guest_usage: list[Any]) -> Overhead:
        return Overhead(cpu_usec=500, memory_bytes=1 << 20)


class Recorder:
    """A channel that keeps the events that it is given."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []

    async def send(self, envelope: Envelope) -> None:
        copy = Envelope()
        copy.CopyFrom(envelope)
        self.envelopes.append(copy)

    async def close(self) -> None: ...

    @property
    def topics(self) -> list[str]:
        return [envelope.topic for envelope in self.envelopes]


class Harness:
    """Task service, pod and one client connection."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pod = HostPod()
        self.host = NoHost()
        self.recorder = Recorder()
        self.publisher = EventPublisher("default", [self.recorder])
        self.service = TaskService(self._boot, self.host, self.publisher, "default")
        methods = {name: Method(kind, explained(handler)) for name, (kind, handler) in self.service.methods().items()}
        self.server = TtrpcServer({service: methods for service in SERVICES})
        self.client: TtrpcClient
        self._publishing: asyncio.Task[None]

    async def _boot(self, request: pb.CreateTaskRequest) -> HostPod:
        return self.pod

    async def __aenter__(self) -> Harness:
        self._publishing = asyncio.create_task(self.publisher.run())
        self.client = await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.pod.shutdown("the test is over")
        self._publishing.cancel()
        await self.client.close()
        await self.server.close()

    async def connect(self) -> TtrpcClient:
        """Another connection to the service."""
        return await TtrpcClient.connect(await self.connect_raw())

    async def connect_raw(self) -> socket.socket:
        """A connected socket that speaks nothing yet."""
        ours, theirs = socket.socketpair()
        await self.server.serve(theirs)
        return ours

    async def call(self, method: str, timeout_s: float = 20, service: str = SERVICES[0], **fields: Any) -> Any:
        """Call a method with a request made of `fields`. Raises what the service answers."""
        request_type, _handler = self.service.methods()[method]
        request: Message = request_type(**fields)
        payload = await self.client.call(service, method, request.SerializeToString(), timeout_s)
        response_type = getattr(pb, f"{method}Response", None) or getattr(pb, f"{method}TaskResponse", None)
        return response_type.FromString(payload) if response_type is not None else None

    def bundle(self, container_id: str, *arguments: str, terminal: bool = False) -> Path:
        """A bundle whose process is the given command."""
        path = self.directory / container_id
        path.mkdir()
        process = {"args": list(arguments), "cwd": "/", "user": {"uid": 0, "gid": 0}, "terminal": terminal}
        (path / "config.json").write_text(json.dumps({"ociVersion": "1.0.2", "process": process}))
        return path

    async def create(self, container_id: str, *arguments: str, **fields: Any) -> int:
        """Create a container."""
        terminal = fields.pop("terminal", False)
        bundle = self.bundle(container_id, *arguments, terminal=terminal)
        response = await self.call("Create", id=container_id, bundle=str(bundle), terminal=terminal, **fields)
        return int(response.pid)

    async def run(self, container_id: str, *arguments: str, **fields: Any) -> None:
        """Create and start a container."""
        await self.create(container_id, *arguments, **fields)
        await self.call("Start", id=container_id)

    async def events(self, count: int) -> list[str]:
        """Wait for that many events; return their topics."""
        await until(lambda: len(self.recorder.envelopes) >= count)
        return self.recorder.topics


def process_spec(*arguments: str, terminal: bool = False) -> AnyMessage:
    """The spec of an Exec."""
    document = {"args": list(arguments), "cwd": "/", "user": {"uid": 0, "gid": 0}, "terminal": terminal}
    return AnyMessage(type_url=PROCESS_TYPE, value=json.dumps(document).encode())


async def until(condition: Callable[[], object], deadline_s: float = 20) -> None:
    """Wait until a condition holds."""
    for _ in range(int(deadline_s / 0.01)):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError("the condition does not come true")


def make_fifo(path: Path) -> str:
    """A new fifo; returns its path as text."""
    os.mkfifo(path)
    return str(path)


async def read_fifo(path: Path, size: int = 1 << 20) -> bytes:
    """Open a fifo as a client does and read it to its end."""
    return await asyncio.to_thread(path.read_bytes)


async def _readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(fd, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
