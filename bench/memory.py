"""Memory: proportional set size of a pod's processes, idle, default size; the first pod and each further one."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from bench.measure import Runtime, Table, make_bundle, pss_kib

VMPOD = str(Path(sys.executable).parent / "vmpod")
PODS = 3
SETTLE_S = 5.0


def run(directory: Path) -> Iterable[Table]:
    """Yield one table: a column per process kind, a row per number of pods."""
    runtime = Runtime("vmpod", VMPOD, directory / "run")
    table = Table("Memory of idle pods", "MiB PSS", ("proxy", "sandbox process", "virtiofsd", "QEMU", "all"))
    created = []
    try:
        for number in range(1, PODS + 1):
            name = f"pod{number}"
            bundle = make_bundle(directory / name, ["sleep", "100000"])
            created.append(name)
            runtime.call("create", "--bundle", str(bundle), "--pid-file", str(bundle / "pid"), name)
            runtime.call("start", name)
            time.sleep(SETTLE_S)
            _add_row(table, f"{number} pod{'s' * (number > 1)}", directory, created)
    finally:
        for name in created:
            runtime.try_call("delete", "--force", name)
    yield table


def _add_row(table: Table, row: str, directory: Path, names: list[str]) -> None:
    total = dict.fromkeys(table.columns[:-1], 0.0)
    for name in names:
        total["proxy"] += pss_kib(int((directory / name / "pid").read_text())) / 1024
    for path in (directory / "run" / ".sandboxes").glob("*/sandbox.json"):
        record = json.loads(path.read_text())
        total["sandbox process"] += pss_kib(record["pid"]) / 1024
        total["QEMU"] += pss_kib(record["qemu"]["pid"]) / 1024
        for pid in (record["virtiofsd"]["pid"], *_children(record["virtiofsd"]["pid"])):
            total["virtiofsd"] += pss_kib(pid) / 1024
    for column, value in total.items():
        table.add(row, column, value)
    table.add(row, "all", sum(total.values()))


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
