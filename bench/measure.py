"""What every benchmark shares: repetitions, medians, bundles, and the table with its ratios."""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conformance.bundle import make_rootfs

REPEAT = 10


@dataclass
class Table:
    """Figures by row and column. unit: what all of them are in. ratio: two columns; without them the last and first."""

    title: str
    unit: str
    columns: tuple[str, ...]
    ratio: tuple[str, str] | None = None
    rows: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, row: str, column: str, value: float) -> None:
        """Put one figure into the table."""
        self.rows.setdefault(row, {})[column] = value

    def render(self) -> str:
        """The table as Markdown, with a column for the ratio."""
        above, below = self.ratio or (self.columns[-1], self.columns[0])
        head = ["", *self.columns, f"{above} : {below}"]
        lines = [f"### {self.title} ({self.unit})", "", _row(head), _row(["---"] * len(head))]
        for name, values in self.rows.items():
            cells = [f"{values[column]:.1f}" if column in values else "–" for column in self.columns]
            first, last = values.get(below), values.get(above)
            ratio = _ratio(last / first) if first and last else "–"
            lines.append(_row([name, *cells, ratio]))
        return "\n".join([*lines, ""])


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.1g}"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def median_ms(call: Callable[[], object], repeat: int = REPEAT) -> float:
    """Median wall time of `call` in milliseconds."""
    times = []
    for _ in range(repeat):
        begin = time.perf_counter()
        call()
        times.append((time.perf_counter() - begin) * 1000)
    return statistics.median(times)


def make_bundle(
    directory: Path, arguments: Sequence[str], annotations: dict[str, str] | None = None, **changes: Any
) -> Path:
    """A bundle around `arguments`: private namespaces, no network namespace of anybody else, no limits."""
    make_rootfs(directory / "rootfs")
    spec: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": list(arguments),
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
        },
        "root": {"path": "rootfs"},
        "hostname": "bench",
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        ],
        "annotations": annotations or {},
        "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")]},
    }
    (directory / "config.json").write_text(json.dumps(spec | changes))
    return directory


class Runtime:
    """An OCI runtime's binary with a state directory of its own."""

    def __init__(self, name: str, binary: str, root: Path) -> None:
        self.name = name
        self.command = [binary, "--root", str(root)]

    def call(self, *arguments: str) -> None:
        """Run one verb; a failure ends the benchmark. No pipes: those of `create` live on in the container."""
        subprocess.run([*self.command, *arguments], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def try_call(self, *arguments: str) -> None:
        """Run one verb whose failure does not matter, such as a clean-up."""
        subprocess.run([*self.command, *arguments], check=False, stdin=subprocess.DEVNULL, capture_output=True)


def pss_kib(pid: int) -> int:
    """Proportional memory of a process in KiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    return 0
