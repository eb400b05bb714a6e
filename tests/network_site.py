"""Two pods on a bridge that CNI made, one of them on two more networks, and somebody outside."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cni import Cni
from tests.engine import wait_until
from tests.network_lab import Netns, differences, join_namespaces, settle
from tests.network_pods import NetworkEngine

# What CNI's bandwidth plugin grants the second interface of pod b, each way.
RATE_BPS, BURST_BITS = 32 << 20, 8 << 20
BURSTS = ("ingressBurst", "egressBurst")
SERVE = (
    "mkdir -p /tmp/www; echo $0 > /tmp/www/index.html; "
    "httpd -p 80 -h /tmp/www; httpd -p 127.0.0.1:8081 -h /tmp/www; httpd -p [::1]:8082 -h /tmp/www; exec sleep 100000"
)


# In a container with the host's programs: what busybox has no server for.
ECHO = """
import asyncio, hashlib, os
class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport): self.transport = transport
    def datagram_received(self, data, peer): self.transport.sendto(data, peer)
async def serve(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
async def source(reader, writer):
    times = int(await reader.readline())
    block = os.urandom(4 << 20)
    found = hashlib.sha256()
    for _ in range(times):
        found.update(block)
        writer.write(block)
        await writer.drain()
    writer.write(found.digest())
    writer.close()
async def sink(reader, writer):
    found = hashlib.sha256()
    while data := await reader.read(1 << 20):
        found.update(data)
    writer.write(found.digest())
    writer.close()
async def main():
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(Datagrams, ("0.0.0.0", 5353))
    await asyncio.start_server(serve, "127.0.0.1", 9003, backlog=512)
    await asyncio.start_server(source, None, 9001, limit=1 << 20)
    await asyncio.start_server(sink, None, 9002, limit=1 << 20)
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@dataclass
class Site:
    """A host with a bridge, somebody outside, and two pods: a is at 10.88.0.2, b at 10.88.0.3 and on two more links."""

    host: Netns
    outside: Netns
    a: Netns
    b: Netns
    engine: NetworkEngine
    cni: Cni

    def guest(self, pod: str, command: str, *, check: bool = True) -> str:
        """Run a shell command line in the pod."""
        return self.engine.exec(pod, "sh", "-c", command, check=check).out

    def interfaces(self, pod: str) -> dict[str, Any]:
        """The guest's interfaces by name."""
        return {entry["name"]: entry for entry in json.loads(self.engine.call("network", "list-ifaces", pod).out)}

    def routes(self, pod: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.engine.call("network", "list-routes", pod).out)
        return found


def connect(directory: Path, host: Netns, outside: Netns, a: Netns, b: Netns) -> Cni:
    """Lay the cables: host and outside, both pods on the host's bridge, pod b on two more links. Returns the bridge."""
    for netns in (host, outside, a, b):
        netns.run("ip link set lo up")
    join_namespaces(host, "ext0", outside, "ext0")
    host.run("ip addr add 192.0.2.1/24 dev ext0")
    outside.run("ip addr add 192.0.2.2/24 dev ext0")
    outside.run("ip route add default via 192.0.2.1")
    ranges = [[{"subnet": "10.88.0.0/24"}], [{"subnet": "fd88::/64"}]]
    routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    ipam = {"type": "host-local", "ranges": ranges, "routes": routes}
    cni = Cni(
        host,
        directory,
        "lab",
        {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": True, "mtu": 1400, "ipam": ipam},
        {"type": "portmap", "capabilities": {"portMappings": True}},
        {"type": "firewall"},
        {"type": "tuning", "sysctl": {"net.core.somaxconn": "777", "net.ipv4.conf.eth0.arp_announce": "2"}},
    )
    cni.add(a, "a", portMappings=[{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}])
    cni.add(b, "b")
    ipam = {"type": "static", "addresses": [{"address": "10.98.0.5/24", "gateway": "10.98.0.1"}]}
    policy = Cni(
        host,
        directory,
        "policy",
        {"type": "ptp", "mtu": 9000, "ipam": ipam},
        {"type": "bandwidth", "capabilities": {"bandwidth": True}},
        {"type": "sbr"},
    )
    limits = dict.fromkeys(("ingressRate", "egressRate"), RATE_BPS) | dict.fromkeys(BURSTS, BURST_BITS)
    policy.add(b, "b", "net1", bandwidth=limits)
    ipam = {"type": "static", "addresses": [{"address": "10.99.0.5/24"}]}
    macvlan = {"type": "macvlan", "master": "ext0", "mode": "bridge", "ipam": ipam}
    Cni(host, directory, "mac", macvlan).add(b, "b", "net2")
    outside.run("ip addr add 10.99.0.1/24 dev ext0")
    return cni


@contextlib.contextmanager
def two_pods(directory: Path) -> Iterator[Site]:
    """Boot both pods; in the end nothing may be left of them, and their namespaces must be as they were."""
    with contextlib.ExitStack() as stack:
        host, outside, a, b = (stack.enter_context(Netns()) for _ in range(4))
        cni = connect(directory, host, outside, a, b)
        settle(host, a, b)
        before = [netns.picture() for netns in (a, b)]
        engine = NetworkEngine.make(directory)
        stack.callback(engine.clean)
        engine.start_pod("a", a, ["sh", "-c", SERVE, "a"])
        engine.start_pod("b", b, ["sh", "-c", SERVE, "b"])
        engine.add_container("a", "echo", ["/usr/bin/python3", "-c", ECHO], tools=True)
        wait_until(lambda: engine.log("echo") == "ready\n", f"the echo server: {engine.log('echo')}")
        yield Site(host, outside, a, b, engine, cni)
        engine.clean()
        wait_until(lambda: not engine.leftovers(), f"nothing left: {engine.leftovers()}", 10)
        for netns, picture in zip((a, b), before, strict=True):
            changed = differences(picture, netns.picture())
            assert not changed, json.dumps(changed)
