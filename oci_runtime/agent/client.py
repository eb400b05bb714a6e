"""The host's client of the guest agent: one coroutine for each method, with a deadline, and a distrustful reader.

The guest is hostile: every string, number and list of an answer is bounded here, so that the callers need not think of
it. Nothing of an answer may ever become a path of the host.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterable, Mapping
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from oci_runtime.agent.validate import check
from oci_runtime.errors import Unavailable
from oci_runtime.ttrpc.client import TtrpcClient
from oci_runtime.ttrpc.proto import agent_pb2 as pb

SERVICE = "vmpod.agent.v1.Agent"
# Generous, since emulation on a busy machine is slow: a deadline is for a guest that hangs, not for one that works.
SHORT_S = 30.0
LONG_S = 120.0
MAX_READ_BYTES = 1 << 20
MAX_WRITE_BYTES = 1 << 20

_Response = TypeVar("_Response", bound=Message)


class AgentClient:
    """One connection to one guest. Errors are those of errors.py; Unavailable when the guest is lost or silent."""

    def __init__(self, client: TtrpcClient) -> None:
        self._client = client

    @classmethod
    async def connect(cls, sock: socket.socket) -> AgentClient:
        """Speak over a connected stream socket (virtio-serial's chardev, or vsock), which the client then owns."""
        return cls(await TtrpcClient.connect(sock, "the guest's agent"))

    async def close(self) -> None:
        """End the connection; calls that wait fail with Unavailable. Idempotent."""
        await self._client.close()

    async def closed(self) -> None:
        """Return when the connection has ended."""
        await self._client.closed()

    # Life of the guest

    async def hello(self, version: str, random_seed: bytes, timeout_s: float | None = None) -> pb.HelloResponse:
        """Greet: the guest checks `version`, sets its clock and mixes in the seed (32 to 256 bytes).

        The default waits as long as the guest boots; the caller knows the deadline of a boot.
        """
        request = pb.HelloRequest(version=version, time_ns=time.time_ns(), random_seed=random_seed)
        return await self._call("Hello", request, pb.HelloResponse, timeout_s)

    async def setup_sandbox(
        self,
        sandbox_id: str,
        *,
        hostname: str = "",
        domainname: str = "",
        sysctls: Mapping[str, str] | None = None,
        kernel_modules: Iterable[str] = (),
        storages: Iterable[pb.Storage] = (),
    ) -> None:
        """Prepare the guest for its pod, once."""
        request = pb.SetupSandboxRequest(
            sandbox_id=sandbox_id,
            hostname=hostname,
            domainname=domainname,
            sysctls=dict(sysctls or {}),
            kernel_modules=kernel_modules,
            storages=storages,
        )
        await self._call("SetupSandbox", request, pb.Empty, LONG_S)

    async def set_clock(self, time_ns: int) -> None:
        """Set the guest's clock, nanoseconds since the epoch."""
        await self._call("SetClock", pb.SetClockRequest(time_ns=time_ns), pb.Empty)

    async def reseed(self, data: bytes) -> None:
        """Mix bytes into the guest's random pool."""
        await self._call("Reseed", pb.ReseedRequest(data=data), pb.Empty)

    async def guest_details(self) -> pb.GuestDetailsResponse:
        """Kernel, memory, CPUs, versions, packages of the guest."""
        return await self._call("GuestDetails", pb.Empty(), pb.GuestDetailsResponse)

    async def diagnostics(self, timeout_s: float = 10.0) -> str:
        """A text about the guest's state, for the error of a failure."""
        return (await self._call("Diagnostics", pb.Empty(), pb.DiagnosticsResponse, timeout_s)).text

    async def next_event(self, after: int, timeout_ms: int = 0) -> pb.Event | None:
        """Wait for the first event with a sequence number above `after`; None after `timeout_ms` (0: an hour)."""
        request = pb.NextEventRequest(after=after, timeout_ms=timeout_ms)
        event = await self._call("NextEvent", request, pb.Event, None)
        return event if event.kind else None

    async def shutdown(self, timeout_s: float = 10.0) -> None:
        """Kill all processes, write back, turn the machine off."""
        await self._call("Shutdown", pb.Empty(), pb.Empty, timeout_s)

    # Storage

    async def add_storage(
        self,
        driver: str,
        source: str,
        target: str,
        fstype: str = "",
        options: Iterable[str] = (),
        *,
        fs_group: int = 0,
        fs_group_on_mismatch: bool = False,
    ) -> None:
        """Mount in the guest; waits for a device that is being plugged. fs_group: see agent.proto."""
        request = pb.Storage(
            driver=driver,
            source=source,
            target=target,
            fstype=fstype,
            options=options,
            fs_group=fs_group,
            fs_group_on_mismatch=fs_group_on_mismatch,
        )
        await self._call("AddStorage", request, pb.Empty, LONG_S)

    async def sync_tree(self, target: str, entries: Iterable[pb.TreeEntry]) -> None:
        """Make a storage's content the given tree, in the order in which the kubelet does it."""
        await self._call("SyncTree", pb.SyncTreeRequest(target=target, entries=entries), pb.Empty, LONG_S)

    async def remove_storage(self, target: str) -> None:
        """Unmount in the guest."""
        await self._call("RemoveStorage", pb.RemoveStorageRequest(target=target), pb.Empty)

    async def get_volume_stats(self, target: str) -> pb.VolumeStats:
        """Space and inodes of a storage that is mounted."""
        return await self._call("GetVolumeStats", pb.VolumeRequest(target=target), pb.VolumeStats)

    async def resize_volume(self, target: str, disk_bytes: int) -> pb.VolumeStats:
        """Grow a disk's file system, once the disk has that size."""
        request = pb.VolumeRequest(target=target, disk_bytes=disk_bytes)
        return await self._call("ResizeVolume", request, pb.VolumeStats, LONG_S)

    # Containers and processes

    async def create_container(
        self,
        container_id: str,
        spec_json: bytes,
        *,
        stdin: bool,
        pid_namespace_of: str = "",
        in_pod_ipc: bool = False,
        in_pod_uts: bool = False,
        disks: Iterable[pb.Disk] = (),
    ) -> pb.ProcessResponse:
        """Create a container up to its first instruction; the answer has its pid in the guest, and warnings.

        disks: where those are plugged that the spec names by the host's numbers.
        """
        request = pb.CreateContainerRequest(
            container_id=container_id,
            spec_json=spec_json,
            stdin=stdin,
            pid_namespace_of=pid_namespace_of,
            in_pod_ipc=in_pod_ipc,
            in_pod_uts=in_pod_uts,
            disks=disks,
        )
        return await self._call("CreateContainer", request, pb.ProcessResponse, LONG_S)

    async def start_container(self, container_id: str) -> None:
        """Let a created container's process run."""
        await self._call("StartContainer", pb.ContainerRequest(container_id=container_id), pb.Empty, LONG_S)

    async def wait_executed(self, container_id: str) -> None:
        """Wait until a started container's first process has become its program, or has ended."""
        await self._call("WaitExecuted", pb.ContainerRequest(container_id=container_id), pb.Empty, LONG_S)

    async def exec_process(
        self, container_id: str, exec_id: str, process_json: bytes, *, stdin: bool
    ) -> pb.ProcessResponse:
        """Start a further process in a container."""
        request = pb.ExecProcessRequest(
            container_id=container_id, exec_id=exec_id, process_json=process_json, stdin=stdin
        )
        return await self._call("ExecProcess", request, pb.ProcessResponse, LONG_S)

    async def signal_process(
        self, container_id: str, exec_id: str, signal: int, *, all: bool = False, timeout_s: float = SHORT_S
    ) -> None:
        """Send a signal; `all`: to every process of the container, also after its first one has ended."""
        request = pb.SignalProcessRequest(container_id=container_id, exec_id=exec_id, signal=signal, all=all)
        await self._call("SignalProcess", request, pb.Empty, timeout_s)

    async def wait_process(self, container_id: str, exec_id: str) -> pb.WaitProcessResponse:
        """Wait for the end of a process, as long as it takes."""
        request = pb.ProcessRequest(container_id=container_id, exec_id=exec_id)
        return await self._call("WaitProcess", request, pb.WaitProcessResponse, None)

    async def remove_process(self, container_id: str, exec_id: str) -> None:
        """Forget an exec that has ended."""
        request = pb.ProcessRequest(container_id=container_id, exec_id=exec_id)
        await self._call("RemoveProcess", request, pb.Empty)

    async def remove_container(self, container_id: str) -> None:
        """Kill what is left of a container and forget it."""
        await self._call("RemoveContainer", pb.ContainerRequest(container_id=container_id), pb.Empty, LONG_S)

    async def list_processes(self, container_id: str) -> tuple[pb.ProcessInfo, ...]:
        """The processes of a container, those of its execs and their children included."""
        request = pb.ContainerRequest(container_id=container_id)
        return tuple((await self._call("ListProcesses", request, pb.ListProcessesResponse)).processes)

    async def pause_container(self, container_id: str) -> None:
        """Freeze a container."""
        await self._call("PauseContainer", pb.ContainerRequest(container_id=container_id), pb.Empty)

    async def resume_container(self, container_id: str) -> None:
        """Thaw it."""
        await self._call("ResumeContainer", pb.ContainerRequest(container_id=container_id), pb.Empty)

    async def update_container(self, container_id: str, resources_json: bytes) -> tuple[str, ...]:
        """Apply OCI linux.resources; returns warnings about what the guest cannot do."""
        request = pb.UpdateContainerRequest(container_id=container_id, resources_json=resources_json)
        return tuple((await self._call("UpdateContainer", request, pb.UpdateContainerResponse)).warnings)

    async def stats_container(self, container_id: str) -> pb.StatsContainerResponse:
        """The figures of a container's cgroup."""
        request = pb.ContainerRequest(container_id=container_id)
        return await self._call("StatsContainer", request, pb.StatsContainerResponse)

    # Standard streams

    async def write_stdin(self, container_id: str, exec_id: str, data: bytes) -> int:
        """Write to a process; waits while it does not read. Less than all of `data`: nobody will read the rest."""
        data = data[:MAX_WRITE_BYTES]
        request = pb.WriteStdinRequest(container_id=container_id, exec_id=exec_id, data=data)
        written = (await self._call("WriteStdin", request, pb.WriteStdinResponse, None)).written
        if written > len(data):
            raise Unavailable(f"the guest's agent claims {written} bytes of {len(data)} written")
        return written

    async def close_stdin(self, container_id: str, exec_id: str) -> None:
        """End a process's standard input after what was written; does not wait for the process to read it."""
        request = pb.ProcessRequest(container_id=container_id, exec_id=exec_id)
        await self._call("CloseStdin", request, pb.Empty)

    async def read_output(
        self, container_id: str, exec_id: str, *, stderr: bool, max_bytes: int = MAX_READ_BYTES
    ) -> tuple[bytes, bool]:
        """Wait for output: at least one byte, or (b"", True) at the end. A cancelled read loses what it would bring."""
        request = pb.ReadOutputRequest(
            container_id=container_id, exec_id=exec_id, stderr=stderr, max_bytes=min(max_bytes, MAX_READ_BYTES)
        )
        response = await self._call("ReadOutput", request, pb.ReadOutputResponse, None)
        if len(response.data) > request.max_bytes or (not response.data and not response.eof):
            raise Unavailable(f"the guest's agent sent {len(response.data)} bytes for a read of {request.max_bytes}")
        return response.data, response.eof

    async def close_output(self, container_id: str, exec_id: str, *, stderr: bool) -> None:
        """Tell the process that nobody reads this output any more: it gets EPIPE. A terminal stays open."""
        request = pb.ReadOutputRequest(container_id=container_id, exec_id=exec_id, stderr=stderr)
        await self._call("CloseOutput", request, pb.Empty)

    async def resize_tty(self, container_id: str, exec_id: str, rows: int, columns: int) -> None:
        """Set the size of a process's terminal, in characters."""
        request = pb.ResizeTtyRequest(container_id=container_id, exec_id=exec_id, rows=rows, columns=columns)
        await self._call("ResizeTty", request, pb.Empty)

    # Network

    async def update_network(self, request: pb.UpdateNetworkRequest) -> None:
        """Bring the guest's interfaces, routes, rules and neighbours to what the request says."""
        await self._call("UpdateNetwork", request, pb.Empty, LONG_S)

    async def list_network(self) -> pb.ListNetworkResponse:
        """The guest's interfaces, routes, rules and neighbours."""
        return await self._call("ListNetwork", pb.Empty(), pb.ListNetworkResponse)

    async def get_firewall(self, *, ipv6: bool) -> bytes:
        """The guest's rules as iptables-save writes them."""
        return (await self._call("GetFirewall", pb.FirewallRequest(ipv6=ipv6), pb.FirewallResponse)).rules

    async def set_firewall(self, rules: bytes, *, ipv6: bool) -> None:
        """Replace the guest's rules."""
        await self._call("SetFirewall", pb.SetFirewallRequest(ipv6=ipv6, rules=rules), pb.Empty)

    async def dial(self, address: str, port: int, timeout_ms: int = 10_000) -> int:
        """Connect to a TCP port as seen in the guest; return the connection's number."""
        request = pb.DialRequest(address=address, port=port, timeout_ms=timeout_ms)
        return (await self._call("Dial", request, pb.DialResponse, SHORT_S + timeout_ms / 1000)).connection

    async def conn_read(self, connection: int, max_bytes: int = MAX_READ_BYTES) -> tuple[bytes, bool]:
        """The same as read_output, for a dialled connection."""
        request = pb.ConnReadRequest(connection=connection, max_bytes=min(max_bytes, MAX_READ_BYTES))
        response = await self._call("ConnRead", request, pb.ReadOutputResponse, None)
        if len(response.data) > request.max_bytes or (not response.data and not response.eof):
            raise Unavailable(f"the guest's agent sent {len(response.data)} bytes for a read of {request.max_bytes}")
        return response.data, response.eof

    async def conn_write(self, connection: int, data: bytes, *, eof: bool = False) -> int:
        """Write to a dialled connection, and half-close it after `data` when `eof`."""
        request = pb.ConnWriteRequest(connection=connection, data=data[:MAX_WRITE_BYTES], eof=eof)
        written = (await self._call("ConnWrite", request, pb.WriteStdinResponse, None)).written
        if written > len(request.data):
            raise Unavailable(f"the guest's agent claims {written} bytes of {len(request.data)} written")
        return written

    async def conn_close(self, connection: int) -> None:
        """Close a dialled connection."""
        await self._call("ConnClose", pb.ConnCloseRequest(connection=connection), pb.Empty)

    async def serve_resolver(self, address: str, port: int) -> None:
        """Take the guest's name queries at an address of its loopback network."""
        await self._call("ServeResolver", pb.ServeResolverRequest(address=address, port=port), pb.Empty)

    async def next_query(self) -> pb.Query:
        """Wait for a name query of the guest."""
        return await self._call("NextQuery", pb.Empty(), pb.Query, None)

    async def answer_query(self, number: int, data: bytes) -> None:
        """Bring the answer of a query."""
        await self._call("AnswerQuery", pb.Query(id=number, data=data), pb.Empty)

    async def _call(
        self, method: str, request: Message, response: type[_Response], timeout_s: float | None = SHORT_S
    ) -> _Response:
        payload = await self._client.call(SERVICE, method, request.SerializeToString(), timeout_s)
        try:
            message = response.FromString(payload)
        except DecodeError:
            raise Unavailable(f"{method}: the guest's agent sent a malformed answer") from None
        check(method, message)
        return message
