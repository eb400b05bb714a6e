"""Cgroup limits: set, visible inside, enforced, changed by `update`."""

from __future__ import annotations

import json
import os
from pathlib import Path

from conformance.bundle import Config
from conformance.case import Case, sections
from conformance.container import Container
from conformance.registry import Suite
from conformance.session import Session

suite = Suite("resources")

MIB = 1 << 20

# Reads a limit under its v1 or its v2 name; which one is there depends on the kernel's set-up, not on the runtime.
PROBE = """
section() { echo; echo "@@ $1"; }
first() { for f in "$@"; do [ -e "$f" ] && { cat "$f"; return; }; done; echo none; }
c=/sys/fs/cgroup
section memory; first $c/memory/memory.limit_in_bytes $c/memory.max
section swap; first $c/memory/memory.memsw.limit_in_bytes $c/memory.swap.max
section reservation; first $c/memory/memory.soft_limit_in_bytes $c/memory.low
section pids; first $c/pids/pids.max $c/pids.max
section quota; first $c/cpu/cpu.cfs_quota_us $c/cpu.max
section period; first $c/cpu/cpu.cfs_period_us $c/cpu.max
section weight; first $c/cpu/cpu.shares $c/cpu.weight
section cpus; first $c/cpuset/cpuset.cpus $c/cpuset.cpus
section version; [ -e $c/cgroup.controllers ] && echo 2 || echo 1
"""


def _limits(linux: Config) -> None:
    linux["resources"] |= {
        "memory": {"limit": 96 * MIB, "swap": 128 * MIB, "reservation": 48 * MIB},
        "pids": {"limit": 77},
        "cpu": {"shares": 512, "quota": 40000, "period": 80000, "cpus": "0"},
    }


def _facts(container: Container) -> dict[str, str]:
    outcome = container.exec("sh", "-c", PROBE)
    container.session.trace(outcome.out)
    return sections(outcome.out)


class Limited:
    """A running container with limits, and what it saw before and after `update`."""

    def __init__(self, container: Container) -> None:
        self.container = container
        self.first = _facts(container)


def limited(session: Session) -> Limited:
    """A container with memory, pids and cpu limits."""
    container = session.keep(Container(session, session.new_name("lim"), ("sleep", "10000"), member=True))
    _limits(container.config["linux"])
    container.create().start()
    return Limited(container)


