"""Many pods, and what is left of them."""

from __future__ import annotations

import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from conformance.case import Case
from conformance.cri.lab import Lab, lab_of
from conformance.registry import Suite

suite = Suite("cri-many", "cri")
CLAUSE = "Kubernetes CRI v1, RuntimeService"
SETTLE_S = 15.0


def _life(lab: Lab, number: int) -> str:
    """One pod with one container, from beginning to end."""
    pod = lab.run_pod()
    try:
        container = pod.run()
        return pod.out(container, "echo", str(number))
    finally:
        pod.remove()


def _traces(lab: Lab) -> set[str]:
    """What pods leave on a host: mounts and processes that name the lab, network devices, task directories."""
    here = (str(lab.engine.directory), "/run/netns/cni-")
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    found = {f"mount {mount}" for mount in mounts if mount.startswith(here)}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if Path(entry / "ns/mnt").readlink() == Path("/proc/self/ns/mnt").readlink() and words:
                    found.add(f"process {entry.name} {words[:120]}")
            except OSError:
                continue
    found |= {f"link {path.name}" for path in Path("/sys/class/net").iterdir() if path.name.startswith("veth")}
    found |= {f"task {path}" for path in lab.engine.state.glob("io.containerd.runtime.v2.task/k8s.io/*")}
    # vmpod's shim has a directory for each engine, told apart by the address; other engines may be at work.
    engine = hashlib.sha256(str(lab.engine.socket).encode()).hexdigest()[:8]
    found |= {f"sandbox {path}" for path in Path("/run/containerd/vmpod").glob(f"k8s.io-{engine}/.sandboxes/*")}
    return found


@suite.check("in-turn", CLAUSE, "ten pods one after another, and nothing is left of them")
def in_turn(case: Case) -> None:
    lab = lab_of(case)
    before = _traces(lab)
    for number in range(10):
        case.equal(_life(lab, number), f"{number}\n", "output")
    _expect_nothing_new(case, lab, before)


@suite.check("at-once", CLAUSE, "five pods at once, and nothing is left of them")
def at_once(case: Case) -> None:
    lab = lab_of(case)
    before = _traces(lab)
    with ThreadPoolExecutor(5) as pool:
        outputs = list(pool.map(lambda number: _life(lab, number), range(5)))
    case.equal(outputs, [f"{number}\n" for number in range(5)], "outputs")
    _expect_nothing_new(case, lab, before)


def _expect_nothing_new(case: Case, lab: Lab, before: set[str]) -> None:
    until = time.monotonic() + SETTLE_S
    while (left := _traces(lab) - before) and time.monotonic() < until:
        time.sleep(0.1)
    case.equal(sorted(left), [], "what is left")
