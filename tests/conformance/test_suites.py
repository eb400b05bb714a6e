"""The conformance suites run as users run them: on control runtimes, then on vmpod; the reports are checked too."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
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
    "conmon": ["conmon.sandbox*", "conmon.member*", "conmon.exec-*", "conmon.stop*", "conmon.dropped-infra"],
    "ctr": ["ctr.run", "ctr.detached", "ctr.exec", "ctr.kill"],
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
        "podman.network",
        "podman.connect",
    ],
    "docker": [
        "docker.run",
        "docker.detached",
        "docker.exec",
        "docker.stop",
        "docker.bridge",
        "docker.connect",
        "docker.checkpoint",
        "docker.host-network",
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


@pytest.mark.root
def test_control(tmp_path: Path) -> None:
    """Every check passes on an established runtime, or deviates for a reason that is written down."""
    program = shutil.which("runc")
    assert program, "runc is not installed"
    statuses = run_suite(tmp_path, program, "--engine", "oci", "--engine", "conmon")
    assert len(statuses) > 250
    assert set(statuses.values()) <= {"pass", "deviation"}


@pytest.mark.engine
@pytest.mark.parametrize("engine", ["ctr", "podman", "docker"])
def test_control_engines(tmp_path: Path, engine: str) -> None:
    program = shutil.which("crun")
    assert program, "crun is not installed"
    assert run_suite(tmp_path, program, *chosen(engine))


@pytest.mark.vm
@pytest.mark.engine
@pytest.mark.parametrize("engine", ["oci", "conmon", "ctr", "podman", "docker"])
def test_vmpod(tmp_path: Path, engine: str) -> None:
    assert run_suite(tmp_path, str(VMPOD), *chosen(engine), "--slow", "4", "--console-glob", CONSOLES)


@pytest.mark.root
def test_reports(tmp_path: Path) -> None:
    """One run writes TAP, JUnit, JSON and a page that needs nothing from elsewhere."""
    program = shutil.which("runc")
    assert program, "runc is not installed"
    statuses = run_suite(tmp_path, program, "--select", "commands", "--name", "control")
    tap = (tmp_path / "control-oci.tap").read_text()
    assert f"1..{len(statuses)}" in tap and tap.count("\nok ") == len(statuses)
    cases = ElementTree.parse(tmp_path / "control-oci.xml").getroot().iter("testcase")
    assert {f"commands.{case.get('name')}" for case in cases} == set(statuses)
    page = (tmp_path / "index.html").read_text()
    assert "control" in page and "commands.version" in page
    assert page.count('<i class="pass" title="commands.') == len(statuses)
    assert 'src="' not in page and "@import" not in page and "<link" not in page


@pytest.mark.root
def test_unexpected_pass_is_shown(tmp_path: Path) -> None:
    """A deviation that no longer happens is an unexpected result, and the run is red."""
    expected = tmp_path / "expected.toml"
    expected.write_text('[[deviation]]\nruntime = "runc"\ncheck = "commands.version"\nreason = "not true"\n')
    argv = [sys.executable, "-m", "conformance", "--runtime", "runc", "--select", "commands.version"]
    done = subprocess.run(
        [*argv, "--deviations", str(expected)], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert "surprise" in done.stdout and "not true" in done.stdout
