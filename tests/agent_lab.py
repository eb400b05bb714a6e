"""What the tests of the agent share: a guest (a virtual machine, or namespaces of this one), specs, outputs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oci_runtime.agent.client import AgentClient
from oci_runtime.ttrpc.proto import agent_pb2 as pb

ROOTFS = "/run/vmpod/rootfs"


def shell(script: str) -> tuple[str, ...]:
    """The arguments of a process that runs a script in the container."""
    return ("/bin/busybox", "sh", "-c", script)


@dataclass
class Guest:
    """A booted guest. `hello` is its first answer; `console` the log so far."""

    agent: AgentClient
    hello: pb.HelloResponse
    console: Path
    qemu_pid: int

    async def create(self, container_id: str, *args: str, stdin: bool = False, **options: Any) -> pb.ProcessResponse:
        """Create a container from `spec(*args, **options)`."""
        data = json.dumps(spec(*args, **options)).encode()
        return await self.agent.create_container(container_id, data, stdin=stdin)

    async def run(self, container_id: str, *args: str, **options: Any) -> tuple[int, bytes, bytes]:
        """Run a container to its end and remove it; return exit code, stdout, stderr."""
        await self.create(container_id, *args, **options)
        try:
            await self.agent.start_container(container_id)
            return await self.finish(container_id, "")
        finally:
            await self.agent.remove_container(container_id)

    async def exec(self, container_id: str, exec_id: str, *args: str, **options: Any) -> tuple[int, bytes, bytes]:
        """Run an exec to its end and remove it."""
        await self.agent.exec_process(
            container_id, exec_id, json.dumps(process(*args, **options)).encode(), stdin=False
        )
        try:
            return await self.finish(container_id, exec_id)
        finally:
            await self.agent.remove_process(container_id, exec_id)

    async def finish(self, container_id: str, exec_id: str) -> tuple[int, bytes, bytes]:
        """Read both outputs to their ends and wait for the process."""
        out, err, status = await asyncio.gather(
            read_all(self.agent, container_id, exec_id, stderr=False),
            read_all(self.agent, container_id, exec_id, stderr=True),
            self.agent.wait_process(container_id, exec_id),
        )
        return status.exit_code, out, err


def process(*args: str, **options: Any) -> dict[str, Any]:
    """An OCI process object; options are merged in."""
    every = ["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_KILL", "CAP_SETGID", "CAP_SETUID"]
    return {
        "args": list(args),
        "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
        "cwd": "/",
        "user": {"uid": 0, "gid": 0},
        "capabilities": {"bounding": every, "effective": every, "permitted": every},
    } | options


def spec(*args: str, linux: dict[str, Any] | None = None, mounts: list[Any] | None = None, **options: Any) -> Any:
    """A config.json as an engine writes it; `linux` and `mounts` are added, the rest goes into process."""
    kinds = ("pid", "mount", "ipc", "uts", "cgroup")
    namespaces: list[dict[str, str]] = [{"type": kind} for kind in kinds]
    namespaces.append({"type": "network", "path": "/var/run/netns/elsewhere"})
    options_tmpfs = ["nosuid", "strictatime", "mode=755", "size=65536k"]
    return {
        "ociVersion": "1.2.0",
        "process": process(*args, **options),
        "root": {"path": ROOTFS, "readonly": True},
        "hostname": "container",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": options_tmpfs},
            {
                "destination": "/dev/pts",
                "type": "devpts",
                "source": "devpts",
                "options": ["newinstance", "ptmxmode=0666"],
            },
            {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["mode=1777", "size=8m"]},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["nosuid", "ro"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["mode=1777"]},
            *(mounts or []),
        ],
        "linux": {"namespaces": namespaces, "resources": {}} | (linux or {}),
    }


async def read_all(agent: AgentClient, container_id: str, exec_id: str, *, stderr: bool) -> bytes:
    """An output to its end."""
    parts = []
    while True:
        data, eof = await agent.read_output(container_id, exec_id, stderr=stderr)
        parts.append(data)
        if eof:
            return b"".join(parts)


async def eventually(check: Callable[[], bool], what: str) -> None:
    """Wait until `check()` is true."""
    for _ in range(3000):
        if check():
            return
        await asyncio.sleep(0.01)
    raise AssertionError(f"never: {what}")
