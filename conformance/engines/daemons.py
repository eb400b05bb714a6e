"""Private containerd, dockerd and podman: everything of theirs is below the scratch directory and in our namespaces."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

from conformance import host
from conformance.console import Terminal
from conformance.engines.image import write_image
from conformance.runtime import CLEAN_ENVIRONMENT, CheckFailed, Outcome
from conformance.session import Session


class Daemon:
    """A long-lived program whose output goes to a file, and which is asked to end at the end of the run."""

    def __init__(self, session: Session, name: str, argv: list[str], environment: dict[str, str]) -> None:
        self.session = session
        self.log = session.scratch / f"{name}.log"
        with open(self.log, "wb") as stream:
            self.process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        session.defer(self.stop)

    def wait_ready(self, is_ready: Callable[[], bool]) -> None:
        """Wait until the daemon answers. Raises CheckFailed with the end of its output."""
        runs = host.poll_until(lambda: is_ready() or self.process.poll() is not None, 60, 0.2)
        if not runs or self.process.poll() is not None:
            raise CheckFailed(f"{self.log.stem} did not come up: {self.log.read_text(errors='replace')[-1500:]}")

    def stop(self) -> None:
        """Ask the daemon to end, and kill it if it does not."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def image_archive(session: Session) -> Path:
    """The image archive."""
    path = session.scratch / "image.tar"
    write_image(path)
    return path


def runtime_wrapper(session: Session) -> Path:
    """A program that adds root and global arguments: podman forgets its --runtime-flag options when it cleans up."""
    runtime = session.runtime
    return write_wrapper(session.scratch / runtime.name, runtime.path, *runtime.arguments, "--root", str(runtime.root))


def write_wrapper(path: Path, *command: str) -> Path:
    """Write a program that runs a command with further arguments."""
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    path.chmod(0o755)
    return path


class Client:
    """Runs an engine's client; the runtime's log of calls takes its commands."""

    def __init__(self, session: Session, argv: list[str], environment: dict[str, str]) -> None:
        self.session = session
        self.argv = argv
        self.environment = environment
        # podman's conmon leaves a file where podman was called, when a container runs out of memory; `play kube` looks
        # there for directories to build images from.
        self.place = session.scratch / "called-from"
        self.place.mkdir(exist_ok=True)

    def run(self, *arguments: str, stdin: bytes = b"", deadline_s: float = 60) -> Outcome:
        """Run a command to its end and return what came of it. Raises DeadlineMissed."""
        runtime = self.session.runtime
        argv, deadline_s = [*self.argv, *arguments], runtime.deadline(deadline_s)
        return runtime.command(argv, stdin=stdin, deadline_s=deadline_s, environment=self.environment, cwd=self.place)

    def must(self, *arguments: str, stdin: bytes = b"", deadline_s: float = 60) -> str:
        """Run a command that has to succeed and return its stdout. Raises CheckFailed."""
        outcome = self.run(*arguments, stdin=stdin, deadline_s=deadline_s)
        if not outcome.ok:
            raise CheckFailed(f"{self.argv[0]} {' '.join(arguments)}: {outcome}")
        return outcome.out

    def on_terminal(
        self, *arguments: str, rows: int = 30, columns: int = 90
    ) -> tuple[Terminal, subprocess.Popen[bytes]]:
        """Run a command on a terminal of its own, as a user does."""
        master, slave = os.openpty()
        terminal = Terminal(master)
        terminal.resize(rows, columns)
        self.session.trace(f"$ (terminal) {' '.join([*self.argv, *arguments])}")
        process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", *self.argv, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=self.environment,
        )
        os.close(slave)
        return terminal, process


