"""The checks of the container runtime interface through a private containerd: all of them, on runc and on the shim."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.runs import VMPOD, installed, run_suite

pytestmark = pytest.mark.engine


def check(report: Path, runtime: str) -> None:
    statuses = run_suite(report, runtime, "--engine", "cri")
    assert len(statuses) >= 44 and set(statuses.values()) == {"pass"}


def test_control(tmp_path: Path) -> None:
    check(tmp_path, installed("runc"))


@pytest.mark.vm
def test_vmpod(tmp_path: Path) -> None:
    check(tmp_path, str(VMPOD.with_name("containerd-shim-vmpod-v2")))
