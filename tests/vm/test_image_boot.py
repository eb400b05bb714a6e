"""What is in the image, seen from inside a machine that booted it; and a first stage that fails."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from oci_runtime.image.store import DEFAULT_NAME, DEFAULT_STORE, load_image
from tests.machine_lab import Guest, boot, started

pytestmark = [pytest.mark.vm, pytest.mark.asyncio(loop_scope="module")]
IMAGE = os.environ.get("VMPOD_TEST_IMAGE", DEFAULT_NAME)
PANIC_DEADLINE_S = 120.0

# What the istio-init container writes, for either family: NAT, REDIRECT, owner, conntrack, addrtype, marks, TPROXY.
REDIRECT = """
*nat
:ISTIO_REDIRECT - [0:0]
:ISTIO_OUTPUT - [0:0]
-A OUTPUT -p tcp -j ISTIO_OUTPUT
-A ISTIO_OUTPUT -m owner --uid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -m owner --gid-owner 1337 -j RETURN
-A ISTIO_OUTPUT -o lo -m addrtype --dst-type LOCAL -j RETURN
-A ISTIO_OUTPUT -m conntrack --ctstate NEW -j ISTIO_REDIRECT
-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
*mangle
:ISTIO_DIVERT - [0:0]
:ISTIO_TPROXY - [0:0]
-A PREROUTING -p tcp -m socket --transparent -j ISTIO_DIVERT
-A PREROUTING -p tcp -m multiport --dports 80,443 -m comment --comment "mesh" -j ISTIO_TPROXY
-A ISTIO_DIVERT -j MARK --set-mark 1337
-A ISTIO_DIVERT -j CONNMARK --save-mark
-A ISTIO_TPROXY -p tcp -j TPROXY --on-port 15006 --tproxy-mark 1337
COMMIT
*raw
-A PREROUTING -p udp -j CT --zone 1
-A OUTPUT -p tcp -m statistic --mode random --probability 0.5 -j NOTRACK
COMMIT
*filter
-A INPUT -p tcp -m state --state INVALID -j DROP
-A FORWARD -m limit --limit 5/min -j LOG --log-prefix "forward "
-A FORWARD -p tcp --syn -j REJECT --reject-with tcp-reset
COMMIT
"""
RULESET = """
table inet mesh {
  set ports { type inet_service; elements = { 80, 443 } }
  chain output {
    type nat hook output priority -100;
    meta skuid 1337 return
    tcp dport @ports redirect to :15001
  }
  chain forward {
    type filter hook forward priority 0;
    ct state established,related accept
    fib daddr type local accept
    numgen random mod 2 0 counter
    limit rate 5/minute log prefix "x" reject
  }
  chain post { type nat hook postrouting priority 100; masquerade; }
}
"""
CONNECT = """
import socket
listener = socket.create_server(("127.0.0.1", 7002))
try:
    client = socket.create_connection(("127.0.0.1", 7001), 20)
    listener.accept()[0].sendall(b"arrived")
    print(client.recv(10).decode())
except ConnectionRefusedError:
    print("refused")
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guest(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guest]:
    """One machine with the image on its default device for all tests that only look at it."""
    async with boot(tmp_path_factory.mktemp("image")) as machine:
        yield machine


async def write(guest: Guest, path: str, text: str) -> None:
    """Make a file in the guest, line by line: the lab's shell takes one line at a time."""
    await guest.run(f": >{path}")
    for line in text.strip().splitlines():
        quoted = line.replace("'", "'\\''")
        await guest.run(f"echo '{quoted}' >>{path}")


async def test_it_is_the_kernel_and_the_packages_of_the_manifest(guest: Guest) -> None:
    image, manifest = load_image(DEFAULT_STORE, IMAGE)
    assert await guest.run("uname -r") == image.kernel_release
    listed = dict(line.split() for line in (await guest.run("cat /usr/share/vmpod/packages")).splitlines())
    assert listed == manifest["packages"]
    assert {"suite", "source_date_epoch", "kernel_package", "missing_modules", "boot_modules", "python"} <= set(
        manifest
    )
    assert {"crun", "iproute2", "libc6", "nftables", "python3.11-minimal"} <= set(listed)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("crun --version", "crun version"),
        ("/usr/bin/ip -V", "iproute2"),
        ("/usr/sbin/tc -V", "tc utility"),
        ("bridge -V", "bridge utility"),
        ("nft --version", "nftables"),
        ("iptables --version", "(nf_tables)"),
        ("ip6tables-restore --version", "(nf_tables)"),
        ("kmod --version", "kmod version"),
        ("python3 -I -S -c 'import ctypes, json, socket, threading, hashlib; print(hashlib.sha256().name)'", "sha256"),
        ("python3 -I -S -c 'import oci_runtime; print(oci_runtime.__file__)'", "/usr/lib/python3"),
    ],
)  # fmt: skip
async def test_programs_start(guest: Guest, command: str, said: str) -> None:
    assert said in await guest.run(command)


@pytest.mark.parametrize("family", ["iptables", "ip6tables"])
async def test_a_mesh_s_redirect_works(guest: Guest, family: str) -> None:
    await write(guest, "/mnt/rules", REDIRECT)
    await guest.run(f"{family}-restore </mnt/rules")
    saved = await guest.run(f"{family}-save -t nat")
    assert "-A ISTIO_REDIRECT -p tcp -j REDIRECT --to-ports 15001" in saved
    assert "-m owner --uid-owner 1337" in saved
    await guest.run(f"{family}-save >/mnt/saved; {family}-restore </mnt/saved")
    assert "TPROXY" in await guest.run(f"{family}-save -t mangle")


