"""containerd: `ctr run` with the shim and with runc, further containers, exec; the idle shim's memory and time."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.bare_boot import boot_ms
from bench.measure import REPEAT, Table, median_ms, pss_kib
from conformance.cri.containerd import BUSYBOX_IMAGE, Containerd
from oci_runtime.shim.location import layout_for

SHIM = "io.containerd.vmpod.v2"
RUNC = "io.containerd.runc.v2"
IDLE_S = 30.0
_MIB = 1024


class Bench:
    """One private containerd in a network namespace of its own."""

    def __init__(self, directory: Path) -> None:
        self.network = f"vmpod-bench-{os.getpid()}"
        subprocess.run(["ip", "netns", "add", self.network], check=True)
        prefix = ("nsenter", f"--net=/run/netns/{self.network}")
        self.engine = Containerd(directory, shim_path=str(Path(sys.executable).parent), prefix=prefix)
        self.engine.start()
        self.engine.load_images()
        self._names = 0

    def close(self) -> None:
        """Remove everything."""
        self.engine.remove()
        subprocess.run(["ip", "netns", "del", self.network], check=True)

    def name(self) -> str:
        """A container id that nobody else has."""
        self._names += 1
        return f"b{self._names}"

    def run_true(self, runtime: str) -> None:
        """`ctr run --rm … true`."""
        self.engine.ctr("run", "--rm", "--runtime", runtime, BUSYBOX_IMAGE, self.name(), "true")

    def member(self, pod: str, name: str) -> None:
        """`ctr run --detach` of a container of a pod."""
        annotations = ("container-type=container", f"sandbox-id={pod}")
        words = [word for entry in annotations for word in ("--annotation", f"io.kubernetes.cri.{entry}")]
        self.engine.ctr("run", "-d", "--runtime", SHIM, *words, BUSYBOX_IMAGE, name, "sleep", "100000")

    def remove(self, name: str) -> None:
        """Kill and delete a container."""
        self.engine.try_ctr("task", "rm", "--force", name)
        self.engine.ctr("container", "rm", name)


def run(_directory: Path) -> Iterable[Table]:
    """Yield the tables. Sockets need a short directory, so the given one is not used."""
    with tempfile.TemporaryDirectory(prefix="vb", dir="/tmp") as short:
        bench = Bench(Path(short))
        try:
            yield _runs(bench, short)
            yield from _pod(bench)
        finally:
            bench.close()


def _runs(bench: Bench, directory: str) -> Table:
    """All three by turns: a shared host's speed changes from minute to minute."""
    table = Table("ctr run --rm busybox true", "ms, median of ten", ("bare boot", "runc", "vmpod"))
    calls: dict[str, Callable[[], float | None]] = {
        "bare boot": lambda: boot_ms(directory),
        "runc": lambda: bench.run_true(RUNC),
        "vmpod": lambda: bench.run_true(SHIM),
    }
    times: dict[str, list[float]] = {column: [] for column in calls}
    bench.run_true(RUNC)
    bench.run_true(SHIM)
    for _ in range(REPEAT):
        for column, call in calls.items():
            begin = time.perf_counter()
            answer = call()
            took_ms = (time.perf_counter() - begin) * 1000
            times[column].append(took_ms if answer is None else answer)  # a bare boot ends later than it answers
    for column, values in times.items():
        table.add("cold", column, statistics.median(values))
    return table


def _pod(bench: Bench) -> Iterable[Table]:
    table = Table("In a running pod", "ms, median of ten", ("runc", "vmpod"))
    for column, runtime in (("runc", RUNC), ("vmpod", SHIM)):
        pod = bench.name()
        bench.engine.ctr("run", "-d", "--runtime", runtime, BUSYBOX_IMAGE, pod, "sleep", "100000")
        exec_true = _numbered(bench, "task", "exec", "--exec-id", "{}", pod, "true")
        table.add("ctr task exec true", column, median_ms(exec_true))
        state = ("task", "ps", pod)
        table.add("ctr task ps", column, median_ms(lambda words=state: bench.engine.ctr(*words)))  # type: ignore[misc]
        if runtime == SHIM:
            table.add("ctr run --detach (second container)", column, _members_ms(bench, pod))
            yield table
            yield _idle(bench)
        bench.remove(pod)


def _numbered(bench: Bench, *words: str) -> Callable[[], object]:
    """A call of ctr whose word `{}` is another one each time."""
    return lambda: bench.engine.ctr(*(bench.name() if word == "{}" else word for word in words))


def _members_ms(bench: Bench, pod: str) -> float:
    times = []
    for _ in range(REPEAT):
        name = bench.name()
        begin = time.perf_counter()
        bench.member(pod, name)
        times.append((time.perf_counter() - begin) * 1000)
        bench.remove(name)
    return statistics.median(times)


def _idle(bench: Bench) -> Table:
    """What the shim of an idle pod costs."""
    root = Path(layout_for("default", str(bench.engine.socket)).root)
    (record,) = (json.loads(path.read_text()) for path in root.glob(".sandboxes/*/sandbox.json"))
    pid = int(record["pid"])
    before = _cpu_s(pid)
    time.sleep(IDLE_S)
    table = Table(f"Shim of a pod, idle for {IDLE_S:g} s", "MiB PSS, % of a CPU", ("memory", "CPU"))
    table.add("shim", "memory", pss_kib(pid) / _MIB)
    table.add("shim", "CPU", (_cpu_s(pid) - before) / IDLE_S * 100)
    return table


def _cpu_s(pid: int) -> float:
    """Processor time of a process, from the scheduler: finer than clock ticks."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(path.read_text().split()[0]) for path in threads) / 1e9
