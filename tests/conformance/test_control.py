"""The suites on runc, which every check has to suit, and what a run reports."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from tests.conformance.runs import REPOSITORY, installed, run_suite

pytestmark = pytest.mark.root


def test_control(tmp_path: Path) -> None:
    """Every check passes on an established runtime, or deviates for a reason that is written down."""
    statuses = run_suite(tmp_path, installed("runc"), "--engine", "oci", "--engine", "conmon")
    assert len(statuses) > 250
    assert set(statuses.values()) <= {"pass", "deviation"}


def test_reports(tmp_path: Path) -> None:
    """One run writes TAP, JUnit, JSON and a page that needs nothing from elsewhere."""
    statuses = run_suite(tmp_path, installed("runc"), "--select", "commands", "--name", "control")
    tap = (tmp_path / "control-oci.tap").read_text()
    assert f"1..{len(statuses)}" in tap and tap.count("\nok ") == len(statuses)
    cases = ElementTree.parse(tmp_path / "control-oci.xml").getroot().iter("testcase")
    assert {f"commands.{case.get('name')}" for case in cases} == set(statuses)
    page = (tmp_path / "index.html").read_text()
    assert "control" in page and "commands.version" in page
    assert page.count('<i class="pass" title="commands.') == len(statuses)
    assert 'src="' not in page and "@import" not in page and "<link" not in page


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((), "--runtime is missing"), (("--runtime", "no-such-runtime"), "--runtime no-such-runtime: no such program")],
)
def test_a_runtime_has_to_be_named(arguments: tuple[str, ...], said: str) -> None:
    argv = [sys.executable, "-m", "conformance", *arguments]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and said in done.stderr


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


@pytest.mark.root
def test_failures_are_explained(tmp_path: Path) -> None:
    """A failure is red in every report, with what was called and what the guest said."""
    broken = tmp_path / "broken"
    broken.write_text('#!/bin/sh\ncase "$*" in *features*) echo out-of-order >&2; exit 3 ;; esac\nexec runc "$@"\n')
    broken.chmod(0o755)
    (tmp_path / "console.log").write_text("Kernel panic <not syncing>\n")
    argv = [sys.executable, "-m", "conformance", "--runtime", str(broken), "--select", "commands.features"]
    argv += ["--report", str(tmp_path), "--console-glob", str(tmp_path / "console.log")]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "\nnot ok 1 - commands.features" in (tmp_path / "broken-oci.tap").read_text()
    (case,) = ElementTree.parse(tmp_path / "broken-oci.xml").getroot().iter("testcase")
    failure, console = case.find("failure"), case.find("system-out")
    assert failure is not None and "out-of-order" in (failure.text or "")
    assert console is not None and "Kernel panic" in (console.text or "")
    page = (tmp_path / "index.html").read_text()
    assert '<i class="fail" title="commands.features' in page
    assert "out-of-order" in page and "Kernel panic &lt;not syncing&gt;" in page
