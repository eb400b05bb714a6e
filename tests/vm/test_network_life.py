"""Where a pod's network comes from and what becomes of it: namespaces of all kinds, late arrivals, deaths, refusals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine import crio, wait_until
from tests.network_lab import Netns, differences, join_namespaces, settle
from tests.network_pods import NetworkEngine

pytestmark = pytest.mark.vm

PING = "busybox ping -c 2 -i 0.2 10.5.0.2"


@pytest.fixture
def host() -> Iterator[Netns]:
    with Netns() as made:
        made.run("ip link set lo up")
        yield made


@pytest.fixture
def pod(host: Netns) -> Iterator[Netns]:
    """A namespace with eth0 (10.5.0.2), and the host at the other end (10.5.0.1)."""
    with Netns() as made:
        made.run("ip link set lo up")
        connect(host, made)
        settle(host, made)
        yield made


def connect(host: Netns, pod: Netns, name: str = "eth0", number: int = 5) -> None:
    join_namespaces(pod, name, host, f"h{name}")
    host.run(f"ip addr add 10.{number}.0.1/24 dev h{name}")
    pod.run(f"ip addr add 10.{number}.0.2/24 dev {name}")


@contextlib.contextmanager
def running(directory: Path, **settings: Any) -> Iterator[NetworkEngine]:
    """An engine that is checked for leftovers."""
    engine = NetworkEngine.make(directory, **settings)
    try:
        yield engine
    finally:
        engine.clean()
    wait_until(lambda: not engine.leftovers(), f"nothing left: {engine.leftovers()}", 10)


def answers(host: Netns, command: str = PING) -> bool:
    return "2 packets received" in host.start(command.split(), check=False)


# Where it comes from

_HOOK = """#!{python}
import json, subprocess, sys
pid = json.load(sys.stdin)["pid"]
pod = f"/proc/{{pid}}/ns/net"
for words in (
    f"nsenter --net={host} ip link add heth0 type veth peer name eth0 netns {{pod}}",
    f"nsenter --net={host} ip addr add 10.5.0.1/24 dev heth0",
    f"nsenter --net={host} ip link set heth0 up",
    f"nsenter --net={{pod}} ip link set lo up",
    f"nsenter --net={{pod}} ip addr add 10.5.0.2/24 dev eth0",
    f"nsenter --net={{pod}} ip link set eth0 up",
    f"nsenter --net={{pod}} ip route add default via 10.5.0.1",
):
    subprocess.run(words.split(), check=True)
