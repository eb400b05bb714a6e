"""The OCI verbs: wall time of each as the engine sees it, beside runc and crun."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from multiprocessing import get_context
from pathlib import Path

from bench.bare_boot import boot_ms
from bench.measure import REPEAT, Runtime, Table, make_bundle
from conformance import host

VMPOD = str(Path(sys.executable).parent / "vmpod")
POD = {"io.kubernetes.cri-o.ContainerType": "sandbox", "io.kubernetes.cri-o.SandboxID": "pod"}
MEMBER = {"io.kubernetes.cri-o.ContainerType": "container", "io.kubernetes.cri-o.SandboxID": "pod"}
SLEEP = ["sleep", "100000"]


def run(directory: Path) -> Iterable[Table]:
    """Yield the table of the verbs, and the one of the boot."""
    runc, crun = (Runtime(name, name, directory / name) for name in ("runc", "crun"))
    vmpod = Runtime("vmpod", VMPOD, directory / "vmpod")
    medians = {"runc": _measure(runc, directory / "bundles-runc")}
    with get_context("fork").Pool(1, _without_unified) as apart:
        if apart.apply(_works, (crun, directory / "probe")):
            medians["crun"] = apart.apply(_measure, (crun, directory / "bundles-crun"))
    medians["vmpod"] = _measure(vmpod, directory / "bundles-vmpod")
    table = Table("Verbs, client's wall time", "ms, median of ten", tuple(medians))
    for column, values in medians.items():
        for verb, median in values.items():
            table.add(verb, column, median)
    yield table
    yield _boot_table(vmpod, directory)


def _without_unified() -> None:
    """For crun, whose version 1.8 refuses hosts with both cgroup versions: a process that sees but one of them."""
    host.isolate(network=False)
    host.mask_unified()


def _works(runtime: Runtime, directory: Path) -> bool:
    """Whether a runtime can create a container on this host."""
    bundle = make_bundle(directory, SLEEP)
    done = subprocess.run(
        [*runtime.command, "create", "--bundle", str(bundle), "probe"],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    runtime.try_call("delete", "--force", "probe")
    return done.returncode == 0


def _timed(call: object, *arguments: str) -> float:
    begin = time.perf_counter()
    call(*arguments)  # type: ignore[operator]
    return (time.perf_counter() - begin) * 1000


def _measure(runtime: Runtime, directory: Path) -> dict[str, float]:
    """The medians of one pod with members that come and go; for runc and crun these are plain containers."""
    in_pod = runtime.name == "vmpod"
    pod = make_bundle(directory / "pod", SLEEP, POD if in_pod else None)
    member = make_bundle(directory / "member", SLEEP, MEMBER if in_pod else None)
    cold = []
    for _ in range(REPEAT):
        cold.append(_timed(runtime.call, "create", "--bundle", str(pod), "pod"))
        runtime.call("delete", "--force", "pod")
    runtime.call("create", "--bundle", str(pod), "pod")
    runtime.call("start", "pod")
    times = {"create (a pod's machine, cold)": cold}
    for _ in range(REPEAT):
        for verb, arguments in (
            ("create (further container)", ("create", "--bundle", str(member), "m")),
            ("state", ("state", "m")),
            ("start", ("start", "m")),
            ("exec true", ("exec", "m", "true")),
            ("kill", ("kill", "m", "KILL")),
        ):
            times.setdefault(verb, []).append(_timed(runtime.call, *arguments))
        _wait_stopped(runtime)
        times.setdefault("delete", []).append(_timed(runtime.call, "delete", "m"))
    runtime.call("delete", "--force", "pod")
    return {verb: statistics.median(values) for verb, values in times.items()}


def _wait_stopped(runtime: Runtime) -> None:
    while b'"stopped"' not in subprocess.check_output([*runtime.command, "state", "m"]):
        time.sleep(0.02)


def _boot_table(runtime: Runtime, directory: Path) -> Table:
    """Bare boots and creations by turns: a shared host's speed changes from minute to minute."""
    table = Table("Cold create of a pod beside a bare boot", "ms, median of ten", ("bare boot", "create"))
    pod = make_bundle(directory / "beside", SLEEP, POD)
    bare, created = [], []
    for _ in range(REPEAT):
        bare.append(boot_ms(str(directory)))
        created.append(_timed(runtime.call, "create", "--bundle", str(pod), "pod"))
        runtime.call("delete", "--force", "pod")
    table.add("same kernel, image and devices", "bare boot", statistics.median(bare))
    table.add("same kernel, image and devices", "create", statistics.median(created))
    return table
