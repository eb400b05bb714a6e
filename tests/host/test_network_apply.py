"""The host's side of a pod's network: frames on their way, and a namespace that is bit for bit what it was."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from oci_runtime.errors import AlreadyExists, HostError, InvalidInput, OciRuntimeError
from oci_runtime.host import syscalls
from oci_runtime.netlink.connection import Connection
from oci_runtime.network.apply import AppliedNic, apply_nic, update_nic
from oci_runtime.network.leftovers import describe_resource, undo_network
from oci_runtime.network.namespace import identify
from oci_runtime.network.plan import NetworkPlan, NetworkSettings, plan_network
from oci_runtime.network.pod import PodNamespace
from oci_runtime.network.snapshot import take_snapshot
from tests.engine import wait_until
from tests.network_lab import Netns, TapPeer, differences, join_namespaces, settle

pytestmark = pytest.mark.root

MAC = "02:00:00:00:00:02"


@dataclass
class Lab:
    """A pod's namespace with eth0 (10.0.0.2) and a host's with h0 (10.0.0.1)."""

    host: Netns
    pod: Netns

    def plan(self, **settings: Any) -> NetworkPlan:
        seen = self.pod.call(lambda: take_snapshot(Connection()))
        return plan_network(seen, NetworkSettings(**settings))

    def apply(self, plan: NetworkPlan) -> list[AppliedNic]:
        """What lives in the pod's namespace keeps its connection there."""
        connection = self.pod.call(Connection)
        return [self.pod.call(apply_nic, connection, nic) for nic in plan.nics]

    def ping(self, *arguments: str) -> str:
        return self.host.start(["busybox", "ping", "-c", "2", "-i", "0.2", *arguments, "10.0.0.2"], check=False)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Netns() as host, Netns() as pod:
        join_namespaces(pod, "eth0", host, "h0", mac=MAC)
        host.run("ip addr add 10.0.0.1/24 dev h0")
        pod.run("ip addr add 10.0.0.2/24 brd + dev eth0")
        pod.run("ip addr add fd00::2/64 dev eth0")
        pod.run("ip link set lo up")
        pod.run("ip route add default via 10.0.0.1")
        settle(host, pod)
        yield Lab(host, pod)


def add_interface(lab: Lab, name: str) -> None:
    join_namespaces(lab.pod, name, lab.host, f"h{name}")
    settle(lab.pod)


@pytest.mark.parametrize("model", ["tcfilter", "macvtap"])
def test_frames_both_ways_and_nothing_left(lab: Lab, model: str) -> None:
    before = lab.pod.picture()
    (nic,) = lab.apply(lab.plan(model=model))
    with TapPeer(nic.tap_fds[0], MAC, "10.0.0.2") as peer:
        assert "2 packets received" in lab.ping()
        assert "2 packets received" in lab.ping("-s", "1400")
        assert peer.echoes == 4 and peer.largest >= 1442
    lab.pod.call(nic.undo)
    assert not differences(before, lab.pod.picture())
    # The namespace's own kernel has its interface again.
    assert "2 packets received" in lab.ping()


def test_the_namespaces_kernel_is_silent_on_the_tap(lab: Lab) -> None:
    (nic,) = lab.apply(lab.plan())
    (link,) = lab.pod.json("ip -j -d addr show dev vmtap2")
    assert link["addr_info"] == [] and "NOARP" in link["flags"] and "MULTICAST" not in link["flags"]
    lab.pod.call(nic.undo)


def router_advertisement(mac: str, prefix: str) -> bytes:
    """An Ethernet frame in which a router announces itself and a prefix of 64 bits."""
    router = bytes.fromhex(mac.replace(":", ""))
    source = socket.inet_pton(socket.AF_INET6, "fe80::1")
    nodes = socket.inet_pton(socket.AF_INET6, "ff02::1")
    option = struct.pack(">BBBBIII", 3, 4, 64, 0xC0, 86400, 14400, 0) + socket.inet_pton(socket.AF_INET6, prefix)
    message = struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + option
    words = source + nodes + struct.pack(">II", len(message), 58) + message
    total = sum(struct.unpack(f">{len(words) // 2}H", words))
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    message = message[:2] + struct.pack(">H", checksum) + message[4:]
    header = struct.pack(">IHBB", 6 << 28, len(message), 58, 255) + source + nodes
    return bytes.fromhex("333300000001") + router + b"\x86\xdd" + header + message


