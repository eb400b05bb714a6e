"""The selected checks of the command line alone, on vmpod; test_control.py has the control."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.runs import run_vmpod

pytestmark = [pytest.mark.engine, pytest.mark.vm]


def test_vmpod(tmp_path: Path) -> None:
    run_vmpod(tmp_path, "oci")
