"""Fixtures for tests on the host: an engine whose pods are the fake sandbox process of this directory."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.engine import Engine, become_subreaper, wait_until

REPOSITORY = Path(__file__).parent.parent.parent
_LAUNCHER = """#!{python} -IS
import sys
sys.path[:0] = [{repository!r}]
from oci_runtime.cli import boot
code = "import sys; sys.path[:0] = [{repository!r}]; from tests.host.fake_sandbox import main; main()"
boot.sandbox_argv = lambda: [sys.executable, "-I", "-c", code]
from oci_runtime.cli.main import main
main()
"""


class FakeEngine(Engine):
    """Drives vmpod with a sandbox process that runs plain host processes. `program` can be given to real engines."""

    def __post_init__(self) -> None:
        self.root = self.directory / "run"
        self.rootfs = self.directory / "rootfs"
        self.rootfs.mkdir(parents=True)  # programs are the host's
        self.ids, self.pids, self.began, self.cgroups = [], {}, {}, []
        self.group = f"vmpod-test-{os.getpid()}-{id(self):x}"
        self.program = self.directory / "vmpod"
        self.program.write_text(_LAUNCHER.format(python=sys.executable, repository=str(REPOSITORY)))
        self.program.chmod(0o755)

    def command(self, *arguments: str) -> list[str]:
        """The command line of one verb."""
        return [str(self.program), "--root", str(self.root), *self.arguments, *arguments]

    def bundle(self, container_id: str, arguments: Sequence[str], **changes: Any) -> Path:
        """Write a bundle whose cgroup is this engine's own: a zombie of another test must not keep it busy."""
        linux = {"cgroupsPath": f"/{self.group}/{container_id}"} | changes.pop("linux", {})
        return super().bundle(container_id, arguments, linux=linux, **changes)

    def exec_detached(self, container_id: str, *arguments: str) -> int:
        """Start a detached exec whose output is appended to the container's log; return its proxy's pid."""
        pid_file = self.directory / f"{container_id}-exec-pid"
        with self.log_path(container_id).open("ab") as log:
            command = self.command("exec", "--detach", "--pid-file", str(pid_file), container_id, *arguments)
            subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True, timeout=60)
        return int(pid_file.read_text())


@pytest.fixture(scope="session", autouse=True)
def subreaper() -> None:
    become_subreaper()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[FakeEngine]:
    """An engine of one test's own; whatever the test did, `delete --force` leaves nothing."""
    engine = FakeEngine(tmp_path / "engine")
    yield engine
    engine.clean()
    wait_until(lambda: not engine.leftovers(), f"nothing left: {engine.leftovers()}", 10)
    shutil.rmtree(engine.directory)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    # Zombies of killed sandbox processes, which a test does not reap while it runs, may have kept these.
    for top in Path("/sys/fs/cgroup").glob(f"*/{engine.group}"):
        for path in (*top.iterdir(), top):
            if path.is_dir():
                path.rmdir()
