"""The agent's end of the channel: greeting, broken frames, a host that leaves, one that comes anew."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from oci_runtime import __version__
from oci_runtime.agent.client import SERVICE, AgentClient
from oci_runtime.errors import InvalidInput, OciRuntimeError, Unavailable, Unsupported, WrongState
from oci_runtime.ttrpc import frames
from oci_runtime.ttrpc.client import TtrpcClient
from oci_runtime.ttrpc.frames import HEADER, REQUEST, RESPONSE, encode_frame
from oci_runtime.ttrpc.proto import agent_pb2 as pb
from oci_runtime.ttrpc.proto import ttrpc_pb2
from tests.agent_lab import spec
from tests.host.agent_host import agent_socket, make_rootfs

pytestmark = pytest.mark.root

Started = tuple[socket.socket, int, Path]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Started]:
    with agent_socket(make_rootfs(tmp_path / "rootfs")) as started:
        yield started


def request(method: str, payload: bytes = b"", service: str = SERVICE) -> bytes:
    return ttrpc_pb2.Request(service=service, method=method, payload=payload).SerializeToString()


def hello() -> bytes:
    return request("Hello", pb.HelloRequest(version=__version__).SerializeToString())


def receive(sock: socket.socket, count: int) -> dict[int, ttrpc_pb2.Response]:
    """The next answers, by stream."""
    sock.settimeout(30)
    parser = frames.FrameParser()
    found: dict[int, ttrpc_pb2.Response] = {}
    while len(found) < count:
        data = sock.recv(65536)
        assert data, "the agent has ended the connection"
        found |= {frame.stream_id: ttrpc_pb2.Response.FromString(frame.data) for frame in parser.feed(data)}
    return found


async def test_the_greeting_checks_the_version_and_comes_first(started: Started) -> None:
    agent = await AgentClient.connect(started[0])
    with pytest.raises(WrongState, match="GuestDetails before Hello"):
        await agent.guest_details()
    with pytest.raises(WrongState, match=r"version .*, the host is '9\.9': rebuild the guest image"):
        await agent.hello("9.9", os.urandom(64))
    with pytest.raises(WrongState, match="before Hello"):
        await agent.guest_details()
    with pytest.raises(InvalidInput, match="random seed of 257 bytes"):
        await agent.hello(__version__, bytes(257))
    answer = await agent.hello(__version__, os.urandom(64))
    assert answer.version == __version__
    assert [phase.name for phase in answer.phases][-4:] == ["agent", "imported", "channel", "hello"]
    times = [phase.monotonic_ns for phase in answer.phases]
    assert times == sorted(times)
    await agent.close()


async def test_unknown_methods_and_services_and_broken_requests_get_a_code(started: Started) -> None:
    client = await TtrpcClient.connect(started[0], "the agent")
    await client.call(SERVICE, "Hello", pb.HelloRequest(version=__version__).SerializeToString(), 30)
    with pytest.raises(Unsupported, match="no method 'Format'"):
        await client.call(SERVICE, "Format", b"", 30)
    with pytest.raises(Unsupported, match=r"unknown service 'grpc\.Health'"):
        await client.call("grpc.Health", "Check", b"", 30)
    with pytest.raises(InvalidInput, match="request of StartContainer"):
        await client.call(SERVICE, "StartContainer", b"\xff", 30)
    assert await client.call(SERVICE, "GuestDetails", b"", 30)
    await client.close()


def test_broken_frames_harm_only_themselves(started: Started) -> None:
    sock = started[0]
    length = frames.MAX_DATA_BYTES + 5
    sock.sendall(encode_frame(1, REQUEST, hello()))
    sock.sendall(HEADER.pack(length, 3, REQUEST, 0))
    for _ in range(length // 65536):
        sock.sendall(bytes(65536))
    sock.sendall(bytes(length % 65536))
    sock.sendall(encode_frame(5, REQUEST, b"\xff\xff\xff"))
    sock.sendall(encode_frame(7, REQUEST, b"", flags=frames.FLAG_REMOTE_OPEN))
    sock.sendall(encode_frame(9, RESPONSE, b"") + encode_frame(9, frames.DATA, b"x"))
    sock.sendall(encode_frame(11, REQUEST, request("GuestDetails")))
    codes = {stream: response.status.code for stream, response in receive(sock, 5).items()}
    assert codes == {1: 0, 3: 8, 5: 3, 7: 12, 11: 0}


def test_garbage_ends_the_connection(started: Started) -> None:
    sock = started[0]
    sock.sendall(encode_frame(1, REQUEST, hello()))
    receive(sock, 1)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: guest\r\n\r\n")
    sock.settimeout(30)
    with pytest.raises((ConnectionResetError, AssertionError), match="reset|ended"):
        receive(sock, 1)


def test_a_flood_of_calls_is_bounded_and_answered(started: Started) -> None:
    sock = started[0]
    sock.sendall(encode_frame(1, REQUEST, hello()))
    receive(sock, 1)
    wait = request("NextEvent", pb.NextEventRequest(after=1 << 40, timeout_ms=3_600_000).SerializeToString())
    for number in range(20):
        sock.sendall(encode_frame(3 + 2 * number, REQUEST, wait))
    assert {response.status.code for response in receive(sock, 12).values()} == {8}
    sock.sendall(encode_frame(1001, REQUEST, request("GuestDetails")))
    assert receive(sock, 1)[1001].status.code == 0


async def test_a_new_host_on_the_same_channel_finds_nothing_of_the_old_one(started: Started, tmp_path: Path) -> None:
    """A restored machine: the channel goes on, its other end is another process that counts from 1."""
    sock = started[0]
    first = await AgentClient.connect(sock.dup())
    await first.hello(__version__, os.urandom(64))
    document = json.dumps(spec("/bin/busybox", "sh", "-c", "read line; echo $line")).encode()
    await first.create_container("c", document, stdin=True)
    await first.start_container("c")
    waits = [
        asyncio.create_task(first.read_output("c", "", stderr=False)),
        asyncio.create_task(first.next_event(0)),
        asyncio.create_task(first.wait_process("c", "")),
    ]
    await asyncio.sleep(0.2)
    first._client._transport.pause_reading()  # type: ignore[union-attr]
    second = await AgentClient.connect(sock.dup())
    await second.hello(__version__, os.urandom(64))
    await second.write_stdin("c", "", b"kept\n")
    assert await second.read_output("c", "", stderr=False) == (b"kept\n", False)
    assert (await second.wait_process("c", "")).exit_code == 0
    await second.remove_container("c")
    for wait in waits:
        wait.cancel()
    await asyncio.gather(*waits, return_exceptions=True)
    await first.close()
    await second.close()


async def test_a_lost_agent_fails_every_call(started: Started) -> None:
    agent = await AgentClient.connect(started[0].dup())
    await agent.hello(__version__, os.urandom(64))
    waiting = asyncio.create_task(agent.next_event(0))
    await asyncio.sleep(0.05)
    started[0].shutdown(socket.SHUT_RDWR)
    with pytest.raises(Unavailable, match="NextEvent: lost the connection to the guest's agent"):
        await waiting
    await agent.closed()
    with pytest.raises(Unavailable):
        await agent.guest_details()


async def test_shutdown_kills_containers_and_answers(started: Started) -> None:
    agent = await AgentClient.connect(started[0])
    await agent.hello(__version__, os.urandom(64))
    await agent.create_container("c", json.dumps(spec("/bin/busybox", "sleep", "1000")).encode(), stdin=False)
    wait = asyncio.create_task(agent.wait_process("c", ""))
    await agent.shutdown()
    assert (await wait).exit_code == 137
    await agent.close()


async def test_the_clock_refuses_nonsense(started: Started) -> None:
    agent = await AgentClient.connect(started[0])
    await agent.hello(__version__, os.urandom(64))
    with pytest.raises(OciRuntimeError, match="before 1970"):
        await agent.set_clock(-1)
    await agent.close()
