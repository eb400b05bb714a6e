"""Docker's name server reaches the guest, and its own questions to others find their way back."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from oci_runtime.agent.client import AgentClient
from oci_runtime.errors import OciRuntimeError
from oci_runtime.network import resolver
from oci_runtime.network.plan import NetworkSettings, plan_network
from oci_runtime.network.pod import PodNamespace
from oci_runtime.network.resolver import ResolverRelay
from tests.network_agent import DEADLINE_S, running_agent
from tests.network_lab import Netns, TapPeer, differences, join_namespaces, settle

pytestmark = pytest.mark.root

MAC = "02:00:00:00:00:02"


@contextmanager
def name_server(netns: Netns, address: str, port: int = 0) -> Iterator[int]:
    """Answers each query with its own bytes, reversed, over both transports; yields its port."""
    datagrams = netns.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    listener = netns.call(socket.socket, socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    datagrams.bind((address, port))
    number = datagrams.getsockname()[1]
    listener.bind((address, number))
    listener.listen()

    def serve_datagrams() -> None:
        with contextlib.suppress(OSError):
            while True:
                query, peer = datagrams.recvfrom(65535)
                if not query:
                    return
                datagrams.sendto(query[::-1], peer)

    def serve_streams() -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                with client:
                    length = client.recv(2)
                    query = client.recv(int.from_bytes(length, "big"), socket.MSG_WAITALL)
                    client.sendall(length + query[::-1])

    threads = [threading.Thread(target=target, daemon=True) for target in (serve_datagrams, serve_streams)]
    for thread in threads:
        thread.start()
    try:
        yield number
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        with netns.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", (address, number))
        for thread in threads:
            thread.join()
        listener.close()
        datagrams.close()


@contextmanager
def docker(netns: Netns) -> Iterator[None]:
    """What dockerd does in the namespace of a container: its server has some port, iptables give it port 53."""
    with name_server(netns, "127.0.0.11") as port:
        for protocol in ("udp", "tcp"):
            netns.run(
                f"iptables -t nat -A OUTPUT -d 127.0.0.11/32 -p {protocol} --dport 53"
                f" -j DNAT --to-destination 127.0.0.11:{port}"
            )
        yield


@dataclass
class Names:
    """A guest whose queries are carried to its pod."""

    pod: Netns
    guest: Netns
    agent: AgentClient
    relay: ResolverRelay

    def ask(self, query: bytes) -> bytes:
        """One datagram from the guest."""
        with self.guest.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(DEADLINE_S)
            client.sendto(query, ("127.0.0.11", 53))
            return client.recv(65535)

    def ask_stream(self, *queries: bytes) -> list[bytes]:
        """Queries over one connection from the guest."""
        answers = []
        with self.guest.call(lambda: socket.create_connection(("127.0.0.11", 53), timeout=DEADLINE_S)) as client:
            for query in queries:
                client.sendall(len(query).to_bytes(2, "big") + query)
                length = int.from_bytes(client.recv(2, socket.MSG_WAITALL), "big")
                answers.append(client.recv(length, socket.MSG_WAITALL))
        return answers


@pytest.fixture
async def names() -> AsyncIterator[Names]:
    with Netns() as pod_netns, Netns() as guest:
        for netns in (pod_netns, guest):
            netns.run("ip link set lo up")
        with docker(pod_netns):
            async with running_agent(guest) as (agent, _):
                pod = await PodNamespace.open(os.dup(pod_netns.fd), "pod")
                for listener in (await pod.listen_on_localhost()).values():
                    listener.close()
                assert await pod.has_resolver()
                await agent.serve_resolver(resolver.ADDRESS, resolver.PORT)
                relay = ResolverRelay(agent, pod.open_socket)
                yield Names(pod_netns, guest, agent, relay)
                await relay.close()
                await pod.close()


async def test_queries_are_answered(names: Names) -> None:
    assert await asyncio.to_thread(names.ask, b"abc") == b"cba"
    large = os.urandom(4096)
    assert await asyncio.to_thread(names.ask, large) == large[::-1]


async def test_queries_over_tcp_are_answered(names: Names) -> None:
    large = os.urandom(60000)
    assert await asyncio.to_thread(names.ask_stream, b"abc", large, b"x") == [b"cba", large[::-1], b"x"]


async def test_many_at_once(names: Names) -> None:
    queries = [f"query {number}".encode() for number in range(100)]
    answers = await asyncio.gather(*(asyncio.to_thread(names.ask, query) for query in queries))
    assert answers == [query[::-1] for query in queries]


async def test_serving_twice_is_no_error_and_wrong_addresses_are(names: Names) -> None:
    await names.agent.serve_resolver(resolver.ADDRESS, resolver.PORT)
    assert await asyncio.to_thread(names.ask, b"abc") == b"cba"
    await names.agent.answer_query(4711, b"nobody asked")


async def test_what_is_no_address_is_refused() -> None:
    with Netns() as guest:
        guest.run("ip link set lo up")
        async with running_agent(guest) as (agent, _):
            with pytest.raises(OciRuntimeError, match="the guest takes no name queries"):
                await agent.next_query()
            for address, port, words in (("::1", 53, "not an IPv4 address"), ("127.0.0.11", 0, "port 0")):
                with pytest.raises(OciRuntimeError, match=words):
                    await agent.serve_resolver(address, port)
            with pytest.raises(OciRuntimeError, match="192.0.2.1 port 53 in the guest: Cannot assign"):
                await agent.serve_resolver("192.0.2.1", 53)


async def test_a_namespace_without_docker_has_no_resolver() -> None:
    with Netns() as netns:
        pod = await PodNamespace.open(os.dup(netns.fd), "pod")
        assert not await pod.has_resolver()
        await pod.close()


@contextmanager
def linked() -> Iterator[tuple[Netns, Netns]]:
    with Netns() as host, Netns() as pod:
        join_namespaces(pod, "eth0", host, "h0", mac=MAC)
        host.run("ip addr add 10.0.0.1/24 dev h0")
        pod.run("ip addr add 10.0.0.2/24 dev eth0")
        for netns in (host, pod):
            netns.run("ip link set lo up")
        settle(host, pod)
        yield host, pod


async def test_dockers_own_questions_are_answered_while_the_guest_has_the_interface() -> None:
    """dockerd asks the servers outside from within the container's namespace."""
    with linked() as (host, netns), name_server(host, "10.0.0.1", 53):
        before = netns.picture(), netns.run("cat /proc/sys/net/ipv4/ip_local_port_range")
        pod = await PodNamespace.open(os.dup(netns.fd), "pod")
        seen = await pod.snapshot()
        (plan,) = plan_network(seen, NetworkSettings()).nics
        nic = await pod.apply(plan)
        await pod.hear_answers()
        await pod.hear_answers()
        with TapPeer(nic.tap_fds[0], MAC, "10.0.0.2") as peer:
            assert await asyncio.to_thread(ask_outside, netns, socket.SOCK_DGRAM) == b"cba"
            assert await asyncio.to_thread(ask_outside, netns, socket.SOCK_STREAM) == b"cba"
            # Everything else is the guest's, as before.
            ping = ["busybox", "ping", "-c", "2", "-i", "0.2", "10.0.0.2"]
            assert "2 packets received" in await asyncio.to_thread(host.start, ping)
            assert peer.echoes == 2
        assert "ip_local_port_range" not in str((await pod.snapshot()).sysctls)
        await pod.close()
        assert not differences(before[0], netns.picture())
        assert netns.run("cat /proc/sys/net/ipv4/ip_local_port_range") == before[1]


def ask_outside(netns: Netns, kind: int) -> bytes:
    with netns.call(socket.socket, socket.AF_INET, kind) as client:
        client.settimeout(DEADLINE_S)
        client.connect(("10.0.0.1", 53))
        if kind == socket.SOCK_DGRAM:
            client.send(b"abc")
            return client.recv(100)
        client.sendall(b"\0\3abc")
        return client.recv(5, socket.MSG_WAITALL)[2:]
