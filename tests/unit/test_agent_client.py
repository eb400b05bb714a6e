"""The host's client against a guest that lies."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from google.protobuf.message import Message

from oci_runtime.agent.client import SERVICE, AgentClient
from oci_runtime.agent.validate import check
from oci_runtime.errors import Unavailable
from oci_runtime.shim.metrics import Overhead, pack_metrics
from oci_runtime.ttrpc.proto import agent_pb2 as pb
from oci_runtime.ttrpc.server import Method, TtrpcServer


@contextlib.asynccontextmanager
async def guest_that_answers(method: str, request: type[Message], answer: Message) -> AsyncIterator[AgentClient]:
    async def handler(_: Any) -> Message:
        return answer

    ours, theirs = socket.socketpair()
    server = TtrpcServer({SERVICE: {method: Method(request, handler)}})
    await server.serve(theirs)
    client = await AgentClient.connect(ours)
    try:
        yield client
    finally:
        await client.close()
        await server.close()


Call = Callable[[AgentClient], Awaitable[Any]]
READ: Call = lambda agent: agent.read_output("c", "", stderr=False, max_bytes=10)  # noqa: E731


@pytest.mark.parametrize(
    ("method", "request_type", "answer", "call", "reason"),
    [
        ("ReadOutput", pb.ReadOutputRequest, pb.ReadOutputResponse(data=b"x" * 11), READ, "11 bytes for a read of 10"),
        ("ReadOutput", pb.ReadOutputRequest, pb.ReadOutputResponse(), READ, "0 bytes for a read of 10"),
        (
            "WriteStdin",
            pb.WriteStdinRequest,
            pb.WriteStdinResponse(written=4),
            lambda agent: agent.write_stdin("c", "", b"abc"),
            "claims 4 bytes of 3",
        ),
        (
            "WaitProcess",
            pb.ProcessRequest,
            pb.WaitProcessResponse(exit_code=256),
            lambda agent: agent.wait_process("c", ""),
            "256 in exit_code",
        ),
        (
            "CreateContainer",
            pb.CreateContainerRequest,
            pb.ProcessResponse(pid=1 << 23),
            lambda agent: agent.create_container("c", b"{}", stdin=False),
            "8388608 in pid",
        ),
        (
            "CreateContainer",
            pb.CreateContainerRequest,
            pb.ProcessResponse(warnings=["w"] * 5000),
            lambda agent: agent.create_container("c", b"{}", stdin=False),
            "5000 entries in warnings",
        ),
        (
            "CreateContainer",
            pb.CreateContainerRequest,
            pb.ProcessResponse(warnings=["\x1b[2J"]),
            lambda agent: agent.create_container("c", b"{}", stdin=False),
            "control characters in warnings",
        ),
        (
            "ListProcesses",
            pb.ContainerRequest,
            pb.ListProcessesResponse(processes=[pb.ProcessInfo(command="x" * 100_000)]),
            lambda agent: agent.list_processes("c"),
            "100000 characters in command",
        ),
        (
            "StatsContainer",
            pb.ContainerRequest,
            pb.StatsContainerResponse(cpu={"a\nb": 1}),
            lambda agent: agent.stats_container("c"),
            "control characters in cpu",
        ),
        (
            "NextEvent",
            pb.NextEventRequest,
            pb.Event(kind="oom", container_id="x" * 5000),
            lambda agent: agent.next_event(0),
            "5000 characters in container_id",
        ),
        (
            "ListNetwork",
            pb.Empty,
            pb.ListNetworkResponse(interfaces=[pb.Interface(addresses=[pb.IpAddress(address="x" * 9999)])]),
            lambda agent: agent.list_network(),
            "9999 characters in address",
        ),
        (
            "StatsContainer",
            pb.ContainerRequest,
            pb.StatsContainerResponse(cpu={"usage_usec": 1 << 60}),
            lambda agent: agent.stats_container("c"),
            "an absurd figure in cpu",
        ),
        (
            "StatsContainer",
            pb.ContainerRequest,
            pb.StatsContainerResponse(memory_usage=(1 << 64) - 1),
            lambda agent: agent.stats_container("c"),
            "18446744073709551615 in memory_usage",
        ),
    ],
)
async def test_answers_that_cannot_be_are_unavailable(
    method: str, request_type: type[Message], answer: Message, call: Call, reason: str
) -> None:
    async with guest_that_answers(method, request_type, answer) as agent:
        with pytest.raises(Unavailable, match=f"{reason}|^the guest's agent .*{reason}"):
            await call(agent)


def test_the_largest_figures_that_pass_fit_into_every_form() -> None:
    most, unlimited = 1 << 62, (1 << 64) - 1
    figures = dict.fromkeys(("usage_usec", "user_usec", "throttled_usec", "anon", "file", "max"), 1 << 53)
    stats = pb.StatsContainerResponse(
        cpu=figures, memory=figures, memory_events=figures, memory_usage=most, memory_peak=most, swap_usage=most,
        memory_limit=unlimited, swap_limit=unlimited, pids_limit=unlimited, pids_current=most,
        hugetlb=[pb.HugetlbStat(usage=most, max=unlimited, failcnt=most)],
    )  # fmt: skip
    check("StatsContainer", stats)
    for unified in (False, True):
        assert pack_metrics(stats, Overhead(cpu_usec=1 << 44, memory_bytes=1 << 44), unified=unified).value


async def test_text_that_is_none_is_unavailable() -> None:
    async with guest_that_answers("Diagnostics", pb.Empty, pb.FirewallResponse(rules=b"\xff\xfe")) as agent:
        with pytest.raises(Unavailable, match="Diagnostics: the guest's agent sent a malformed answer"):
            await agent.diagnostics()


async def test_good_answers_pass() -> None:
    async with guest_that_answers("WaitProcess", pb.ProcessRequest, pb.WaitProcessResponse(exit_code=255)) as agent:
        assert (await agent.wait_process("c", "")).exit_code == 255
    async with guest_that_answers("NextEvent", pb.NextEventRequest, pb.Event()) as agent:
        assert await agent.next_event(0) is None
    text = "line\n" * 1000
    async with guest_that_answers("Diagnostics", pb.Empty, pb.DiagnosticsResponse(text=text)) as agent:
        assert await agent.diagnostics() == text


async def test_a_silent_guest_is_unavailable_after_the_deadline() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        agent = await AgentClient.connect(ours)
        with pytest.raises(Unavailable, match=r"Diagnostics: no answer from the guest's agent within 0\.05 s"):
            await agent.diagnostics(timeout_s=0.05)
        waiting = asyncio.create_task(agent.wait_process("c", ""))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await agent.close()
        with pytest.raises(Unavailable):
            await waiting