def test_routers_are_heard_by_the_guest_and_by_the_namespace(lab: Lab) -> None:
    """What the namespace's kernel learned from a router, and the guest has from it, must not expire."""
    (nic,) = lab.apply(lab.plan())
    with TapPeer(nic.tap_fds[0], MAC, "10.0.0.2") as peer:
        sender = lab.host.call(socket.socket, socket.AF_PACKET, socket.SOCK_RAW)
        with sender:
            sender.bind(("h0", 0))
            sender.send(router_advertisement("02:00:00:00:00:99", "2001:db8:7::"))
            wait_until(lambda: "2001:db8:7:" in lab.pod.run("ip -6 addr"), "an address", 20)
        assert "default via fe80::1 dev eth0 proto ra" in lab.pod.run("ip -6 route")
        wait_until(lambda: b"\x86\xdd\x86" in peer.kinds, "the guest's copy", 20)
    lab.pod.call(nic.undo)


def test_rate_limits(lab: Lab) -> None:
    before = lab.pod.picture()
    (nic,) = lab.apply(lab.plan(rx_rate_bps=80_000_000, tx_rate_bps=16_000_000))
    rates = {entry["dev"]: entry["options"]["rate"] for entry in lab.pod.json("tc -j qdisc") if entry["kind"] == "tbf"}
    assert rates == {"vmtap2": 10_000_000, "eth0": 2_000_000}  # bytes per second
    lab.pod.call(nic.undo)
    assert not differences(before, lab.pod.picture())


@pytest.mark.parametrize("model", ["tcfilter", "macvtap"])
def test_an_interface_without_a_queue_has_none_afterwards(lab: Lab, model: str) -> None:
    """CNI makes such ones; attaching a qdisc gives them a queue, and the kernel leaves it."""
    lab.pod.run("ip link set eth0 txqueuelen 0")
    before = lab.pod.picture()
    (nic,) = lab.apply(lab.plan(model=model, tx_rate_bps=8_000_000))
    lab.pod.call(nic.undo)
    assert not differences(before, lab.pod.picture())
    killed_victim(lab, model)
    assert differences(before, lab.pod.picture())
    undo_network(describe_resource(identify(lab.pod.fd), lab.pod.path))
    assert not differences(before, lab.pod.picture())


def test_three_interfaces(lab: Lab) -> None:
    add_interface(lab, "eth1")
    add_interface(lab, "net2")
    before = lab.pod.picture()
    nics = lab.apply(lab.plan())
    assert [nic.plan.name for nic in nics] == ["eth0", "eth1", "net2"]
    assert len({nic.plan.tap_name for nic in nics}) == 3
    for nic in nics:
        lab.pod.call(nic.undo)
    assert not differences(before, lab.pod.picture())


@pytest.mark.parametrize("mtu", [600, 1279, 9000])
def test_a_tap_is_made_with_the_interfaces_mtu(lab: Lab, mtu: int) -> None:
    """Below 1280 the kernel has no IPv6 on a device, and refuses what concerns it."""
    lab.pod.run(f"ip link set eth0 mtu {mtu}")
    before = lab.pod.picture()
    (nic,) = lab.apply(lab.plan())
    assert lab.pod.json("ip -j link show dev vmtap2")[0]["mtu"] == mtu
    lab.pod.call(nic.undo)
    assert not differences(before, lab.pod.picture())


@pytest.mark.parametrize("mtu", [1200, 1280, 1400, 9000, 65521])
def test_the_tap_has_the_interfaces_mtu_and_follows_it(lab: Lab, mtu: int) -> None:
    connection = lab.pod.call(Connection)
    (nic,) = lab.apply(lab.plan())
    lab.pod.run(f"ip link set eth0 mtu {mtu}")
    (wanted,) = lab.plan().nics[:1]
    lab.pod.call(update_nic, connection, nic, nic.plan.replace(mtu=wanted.mtu))
    assert lab.pod.json("ip -j link show dev vmtap2")[0]["mtu"] == mtu
    lab.pod.call(nic.undo)


