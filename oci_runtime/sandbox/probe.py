"""Boot a machine without a pod, ask its agent what it runs on, end it: for `vmpod check --guest`."""

from __future__ import annotations

import os
import shutil
import tempfile
import time

from oci_runtime.config.model import Config
from oci_runtime.log import timestamp
from oci_runtime.sandbox.launch import BootRequest, launch
from oci_runtime.sandbox.virtual_machine import VirtualMachine
from oci_runtime.state.sandboxes import SandboxRecord
from oci_runtime.ttrpc.proto import agent_pb2 as pb

_NAME = "vmpod-check"


async def probe_guest(config: Config) -> tuple[pb.GuestDetailsResponse, int]:
    """What the guest tells about itself, and the milliseconds from QEMU's start to the agent's answer.

    The machine has the configuration's size and a directory below /run of its own. Raises what a pod's boot would
    raise, with the tail of the guest's console. Nothing is left behind, except by a SIGKILL.
    """
    directory = tempfile.mkdtemp(prefix=f"{_NAME}-", dir="/run")
    try:
        SandboxRecord.new(directory, _NAME, timestamp()).save()
        request = BootRequest.bare(os.path.basename(directory), directory, config)
        began_ns = time.monotonic_ns()
        machine = VirtualMachine(launch(request, began_ns))
        try:
            await machine.bring_up()
            boot_ms = (time.monotonic_ns() - began_ns) // 1_000_000
            return await (await machine.agent()).guest_details(), boot_ms
        finally:
            await machine.close()
    finally:
        shutil.rmtree(directory)
