"""How long a pod outlives what it depends on: from the kill to the ends of its containers as their engine sees them."""

from __future__ import annotations

import json
import os
import select
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from bench.measure import Runtime, Table, make_bundle

VMPOD = str(Path(sys.executable).parent / "vmpod")
VICTIMS = ("virtiofsd", "qemu")
_KIND = "io.kubernetes.cri-o.ContainerType"
_SANDBOX = "io.kubernetes.cri-o.SandboxID"
_REPEAT = 5
_DEADLINE_MS = 20_000


def run(directory: Path) -> Iterable[Table]:
    """Yield the table: a row for each victim, of pods with two containers."""
    table = Table("Kill of a helper to the end of the pod's last container", "ms", ("median", "longest"))
    runtime = Runtime("vmpod", VMPOD, directory / "run")
    bundles = {
        kind: make_bundle(directory / kind, ["sleep", "100000"], {_KIND: kind, _SANDBOX: "sandbox"})
        for kind in ("sandbox", "container")
    }
    for victim in VICTIMS:
        times = [_measure(runtime, bundles, victim) for _ in range(_REPEAT)]
        table.add(victim, "median", statistics.median(times))
        table.add(victim, "longest", max(times))
    yield table


def _measure(runtime: Runtime, bundles: dict[str, Path], victim: str) -> float:
    for name, bundle in bundles.items():
        runtime.call("create", "--bundle", str(bundle), name)
        runtime.call("start", name)
    (record,) = Path(runtime.command[2]).glob(".sandboxes/*/sandbox.json")
    ends = select.poll()
    proxies = [os.pidfd_open(_pid(runtime, name)) for name in bundles]
    for proxy in proxies:
        ends.register(proxy, select.POLLIN)
    begin = time.perf_counter()
    os.kill(json.loads(record.read_text())[victim]["pid"], signal.SIGKILL)
    while proxies:
        ended = ends.poll(_DEADLINE_MS)
        if not ended:
            raise RuntimeError(f"the pod outlives {victim}")
        for proxy, _ in ended:
            ends.unregister(proxy)
            os.close(proxy)
            proxies.remove(proxy)
    took_ms = (time.perf_counter() - begin) * 1000
    for name in reversed(bundles):
        runtime.call("delete", "--force", name)
    return took_ms


def _pid(runtime: Runtime, name: str) -> int:
    command = [*runtime.command, "state", name]
    return int(json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["pid"])
