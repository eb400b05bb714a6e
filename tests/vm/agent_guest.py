"""A guest for tests of the agent alone: QEMU with the image, the agent's client, no share and no network.

Containers use the guest's own root image as their rootfs: it has busybox and Python.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from oci_runtime import __version__
from oci_runtime.agent.client import AgentClient
from oci_runtime.image.store import find_image
from oci_runtime.vm.argv import VmSettings
from oci_runtime.vm.launch import QemuLaunch, launch_qemu
from tests.agent_lab import ROOTFS, Guest

STORE = os.environ.get("VMPOD_TEST_IMAGES", "/var/cache/vmpod/images")
IMAGE = os.environ.get("VMPOD_TEST_IMAGE", "default")
BOOT_S = 90.0


@contextlib.asynccontextmanager
async def booted_guest(**settings: Any) -> AsyncIterator[Guest]:
    """Boot QEMU, greet the agent, mount the guest's root as a rootfs; kill QEMU in the end."""
    machine = launch(settings)
    with tempfile.TemporaryDirectory() as directory:
        console = Path(directory, "console.log")
        drains = [
            threading.Thread(target=_drain, args=(machine.console.fileno(), console), daemon=True),
            threading.Thread(target=_drain, args=(machine.stderr, Path(directory, "qemu.log")), daemon=True),
        ]
        for drain in drains:
            drain.start()
        assert machine.agent is not None
        agent = await AgentClient.connect(machine.agent)
        try:
            hello = await agent.hello(__version__, os.urandom(64), timeout_s=BOOT_S)
            await agent.add_storage("bind", "/", ROOTFS)
            yield Guest(agent, hello, console, machine.pid)
        except BaseException:
            _show(console)
            raise
        finally:
            await agent.close()
            _end(machine, drains)


def launch(settings: dict[str, Any]) -> QemuLaunch:
    """Start QEMU with the tests' image."""
    image = find_image(STORE, IMAGE)
    return launch_qemu(
        VmSettings(
            kernel=str(image.kernel),
            initrd=str(image.initrd),
            image=str(image.rootfs),
            image_bytes=os.path.getsize(image.rootfs),
            kernel_parameters=tuple(image.kernel_parameters),
            **settings,
        )
    )


def _show(console: Path) -> None:
    print(console.read_text(errors="replace")[-8000:])


def _end(launch: QemuLaunch, drains: list[threading.Thread]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(launch.pid, signal.SIGKILL)
    os.waitpid(launch.pid, 0)
    for drain in drains:
        drain.join(5)
    launch.close()


def _drain(fd: int, path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        while data := os.read(fd, 65536):
            file.write(data)
