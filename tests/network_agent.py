"""The guest's agent without a machine: a process in a network namespace of its own, at the end of a socket."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from oci_runtime import __version__
from oci_runtime.agent.client import SERVICE, AgentClient
from oci_runtime.ttrpc.client import TtrpcClient
from oci_runtime.ttrpc.proto import agent_pb2 as pb
from tests.network_lab import Netns

DEADLINE_S = 60


def start_agent(guest: Netns) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    ours, theirs = socket.socketpair()
    with theirs:
        command = ["nsenter", f"--net={guest.path}", sys.executable, "-m", "oci_runtime.guest"]
        number = theirs.fileno()
        return ours, subprocess.Popen([*command, f"vmpod.transport=fd:{number}"], pass_fds=[number])


@asynccontextmanager
async def running_agent(guest: Netns) -> AsyncIterator[tuple[AgentClient, subprocess.Popen[bytes]]]:
    """The agent as a process in the namespace, and its client."""
    ours, process = start_agent(guest)
    client = await TtrpcClient.connect(ours)
    try:
        # AgentClient.hello would set the clock, which is the host's here.
        greeting = pb.HelloRequest(version=__version__).SerializeToString()
        await client.call(SERVICE, "Hello", greeting, DEADLINE_S)
        yield AgentClient(client), process
    finally:
        await client.close()
        process.kill()
        process.wait()