def containerd(session: Session) -> Client:
    """A private containerd with the image, and its client `ctr`."""
    base = session.scratch / "containerd"
    base.mkdir()
    (session.runtime.root / "default").mkdir(parents=True)  # the part of the root that is named after the namespace
    config = f"""version = 2
root = "{base}/root"
state = "{base}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "{base}/c.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "{base}/opt"
"""
    (base / "config.toml").write_text(config)
    daemon = Daemon(session, "containerd", ["containerd", "-c", f"{base}/config.toml"], CLEAN_ENVIRONMENT)
    client = Client(session, ["ctr", "--address", f"{base}/c.sock"], CLEAN_ENVIRONMENT)
    daemon.wait_ready(lambda: client.run("version", deadline_s=10).ok)
    client.must("image", "import", str(session.shared(image_archive)))
    return client


def docker(session: Session) -> Client:
    """A private dockerd on a private containerd, with the runtime under test as its default, and its client."""
    session.shared(containerd)
    base = session.scratch / "docker"
    base.mkdir()
    runtime = session.runtime
    settings = {
        "bip": "10.88.97.1/24",
        "exec-opts": ["native.cgroupdriver=cgroupfs"],
        "cgroup-parent": f"/slice-{session.tag}",
        "default-runtime": "tested",
        "runtimes": {"tested": {"path": runtime.path, "runtimeArgs": list(runtime.arguments)}},
        "features": {"buildkit": False},
    }
    (base / "daemon.json").write_text(json.dumps(settings))
    argv = [
        "dockerd",
        "--config-file",
        f"{base}/daemon.json",
        "--data-root",
        f"{base}/data",
        "--exec-root",
        f"{base}/x",
    ]
    argv += ["--pidfile", f"{base}/pid", "-H", f"unix://{base}/d.sock"]
    argv += ["--containerd", f"{session.scratch}/containerd/c.sock"]
    daemon = Daemon(session, "dockerd", argv, CLEAN_ENVIRONMENT | {"HOME": str(base)})
    client = Client(session, ["docker", "-H", f"unix://{base}/d.sock"], CLEAN_ENVIRONMENT | {"HOME": str(base)})
    daemon.wait_ready(lambda: client.run("version", deadline_s=10).ok)
    client.must("load", "--input", str(session.shared(image_archive)))
    return client


def podman(session: Session) -> Client:
    """A private podman with the image; it has no daemon."""
    return _podman(session, "podman", "cni", "10.77.94.0/24")


def podman_netavark(session: Session) -> Client:
    """Another one, whose networks are netavark's."""
    return _podman(session, "netavark", "netavark", "10.77.97.0/24")


def _podman(session: Session, name: str, backend: str, subnet: str) -> Client:
    base = session.scratch / name
    for part in ("root", "run", "networks", "tmp", "hooks"):
        (base / part).mkdir(parents=True)
    (base / "containers.conf").write_text(
        f"""[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "{base}/tmp"
static_dir = "{base}/static"
volume_path = "{base}/volumes"
hooks_dir = ["{base}/hooks"]
[network]
network_backend = "{backend}"
network_config_dir = "{base}/networks"
cni_plugin_dirs = ["/usr/lib/cni"]
default_subnet = "{subnet}"
"""
    )
    argv = ["podman", "--root", f"{base}/root", "--runroot", f"{base}/run", "--storage-driver", "overlay"]
    argv += ["--cgroup-manager", "cgroupfs", "--runtime", str(session.shared(runtime_wrapper))]
    environment = CLEAN_ENVIRONMENT | {"HOME": str(base), "CONTAINERS_CONF": f"{base}/containers.conf", "TERM": "xterm"}
    client = Client(session, argv, environment)
    client.must("load", "--input", str(session.shared(image_archive)))
    session.defer(lambda: client.run("rm", "--all", "--force", "--time", "0", deadline_s=120))
    session.defer(lambda: client.run("pod", "rm", "--all", "--force", "--time", "0", deadline_s=120))
    return client


def is_installed(program: str) -> bool:
    """True when a program is on the path that daemons get."""
    return shutil.which(program, path=CLEAN_ENVIRONMENT["PATH"]) is not None