def _weight(version: str, shares: int) -> set[str]:
    """Return what a share count may look like inside: itself, or one of the two conversions to a v2 weight."""
    if version == "1":
        return {str(shares)}
    return {str(1 + ((shares - 2) * 9999) // 262142), *(str(n) for n in range(45, 65) if shares == 512)}


@suite.check("memory", "config-linux.md#memory", "memory.limit is visible inside")
def memory(case: Case) -> None:
    case.equal(case.shared(limited).first["memory"], str(96 * MIB), "memory limit")


@suite.check("swap", "config-linux.md#memory", "memory.swap is visible inside")
def swap(case: Case) -> None:
    facts = case.shared(limited).first
    expected = {"1": (str(128 * MIB), "none"), "2": (str(32 * MIB), "none")}[facts["version"]]
    case.contains(expected, facts["swap"], "limit of memory and swap (v1) or of swap alone (v2)")


@suite.check("reservation", "config-linux.md#memory", "memory.reservation is visible inside")
def reservation(case: Case) -> None:
    case.equal(case.shared(limited).first["reservation"], str(48 * MIB), "reservation")


@suite.check("pids", "config-linux.md#pids", "pids.limit is visible inside")
def pids(case: Case) -> None:
    case.equal(case.shared(limited).first["pids"], "77", "pids limit")


@suite.check("cpu-quota", "config-linux.md#cpu", "cpu.quota and cpu.period are visible inside")
def cpu_quota(case: Case) -> None:
    facts = case.shared(limited).first
    expected = ("40000", "80000") if facts["version"] == "1" else ("40000 80000", "40000 80000")
    case.equal((facts["quota"], facts["period"]), expected, "quota and period")


@suite.check("cpu-shares", "config-linux.md#cpu", "cpu.shares is visible inside, as shares or as weight")
def cpu_shares(case: Case) -> None:
    facts = case.shared(limited).first
    case.contains(_weight(facts["version"], 512), facts["weight"], "shares or weight")


@suite.check("cpuset", "config-linux.md#cpu", "cpu.cpus is visible inside")
def cpuset(case: Case) -> None:
    case.equal(case.shared(limited).first["cpus"], "0", "cpus")


@suite.check("update-flags", "callers: update", "`update` with flags changes limits of a running container")
def update_flags(case: Case) -> None:
    container = case.shared(limited).container
    case.succeeded(case.runtime.call("update", "--pids-limit", "99", "--memory", str(112 * MIB), container.id))
    facts = _facts(container)
    case.equal((facts["pids"], facts["memory"]), ("99", str(112 * MIB)), "pids and memory limit")


@suite.check(
    "update-stdin", "callers: update", "`update --resources -` reads JSON from stdin, as CRI-O and containerd call it"
)
def update_stdin(case: Case) -> None:
    container = case.shared(limited).container
    resources = {
        "memory": {"limit": 120 * MIB, "swap": 160 * MIB},
        "cpu": {"shares": 256, "quota": 30000, "period": 100000},
        "pids": {"limit": 88},
    }
    data = json.dumps(resources).encode()
    case.succeeded(case.runtime.call("update", "--resources", "-", container.id, stdin=data))
    facts = _facts(container)
    case.equal((facts["memory"], facts["pids"]), (str(120 * MIB), "88"), "memory and pids")
    expected = "30000" if facts["version"] == "1" else "30000 100000"
    case.equal(facts["quota"], expected, "quota")


@suite.check("update-file", "callers: update", "`update --resources=FILE`, as podman calls it")
def update_file(case: Case) -> None:
    container = case.shared(limited).container
    path = case.scratch / case.session.new_name("resources")
    path.write_text(json.dumps({"pids": {"limit": 66}}))
    case.succeeded(case.runtime.call("update", f"--resources={path}", container.id))
    case.equal(_facts(container)["pids"], "66", "pids")


@suite.check("update-invalid", "callers: update", "`update` with broken JSON is an error and changes nothing")
def update_invalid(case: Case) -> None:
    container = case.shared(limited).container
    before = _facts(container)["pids"]
    case.refused(case.runtime.call("update", "--resources", "-", container.id, stdin=b"{broken"))
    case.equal(_facts(container)["pids"], before, "pids")


@suite.check("update-unknown", "callers: update", "`update` of an unknown container is an error")
def update_unknown(case: Case) -> None:
    case.refused(case.runtime.call("update", "--pids-limit", "5", "no-such-container"), "does not exist|no such file")


@suite.check("pids-enforced", "config-linux.md#pids", "no more processes than pids.limit can be made")
def pids_enforced(case: Case) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 30 & done; echo all"
    container = case.container("sh", "-c", script)
    container.config["linux"]["resources"]["pids"] = {"limit": 6}
    done = container.run()
    case.expect("all" not in done.out, f"twelve children in spite of a limit of 6: {done}")


@suite.check("oom", "config-linux.md#memory", "a process that takes more than memory.limit is killed")
def oom(case: Case) -> None:
    container = case.container("sh", "-c", "head -c 200m /dev/zero | tail; echo $?")
    container.config["linux"]["resources"]["memory"] = {"limit": 32 * MIB, "swap": 32 * MIB}
    done = container.run()
    case.expect(done.code == 137 or done.out.strip() == "137", f"{done}")


@suite.check("oom-init", "config-linux.md#memory", "when the first process is killed for memory, the caller sees 137")
def oom_init(case: Case) -> None:
    container = case.container("tail", "/dev/zero")
    container.config["linux"]["resources"]["memory"] = {"limit": 24 * MIB, "swap": 24 * MIB}
    case.equal(container.run().code, 137, "exit code")


@suite.check("unlimited", "config-linux.md#memory", "-1 means no limit")
def unlimited(case: Case) -> None:
    container = case.container("sh", "-c", PROBE)
    container.config["linux"]["resources"] |= {"memory": {"limit": -1}, "pids": {"limit": -1}}
    facts = sections(container.run().out)
    case.contains(("max",), facts["pids"], "pids")
    case.expect(facts["memory"] == "max" or int(facts["memory"]) > 1 << 50, f"memory: {facts['memory']}")


@suite.check("hugetlb-unknown", "config-linux.md#huge-page-limits", "a huge page size that does not exist is an error")
def hugetlb_unknown(case: Case) -> None:
    container = case.container("true")
    container.config["linux"]["resources"]["hugepageLimits"] = [{"pageSize": "3MB", "limit": 0}]
    outcome = container.try_create()
    if outcome.ok:
        outcome = case.runtime.call("start", container.id)
    case.refused(outcome)


@suite.check(
    "cgroup-removed", "runtime.md#delete", "the container's cgroups of the host exist while it lives, and go with it"
)
def cgroup_removed(case: Case) -> None:
    container = case.container("sleep", "1000")
    _limits(container.config["linux"])
    container.create().start()
    made = _host_cgroups(container.id)
    case.expect(made, f"no cgroup of the host is called {container.id}")
    container.delete("--force")
    case.equal(_host_cgroups(container.id), [], "cgroups after delete")


@suite.check("cgroup-foreign", "runtime.md#delete", "delete removes no cgroup that create has not made")
def cgroup_foreign(case: Case) -> None:
    container = case.container("sleep", "1000")
    _limits(container.config["linux"])
    container.create().start()
    foreign = [path.parent / f"foreign-{container.id}" for path in _host_cgroups(container.id) if "pids" in path.parts]
    foreign = foreign or [path.parent / f"foreign-{container.id}" for path in _host_cgroups(container.id)[:1]]
    for path in foreign:
        path.mkdir()
        case.defer(path.rmdir)
        (path / "cgroup.procs").write_text(str(container.pid()))
    container.kill("KILL")
    container.wait()
    container.delete()
    case.expect(all(path.is_dir() for path in foreign), f"gone: {foreign}")


def _host_cgroups(name: str) -> list[Path]:
    """The cgroups of that name. Others come and go meanwhile, which os.walk does not mind."""
    return sorted(Path(place, name) for place, below, _ in os.walk("/sys/fs/cgroup") if name in below)
