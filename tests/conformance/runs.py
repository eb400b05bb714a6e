"""Runs of the conformance suites, as users run them. Each engine has a file of its own: workers take files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
VMPOD = Path(sys.executable).with_name("vmpod")
CONSOLES = "{root}/**/.sandboxes/*/console.log"
FULL = os.environ.get("VMPOD_TEST_CONFORMANCE") == "full"
QUICK = {
    "oci": [
        "lifecycle",
        "cleanliness.whole-life",
        "cleanliness.failed-create",
        "hooks.state-*",
        "namespaces.refused-*",
    ],
    "conmon": [
        "conmon.sandbox*",
        "conmon.member*",
        "conmon.exec-*",
        "conmon.stop*",
        "conmon.checkpoint",
        "conmon.pod-*",
        "conmon.dropped-infra",
        "conmon.host-*",
        "conmon.device-host",
    ],
    "ctr": [
        "ctr.run",
        "ctr.detached",
        "ctr.exec",
        "ctr.checkpoint",
        "ctr.kill",
        "ctr.host-network",
        "ctr.host-ipc",
        "ctr.host-pid",
        "ctr.device-host",
    ],
    "podman": [
        "podman.info",
        "podman.run",
        "podman.detached",
        "podman.exec",
        "podman.stats",
        "podman.copy",
        "podman.top",
        "podman.checkpoint",
        "podman.host-network",
        "podman.host-ipc",
        "podman.host-pid",
        "podman.device-host",
        "podman.network",
        "podman.connect",
        "podman.pod",
    ],
    "docker": [
        "docker.run",
        "docker.detached",
        "docker.exec",
        "docker.stop",
        "docker.bridge",
        "docker.connect",
        "docker.oom",
        "docker.checkpoint",
        "docker.host-network",
        "docker.host-ipc",
        "docker.host-pid",
        "docker.device-host",
    ],
}


def run_suite(report: Path, runtime: str, *arguments: str) -> dict[str, str]:
    """Run the suites; return the status of each check. Fails with the unexpected results."""
    argv = [sys.executable, "-m", "conformance", "--runtime", runtime, "--report", str(report), "--verbose", *arguments]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-4000:]
    (record,) = report.glob("*.json")
    return {result["id"]: result["status"] for result in json.loads(record.read_text())["results"]}


def chosen(engine: str) -> list[str]:
    """The engine, and unless the whole of it is asked for, the selection that every test run affords."""
    selection = [] if FULL else QUICK[engine]
    return ["--engine", engine, *(word for pattern in selection for word in ("--select", pattern))]


def on_vmpod(engine: str) -> Callable[[Path], None]:
    """A test of the engine's checks on vmpod, with the patience that emulated machines need."""

    @pytest.mark.engine
    @pytest.mark.vm
    def test_vmpod(tmp_path: Path) -> None:
        assert run_suite(tmp_path, str(VMPOD), *chosen(engine), "--slow", "4", "--console-glob", CONSOLES)

    return test_vmpod


def on_crun(engine: str) -> Callable[[Path], None]:
    """A test of the same checks on an established runtime."""

    @pytest.mark.engine
    def test_control(tmp_path: Path) -> None:
        assert run_suite(tmp_path, installed("crun"), *chosen(engine))

    return test_control


def installed(program: str) -> str:
    """The path of a runtime that the tests need."""
    path = shutil.which(program)
    assert path, f"{program} is not installed"
    return path