def test_an_mtu_that_no_tap_takes(lab: Lab) -> None:
    lab.pod.run("ip link set eth0 mtu 65535")
    before = lab.pod.picture()
    with pytest.raises(InvalidInput, match="interface eth0: MTU 65535"):
        lab.plan()
    connection = lab.pod.call(Connection)
    lab.pod.run("ip link set eth0 mtu 1500")
    (plan,) = lab.plan().nics
    with pytest.raises(HostError, match="interface eth0"):  # the kernel's own answer, past the plan
        lab.pod.call(apply_nic, connection, plan.replace(mtu=70000))
    lab.pod.run("ip link set eth0 mtu 65535")
    assert not differences(before, lab.pod.picture())


def test_an_interface_that_is_busy(lab: Lab) -> None:
    lab.pod.run("tc qdisc add dev eth0 ingress")
    before = lab.pod.picture()
    with pytest.raises(AlreadyExists, match="interface eth0 is busy: it has an ingress qdisc"):
        lab.apply(lab.plan())
    assert not differences(before, lab.pod.picture())


def test_an_interface_whose_tap_name_is_taken(lab: Lab) -> None:
    lab.pod.run("ip tuntap add vmtap2 mode tap")
    before = lab.pod.picture()
    plan = lab.plan()
    with pytest.raises(OciRuntimeError, match="vmtap2"):
        lab.apply(plan)
    assert not differences(before, lab.pod.picture())


@pytest.mark.parametrize("cover", ["tmpfs", "null"])
def test_no_tap_device_on_this_host(lab: Lab, cover: str) -> None:
    connection = lab.pod.call(Connection)
    (plan,) = lab.plan().nics
    before = lab.pod.picture()

    def without_tun() -> None:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
        if cover == "tmpfs":
            syscalls.mount("tmpfs", "/dev/net", "tmpfs")
        else:
            syscalls.mount("/dev/null", "/dev/net/tun", "", syscalls.MS_BIND)
        apply_nic(connection, plan)

    with pytest.raises(HostError, match=r"/dev/net/tun.*interface eth0"):
        lab.pod.call(without_tun)
    assert not differences(before, lab.pod.picture())


def test_an_interface_that_is_gone_meanwhile(lab: Lab) -> None:
    plan = lab.plan()
    (nic,) = lab.apply(plan)
    lab.pod.run("ip link del eth0")
    lab.pod.call(nic.undo)
    assert [link["ifname"] for link in lab.pod.json("ip -j link")] == ["lo"]
    with pytest.raises(HostError, match="interface eth0"):
        lab.apply(plan)
    assert [link["ifname"] for link in lab.pod.json("ip -j link")] == ["lo"]


def test_a_tap_of_the_pods_own_is_used_as_it_is(lab: Lab) -> None:
    lab.pod.run("ip link del eth0")
    lab.pod.run("ip tuntap add tap0 mode tap")
    lab.pod.run("ip link set tap0 address 02:00:00:00:00:07 up")
    lab.pod.run("ip addr add 10.3.0.1/24 dev tap0")
    (nic,) = lab.apply(lab.plan())
    assert nic.plan.model == "direct" and nic.own_index == 0
    with TapPeer(nic.tap_fds[0], MAC, "10.3.0.2") as peer:
        assert "2 packets received" in lab.pod.start(["busybox", "ping", "-c", "2", "10.3.0.2"], check=False)
        assert peer.echoes == 2
    nic.undo()
    (link,) = lab.pod.json("ip -j link show dev tap0")
    assert "NO-CARRIER" in link["flags"]


def test_many_queues(lab: Lab) -> None:
    (plan,) = lab.plan().nics
    nic = lab.pod.call(apply_nic, lab.pod.call(Connection), plan.replace(queues=4))
    assert len(nic.tap_fds) == 4
    (shown,) = lab.pod.json("ip -j -d link show dev vmtap2")
    assert shown["linkinfo"]["info_data"]["numqueues"] == 4
    lab.pod.call(nic.undo)


