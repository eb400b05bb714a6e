"""CRI-O's way with a shim (`runtime_type = "vm"`), call by call: no address, no events, many connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from oci_runtime.errors import NotFound, OciRuntimeError
from oci_runtime.shim.proto import metrics_v1_pb2, metrics_v2_pb2, types_pb2
from oci_runtime.shim.proto import task_pb2 as pb
from oci_runtime.shim.proto.options_pb2 import Options
from oci_runtime.ttrpc.client import TtrpcClient
from tests.engine import crio, is_running, make_rootfs
from tests.engines.conftest import BIN, wait_until

pytestmark = pytest.mark.engine

STATE = Path("/run/containerd/vmpod/default-crio")
LOOP = ["sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done"]


class Container:
    """One container as CRI-O has it: a bundle, a fifo, a connection."""

    def __init__(self, directory: Path, name: str, command: list[str], annotations: dict[str, str], netns: str) -> None:
        self.id = name
        self.bundle = directory / name / "userdata"
        self.bundle.mkdir(parents=True)
        os.mkfifo(self.bundle / "log", 0o700)
        self.log = os.open(self.bundle / "log", os.O_RDONLY | os.O_NONBLOCK)
        rootfs = directory / name / "rootfs"
        make_rootfs(rootfs)
        self.stdout = directory / name / "stdout"
        os.mkfifo(self.stdout)
        self.out = os.open(self.stdout, os.O_RDONLY | os.O_NONBLOCK)
        namespaces = [{"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"}]
        spec = {
            "ociVersion": "1.2.0",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": command,
                "env": ["PATH=/bin"],
                "cwd": "/",
            },
            "root": {"path": str(rootfs)},
            "annotations": annotations,
            "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
            "linux": {
                "namespaces": [*namespaces, {"type": "network", "path": netns}],
                "cgroupsPath": f"/vmpod-test-crio/crio-{name}",
            },
        }
        (self.bundle / "config.json").write_text(json.dumps(spec))
        self.client: TtrpcClient

    def start_shim(self) -> str:
        """Run `start` as CRI-O does; returns what it prints."""
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "TTRPC_ADDRESS": "", "MAX_SHIM_VERSION": "2"}
        arguments = ["-namespace", "default", "-address", "", "-publish-binary", "/bin/false", "-id", self.id, "start"]
        done = subprocess.run(
            [str(BIN / "containerd-shim-vmpod-v2"), *arguments],
            cwd=self.bundle,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=True,
        )
        assert (self.bundle / "address").read_text() == done.stdout
        return done.stdout

    async def connect(self) -> None:
        """A connection of its own, to the address in the bundle."""
        sock = socket.socket(socket.AF_UNIX)
        sock.connect((self.bundle / "address").read_text().removeprefix("unix://"))
        self.client = await TtrpcClient.connect(sock)

    async def call(self, method: str, **fields: Any) -> Any:
        """Call the task service."""
        longer = {"Create": "CreateTask", "Update": "UpdateTask", "Exec": "ExecProcess"}
        request = getattr(pb, f"{longer.get(method, method)}Request")
        payload = request(id=self.id, **fields).SerializeToString()
        answer = await self.client.call("containerd.task.v2.Task", method, payload, 120)
        response = getattr(pb, f"{method}Response", None) or getattr(pb, f"{method}TaskResponse", None)
        return response.FromString(answer) if response else None

    async def create(self, config: Path | None = None) -> int:
        """Create with an empty rootfs, and the options that CRI-O puts here rather than on stdin."""
        options = None
        if config is not None:
            value = Options(config_path=str(config)).SerializeToString()
            options = AnyMessage(type_url="runtimeoptions.v1.Options", value=value)
        response = await self.call("Create", bundle=str(self.bundle), stdout=str(self.stdout), options=options)
        return int(response.pid)

    def output(self) -> bytes:
        """What the container has written so far."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self.out, 65536)
        return b""

    def log_line(self) -> bytes:
        """What the shim has logged so far."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self.log, 65536)
        return b""

    def close(self) -> None:
        """Close the fifos."""
        os.close(self.log)
        os.close(self.out)


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[tuple[Container, Container, Container]]:
    """A sandbox and two containers, not yet started."""
    netns = f"vmpodcrio{os.getpid()}"
    subprocess.run(["ip", "netns", "add", netns], check=True)
    path = f"/run/netns/{netns}"
    made = (
        Container(tmp_path, f"s{os.getpid()}", LOOP, crio("sandbox", f"s{os.getpid()}"), path),
        Container(tmp_path, "c1", LOOP, crio("container", f"s{os.getpid()}"), path),
        Container(
            tmp_path, "c2", ["sh", "-c", "x=a; while :; do x=$x$x; done"], crio("container", f"s{os.getpid()}"), path
        ),
    )
    yield made
    for container in made:
        container.close()
    subprocess.run(["ip", "netns", "del", netns], check=True)
    shutil.rmtree(tmp_path, ignore_errors=True)


def change(container: Container, **linux: Any) -> None:
    """Set entries of `linux` in a container's spec."""
    path = container.bundle / "config.json"
    spec = json.loads(path.read_text())
    spec["linux"] |= linux
    path.write_text(json.dumps(spec))


