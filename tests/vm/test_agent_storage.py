"""Disks that are plugged into a running machine: the agent waits for them, mounts them, lets go of them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from oci_runtime import __version__
from oci_runtime.agent.client import AgentClient
from oci_runtime.errors import AlreadyExists, InvalidInput, NotFound, OciRuntimeError
from oci_runtime.vm.machine import Machine
from tests.agent_lab import ROOTFS, Guest, shell
from tests.vm.agent_guest import BOOT_S, launch

pytestmark = [pytest.mark.vm, pytest.mark.asyncio(loop_scope="module")]


@dataclass
class Lab:
    machine: Machine
    guest: Guest
    directory: Path

    def disk(self, name: str, *, filesystem: bool = True) -> int:
        """A disk image of 64 MiB; returns a descriptor that QEMU may use."""
        path = self.directory / name
        with path.open("wb") as file:
            file.truncate(64 << 20)
        if filesystem:
            subprocess.run(["mkfs.ext4", "-q", "-F", str(path)], check=True)
        return os.open(path, os.O_RDWR)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lab() -> AsyncIterator[Lab]:
    with tempfile.TemporaryDirectory() as directory:
        console = Path(directory, "console.log")
        machine = await Machine.connect(launch({}), console)
        agent = await AgentClient.connect(await machine.connect_agent())
        try:
            hello = await agent.hello(__version__, os.urandom(64), timeout_s=BOOT_S)
            await agent.add_storage("bind", "/", ROOTFS)
            yield Lab(machine, Guest(agent, hello, console, machine.pid), Path(directory))
        finally:
            await agent.close()
            await machine.stop()


async def test_a_disk_is_mounted_used_and_taken_out(lab: Lab) -> None:
    agent = lab.guest.agent
    descriptor = lab.disk("one")
    device = await lab.machine.plug_disk(descriptor, readonly=False)
    os.close(descriptor)
    target = "/run/vmpod/disks/one"
    await agent.add_storage("block", device.guest_path, target, fstype="ext4", options=["noatime"])
    mounts = [{"destination": "/tmp", "type": "bind", "source": target, "options": ["rbind"]}]
    result = await lab.guest.run(
        "disk", *shell("echo kept > /tmp/file; cat /tmp/file; stat -f -c %T /tmp"), mounts=mounts
    )
    assert result[:2] == (0, b"kept\next2/ext3\n")
    with pytest.raises(AlreadyExists):
        await agent.add_storage("block", device.guest_path, target, fstype="ext4")
    await agent.remove_storage(target)
    await lab.machine.unplug(device)
    assert b"kept" in (lab.directory / "one").read_bytes()


async def test_a_disk_without_file_system_is_handed_on_as_a_device(lab: Lab) -> None:
    agent = lab.guest.agent
    descriptor = lab.disk("raw", filesystem=False)
    device = await lab.machine.plug_disk(descriptor, readonly=False)
    os.close(descriptor)
    with pytest.raises(InvalidInput, match="needs its file system type"):
        await agent.add_storage("block", device.guest_path, "/run/vmpod/disks/raw")
    with pytest.raises(OciRuntimeError, match="mount"):
        await agent.add_storage("block", device.guest_path, "/run/vmpod/disks/raw", fstype="ext4")
    await agent.add_storage("block", device.guest_path, "/run/vmpod/disks/node", fstype="none")
    result = await lab.guest.run(
        "raw",
        *shell("head -c 1048576 /dev/block | wc -c"),
        mounts=[{"destination": "/dev/block", "type": "bind", "source": "/run/vmpod/disks/node", "options": ["bind"]}],
        linux={"resources": {"devices": [{"allow": True, "access": "rwm"}]}, "namespaces": [{"type": "pid"}]},
    )
    assert result[:2] == (0, b"1048576\n")
    await agent.remove_storage("/run/vmpod/disks/node")
    await lab.machine.unplug(device)


async def test_the_agent_waits_for_a_disk_that_comes_later(lab: Lab) -> None:
    agent = lab.guest.agent
    first = lab.disk("first", filesystem=False)
    device = await lab.machine.plug_disk(first, readonly=False)
    # Slots are handed out in order, so the next disk comes one further.
    path = f"{int(device.guest_path[:2], 16) + 1:02x}.0/00.0"
    await lab.machine.unplug(device)
    waiting = asyncio.create_task(agent.add_storage("block", path, "/run/vmpod/disks/late", fstype="ext4"))
    await asyncio.sleep(0.5)
    assert not waiting.done()
    second = lab.disk("second")
    device = await lab.machine.plug_disk(second, readonly=False)
    assert device.guest_path == path
    await waiting
    await agent.remove_storage("/run/vmpod/disks/late")
    await lab.machine.unplug(device)
    os.close(first)
    os.close(second)


async def test_devices_that_never_come_are_named_and_nothing_is_left(lab: Lab) -> None:
    agent = lab.guest.agent
    with pytest.raises(InvalidInput, match="PCI path"):
        await agent.add_storage("block", "../../x", "/run/vmpod/disks/none", fstype="ext4")
    disk, share = await asyncio.gather(
        agent.add_storage("block", "1f/00", "/run/vmpod/disks/none", fstype="ext4"),
        agent.add_storage("virtiofs", "nobody", "/run/vmpod/nobody"),
        return_exceptions=True,
    )
    assert isinstance(disk, NotFound)
    assert "no disk at PCI address 1f/00 appeared" in disk.message
    assert isinstance(share, NotFound)
    assert "no virtio-fs device with the tag 'nobody'" in share.message
    with pytest.raises(NotFound, match="is not mounted"):
        await agent.remove_storage("/run/vmpod/disks/none")


async def test_an_overlay_of_two_directories(lab: Lab) -> None:
    agent = lab.guest.agent
    await agent.add_storage("tmpfs", "tmpfs", "/run/vmpod/o/upper", options=["size=8m"])
    options = ["lowerdir=/etc", "upperdir=/run/vmpod/o/upper/u", "workdir=/run/vmpod/o/upper/w"]
    await agent.add_storage("overlay", "overlay", "/run/vmpod/o/merged", options=options)
    mounts = [{"destination": "/tmp", "type": "bind", "source": "/run/vmpod/o/merged", "options": ["rbind"]}]
    result = await lab.guest.run(
        "overlay", *shell("echo new > /tmp/new; test -e /tmp/protocols; echo $?"), mounts=mounts
    )
    assert result[:2] == (0, b"0\n")
    with pytest.raises(InvalidInput, match="storage target"):
        options = ["lowerdir=/etc", "upperdir=/tmp/u", "workdir=/tmp/w"]
        await agent.add_storage("overlay", "overlay", "/run/vmpod/o/bad", options=options)
    await agent.remove_storage("/run/vmpod/o/merged")
    await agent.remove_storage("/run/vmpod/o/upper")
