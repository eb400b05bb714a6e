"""A bare boot: the same kernel, image and devices as a pod's machine, to the agent's first answer, and nothing else."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from oci_runtime import __version__
from oci_runtime.agent.client import AgentClient
from oci_runtime.config.load import load_config
from oci_runtime.host.spawn import kill_and_reap
from oci_runtime.sandbox.launch import BootRequest, plan_settings
from oci_runtime.sandbox.timeline import Timeline
from oci_runtime.storage.share import TAG
from oci_runtime.storage.virtiofsd import launch_virtiofsd
from oci_runtime.vm.accel import read_host_facts
from oci_runtime.vm.launch import launch_qemu
from oci_runtime.vm.machine import Machine


def boot_ms(directory: str) -> float:
    """Boot, greet, wait for the answer, end; return the milliseconds from launch to answer."""
    request = BootRequest.bare(f"bare-{os.getpid()}", directory, load_config())
    return asyncio.run(_boot(request))


async def _boot(request: BootRequest) -> float:
    begin = time.perf_counter()
    launch = launch_qemu(plan_settings(request, Timeline(), read_host_facts()))
    virtiofsd = launch_virtiofsd(Path(request.directory), Path(request.directory))
    try:
        machine = await Machine.connect(launch, Path(request.directory, "console.log"))
        try:
            await machine.plug_share(virtiofsd.socket, TAG)
            client = await AgentClient.connect(await machine.connect_agent())
            await asyncio.wait_for(client.hello(__version__, os.urandom(64)), 60)
            answered = time.perf_counter()
            await client.close()
        finally:
            await machine.stop(0)
    finally:
        kill_and_reap(virtiofsd.child)
        virtiofsd.close()
    return (answered - begin) * 1000
