"""A private containerd for tests that drive real engines: in a network namespace of its own, with its own images."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conformance.cri.containerd import BUSYBOX_IMAGE, Containerd

BIN = Path(sys.executable).parent
SHIM = "io.containerd.vmpod.v2"
RUNC = "io.containerd.runc.v2"
STATE = Path("/run/containerd/vmpod")


class Ctr:
    """ctr on a private containerd; every container that a test makes has a name of its own."""

    def __init__(self, engine: Containerd) -> None:
        self.engine = engine
        self._names = 0

    def new_name(self) -> str:
        """A container id that nobody else has, nor another worker: the cgroups of the host are shared."""
        self._names += 1
        return f"t{self._names}-{os.getpid()}"

    def __call__(self, *arguments: str, stdin: bytes = b"") -> bytes:
        return self.engine.ctr(*arguments, stdin=stdin)

    def run(self, *command: str, runtime: str = SHIM, options: tuple[str, ...] = ()) -> str:
        """`ctr run --detach` of the busybox image; returns the container's id."""
        name = self.new_name()
        self("run", "-d", "--runtime", runtime, *options, BUSYBOX_IMAGE, name, *command)
        return name

    def run_rm(
        self, *command: str, runtime: str = SHIM, options: tuple[str, ...] = (), stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """`ctr run --rm` to its end."""
        name = self.new_name()
        return self.engine.try_ctr(
            "run", "--rm", "--runtime", runtime, *options, BUSYBOX_IMAGE, name, *command, stdin=stdin
        )

    def status(self, name: str) -> str:
        """RUNNING, STOPPED, … of a task; empty when there is none."""
        for line in self("task", "ls").decode().splitlines()[1:]:
            words = line.split()
            if words[0] == name:
                return words[2]
        return ""

    def pid(self, name: str) -> int:
        """The pid that the engine has for a task."""
        lines = self("task", "ls").decode().splitlines()[1:]
        return next(int(words[1]) for words in map(str.split, lines) if words[0] == name)

    @contextlib.contextmanager
    def events(self) -> Iterator[Iterator[str]]:
        """The engine's events from now on, a line each; among them some that only show that they arrive."""
        with subprocess.Popen(self.engine.command("events"), stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            try:
                for number in range(600):  # the client does not say when it listens
                    self("namespace", "label", "default", f"probe={number}")
                    if select.select([process.stdout], (), (), 0.1)[0]:
                        break
                yield (line.decode() for line in process.stdout)
            finally:
                process.kill()

    def sandboxes(self) -> list[Path]:
        """The state directories of all pods of this engine."""
        return sorted(path for path in STATE.glob("*/.sandboxes/*") if self._is_ours(path))

    def _is_ours(self, path: Path) -> bool:
        return str(path).startswith(self._state())

    def _state(self) -> str:
        from oci_runtime.shim.location import layout_for

        return layout_for("default", str(self.engine.socket)).root

    def leftovers(self) -> list[str]:
        """What tasks leave behind when they are not cleaned up."""
        here = (str(self.engine.directory / "state"), *(str(path) for path in self.sandboxes()))
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        found = [f"mount {mount}" for mount in mounts if mount.startswith(here)]
        found += [f"sandbox {path}" for path in self.sandboxes()]
        found += [f"state directory {self._state()}"] if Path(self._state()).exists() else []
        found += [f"bundle {path}" for path in self.engine.state.glob("io.containerd.runtime.v2.task/default/*")]
        return found

    def clean(self) -> None:
        """Kill and delete every task and container."""
        for line in self("task", "ls").decode().splitlines()[1:]:
            self.engine.try_ctr("task", "delete", "--force", line.split()[0])
        for line in self("container", "ls").decode().splitlines()[1:]:
            self.engine.try_ctr("container", "rm", line.split()[0])


def wait_until(condition: Callable[[], object], what: str, deadline_s: float = 30.0) -> None:
    """Wait until a condition holds; fail with `what` when it does not in time."""
    until = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < until, f"not in {deadline_s:g} s: {what}"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def engine_network() -> Iterator[str]:
    """The name of a network namespace for engines."""
    name = f"vmpod-test-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    subprocess.run(["ip", "-n", name, "link", "set", "lo", "up"], check=True)
    yield name
    subprocess.run(["ip", "netns", "del", name], check=True)


@pytest.fixture(scope="session")
def containerd(engine_network: str) -> Iterator[Containerd]:
    """A containerd that finds the shim on its PATH."""
    directory = Path(tempfile.mkdtemp(prefix="vc", dir="/tmp"))
    prefix = ("nsenter", f"--net=/run/netns/{engine_network}")
    engine = Containerd(directory, shim_path=str(BIN), prefix=prefix)
    engine.start()
    engine.load_images()
    yield engine
    engine.remove()


@pytest.fixture
def ctr(containerd: Containerd) -> Iterator[Ctr]:
    """ctr; nothing may be left when the test is over."""
    made = Ctr(containerd)
    yield made
    made.clean()
    wait_until(lambda: not made.leftovers(), f"nothing left: {made.leftovers()}", 20)
