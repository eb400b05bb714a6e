"""Connections to localhost of the pod's namespace reach localhost of the guest.

The guest is the real agent, without a machine: a process in a network namespace of its own, at the end of a socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from oci_runtime.agent.client import AgentClient
from oci_runtime.errors import OciRuntimeError
from oci_runtime.network.pod import PodNamespace
from oci_runtime.network.relay import LocalhostRelay
from oci_runtime.sandbox.network import Dialer
from tests.network_agent import running_agent
from tests.network_lab import Netns

pytestmark = pytest.mark.root

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
PORT = 8080
DEADLINE_S = 60


@contextmanager
def serving(netns: Netns, address: str, serve: Callable[[socket.socket], None], port: int = PORT) -> Iterator[None]:
    """A server in the namespace that treats each connection in a thread."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = netns.call(socket.socket, family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen(512)

    def treat(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            serve(client)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=treat, args=(listener.accept()[0],), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def echo(client: socket.socket) -> None:
    while data := client.recv(1 << 16):
        client.sendall(data)


def digest(client: socket.socket) -> None:
    """Read to the end, then answer: only a half-closed connection can carry that."""
    found = hashlib.sha256()
    while data := client.recv(1 << 16):
        found.update(data)
    client.sendall(found.hexdigest().encode())


@dataclass
class Relayed:
    """A pod whose localhost is relayed to a guest."""

    pod: Netns
    guest: Netns
    relay: LocalhostRelay
    agent: AgentClient
    process: subprocess.Popen[bytes]

    async def until(self, connections: int) -> None:
        """Wait until so many connections are open."""
        while self.relay.active != connections:  # noqa: ASYNC110 - the relay tells nobody
            await asyncio.sleep(0.01)

    async def connect(self, address: str = "127.0.0.1", port: int = PORT) -> Streams:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        client = self.pod.call(socket.socket, family, socket.SOCK_STREAM)
        client.setblocking(False)
        await asyncio.get_running_loop().sock_connect(client, (address, port))
        return await asyncio.open_connection(sock=client)

    async def ask(self, data: bytes, address: str = "127.0.0.1", port: int = PORT) -> bytes:
        """Send, half-close, read to the end."""
        reader, writer = await self.connect(address, port)
        writer.write(data)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        return answer


@pytest.fixture
async def relayed() -> AsyncIterator[Relayed]:
    with Netns() as pod_netns, Netns() as guest:
        for netns in (pod_netns, guest):
            netns.run("ip link set lo up")
        pod_netns.run("ip addr add 10.0.0.2/32 dev lo")
        async with running_agent(guest) as (agent, process), asyncio.timeout(DEADLINE_S):

            async def connected() -> AgentClient:
                return agent

            pod = await PodNamespace.open(os.dup(pod_netns.fd), "pod")
            relay = LocalhostRelay(await pod.listen_on_localhost(), Dialer(connected))
            try:
                yield Relayed(pod_netns, guest, relay, agent, process)
            finally:
                await relay.close()
                await pod.close()
            assert pod_netns.run("nft list ruleset") == ""


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_a_server_on_the_guests_localhost(relayed: Relayed, address: str) -> None:
    with serving(relayed.guest, address, echo):
        assert await relayed.ask(b"hello", address) == b"hello"


async def test_the_pods_own_address_from_within(relayed: Relayed) -> None:
    relayed.guest.run("ip addr add 10.0.0.2/32 dev lo")
    with serving(relayed.guest, "10.0.0.2", echo):
        assert await relayed.ask(b"hello", "10.0.0.2") == b"hello"


async def test_half_close_and_much_data(relayed: Relayed) -> None:
    data = os.urandom(1 << 20) * 8
    with serving(relayed.guest, "127.0.0.1", digest):
        assert await relayed.ask(data) == hashlib.sha256(data).hexdigest().encode()


async def test_much_data_the_other_way(relayed: Relayed) -> None:
    data = os.urandom(1 << 20) * 8
    with serving(relayed.guest, "127.0.0.1", lambda client: client.sendall(data)):
        assert await relayed.ask(b"") == data


async def test_two_hundred_connections_at_once(relayed: Relayed) -> None:
    with serving(relayed.guest, "127.0.0.1", echo):
        streams = [await relayed.connect() for _ in range(200)]
        pieces = [f"{number} ".encode() * 5000 for number in range(200)]
        for (_, writer), piece in zip(streams, pieces, strict=True):
            writer.write(piece)
            writer.write_eof()
        answers = await asyncio.gather(*(reader.read() for reader, _ in streams))
        assert list(answers) == pieces
        for _, writer in streams:
            writer.close()
            await writer.wait_closed()
    await relayed.until(0)


async def test_a_slow_server_slows_its_client_down(relayed: Relayed) -> None:
    go_on = threading.Event()

    def slow(client: socket.socket) -> None:
        go_on.wait(DEADLINE_S)
        digest(client)

    total = 64 << 20
    with serving(relayed.guest, "127.0.0.1", slow):
        reader, writer = await relayed.connect()
        client = writer.get_extra_info("socket")
        sent = 0
        block = bytes(1 << 16)
        quiet = 0
        while quiet < 20:  # until nothing has been taken for a while
            try:
                sent += os.write(client.fileno(), block)
                quiet = 0
            except BlockingIOError:
                quiet += 1
                await asyncio.sleep(0.05)
            assert sent < total, "the relay takes everything"
        go_on.set()
        writer.write_eof()
        assert await reader.read() == hashlib.sha256(bytes(sent)).hexdigest().encode()
        writer.close()


async def test_a_slow_client_slows_the_server_down(relayed: Relayed) -> None:
    taken = 0
    total = 64 << 20

    def flood(client: socket.socket) -> None:
        nonlocal taken
        block = bytes(1 << 16)
        while taken < total:
            client.sendall(block)
            taken += len(block)

    with serving(relayed.guest, "127.0.0.1", flood):
        client = relayed.pod.call(socket.create_connection, ("127.0.0.1", PORT))
        before = -1
        while not taken or taken != before:
            before = taken
            await asyncio.sleep(1)
        assert 0 < taken < total
        found = 0
        client.setblocking(False)
        while data := await asyncio.get_running_loop().sock_recv(client, 1 << 20):
            found += len(data)
        assert found == total
        client.close()


async def test_nobody_listens_there(relayed: Relayed) -> None:
    with pytest.raises(ConnectionResetError):
        await relayed.ask(b"", port=9)


async def test_a_server_that_resets(relayed: Relayed) -> None:
    def reset(client: socket.socket) -> None:
        client.recv(1)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with serving(relayed.guest, "127.0.0.1", reset), pytest.raises(ConnectionResetError):
        await relayed.ask(b"x")


async def test_a_client_that_resets_is_forgotten_on_both_sides(relayed: Relayed) -> None:
    ended = threading.Event()

    def watch(client: socket.socket) -> None:
        try:
            while client.recv(1 << 16):
                pass
        finally:
            ended.set()

    with serving(relayed.guest, "127.0.0.1", watch):
        _, writer = await relayed.connect()
        writer.write(b"x")
        await writer.drain()
        await relayed.until(1)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()
        assert await asyncio.to_thread(ended.wait, DEADLINE_S)
        await relayed.until(0)


async def test_dockers_resolver_is_left_alone(relayed: Relayed) -> None:
    with serving(relayed.pod, "127.0.0.11", lambda client: client.sendall(b"namespace"), 53):
        assert await relayed.ask(b"", "127.0.0.11", 53) == b"namespace"


async def test_other_tables_of_the_namespace_are_left_alone(relayed: Relayed) -> None:
    relayed.pod.run("nft add table inet mine")
    await relayed.relay.close()
    with pytest.raises((ConnectionRefusedError, ConnectionResetError)):
        await relayed.ask(b"")
    relayed.pod.run("nft delete table inet mine")


async def test_a_lost_guest_cuts_the_connections(relayed: Relayed) -> None:
    with serving(relayed.guest, "127.0.0.1", echo):
        reader, writer = await relayed.connect()
        writer.write(b"x")
        assert await reader.read(1) == b"x"
        relayed.process.kill()
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.close()
        with pytest.raises(ConnectionResetError):
            await relayed.ask(b"x")


@pytest.mark.parametrize(
    ("address", "port", "words"),
    [
        ("localhost", 80, "address 'localhost': not an IP address"),
        ("127.0.0.1", 0, "port 0: not within"),
        ("127.0.0.1", 65536, "port 65536"),
        ("127.0.0.1", 9, "Connection refused"),
        ("192.0.2.1", 9, "Network is unreachable"),
    ],
)
async def test_what_the_agent_does_not_dial(relayed: Relayed, address: str, port: int, words: str) -> None:
    with pytest.raises(OciRuntimeError, match=words):
        await relayed.agent.dial(address, port)


async def test_unknown_connections(relayed: Relayed) -> None:
    await relayed.agent.conn_close(77)
    with pytest.raises(OciRuntimeError, match="connection 77 does not exist"):
        await relayed.agent.conn_read(77)
    with pytest.raises(OciRuntimeError, match="connection 77 does not exist"):
        await relayed.agent.conn_write(77, b"x")
