"""A pod's network beside a veth pair into a runc container: throughput, requests, latency, and the cost at create."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from bench.measure import REPEAT, Runtime, Table, make_bundle
from oci_runtime.network.plan import NetworkSettings, plan_network
from oci_runtime.network.pod import PodNamespace
from oci_runtime.vm.machine import Machine
from tests.machine_lab import boot
from tests.network_lab import Netns, join_namespaces

VMPOD = str(Path(sys.executable).parent / "vmpod")
SECONDS = 5
REQUESTS = 100
PINGS = 50
POD, HOST = "10.90.0.2", "10.90.0.1"
STEPS = ("own the namespace", "read and plan", "tap and redirection", "plug into QEMU", "localhost")
# Of `create`, for one interface, on the host's side.
BUDGET_MS = 60
SERVE = "httpd -p 8080 -h /; exec iperf3 --server"


def run(directory: Path) -> Iterable[Table]:
    """Yield the tables."""
    traffic = Table("TCP over the pod's interface", "MiB/s", ("runc", "vmpod"))
    requests = Table("HTTP requests, a connection each", "per second", ("runc", "vmpod"))
    latency = Table("Latency", "ms", ("runc", "vmpod"))
    for runtime in (Runtime("runc", "runc", directory / "runc"), Runtime("vmpod", VMPOD, directory / "vmpod")):
        with _container(directory, runtime) as host:
            traffic.add("into the pod", runtime.name, _rate(host))
            traffic.add("out of the pod", runtime.name, _rate(host, "--reverse"))
            requests.add("GET of a small file", runtime.name, _request_rate(host))
            latency.add("ping", runtime.name, _ping_ms(host))
    yield from (traffic, requests, latency)
    yield asyncio.run(_host_side(directory))


@contextlib.contextmanager
def _container(directory: Path, runtime: Runtime) -> Iterator[Netns]:
    """A container that serves in a namespace with one veth; yields the namespace at its other end."""
    with Netns() as host, Netns() as pod:
        _connect(host, pod)
        namespaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
        network = {"type": "network", "path": pod.path}
        bundle = make_bundle(
            directory / f"bundle-{runtime.name}",
            ["sh", "-c", SERVE],
            linux={"namespaces": [*namespaces, network]},
        )
        (bundle / "rootfs" / "index.html").write_text("it works\n")
        _add_program(bundle / "rootfs", "iperf3")
        runtime.call("create", "--bundle", str(bundle), "network")
        try:
            runtime.call("start", "network")
            _until_served(host, 8080)
            yield host
        finally:
            runtime.try_call("delete", "--force", "network")


def _add_program(rootfs: Path, name: str) -> None:
    """Copy a program of the host and its libraries to where they are here."""
    program = shutil.which(name)
    assert program, f"{name} is missing: apt-get install {name}"
    listed = subprocess.check_output(["ldd", program], text=True)
    for path in (program, *(word for word in listed.split() if word.startswith("/"))):
        target = rootfs / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)


def _connect(host: Netns, pod: Netns) -> None:
    for netns in (host, pod):
        netns.run("ip link set lo up")
    join_namespaces(pod, "eth0", host, "h0")
    host.run(f"ip addr add {HOST}/24 dev h0")
    pod.run(f"ip addr add {POD}/24 dev eth0")


def _dial(host: Netns, port: int) -> socket.socket:
    return host.call(lambda: socket.create_connection((POD, port), timeout=60))


def _until_served(host: Netns, port: int) -> None:
    end = time.monotonic() + 60
    while True:
        try:
            _dial(host, port).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)
        else:
            return


def _rate(host: Netns, *options: str) -> float:
    """What iperf3 measures in MiB per second; the first second, in which windows grow, does not count."""
    command = ["iperf3", "--client", POD, "--time", str(SECONDS), "--omit", "1", "--json", *options]
    report = json.loads(host.start(command, check=False))
    for _ in range(10):
        if "sum_received" in report["end"]:
            break
        time.sleep(0.5)  # the server comes up a moment after the other one
        report = json.loads(host.start(command, check=False))
    return float(report["end"]["sum_received"]["bits_per_second"]) / 8 / (1 << 20)


def _request_rate(host: Netns) -> float:
    begin = time.perf_counter()
    for _ in range(REQUESTS):
        with _dial(host, 8080) as client:
            client.sendall(b"GET /index.html HTTP/1.0\r\n\r\n")
            answer = b""
            while data := client.recv(4096):
                answer += data
            assert answer.endswith(b"it works\n"), answer
    return REQUESTS / (time.perf_counter() - begin)


def _ping_ms(host: Netns) -> float:
    text = host.run(f"busybox ping -c {PINGS} -i 0.05 {POD}")
    return statistics.median(float(word.removeprefix("time=")) for word in text.split() if word.startswith("time="))


async def _host_side(directory: Path) -> Table:
    """What one interface adds to `create` in the sandbox process and in QEMU: all of it, taken apart."""
    steps: dict[str, list[float]] = {name: [] for name in STEPS}
    async with boot(directory) as guest:
        for _ in range(REPEAT):
            moments = await _build_once(guest.machine)
            for name, begin, end in zip(STEPS, moments, moments[1:], strict=False):
                steps[name].append((end - begin) * 1000)
    table = Table("One interface on the host's side of create", "ms", ("vmpod",))
    for name, values in steps.items():
        table.add(name, "vmpod", statistics.median(values))
    table.add(
        f"together (at most {BUDGET_MS})", "vmpod", statistics.median(map(sum, zip(*steps.values(), strict=True)))
    )
    return table


async def _build_once(machine: Machine) -> list[float]:
    """Join one interface to a running machine and undo it; return when each step began, and the end of the last."""
    with Netns() as host, Netns() as netns:
        _connect(host, netns)
        moments = [time.perf_counter()]
        pod = await PodNamespace.open(os.dup(netns.fd), "bench")
        try:
            moments.append(time.perf_counter())
            plan = plan_network(await pod.snapshot(), NetworkSettings())
            moments.append(time.perf_counter())
            (nic,) = [await pod.apply(nic) for nic in plan.nics]
            moments.append(time.perf_counter())
            device = await machine.plug_nic(nic.tap_fds, nic.plan.nic_mac)
            nic.close_descriptors()
            moments.append(time.perf_counter())
            listeners = await pod.listen_on_localhost()
            moments.append(time.perf_counter())
            for listener in listeners.values():
                listener.close()
            await machine.unplug(device)
        finally:
            await pod.close()
    return moments
