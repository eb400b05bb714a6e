"""A bare boot: the same kernel, image and devices as a pod's machine, to the agent's first answer, and nothing else."""

from __future__ import annotations

import os
import struct
import time

from oci_runtime import __version__
from oci_runtime.config.load import load_config
from oci_runtime.host.spawn import kill_and_reap
from oci_runtime.sandbox.launch import BootRequest, plan_settings
from oci_runtime.sandbox.timeline import Timeline
from oci_runtime.ttrpc.proto import agent_lean, ttrpc_lean
from oci_runtime.vm.accel import read_host_facts
from oci_runtime.vm.launch import launch_qemu

_HEADER = struct.Struct(">IIBB")


def boot_ms(directory: str) -> float:
    """Boot, greet, wait for the answer, end; return the milliseconds from launch to answer."""
    config = load_config()
    request = BootRequest(
        sandbox_id=f"bare-{os.getpid()}",
        owner_id="",
        root=directory,
        directory=directory,
        config=config,
        vcpus=config.vm.default_vcpus,
        memory_mib=config.vm.default_memory_mib,
    )
    begin = time.perf_counter()
    launch = launch_qemu(plan_settings(request, Timeline(), read_host_facts()))
    assert launch.agent is not None, "the benchmark speaks virtio-serial"
    hello = agent_lean.HelloRequest(version=__version__, time_ns=time.time_ns(), random_seed=os.urandom(32))
    call = ttrpc_lean.Request(service="vmpod.agent.v1.Agent", method="Hello", payload=hello.SerializeToString())
    data = call.SerializeToString()
    launch.agent.sendall(_HEADER.pack(len(data), 1, 1, 0) + data)
    launch.agent.settimeout(60)
    try:
        assert launch.agent.recv(_HEADER.size), "the guest ended before it answered"
        return (time.perf_counter() - begin) * 1000
    finally:
        kill_and_reap(launch.child)
        for sock in (launch.qmp, launch.console, launch.agent):
            sock.close()
        os.close(launch.stderr)
        os.close(launch.child.pidfd)