def add_hooks(container: Container) -> Path:
    """Give a container hooks inside and after the start; return the file of the host that they write their names to."""
    path = container.bundle / "config.json"
    spec = json.loads(path.read_text())
    log = Path(spec["root"]["path"], "hooks")
    inside = {"path": "/bin/sh", "args": ["sh", "-c", "sleep 1; echo startContainer >>/hooks"], "env": ["PATH=/bin"]}
    after = {"path": "/bin/sh", "args": ["sh", "-c", f"echo poststart >>{log}"]}
    path.write_text(json.dumps(spec | {"hooks": {"startContainer": [inside], "poststart": [after]}}))
    return log


async def test_a_pod_under_crio(pod: tuple[Container, Container, Container], tmp_path: Path) -> None:
    sandbox, first, second = pod
    config = tmp_path / "vmpod.toml"
    config.write_text("[vm]\ndefault_memory_mib = 320\n")
    address = sandbox.start_shim()
    await sandbox.connect()
    pid = await sandbox.create(config)
    assert is_running(pid)
    await sandbox.call("Start")
    assert sandbox.log_line(), "CRI-O copies the shim's log"

    # A member gets the sandbox's address and a connection of its own.
    assert first.start_shim() == address
    await first.connect()
    hooks = add_hooks(first)
    own = await first.create(config)
    assert own != pid
    assert (await first.call("State")).status == types_pb2.CREATED
    await first.call("Start")
    assert hooks.read_text().split() == ["startContainer", "poststart"]
    await asyncio.to_thread(wait_until, lambda: b"ready" in first.output(), "output")
    await first.call("Kill", signal=0)

    # The machine has the memory that the configuration of Create says.
    total = await run(first, "awk", "/MemTotal/ {print $2}", "/proc/meminfo")
    assert 200_000 < int(total) < 320 * 1024

    check_figures((await first.call("Stats")).stats)

    # After a restart CRI-O connects anew and gets everything back.
    await first.client.close()
    await first.connect()
    state = await first.call("State")
    assert (state.bundle, state.stdout, state.pid) == (str(first.bundle), str(first.stdout), own)

    # A member is refused what a pod is refused, in the words of the command line.
    change(second, netDevices={"eth7": {"name": "lan"}})
    second.start_shim()
    await second.connect()
    with pytest.raises(
        OciRuntimeError, match=r'host\'s interface "eth7" \(linux\.netDevices\), which a virtual machine'
    ):
        await second.create(config)

    # Out of memory: code, file, and the pod goes on.
    change(second, netDevices={}, resources={"memory": {"limit": 16 << 20, "swap": 16 << 20}})
    await second.create(config)
    await second.call("Start")
    assert (await second.call("Wait")).exit_status == 137
    assert (second.bundle / "oom").exists()
    await second.call("Delete")
    await second.call("Shutdown")

    await end(first)
    await end(sandbox)
    for container in pod:
        await container.client.close()
    await asyncio.to_thread(wait_until, lambda: not STATE.exists(), "shim and state directory gone")
    assert not await asyncio.to_thread(cgroups_left)


def check_figures(stats: AnyMessage) -> None:
    """Statistics have everything that CRI-O reads unchecked."""
    if stats.type_url.endswith("v1.Metrics"):
        one = metrics_v1_pb2.Metrics.FromString(stats.value)
        assert one.cpu.usage.total > 0 and one.memory.usage.usage > 0 and one.pids.current > 0
        assert all(one.memory.HasField(name) for name in ("usage", "kernel", "kernel_tcp", "swap"))
    else:
        two = metrics_v2_pb2.Metrics.FromString(stats.value)
        assert two.cpu.usage_usec > 0 and two.memory.usage > 0


async def end(container: Container) -> None:
    """Stop and delete a container whose process takes the signal, as CRI-O does."""
    await container.call("Kill", signal=15)
    assert (await container.call("Wait")).exit_status == 7
    with pytest.raises(NotFound):
        await container.call("Kill", signal=0)
    await container.call("Delete")
    await container.call("Shutdown")


def cgroups_left() -> list[Path]:
    """Directories of the test's cgroup parent."""
    top = Path("/sys/fs/cgroup")
    return [path for path in (*top.glob("*/vmpod-test-crio"), top / "vmpod-test-crio") if path.is_dir()]


async def run(container: Container, *command: str) -> str:
    """An exec, as ExecSync does it."""
    fifo = container.bundle / "exec"
    os.mkfifo(fifo)
    spec = AnyMessage(
        type_url="types.containerd.io/opencontainers/runtime-spec/1/Process",
        value=json.dumps(
            {"args": list(command), "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 0, "gid": 0}}
        ).encode(),
    )
    reading = asyncio.create_task(asyncio.to_thread(fifo.read_text))
    await container.call("Exec", exec_id="e", stdout=str(fifo), spec=spec)
    await container.call("Start", exec_id="e")
    assert (await container.call("Wait", exec_id="e")).exit_status == 0
    await container.call("Delete", exec_id="e")
    fifo_text = await reading
    fifo.unlink()
    return fifo_text