async def test_nftables_speak_for_themselves(guest: Guest) -> None:
    await write(guest, "/mnt/ruleset", RULESET)
    await guest.run("nft -f /mnt/ruleset")
    assert "redirect to :15001" in await guest.run("nft list ruleset")
    await guest.run("nft delete table inet mesh")


async def test_a_redirected_connection_arrives(guest: Guest) -> None:
    """A listener on one port of 127.0.0.1; NAT sends it what goes to another."""
    rule = "OUTPUT -p tcp -d 127.0.0.1 --dport 7001 -j REDIRECT --to-ports 7002"
    await write(guest, "/mnt/connect.py", CONNECT)
    await guest.run("/usr/bin/ip link set lo up && iptables -t raw -F && iptables -t filter -F")
    assert await guest.run("python3 -I -S /mnt/connect.py") == "refused"
    await guest.run(f"iptables -t nat -A {rule}")
    assert await guest.run("python3 -I -S /mnt/connect.py") == "arrived"
    await guest.run(f"iptables -t nat -D {rule}")


@pytest.mark.parametrize(
    "module",
    [
        "virtiofs", "overlay", "xfs", "btrfs", "isofs", "vfat", "squashfs", "loop", "dm-verity", "virtio_blk",
        "virtio_scsi", "sd_mod", "virtio_net", "virtio_balloon", "virtio-rng", "virtio_mem", "nfit", "pvpanic-pci",
        "vmw_vsock_virtio_transport", "tun", "veth", "bridge", "br_netfilter", "macvlan", "ipvlan", "vxlan",
        "wireguard", "ifb", "8021q", "act_mirred", "cls_u32", "sch_ingress", "sch_tbf", "nft_masq", "nft_fib_inet",
        "ip_set_hash_net",
    ],
)  # fmt: skip
async def test_modules_load(guest: Guest, module: str) -> None:
    assert await guest.run(f"modprobe {module} && grep -c ^{module.replace('-', '_')} /proc/modules") != "0"


async def test_every_netfilter_module_loads(guest: Guest) -> None:
    """None lacks what it depends on, or what it asks for while it starts."""
    listed = await guest.run(
        "find /lib/modules/*/kernel/net -name '*.ko' | sed 's,.*/,,; s,\\.ko$,,' | grep -E '^(nf|xt_|ipt_|ip6t_)'"
    )
    names = listed.split()
    assert len(names) > 100
    output = await guest.run(
        f"for name in {' '.join(names)}; do modprobe $name || echo FAILED $name; done", deadline_s=300
    )
    assert "FAILED" not in output, output


async def test_containers_building_blocks(guest: Guest) -> None:
    await guest.run("/usr/bin/ip link add veth7 type veth peer name veth8 && /usr/bin/ip link add br7 type bridge")
    await guest.run("/usr/bin/ip link set veth7 master br7")
    await guest.run("mkdir -p /mnt/upper /mnt/work /mnt/merged")
    await guest.run("mount -t overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/merged")
    await guest.run("echo changed >/mnt/merged/hosts && umount /mnt/merged && grep changed /mnt/upper/hosts")
    await guest.run("truncate -s 8M /mnt/disk && mke2fs -qF /mnt/disk")
    await guest.run("mount -t ext2 -o loop /mnt/disk /mnt/merged && umount /mnt/merged")


async def test_no_file_of_the_image_is_open_to_everyone(guest: Guest) -> None:
    assert await guest.run("find / -xdev ! -type l -perm -002 | grep -vxE '/(mnt|run|tmp)' || true") == ""
    assert await guest.run("find / -xdev ! -user 0") == ""
    assert await guest.run("find / -xdev -perm -4000") == ""


async def test_python_is_compiled(guest: Guest) -> None:
    assert await guest.run("find /usr/lib/python3* -name '*.py'") == ""
    trace = await guest.run("python3 -I -S -c 'import json; json.loads(\"{\")' 2>&1", check=False)
    assert 'File "/usr/lib/python3' in trace and "json/decoder.py" in trace, "tracebacks name the source"


async def test_the_first_stage_s_memory_is_given_back(guest: Guest) -> None:
    """switch_root empties the initrd: nothing of it stays mounted or reachable."""
    roots = [line for line in (await guest.run("cat /proc/mounts")).splitlines() if line.split()[1] == "/"]
    assert [line.split()[0] for line in roots if "rootfs" not in line] == ["/dev/pmem0"]


async def test_an_image_that_is_none_ends_with_its_reason_on_the_console(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_bytes(bytes(32 << 20))
    empty.chmod(0o644)
    reason = await console_of_failure(tmp_path, image=str(empty), image_bytes=32 << 20)
    assert "vmpod: first stage: cannot mount /dev/pmem0" in reason
    assert "Kernel panic" in reason


async def console_of_failure(directory: Path, **changes: Any) -> str:
    """Boot a machine that cannot come up; return its console once QEMU has ended."""
    async with started(directory, **changes) as (machine, _):
        await asyncio.wait_for(asyncio.shield(machine.exited), PANIC_DEADLINE_S)
        return machine.console_tail(100)
