"""The selected checks of docker, on an established runtime and on vmpod."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.runs import run_control, run_vmpod

pytestmark = pytest.mark.engine


def test_control(tmp_path: Path) -> None:
    run_control(tmp_path, "docker")


@pytest.mark.vm
def test_vmpod(tmp_path: Path) -> None:
    run_vmpod(tmp_path, "docker")
