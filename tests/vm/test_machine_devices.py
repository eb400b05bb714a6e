"""Hot-plug into a real machine: a share, network cards, disks; their removal; and what is left in QEMU afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import signal
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from oci_runtime.errors import InvalidInput, OciRuntimeError, Unavailable
from oci_runtime.host import syscalls
from oci_runtime.host.spawn import kill_and_reap
from oci_runtime.storage.share import GUEST_ROOT, TAG, Share
from oci_runtime.storage.virtiofsd import VirtiofsdLaunch, launch_virtiofsd
from tests.machine_lab import Guest, assert_mapped, boot
from tests.network_lab import Netns
from tests.storage_lab import attach_path, private_mounts  # noqa: F401 - a fixture

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("private_mounts"), pytest.mark.asyncio(loop_scope="module")]
MAC = "52:54:00:00:00:01"
PORTS = 6
WAIT = "i=0; until {0}; do i=$((i+1)); [ $i -lt 200 ] || exit 1; sleep 0.05; done"


class Served:
    """A share with its virtiofsd."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700)
        self.share = Share.create(directory)
        self.daemon: VirtiofsdLaunch = launch_virtiofsd(self.share.served, directory)

    def close(self) -> None:
        kill_and_reap(self.daemon.child)
        self.daemon.close()
        self.share.close()


@contextlib.contextmanager
def serving(directory: Path) -> Iterator[Served]:
    served = Served(directory)
    try:
        yield served
    finally:
        served.close()


@contextlib.asynccontextmanager
async def guest_with_share(directory: Path) -> AsyncIterator[tuple[Guest, Served]]:
    with serving(directory / "sandbox") as served:
        async with boot(directory) as guest:
            await guest.machine.plug_share(served.daemon.socket, TAG)
            await guest.run("modprobe virtiofs; mkdir -p /mnt/share")
            await guest.run(WAIT.format(f"mount -t virtiofs {TAG} /mnt/share"))
            yield guest, served


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sharing(
    tmp_path_factory: pytest.TempPathFactory,
    private_mounts: None,  # noqa: F811
) -> AsyncIterator[tuple[Guest, Served]]:
    """A machine with a share for all tests that leave both as they were."""
    async with guest_with_share(tmp_path_factory.mktemp("share")) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bare(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guest]:
    """A machine without devices for all tests that take out again what they plug."""
    async with boot(tmp_path_factory.mktemp("bare"), root_ports=PORTS) as guest:
        yield guest


def attach_guest(served: Served, source: Path, name: str, **options: str) -> str:
    """Attach a tree for container c1; return its path in these guests."""
    return attach_path(served.share, source, "c1", name, **options).replace(GUEST_ROOT, "/mnt/share")


async def assert_nothing_left(guest: Guest) -> None:
    """QEMU holds what it was started with and no more."""
    chardevs = {entry["label"] for entry in await guest.machine.qmp.execute("query-chardev")}
    assert chardevs == {"qmp", "console", "agent"}
    assert await guest.machine.qmp.execute("query-named-block-nodes") == []
    assert await guest.machine.qmp.execute("query-fdsets") == []


