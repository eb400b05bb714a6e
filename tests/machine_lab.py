"""A guest for tests of the machine: the real kernel, first stage and root image, with a shell in place of the agent.

The shell reads command lines from the agent's port and answers with their output and exit code, so that a test can look
at the machine from inside without any of the agent's code.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oci_runtime.image.store import DEFAULT_NAME, DEFAULT_STORE, find_image
from oci_runtime.vm.argv import VmSettings
from oci_runtime.vm.console import LIMIT_BYTES
from oci_runtime.vm.launch import QemuLaunch, launch_qemu, sandbox_uid
from oci_runtime.vm.machine import Machine
from tests.image_lab import replace_agent

BOOT_DEADLINE_S = 120.0
COMMAND_DEADLINE_S = 60.0
_SHELL = r"""
mount -t tmpfs run /run
mount -t tmpfs mnt /mnt
for port in /dev/vport*p1; do :; done
exec 3<>"$port"
echo "@lab-exit 0" >&3
while read -r line <&3; do
    (eval "$line") >/run/lab.out 2>&1 </dev/null
    code=$?
    cat /run/lab.out >&3
    echo "@lab-exit $code" >&3
done
"""


@dataclass
class Guest:
    """A booted machine and the shell in it."""

    machine: Machine
    launch: QemuLaunch
    console_log: Path
    _buffer: bytes = b""

    async def run(self, command: str, *, check: bool = True, deadline_s: float = COMMAND_DEADLINE_S) -> str:
        """Run a command line in the guest; return what it printed, without line feeds at its end."""
        await asyncio.get_running_loop().sock_sendall(self._port, command.replace("\n", ";").encode() + b"\n")
        code, output = await self.answer(deadline_s)
        assert code == 0 or not check, f"{command}: exit code {code}\n{output}"
        return output

    async def send(self, command: str) -> None:
        """Start a command that may end the guest: no answer is expected."""
        await asyncio.get_running_loop().sock_sendall(self._port, command.encode() + b"\n")

    async def answer(self, deadline_s: float = COMMAND_DEADLINE_S) -> tuple[int, str]:
        """Read up to the next mark; return the exit code and what came before."""
        async with asyncio.timeout(deadline_s):
            while not (found := re.search(rb"@lab-exit (\d+)\n", self._buffer)):
                data = await asyncio.get_running_loop().sock_recv(self._port, 1 << 16)
                assert data, f"the guest is gone: {self.machine.console_tail()}"
                self._buffer += data
        output, self._buffer = self._buffer[: found.start()], self._buffer[found.end() :]
        return int(found[1]), output.decode("utf-8", "replace").rstrip("\n")

    @property
    def _port(self) -> Any:
        assert self.launch.agent is not None
        return self.launch.agent


def lab_settings(directory: Path, **changes: Any) -> VmSettings:
    """Settings of a machine with the default image and the shell; `directory` gets the changed initrd."""
    image = find_image(DEFAULT_STORE, os.environ.get("VMPOD_TEST_IMAGE", DEFAULT_NAME))
    initrd = directory / "lab-initrd"
    if not initrd.exists():
        initrd.write_bytes(replace_agent(Path(image.initrd).read_bytes(), ("/bin/sh", "-c", _SHELL)))
        initrd.chmod(0o644)
    settings: dict[str, Any] = {
        "kernel": image.kernel,
        "initrd": str(initrd),
        "image": image.rootfs,
        "image_bytes": image.image_bytes,
        "kernel_parameters": image.kernel_parameters,
        "name": "vmpod-lab",
        "memory_mib": 256,
        "uid": sandbox_uid("0123456789abcdef"),
        "gid": sandbox_uid("0123456789abcdef"),
    }
    return VmSettings(**(settings | changes))


@contextlib.asynccontextmanager
async def started(
    directory: Path, *, console_bytes: int = LIMIT_BYTES, **changes: Any
) -> AsyncIterator[tuple[Machine, QemuLaunch]]:
    """Start a machine without waiting for its guest; it is stopped in the end, whatever the test did."""
    launch = launch_qemu(lab_settings(directory, **changes))
    try:
        machine = await Machine.connect(launch, directory / "console.log", console_bytes=console_bytes)
        try:
            yield machine, launch
        finally:
            await machine.stop()
    finally:
        assert launch.agent is not None
        launch.agent.close()


@contextlib.asynccontextmanager
async def boot(directory: Path, **options: Any) -> AsyncIterator[Guest]:
    """Start a machine and wait for its shell. options: as of `started`."""
    async with started(directory, **options) as (machine, launch):
        guest = Guest(machine, launch, directory / "console.log")
        guest._port.setblocking(False)
        await guest.answer(BOOT_DEADLINE_S)
        yield guest


async def assert_mapped(guest: Guest) -> None:
    """The root image is mapped into the guest's memory, not copied."""
    options = (await guest.run("grep ' / erofs ' /proc/mounts")).split()[3].split(",")
    assert {"ro", "dax=always"} <= set(options)
    assert await guest.run("cat /sys/block/pmem0/queue/dax") == "1"
