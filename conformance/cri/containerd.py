"""A private containerd: root, state, socket, images and CNI networks below one directory.

It runs in the network and mount namespaces of its caller, who makes them private ones, or says how to enter some.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conformance.cri.images import PAUSE, write_image

BUSYBOX_IMAGE = "docker.io/library/busybox:lab"
PAUSE_IMAGE = "registry.k8s.io/pause:lab"
START_S = 60.0
COMMAND_S = 120.0
SUBNETS = ("10.88.98.0/24", "fd00:88:98::/64")


@dataclass(frozen=True)
class Handler:
    """A runtime handler of the CRI plugin. runtime_type: a name, or the path of a shim. options: TOML values."""

    name: str
    runtime_type: str
    options: Mapping[str, str] = field(default_factory=dict)
    pod_annotations: Sequence[str] = ()

    def toml(self) -> str:
        """Its part of the configuration."""
        table = f'plugins."io.containerd.grpc.v1.cri".containerd.runtimes.{self.name}'
        annotations = json.dumps(list(self.pod_annotations))
        lines = [f"[{table}]", f'runtime_type = "{self.runtime_type}"', f"pod_annotations = {annotations}"]
        if self.options:
            lines += [f"[{table}.options]", *(f"{key} = {value}" for key, value in self.options.items())]
        return "\n".join(lines) + "\n"


class Containerd:
    """One daemon.

    directory: short, sockets live in it. shim_path: put before PATH, where runtimes are looked up. prefix: words before
    the daemon's command, such as those that put it into a network namespace.
    """

    def __init__(
        self,
        directory: Path,
        handlers: Sequence[Handler] = (),
        *,
        shim_path: str = "",
        snapshotter: str = "overlayfs",
        prefix: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self.socket = directory / "c.sock"
        self.log_path = directory / "log"
        self.state = directory / "state"
        self.snapshotter = snapshotter
        self._handlers = tuple(handlers)
        self._shim_path = shim_path
        self._prefix = tuple(prefix)
        self._process: subprocess.Popen[bytes] | None = None
        self.extra_toml = ""

    def start(self) -> None:
        """Write the configuration, start the daemon, wait until it answers. May be called again after `stop`."""
        for name in ("root", "state", "opt", "cni"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        (self.directory / "config.toml").write_text(self._config())
        (self.directory / "cni" / "10-lab.conflist").write_text(json.dumps(self._network()))
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        environment = {"HOME": "/root", "PATH": f"{self._shim_path}:{path}" if self._shim_path else path}
        if "VMPOD_CONFIG" in os.environ:
            environment["VMPOD_CONFIG"] = os.environ["VMPOD_CONFIG"]
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._prefix, "containerd", "-l", "debug", "-c", str(self.directory / "config.toml")],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + START_S
        while self.try_ctr("version").returncode:
            if time.monotonic() > until or self._process.poll() is not None:
                raise RuntimeError(f"containerd does not start: {self.log_tail()}")
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End the daemon; shims stay. Idempotent."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def load_images(self) -> None:
        """Make and load the two images, for ctr and for the CRI."""
        archives = {BUSYBOX_IMAGE: (), PAUSE_IMAGE: PAUSE}
        for number, (name, entrypoint) in enumerate(archives.items()):
            archive = self.directory / f"image{number}.tar"
            write_image(archive, name, entrypoint)
            for namespace in ("default", "k8s.io"):
                self.ctr("-n", namespace, "image", "import", "--snapshotter", self.snapshotter, str(archive))
            archive.unlink()

    def command(self, *arguments: str) -> list[str]:
        """A command line of ctr for this daemon."""
        return ["ctr", "-a", str(self.socket), *arguments]

    def try_ctr(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run ctr to its end, whatever it says."""
        return subprocess.run(
            self.command(*arguments), input=stdin, capture_output=True, timeout=COMMAND_S, check=False
        )

    def ctr(self, *arguments: str, stdin: bytes = b"") -> bytes:
        """Run ctr and return what it prints. Raises: RuntimeError with its error."""
        done = self.try_ctr(*arguments, stdin=stdin)
        if done.returncode:
            raise RuntimeError(f"ctr {' '.join(arguments)}: exit status {done.returncode}: {done.stderr.decode()}")
        return done.stdout

    def log_tail(self, size: int = 4000) -> str:
        """The end of the daemon's log."""
        with contextlib.suppress(OSError):
            return self.log_path.read_text(errors="replace")[-size:]
        return ""

    def remove(self) -> None:
        """Stop the daemon and remove its directory, unless something is still mounted in it."""
        self.stop()
        mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.directory) in line]
        if not mounts:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _config(self) -> str:
        cri = 'plugins."io.containerd.grpc.v1.cri"'
        text = f"""version = 2
root = "{self.directory}/root"
state = "{self.state}"
[grpc]
  address = "{self.socket}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{self.directory}/opt"
[{cri}]
  sandbox_image = "{PAUSE_IMAGE}"
  restrict_oom_score_adj = true
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
[{cri}.cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{self.directory}/cni"
[{cri}.containerd]
  snapshotter = "{self.snapshotter}"
"""
        return text + "".join(handler.toml() for handler in self._handlers) + self.extra_toml

    def _network(self) -> dict[str, object]:
        ranges = [[{"subnet": subnet}] for subnet in SUBNETS]
        routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
        ipam = {"type": "host-local", "dataDir": f"{self.directory}/ipam", "ranges": ranges, "routes": routes}
        bridge = {"type": "bridge", "bridge": "lab0", "isGateway": True, "hairpinMode": True, "ipam": ipam}
        return {
            "cniVersion": "0.4.0",
            "name": "lab",
            "plugins": [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}],
        }