"""


def test_docker_makes_the_network_in_a_hook_and_connects_another_later(tmp_path: Path, host: Netns) -> None:
    hook = tmp_path / "setkey"
    hook.write_text(_HOOK.format(python=sys.executable, host=host.path))
    hook.chmod(0o755)
    with running(tmp_path / "lab") as engine:
        engine.start_pod("web", None, hooks={"prestart": [{"path": str(hook), "args": ["setkey"]}]})
        assert answers(host)
        assert "default via 10.5.0.1" in engine.exec("web", "ip", "route").out
        # docker network connect: the interface comes under a name of its own, and gets its settings piece by piece.
        fd = os.open(f"/proc/{engine.pids['web']}/ns/net", os.O_RDONLY)
        path = f"/proc/{os.getpid()}/fd/{fd}"
        host.run(f"ip link add heth1 type veth peer name veth77 netns {path}")
        host.run("ip addr add 10.6.0.1/24 dev heth1")
        host.run("ip link set heth1 up")
        for words in (
            "ip link set veth77 down",
            "ip link set veth77 name eth1",
            "ip link set eth1 address 02:42:0a:06:00:02",
            "ip addr add 10.6.0.2/24 dev eth1",
            "ip link set eth1 up",
        ):
            subprocess.run(["nsenter", f"--net={path}", *words.split()], check=True)
        wait_until(lambda: answers(host, "busybox ping -c 2 -i 0.2 10.6.0.2"), "the second network")
        assert "02:42:0a:06:00:02" in engine.exec("web", "ip", "link", "show", "eth1").out
        host.run("ip link del heth1")
        wait_until(lambda: "eth1" not in engine.exec("web", "ip", "link").out, "the second network gone")
        os.close(fd)
        assert answers(host)


def test_a_network_that_arrives_after_start(tmp_path: Path, host: Netns) -> None:
    with Netns(duplicate_detection=True) as pod, running(tmp_path / "lab") as engine:
        pod.run("ip link set lo up")
        engine.start_pod("late", pod)
        assert "eth0" not in engine.exec("late", "ip", "link").out
        connect(host, pod)
        host.run("ip addr add fd05::1/64 dev heth0")
        # Duplicate address detection takes a minute here, and the guest does not wait for it.
        pod.start(["sh", "-c", "echo 60 > /proc/sys/net/ipv6/conf/eth0/dad_transmits"])
        pod.run("ip addr add fd05::2/64 dev eth0")
        pod.run("ip route add default via 10.5.0.1")
        wait_until(lambda: answers(host), "the network")
        wait_until(lambda: "default via" in engine.exec("late", "ip", "route").out, "the default route")
        wait_until(lambda: answers(host, "busybox ping -c 2 -i 0.2 fd05::2"), "the network's IPv6")
        assert "tentative" not in engine.exec("late", "ip", "addr").out
        assert "tentative" in pod.run("ip -6 addr show dev eth0")


@pytest.mark.parametrize(
    "settings",
    [{"model": "macvtap"}, {"rx_rate_limiter_max_rate": 400_000_000, "tx_rate_limiter_max_rate": 400_000_000}],
    ids=["macvtap", "rate limits"],
)
def test_other_settings(tmp_path: Path, host: Netns, pod: Netns, settings: dict[str, object]) -> None:
    before = pod.picture()
    with running(tmp_path / "lab", **settings) as engine:
        engine.start_pod("pod", pod, ["sh", "-c", "echo it works > /tmp/index.html; httpd -f -h /tmp"])
        assert answers(host)
        wait_until(lambda: "works" in host.start(["curl", "-s", "http://10.5.0.2/"], check=False), "HTTP")
        kinds = {entry["kind"] for entry in pod.json("tc -j qdisc")}
        assert kinds >= ({"tbf"} if "model" not in settings else {"noqueue"})
        link_kinds = {link.get("linkinfo", {}).get("info_kind") for link in pod.json("ip -j -d link")}
        assert ("macvtap" in link_kinds) == ("model" in settings)
    assert not differences(before, pod.picture())


def test_no_network_at_all_by_an_allowed_annotation(tmp_path: Path, host: Netns, pod: Netns) -> None:
    before = pod.picture()
    annotations = crio("sandbox", "pod") | {"io.vmpod.config.network.model": "none"}
    with running(tmp_path / "lab", allowed="network[.]model") as engine:
        engine.start_pod("pod", pod, annotations=annotations)
        assert "eth0" not in engine.exec("pod", "ip", "link").out
        assert answers(host)  # the namespace's own kernel
        assert set(differences(before, pod.picture())) == {"nftables"}  # the redirection of localhost
    assert not differences(before, pod.picture())


def test_names_and_resolver_come_from_the_bundle(tmp_path: Path, host: Netns, pod: Netns) -> None:
    files = {"resolv.conf": "nameserver 10.5.0.1\n", "hosts": "10.5.0.99 neighbour\n"}
    mounts = [
        {"destination": where, "type": kind, "source": kind}
        for where, kind in (("/proc", "proc"), ("/dev", "tmpfs"), ("/tmp", "tmpfs"))
    ]
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        mounts.append(
            {"destination": f"/etc/{name}", "type": "bind", "source": str(tmp_path / name), "options": ["bind", "ro"]}  # type: ignore[dict-item]
        )
    with running(tmp_path / "lab") as engine, name_server(host):
        engine.start_pod("pod", pod, mounts=mounts, hostname="web-0", domainname="lab.example")
        assert engine.exec("pod", "hostname").out == "web-0\n"
        assert engine.exec("pod", "cat", "/proc/sys/kernel/domainname").out == "lab.example\n"
        assert "10.5.0.99" in engine.exec("pod", "ping", "-c", "1", "-W", "1", "neighbour", check=False).out
        assert "192.0.2.53" in engine.exec("pod", "nslookup", "service.example").out


@contextlib.contextmanager
def name_server(host: Netns) -> Iterator[None]:
    """Answers every question for an IPv4 address with 192.0.2.53, all others with nothing."""
    server = host.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("10.5.0.1", 53))

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                query, client = server.recvfrom(512)
                end = query.index(b"\0", 12) + 5
                is_a = query[end - 4 : end - 2] == b"\0\1"
                record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton("192.0.2.53") if is_a else b""
                header = query[:2] + struct.pack(">HHHHH", 0x8180, 1, int(is_a), 0, 0)
                server.sendto(header + query[12:end] + record, client)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown(socket.SHUT_RDWR) if server.type == socket.SOCK_STREAM else server.close()


# What becomes of it


def test_a_namespace_serves_one_pod_at_a_time_and_a_violent_end_leaves_it_as_it_was(
    tmp_path: Path, host: Netns, pod: Netns
) -> None:
    before = pod.picture()
    with running(tmp_path / "lab") as engine:
        # The same namespace serves the next pod, as after a kubelet's restart of a container.
        for victim in ("sandbox", "qemu"):
            engine.start_pod(victim, pod)
            at_work = pod.picture()
            assert f"belongs to another running pod ({victim})" in engine.refuse_pod("second", pod)
            assert not differences(at_work, pod.picture())
            assert answers(host)
            record = engine.sandbox_record()
            os.kill(record["pid"] if victim == "sandbox" else record["qemu"]["pid"], signal.SIGKILL)
            engine.exit_code(victim)
            engine.call("delete", "--force", victim)
            assert not differences(before, pod.picture())
            assert answers(host)  # the namespace's own kernel


# Refusals


def test_refusals_name_what_is_wrong_and_leave_the_namespace_alone(tmp_path: Path, host: Netns, pod: Netns) -> None:
    with running(tmp_path / "lab") as engine:
        pod.run("tc qdisc add dev eth0 ingress")
        before = pod.picture()
        assert "interface eth0 is busy" in engine.refuse_pod("busy", pod)
        assert not differences(before, pod.picture())
        pod.run("tc qdisc del dev eth0 ingress")

        pod.run("ip link set eth0 mtu 65535")
        before = pod.picture()
        assert "interface eth0: MTU 65535 is not within 68-65521" in engine.refuse_pod("large", pod)
        assert not differences(before, pod.picture())
        pod.run("ip link set eth0 mtu 1500")

        pod.run("ip link add odd0 type vxlan id 7 dstport 4789 local 10.5.0.2 remote 10.5.0.1")
        pod.run("ip link set odd0 up")
        before = pod.picture()
        assert "interface odd0 is kind vxlan" in engine.refuse_pod("odd", pod)
        assert not differences(before, pod.picture())
        pod.run("ip link del odd0")

        gone = str(tmp_path / "gone")
        assert gone in engine.refuse_pod("gone", gone)
        assert "/etc/hostname" in engine.refuse_pod("nothing", "/etc/hostname")
        assert answers(host)


def test_the_hosts_network_is_refused_as_a_path_and_as_a_pin(tmp_path: Path) -> None:
    pin = tmp_path / "pin"
    pin.touch()
    subprocess.run(["mount", "--bind", "/proc/self/ns/net", str(pin)], check=True)
    before = subprocess.check_output("ip -j addr; ip -j route; tc -j qdisc", shell=True)
    try:
        with running(tmp_path / "lab") as engine:
            for number, path in enumerate(("/proc/self/ns/net", str(pin))):
                assert "host" in engine.refuse_pod(f"pod{number}", path)
    finally:
        subprocess.run(["umount", str(pin)], check=True)
    assert subprocess.check_output("ip -j addr; ip -j route; tc -j qdisc", shell=True) == before


def test_a_namespace_that_another_container_uses(tmp_path: Path, pod: Netns) -> None:
    code = "import socket, sys; s = socket.create_server(('0.0.0.0', 80)); print('ready', flush=True); sys.stdin.read()"
    before = pod.picture()
    command = ["nsenter", f"--net={pod.path}", sys.executable, "-c", code]
    with running(tmp_path / "lab") as engine:
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stdout.readline() == b"ready\n"
            assert f"is used by process {process.pid} (" in engine.refuse_pod("pod", pod)
            process.kill()
        assert not differences(before, pod.picture())


def test_a_host_without_tap_devices(tmp_path: Path, pod: Netns) -> None:
    before = pod.picture()

    class Bare(NetworkEngine):
        def command(self, *arguments: str) -> list[str]:
            hide = 'mount --make-rprivate / && mount -t tmpfs tmpfs /dev/net && exec "$@"'
            return ["unshare", "-m", "sh", "-c", hide, "sh", *super().command(*arguments)]

    config = NetworkEngine.make(tmp_path / "lab").config
    engine = Bare(tmp_path / "bare", config=config)
    text = engine.refuse_pod("pod", pod)
    assert "/dev/net/tun" in text and "interface eth0 needs a tap device" in text
    assert not differences(before, pod.picture())
    engine.clean()
    assert not engine.leftovers()


def test_a_bundle_may_not_choose_settings_that_are_not_allowed(tmp_path: Path, pod: Netns) -> None:
    with running(tmp_path / "lab") as engine:
        annotations = {
            "io.kubernetes.cri-o.ContainerType": "sandbox",
            "io.kubernetes.cri-o.SandboxID": "pod",
            "io.vmpod.config.network.model": "none",
        }
        text = engine.refuse_pod("pod", pod, annotations=annotations)
        assert "io.vmpod.config.network.model" in text and "none" in text
        assert json.loads(json.dumps(engine.leftovers())) == []
