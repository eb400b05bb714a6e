"""A real machine: how it ends, what it says, and what is left of it."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from oci_runtime.config.load import load_config
from oci_runtime.errors import OciRuntimeError, Unavailable
from oci_runtime.log import timestamp
from oci_runtime.sandbox.launch import BootRequest, launch
from oci_runtime.sandbox.virtual_machine import VirtualMachine
from oci_runtime.state.sandboxes import SandboxRecord
from oci_runtime.vm.launch import launch_qemu
from oci_runtime.vm.machine import Machine
from tests.machine_lab import Guest, assert_mapped, boot, lab_settings, started

pytestmark = [pytest.mark.vm, pytest.mark.asyncio(loop_scope="module")]
END_DEADLINE_S = 20.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guest]:
    """A machine for all tests that leave it running as it was."""
    async with boot(tmp_path_factory.mktemp("shared")) as guest:
        yield guest


def open_fds() -> int:
    gc.collect()  # what an earlier test has let go closes now, not in the middle of this one
    return len(os.listdir("/proc/self/fd"))


def read(path: str | Path) -> str:
    return Path(path).read_text()


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def start_parent(directory: Path) -> subprocess.Popen[bytes]:
    """A process that starts a machine, prints its pid and waits."""
    script = (
        "import time; from tests.machine_lab import *;"
        f"print(launch_qemu(lab_settings(Path({str(directory)!r}))).pid, flush=True); time.sleep(1000)"
    )
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])


async def pidfd_readable(pidfd: int) -> None:
    """Wait for the end of the process behind a pidfd."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), END_DEADLINE_S)
    finally:
        loop.remove_reader(pidfd)


def is_gone(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}")


@pytest.mark.parametrize(("machine", "image_device"), [("q35", "virtio-pmem"), ("q35", "nvdimm"), ("pc", "nvdimm")])
async def test_boots_confined_and_stops_without_a_trace(tmp_path: Path, machine: str, image_device: str) -> None:
    image = lab_settings(tmp_path).image
    before, content = open_fds(), digest(image)
    async with boot(tmp_path, machine=machine, image_device=image_device) as guest:
        status = read(f"/proc/{guest.machine.pid}/status")
        uid = str(guest.launch.settings.uid)
        assert f"Uid:\t{uid}\t{uid}\t{uid}\t{uid}" in status
        assert "CapEff:\t0000000000000000" in status
        assert "NoNewPrivs:\t1" in status
        assert "Seccomp:\t2" in status
        assert "Groups:\t \n" in status
        await assert_mapped(guest)
        await assert_image_is_safe(guest, image)
        pid = guest.machine.pid
        ended = await guest.machine.stop()
        assert (ended.reason, ended.exit_code) == ("stopped", 0)
        assert guest.machine.exited.result() == ended
        assert await guest.machine.stop() == ended, "stopping again is harmless"
    assert is_gone(pid)
    assert open_fds() == before
    assert digest(image) == content


async def assert_image_is_safe(guest: Guest, image: str) -> None:
    """Write to the image's device; its mapping on the host allows no such thing."""
    await guest.run("dd if=/dev/urandom of=/dev/pmem0 bs=4096 count=600 conv=fsync", check=False)
    mappings = read(f"/proc/{guest.machine.pid}/maps")
    (mapping,) = [line for line in mappings.splitlines() if line.endswith(image)]
    assert mapping.split()[1] == "r--s"


async def test_qemu_shares_no_descriptor_with_us_but_its_own(tmp_path: Path) -> None:
    secret = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        async with started(tmp_path) as (machine, _):
            root = f"/proc/{machine.pid}/fd"
            targets = {os.readlink(f"{root}/{number}") for number in os.listdir(root)}
            assert "/etc/passwd" not in targets
    finally:
        os.close(secret)


async def test_power_off_is_a_shutdown(tmp_path: Path) -> None:
    async with boot(tmp_path) as guest:
        await guest.send("echo o > /proc/sysrq-trigger")
        ended = await asyncio.wait_for(guest.machine.exited, END_DEADLINE_S)
    assert (ended.reason, ended.exit_code) == ("shutdown", 0)


@pytest.mark.parametrize("driver", ["without pvpanic", "with pvpanic"])
async def test_a_panic_ends_the_machine_and_its_reason_is_on_the_console(tmp_path: Path, driver: str) -> None:
    async with boot(tmp_path) as guest:
        if driver == "with pvpanic":
            await guest.run("modprobe pvpanic-pci")
        await guest.send("echo c > /proc/sysrq-trigger")
        ended = await asyncio.wait_for(guest.machine.exited, END_DEADLINE_S)
        assert ended.reason == "panic"
        assert "Kernel panic - not syncing: sysrq triggered crash" in guest.machine.console_tail(80)
    assert "Kernel panic" in read(tmp_path / "console.log")


async def test_the_death_of_init_is_a_panic(tmp_path: Path) -> None:
    async with boot(tmp_path) as guest:
        await guest.send("kill -9 1; exec 3>&-; kill -SEGV $$")
        await guest.send("echo b > /proc/sysrq-trigger")
        ended = await asyncio.wait_for(guest.machine.exited, END_DEADLINE_S)
    assert ended.reason == "panic", "a machine whose agent never resets it and that resets has panicked"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
