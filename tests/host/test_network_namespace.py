"""Whose namespace it is: identity, claims, and who else is in it."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oci_runtime.errors import AlreadyExists, InvalidInput, NotFound
from oci_runtime.network import namespace
from oci_runtime.network.claim import claim_namespace
from oci_runtime.network.pod import PodNamespace
from tests.network_lab import Netns, join_namespaces

pytestmark = pytest.mark.root


@pytest.fixture
def netns() -> Iterator[Netns]:
    with Netns() as made:
        yield made


@contextmanager
def process_in(netns: Netns, *argv: str) -> Iterator[int]:
    """A process that lives in the namespace and has said that it is ready."""
    command = ["nsenter", f"--net={netns.path}", *argv]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield process.pid
        finally:
            process.kill()


def python_in(netns: Netns, code: str) -> list[str]:
    return [sys.executable, "-c", f"import socket, sys\n{code}\nprint('ready', flush=True)\nsys.stdin.read()"]


def test_open_and_identify(netns: Netns) -> None:
    fd = namespace.open_namespace(netns.path)
    try:
        assert namespace.identify(fd) == namespace.identify(netns.fd)
        assert namespace.identify(fd) != namespace.identify(os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC))
        namespace.refuse_host_network(fd)
    finally:
        os.close(fd)


def test_a_path_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=f"network namespace {tmp_path}/pod does not exist"):
        namespace.open_namespace(str(tmp_path / "pod"))
    with pytest.raises(NotFound):
        namespace.open_namespace("/proc/4194304/ns/net")


@pytest.mark.parametrize("path", ["/proc/self/ns/uts", "/dev/null", "/etc", "/etc/hostname"])
def test_what_is_no_network_namespace(path: str) -> None:
    with pytest.raises(InvalidInput, match=f"{path} is not a network namespace"):
        namespace.open_namespace(path)


def test_the_hosts_network_is_refused_by_any_name(tmp_path: Path) -> None:
    pin = tmp_path / "pin"
    pin.touch()
    subprocess.run(["mount", "--bind", "/proc/self/ns/net", str(pin)], check=True)
    try:
        for path in ("/proc/self/ns/net", str(pin)):
            fd = namespace.open_namespace(path)
            with pytest.raises(InvalidInput, match="host network"):
                namespace.refuse_host_network(fd, path)
            os.close(fd)
    finally:
        subprocess.run(["umount", str(pin)], check=True)


async def test_the_hosts_network_is_refused_before_anything_is_touched() -> None:
    before = await asyncio.to_thread(host_picture)
    with pytest.raises(InvalidInput, match="host network"):
        await PodNamespace.open(os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC), "pod")
    assert await asyncio.to_thread(host_picture) == before


def host_picture() -> bytes:
    return subprocess.check_output("ip -j addr; tc -j qdisc; grep vmpod-network /proc/net/unix || :", shell=True)


def test_a_namespace_has_one_pod(netns: Netns) -> None:
    claim = netns.call(claim_namespace, "first-pod")
    with pytest.raises(AlreadyExists, match=r"second-pod belongs to another running pod \(first-pod\)"):
        netns.call(claim_namespace, "second-pod")
    with Netns() as other:
        other.call(claim_namespace, "second-pod").close()
    claim.close()
    netns.call(claim_namespace, "second-pod").close()


def test_a_claim_ends_with_its_process(netns: Netns) -> None:
    code = "from oci_runtime.network.claim import claim_namespace; claim = claim_namespace('victim')"
    with process_in(netns, *python_in(netns, code)):
        with pytest.raises(AlreadyExists, match="victim"):
            netns.call(claim_namespace, "next")
    netns.call(claim_namespace, "next").close()


async def test_two_pods_of_one_namespace(netns: Netns) -> None:
    first = await PodNamespace.open(os.dup(netns.fd), "first")
    with pytest.raises(AlreadyExists, match="first"):
        await PodNamespace.open(os.dup(netns.fd), "second")
    await first.close()
    await first.close()
    second = await PodNamespace.open(os.dup(netns.fd), "second")
    await second.close()


def test_a_process_that_only_waits_is_no_user(netns: Netns) -> None:
    with process_in(netns, *python_in(netns, "")):
        namespace.refuse_foreign_users(netns.fd, lambda _: False)


@pytest.mark.parametrize(
    "code",
    [
        "s = socket.socket(); s.bind(('0.0.0.0', 80)); s.listen()",
        "s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM); s.bind(('::', 53))",
        "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))",
    ],
    ids=["tcp", "udp6", "packet"],
)
def test_a_process_with_sockets_is_a_user(netns: Netns, code: str) -> None:
    with process_in(netns, *python_in(netns, code)) as pid:
        with pytest.raises(InvalidInput, match=rf"is used by process {pid} \(python"):
            namespace.refuse_foreign_users(netns.fd, lambda _: False, "pod")
        namespace.refuse_foreign_users(netns.fd, lambda other: other == pid)


def test_a_loopback_socket_is_no_use_of_an_interface(netns: Netns) -> None:
    netns.run("ip link set lo up")
    code = "s = socket.socket(); s.bind(('127.0.0.1', 80)); s.listen()"
    with process_in(netns, *python_in(netns, code)):
        namespace.refuse_foreign_users(netns.fd, lambda _: False)


def test_another_containers_process_is_a_user(netns: Netns) -> None:
    argv = ["unshare", "--pid", "--fork", "--kill-child", shutil.which("sh") or "sh", "-c", "echo ready; sleep 1000"]
    with process_in(netns, *argv):
        with pytest.raises(InvalidInput, match=r"is used by process \d+ \((sh|sleep)\)"):
            namespace.refuse_foreign_users(netns.fd, lambda _: False)


async def test_a_refused_namespace_is_as_it_was(netns: Netns) -> None:
    with Netns() as host:
        join_namespaces(netns, "eth0", host, "h0")
        before = netns.picture()
        code = "s = socket.socket(); s.bind(('0.0.0.0', 80)); s.listen()"
        with process_in(netns, *python_in(netns, code)):
            with pytest.raises(InvalidInput, match="is used by process"):
                await PodNamespace.open(os.dup(netns.fd), "pod")
        assert {**netns.picture(), "addr": 0} == {**before, "addr": 0}
        netns.call(claim_namespace, "next").close()


async def test_the_event_loops_thread_stays_where_it_is(netns: Netns) -> None:
    before = os.stat("/proc/thread-self/ns/net").st_ino
    pod = await PodNamespace.open(os.dup(netns.fd), "pod")
    assert [link.name for link in (await pod.snapshot()).links] == ["lo"]
    assert (
        os.stat("/proc/thread-self/ns/net").st_ino == before != netns.call(os.stat, "/proc/thread-self/ns/net").st_ino
    )
    await pod.close()
