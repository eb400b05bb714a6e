"""What the task service needs: of a pod, the part of `sandbox.sandbox.Sandbox` that it calls, and of the host.

Protocols, so that the service can be tested on a pod of plain host processes.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from oci_runtime.sandbox.events import SandboxEvent
    from oci_runtime.sandbox.process import ExitStatus, Process
    from oci_runtime.sandbox.request import CreateRequest
    from oci_runtime.shim.metrics import Overhead
    from oci_runtime.shim.proto.task_pb2 import CreateTaskRequest


class Pod(Protocol):
    """See `Sandbox` for what each method does, and which errors it raises."""

    @property
    def owner_id(self) -> str: ...

    @property
    def containers(self) -> Mapping[str, Any]: ...

    async def create_container(self, request: CreateRequest) -> tuple[str, ...]: ...

    async def start(self, container_id: str) -> None: ...

    async def delete(self, container_id: str, *, force: bool = False) -> ExitStatus: ...

    async def exec(self, container_id: str, exec_id: str, process: dict[str, Any], *, stdin: bool) -> int: ...

    async def kill(self, container_id: str, exec_id: str, signal: int, *, all_processes: bool = False) -> None: ...

    async def wait(self, container_id: str, exec_id: str = "") -> ExitStatus: ...

    async def wait_for_process(self, container_id: str, exec_id: str) -> Process: ...

    async def delete_exec(self, container_id: str, exec_id: str) -> ExitStatus: ...

    async def read_output(self, process: Process, *, stderr: bool, max_bytes: int) -> tuple[bytes, bool]: ...

    async def write_stdin(self, process: Process, data: bytes) -> None: ...

    async def close_stdin(self, process: Process) -> None: ...

    async def resize(self, process: Process, rows: int, columns: int) -> None: ...

    async def pause(self, container_id: str) -> None: ...

    async def resume(self, container_id: str) -> None: ...

    async def update(self, container_id: str, resources: dict[str, Any]) -> tuple[str, ...]: ...

    async def stats(self, container_id: str) -> Any: ...

    async def processes(self, container_id: str) -> tuple[Any, ...]: ...

    def subscribe(self) -> AsyncIterator[SandboxEvent]: ...

    async def shutdown(self, reason: str) -> None: ...


class HostSide(Protocol):
    """What a container needs on the host: its root file system, its stand-in process, its namespaces, its hooks."""

    async def prepare(self, request: CreateTaskRequest) -> CreateRequest:
        """Make all of it; its `pid` is the stand-in. After a failure nothing of it is left."""
        ...

    async def started(self, container_id: str) -> None:
        """The container runs."""
        ...

    async def ended(self, container_id: str) -> None:
        """Its first process has ended: so does its stand-in."""
        ...

    async def release(self, container_id: str) -> None:
        """Undo `prepare`; continues after failures. Idempotent."""
        ...

    async def update(self, container_id: str, resources: dict[str, Any]) -> None:
        """The container's limits have changed."""
        ...

    async def overhead(self, container_id: str, guest_usage: list[Any]) -> Overhead:
        """What the pod costs on the host beyond the figures of its containers, for the container that stands for it."""
        ...