async def test_a_killed_qemu_is_noticed_at_once(tmp_path: Path, number: signal.Signals) -> None:
    async with started(tmp_path) as (machine, _):
        os.kill(machine.pid, number)
        ended = await asyncio.wait_for(machine.exited, END_DEADLINE_S)
        assert ended.reason == "killed"
        assert ended.exit_code == (0 if number == signal.SIGTERM else -number)
        with pytest.raises(Unavailable):
            await machine.qmp.execute("stop")


async def test_a_qemu_that_does_not_react_is_killed(tmp_path: Path) -> None:
    async with started(tmp_path) as (machine, _):
        os.kill(machine.pid, signal.SIGSTOP)
        ended = await machine.stop(deadline_s=0.3)
        assert (ended.reason, ended.exit_code) == ("stopped", -signal.SIGKILL)


async def test_commands_to_a_qemu_that_does_not_react_have_a_deadline(shared: Guest) -> None:
    os.kill(shared.machine.pid, signal.SIGSTOP)
    with pytest.raises(Unavailable, match="no answer to query-status within 0.2 s"):
        await shared.machine.qmp.execute("query-status", deadline_s=0.2)
    os.kill(shared.machine.pid, signal.SIGCONT)
    assert (await shared.machine.qmp.execute("query-status"))["status"] == "running", "the session goes on"


async def test_the_balloon_tells_the_guests_memory(shared: Guest) -> None:
    await shared.run("modprobe virtio_balloon")
    assert await shared.machine.qmp.execute("query-balloon") == {"actual": 256 << 20}


async def test_the_guest_has_a_random_source(shared: Guest) -> None:
    await shared.run("modprobe virtio-rng")
    assert "virtio_rng" in await shared.run("cat /sys/class/misc/hw_random/rng_available")


async def test_a_guest_that_floods_its_console_is_bounded(tmp_path: Path) -> None:
    async with boot(tmp_path, console_bytes=32 << 10) as guest:
        await guest.run("seq 1 10000 >/dev/ttyS0", deadline_s=240)
        async with asyncio.timeout(END_DEADLINE_S):  # the port drains after the guest's write has returned
            while guest.machine.console_tail(2) != "9999\n10000":  # noqa: ASYNC110 - the log has no event
                await asyncio.sleep(0.05)
    text = read(tmp_path / "console.log")
    assert len(text) < 34_000
    assert "\n1\n2\n3\n" in "\n" + text[:1000]
    assert "bytes of console output dropped" in text
    assert text.endswith("9999\n10000\n")


async def test_machines_die_with_the_process_that_started_them(tmp_path: Path) -> None:
    lab_settings(tmp_path)
    parent = start_parent(tmp_path)
    assert parent.stdout is not None
    pidfd = os.pidfd_open(int(parent.stdout.readline()))
    try:
        parent.kill()
        parent.wait()
        await pidfd_readable(pidfd)
    finally:
        os.close(pidfd)
        parent.stdout.close()


async def test_a_qemu_that_refuses_its_arguments_says_why(tmp_path: Path) -> None:
    before = open_fds()
    launch = launch_qemu(lab_settings(tmp_path, cpu="pentium99"))
    with pytest.raises(Unavailable) as caught:
        await Machine.connect(launch, tmp_path / "console.log")
    assert "unable to find CPU model 'pentium99'" in caught.value.detail
    assert caught.value.message.startswith("QEMU (/usr/bin/qemu-system-x86_64) ended at once: exit status 1: ")
    assert "unable to find CPU model 'pentium99'" in caught.value.message
    assert launch.agent is not None
    launch.agent.close()
    assert is_gone(launch.pid)
    assert open_fds() == before


async def test_a_console_log_that_cannot_be_made_ends_qemu(tmp_path: Path) -> None:
    before = open_fds()
    launch = launch_qemu(lab_settings(tmp_path))
    with pytest.raises(OciRuntimeError, match="create console log"):
        await Machine.connect(launch, tmp_path / "missing" / "console.log")
    assert launch.agent is not None
    launch.agent.close()
    assert is_gone(launch.pid)
    assert open_fds() == before


async def test_cancelling_the_connection_ends_qemu(tmp_path: Path) -> None:
    before = open_fds()
    launch = launch_qemu(lab_settings(tmp_path))
    os.kill(launch.pid, signal.SIGSTOP)
    task = asyncio.create_task(Machine.connect(launch, tmp_path / "console.log"))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert launch.agent is not None
    launch.agent.close()
    assert is_gone(launch.pid)
    assert open_fds() == before


async def test_a_pod_that_ends_before_its_monitor_answers_leaves_no_qemu(tmp_path: Path) -> None:
    before = open_fds()
    (tmp_path / "config.toml").write_text('[storage]\nshared_fs = "none"\n')
    SandboxRecord.new(str(tmp_path), "early", timestamp()).save()
    request = BootRequest.bare("early", str(tmp_path), load_config(str(tmp_path / "config.toml")))
    launched = launch(request, time.monotonic_ns())
    os.kill(launched.qemu.pid, signal.SIGSTOP)
    machine = VirtualMachine(launched)
    booting = asyncio.create_task(machine.bring_up())
    await asyncio.sleep(0.1)
    assert not booting.done()
    await machine.close()
    assert is_gone(launched.qemu.pid)
    with pytest.raises(asyncio.CancelledError):
        await booting
    with pytest.raises(Unavailable, match="the pod has ended"):
        await machine.agent()
    assert open_fds() == before