_VICTIM = """
import os, sys
from oci_runtime.host import syscalls
from oci_runtime.netlink.connection import Connection
from oci_runtime.network import nftables
from oci_runtime.network.apply import apply_nic
from oci_runtime.network.claim import claim_namespace
from oci_runtime.network.plan import NetworkSettings, plan_network
from oci_runtime.network.snapshot import take_snapshot
claim = claim_namespace("victim")
connection = Connection()
settings = NetworkSettings(model=sys.argv[1], tx_rate_bps=8_000_000)
nics = [apply_nic(connection, nic) for nic in plan_network(take_snapshot(connection), settings).nics]
nftables.add_redirect({2: 4242, 10: 4343})
print("ready", flush=True)
sys.stdin.read()
"""


def killed_victim(lab: Lab, model: str) -> None:
    """Let a process build the pod's network and die by SIGKILL."""
    command = ["nsenter", f"--net={lab.pod.path}", sys.executable, "-c", _VICTIM, model]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize("model", ["tcfilter", "macvtap"])
def test_what_a_killed_process_leaves_can_be_undone_without_it(lab: Lab, model: str) -> None:
    before = lab.pod.picture()
    killed_victim(lab, model)
    left = lab.pod.picture()
    assert left["qdisc"] != before["qdisc"] and "redirect" in left["nftables"]
    if model == "tcfilter":
        assert left["link"][2:] == []  # the tap went with its process
    resource = describe_resource(identify(lab.pod.fd))
    # Found by a process that lives in it: the namespace has no pin.
    with subprocess.Popen(["nsenter", f"--net={lab.pod.path}", "sleep", "1000"]) as holder:
        while os.stat(f"/proc/{holder.pid}/ns/net").st_ino != resource["inode"]:
            pass
        undo_network(resource)
        undo_network(resource)
        holder.kill()
    assert not differences(before, lab.pod.picture())


def test_leftovers_are_found_by_path_too_and_of_a_dead_namespace_there_are_none(lab: Lab) -> None:
    before = lab.pod.picture()
    killed_victim(lab, "tcfilter")
    undo_network(describe_resource(identify(lab.pod.fd), lab.pod.path))
    assert not differences(before, lab.pod.picture())
    with Netns() as other:
        gone = describe_resource(identify(other.fd), other.path)
    undo_network(gone)


async def test_a_new_pod_begins_by_cleaning_up(lab: Lab) -> None:
    before = lab.pod.picture()
    killed_victim(lab, "tcfilter")
    pod = await PodNamespace.open(os.dup(lab.pod.fd), "next")
    for nic in plan_network(await pod.snapshot(), NetworkSettings()).nics:
        await pod.apply(nic)
    for listener in (await pod.listen_on_localhost()).values():
        listener.close()
    assert lab.pod.picture()["nftables"].count("redirect to") == 2
    await pod.close()
    assert not differences(before, lab.pod.picture())


async def test_undo_leaves_a_living_pod_alone(lab: Lab) -> None:
    pod = await PodNamespace.open(os.dup(lab.pod.fd), "alive")
    for nic in plan_network(await pod.snapshot(), NetworkSettings()).nics:
        await pod.apply(nic)
    at_work = lab.pod.picture()
    undo_network(describe_resource(identify(lab.pod.fd), lab.pod.path))
    assert not differences(at_work, lab.pod.picture())
    await pod.close()


async def test_a_failure_in_the_middle_leaves_nothing(lab: Lab) -> None:
    add_interface(lab, "eth1")
    lab.pod.run("tc qdisc add dev eth1 ingress")
    before = lab.pod.picture()
    pod = await PodNamespace.open(os.dup(lab.pod.fd), "unlucky")
    with pytest.raises(AlreadyExists, match="interface eth1 is busy"):
        for nic in plan_network(await pod.snapshot(), NetworkSettings()).nics:
            await pod.apply(nic)
    await pod.close()
    assert not differences(before, lab.pod.picture())


@pytest.mark.parametrize("spoil", [lambda lab: lab.pod.run("ip link del eth0"), lambda lab: None])
async def test_close_is_idempotent_whatever_happened(lab: Lab, spoil: Callable[[Lab], object]) -> None:
    pod = await PodNamespace.open(os.dup(lab.pod.fd), "pod")
    for nic in plan_network(await pod.snapshot(), NetworkSettings()).nics:
        await pod.apply(nic)
    spoil(lab)
    await pod.close()
    await pod.close()
    assert lab.pod.run("tc qdisc show dev lo") and "vmtap" not in lab.pod.run("ip link")
