"""The CRI suite of `conformance/`, against runc as the control and against the shim."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines.conftest import BIN

pytestmark = pytest.mark.engine

ROOT = Path(__file__).parent.parent.parent


@pytest.mark.parametrize("runtime", ["/usr/sbin/runc", str(BIN / "containerd-shim-vmpod-v2")], ids=["runc", "vmpod"])
def test_container_runtime_interface(runtime: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "conformance", "--engine", "cri", "--runtime", runtime]
    done = subprocess.run(
        [*command, "--report", str(tmp_path), "--verbose"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    (report,) = tmp_path.glob("*.json")
    results = json.loads(report.read_text())["results"]
    assert len(results) >= 45 and all(result["status"] == "pass" for result in results)
