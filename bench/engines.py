"""podman and Docker: the wall time of `run --rm busybox true` with runc, crun and vmpod."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from bench.measure import Table

RUNTIMES = {"runc": "runc", "crun": "crun", "vmpod": str(Path(sys.executable).parent / "vmpod")}


def run(_directory: Path) -> Iterable[Table]:
    """Yield the table; each figure comes from a process that isolates itself."""
    table = Table("run --rm --network none busybox true", "ms, median of ten", tuple(RUNTIMES))
    for engine in ("podman", "docker"):
        for name, binary in RUNTIMES.items():
            words = [sys.executable, "-m", "bench.engine_run", engine, binary]
            table.add(engine, name, float(subprocess.check_output(words, stdin=subprocess.DEVNULL, text=True)))
    yield table