def open_tap(name: str) -> int:
    """A tap of the current network namespace, which lives as long as the descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x0002 | 0x1000 | 0x4000 | 0x0100))
    return descriptor


async def test_devices_of_every_kind_come_and_go(tmp_path: Path, bare: Guest) -> None:
    await plug_everything(tmp_path, bare)


async def test_devices_of_every_kind_come_and_go_on_the_other_machine(tmp_path: Path) -> None:
    async with boot(tmp_path, machine="pc", image_device="virtio-pmem") as guest:
        await assert_mapped(guest)
        await plug_everything(tmp_path, guest)


async def plug_everything(directory: Path, guest: Guest) -> None:
    """Plug a share, a card and two kinds of disks, look at them from inside, take them out again."""
    with serving(directory / "sandbox") as served, Netns() as netns:
        qemu_fds = len(os.listdir(f"/proc/{guest.machine.pid}/fd"))
        share = await guest.machine.plug_share(served.daemon.socket, TAG)
        taps = [netns.call(open_tap, "tap0") for _ in range(2)]
        nic = await guest.machine.plug_nic(taps, MAC, mtu=1400)
        (directory / "disk").write_bytes(b"from the host".ljust(8 << 20, b"\0"))
        image = os.open(directory / "disk", os.O_RDWR | os.O_CLOEXEC)
        disk = await guest.machine.plug_disk(image, readonly=False, serial="serial-1")
        (directory / "other").write_bytes(bytes(4 << 20))
        other = os.open(directory / "other", os.O_RDWR | os.O_CLOEXEC)
        scsi = await guest.machine.plug_disk(other, readonly=True, bus="virtio-scsi", serial="serial-2")
        for descriptor in (*taps, image, other):
            os.close(descriptor)

        await guest.run("modprobe -a virtiofs virtio_net virtio_blk virtio_scsi sd_mod; mkdir -p /mnt/share")
        await guest.run(WAIT.format(f"mount -t virtiofs {TAG} /mnt/share"))
        found = await guest.run(WAIT.format("cat /sys/class/net/*/address | grep " + MAC))
        assert MAC in found
        assert await guest.run("cat /sys/class/net/e*/mtu") == "1400"
        await guest.run(WAIT.format("[ -e /dev/vda ] && [ -e /dev/sda ]"))
        assert await guest.run("head -c 13 /dev/vda") == "from the host"
        assert await guest.run("cat /sys/block/vda/serial") == "serial-1"
        await guest.run("printf 'from the guest' | dd of=/dev/vda bs=512 conv=notrunc,fsync")
        assert (directory / "disk").read_bytes()[:14] == b"from the guest"
        assert await guest.run("cat /sys/block/sda/ro") == "1"
        for device, kind in ((disk, "virtio*/block/vda"), (nic, "virtio*/net/*"), (scsi, "virtio*/host*")):
            place = "/".join(f"0000:*:{part}" for part in device.guest_path.split("/"))
            await guest.run(f"ls -d /sys/devices/pci0000:00/{place}/{kind}")

        await guest.run("umount /mnt/share")
        for device in (scsi, disk, nic, share):
            await guest.machine.unplug(device)
        await guest.run(WAIT.format("[ ! -e /dev/vda ] && [ ! -e /dev/sda ]"))
        assert MAC not in await guest.run("cat /sys/class/net/*/address")
        await assert_nothing_left(guest)
        assert len(os.listdir(f"/proc/{guest.machine.pid}/fd")) <= qemu_fds + 1


async def test_files_of_the_host_appear_and_vanish_while_the_machine_runs(
    sharing: tuple[Guest, Served], tmp_path: Path
) -> None:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "file").write_text("content")
    guest, served = sharing
    here = attach_guest(served, source, "rootfs").removesuffix("/rootfs")
    assert re.fullmatch(r"/mnt/share/c1\.\d+", here)
    attach_guest(served, source / "file", "m0", readonly="top")
    assert await guest.run(f"cat {here}/rootfs/file {here}/m0") == "contentcontent"
    await guest.run(f"echo new > {here}/rootfs/sub/new")
    assert (source / "sub" / "new").read_text() == "new\n"
    for refused in (f"echo x > {here}/m0", "mkdir /mnt/share/evil", f"mkdir {here}/evil",
                    f"mv {here}/rootfs {here}/other", f"rm {here}/m0"):  # fmt: skip
        output = await guest.run(f"{refused} && echo done", check=False)
        assert "done" not in output, refused
    served.share.detach_container("c1")
    assert served.share.attached() == []
    await guest.run(WAIT.format(f"[ ! -e {here}/rootfs ]"))


async def test_a_container_may_come_again_under_its_name(sharing: tuple[Guest, Served], tmp_path: Path) -> None:
    guest, served = sharing
    for number in range(3):
        source = tmp_path / f"source{number}"
        source.mkdir()
        (source / "file").write_text(f"content {number}")
        path = attach_guest(served, source, "rootfs")
        assert await guest.run(f"cat {path}/file") == f"content {number}"
        served.share.detach_container("c1")


async def test_files_in_use_by_the_guest_do_not_hold_up_the_host(sharing: tuple[Guest, Served], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("content")
    guest, served = sharing
    path = attach_guest(served, source, "rootfs")
    await guest.run(f"sleep 1000 <{path}/file >/dev/null 2>&1 3>&- & cd {path}")
    served.share.detach_container("c1")
    assert served.share.attached() == []
    assert (source / "file").read_text() == "content"


async def test_mounts_inside_a_tree_are_reached(sharing: tuple[Guest, Served], tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    syscalls.mount("inner", str(source / "inner"), "tmpfs", 0, "size=1m")
    (source / "inner" / "file").write_text("deep")
    guest, served = sharing
    path = attach_guest(served, source, "rootfs")
    assert await guest.run(f"cat {path}/inner/file") == "deep"
    served.share.detach_container("c1")
    assert await guest.run("echo alive") == "alive"
    syscalls.umount(str(source / "inner"))


@pytest.mark.parametrize("propagation", ["private", "slave"])
async def test_later_mounts_of_the_host_appear_if_the_mount_says_so(
    sharing: tuple[Guest, Served], tmp_path: Path, propagation: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    syscalls.mount("volume", str(source), "tmpfs", 0, "size=1m")
    syscalls.mount_setattr(str(source), 0, propagation=syscalls.MS_SHARED)
    (source / "later").mkdir()
    guest, served = sharing
    path = attach_guest(served, source, "m0", propagation=propagation)
    await guest.run(f"ls {path}/later")
    syscalls.mount("later", str(source / "later"), "tmpfs", 0, "size=1m")
    (source / "later" / "file").write_text("arrived")
    await asyncio.sleep(1.1)  # the guest trusts attributes for a second
    output = await guest.run(f"cat {path}/later/file", check=False)
    assert ("arrived" in output) == (propagation == "slave")
    served.share.detach_container("c1")
    syscalls.umount(str(source / "later"))
    syscalls.umount(str(source))


async def test_extended_attributes_and_ownership_pass_through(sharing: tuple[Guest, Served], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    guest, served = sharing
    path = attach_guest(served, source, "rootfs")
    await guest.run(f"cd {path}; touch file; chown 1234:5678 file; chmod 4755 file")
    script = "import os; os.setxattr(b'file', b'user.note', b'text')"
    await guest.run(f'cd {path}; python3 -c "{script}"')
    served.share.detach_container("c1")
    status = (source / "file").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (1234, 5678, 0o4755)
    assert os.getxattr(source / "file", "user.note") == b"text"


async def test_without_a_free_port_the_error_says_what_to_do(bare: Guest, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    descriptor = os.open(tmp_path / "disk", os.O_RDONLY | os.O_CLOEXEC)
    disks = [await bare.machine.plug_disk(descriptor, readonly=True) for _ in range(PORTS)]
    with pytest.raises(Unavailable, match=f"all {PORTS} hot-plug slots of the machine are in use .raise vm.root_ports"):
        await bare.machine.plug_disk(descriptor, readonly=True)
    await bare.machine.unplug(disks.pop())
    disks.append(await bare.machine.plug_disk(descriptor, readonly=True))
    os.close(descriptor)
    for disk in disks:
        await bare.machine.unplug(disk)


async def test_a_failed_plug_leaves_nothing(bare: Guest, tmp_path: Path) -> None:
    for _ in range(PORTS + 1):  # more than there are slots
        with pytest.raises(OciRuntimeError, match="QEMU refused netdev_add"):
            await bare.machine.plug_nic([os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)], MAC)
        with pytest.raises(OciRuntimeError, match="QEMU refused device_add"), Netns() as netns:
            await bare.machine.plug_nic([netns.call(open_tap, "tap0")], "no mac")
        near, far = socket.socketpair()
        far.close()
        with near, pytest.raises(OciRuntimeError, match="QEMU refused device_add"):
            await bare.machine.plug_share(near, "dead")
        directory = os.open(tmp_path, os.O_RDONLY | os.O_CLOEXEC)
        with pytest.raises(OciRuntimeError, match="QEMU refused blockdev-add"):
            await bare.machine.plug_disk(directory, readonly=True)
        os.close(directory)
    await assert_nothing_left(bare)
    assert await bare.run("echo alive") == "alive"


async def test_bad_arguments_never_reach_qemu(bare: Guest, tmp_path: Path) -> None:
    near, far = socket.socketpair()
    with near, far:
        for tag in ("", "x" * 37):
            with pytest.raises(InvalidInput, match="must be 1 to 36 bytes"):
                await bare.machine.plug_share(near, tag)
        with pytest.raises(InvalidInput, match="0 tap and 0 vhost"):
            await bare.machine.plug_nic([], MAC)
        with pytest.raises(InvalidInput, match="1 tap and 2 vhost"):
            await bare.machine.plug_nic([0], MAC, vhost_fds=[0, 0])
        with pytest.raises(InvalidInput, match="disk bus 'ide'"):
            await bare.machine.plug_disk(0, readonly=True, bus="ide")


async def test_a_guest_that_does_not_let_go_costs_the_deadline_and_its_slot(bare: Guest, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    descriptor = os.open(tmp_path / "disk", os.O_RDONLY | os.O_CLOEXEC)
    disk = await bare.machine.plug_disk(descriptor, readonly=True)
    os.close(descriptor)
    await bare.machine.qmp.execute("stop")
    with pytest.raises(Unavailable, match=f"device {disk.id}: the guest did not release it within 0.3 s"):
        await bare.machine.unplug(disk, deadline_s=0.3)
    await bare.machine.qmp.execute("cont")
    await bare.machine.unplug(disk)
    await bare.machine.unplug(disk)
    await assert_nothing_left(bare)


async def test_several_devices_at_once(bare: Guest, tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    await bare.run("modprobe virtio_blk")
    descriptor = os.open(tmp_path / "disk", os.O_RDONLY | os.O_CLOEXEC)
    plugs = [bare.machine.plug_disk(descriptor, readonly=True, serial=f"s{number}") for number in range(6)]
    disks = await asyncio.gather(*plugs)
    os.close(descriptor)
    await bare.run(WAIT.format("[ $(ls /sys/block | grep -c vd) -eq 6 ]"))
    await asyncio.gather(*(bare.machine.unplug(disk) for disk in disks))
    await assert_nothing_left(bare)


async def test_the_death_of_virtiofsd_leaves_qemu_to_be_ended(tmp_path: Path) -> None:
    async with guest_with_share(tmp_path) as (guest, served):
        os.kill(served.daemon.pid, signal.SIGKILL)
        await asyncio.sleep(0.2)
        assert not guest.machine.exited.done()
        ended = await guest.machine.stop()
        assert ended.reason == "stopped"


async def test_the_death_of_qemu_ends_virtiofsd(tmp_path: Path) -> None:
    async with guest_with_share(tmp_path) as (guest, served):
        served.daemon.socket.close()
        os.kill(guest.machine.pid, signal.SIGKILL)
        await guest.machine.exited
        await asyncio.to_thread(os.waitid, os.P_PIDFD, served.daemon.pidfd, os.WEXITED | os.WNOWAIT)
