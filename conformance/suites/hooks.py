"""Hooks: each kind at its place, the state on stdin, timeouts, failures, as config.md#posix-platform-hooks says."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

from conformance import host
from conformance.bundle import Config
from conformance.case import Case
from conformance.container import Container
from conformance.registry import Suite
from conformance.session import Session

suite = Suite("hooks")

CLAUSE = "config.md#posix-platform-hooks"
HOST_HOOKS = ("prestart", "createRuntime", "createContainer", "poststart", "poststop")


def _hook(directory: Path, name: str, body: str = "", **fields: Any) -> Config:
    """Write a hook program that records its call in `<directory>/log`, and return its entry."""
    path = directory / f"hook-{name}"
    path.write_text(
        "#!/bin/sh\n"
        f"cat >{directory}/state-{name}\n"
        f"echo \"$0|$*|$VALUE|$(env | cut -d= -f1 | sort | tr '\\n' ' ')|$(pwd)\" >{directory}/call-{name}\n"
        f"echo {name} >>{directory}/log\n"
        f"readlink /proc/self/ns/net >{directory}/netns-{name}\n{body}\n"
    )
    path.chmod(0o755)
    return {"path": str(path), "args": [f"called-{name}", "an argument"], "env": [f"VALUE=of-{name}"]} | fields


class Record:
    """A container with every kind of hook, and what they wrote."""

    def __init__(self, container: Container, directory: Path) -> None:
        self.container = container
        self.directory = directory
        self.at: dict[str, list[str]] = {}
        self.pid = 0
        self.netns = ""

    def log(self) -> list[str]:
        """Return the names of the hooks and of the container's process in the order in which they ran."""
        path = self.directory / "log"
        return path.read_text().split() if path.exists() else []

    def state(self, name: str) -> dict[str, Any]:
        """Return what a hook got on stdin."""
        found: dict[str, Any] = json.loads((self.directory / f"state-{name}").read_text())
        return found


def record(session: Session) -> Record:
    """A container of its own with every kind of hook, through its whole life."""
    directory = session.scratch / session.new_name("hooks")
    directory.mkdir()
    script = "echo process >>/hooks/log; trap 'exit 0' TERM; while :; do sleep 0.1; done"
    container = session.keep(Container(session, session.new_name("hook"), ("sh", "-c", script), member=False))
    container.config["mounts"].append(
        {"destination": "/hooks", "type": "bind", "source": str(directory), "options": ["rbind", "rw"]}
    )
    hooks: Config = {name: [_hook(directory, name)] for name in HOST_HOOKS}
    hooks["prestart"].append(_hook(directory, "prestart2"))
    inner = container.rootfs / "opt/hook"
    inner.write_text("#!/bin/sh\ncat >/hooks/state-startContainer\necho startContainer >>/hooks/log\n")
    inner.chmod(0o755)
    hooks["startContainer"] = [{"path": "/opt/hook", "args": ["hook"], "env": ["PATH=/bin"]}]
    container.config["hooks"] = hooks
    container.config["annotations"]["org.example.note"] = "for hooks"
    found = Record(container, directory)
    container.create()
    found.pid = container.pid()
    found.netns = str(Path(f"/proc/{found.pid}/ns/net").readlink())
    found.at["created"] = found.log()
    container.start()
    host.poll_until(lambda: "process" in found.log(), session.runtime.deadline(20))
    found.at["running"] = found.log()
    container.kill("TERM")
    container.wait()
    container.wait_status("stopped")
    found.at["stopped"] = found.log()
    container.delete()
    found.at["deleted"] = found.log()
    return found


@suite.check("order-create", CLAUSE, "create runs prestart, createRuntime and createContainer, in this order")
def order_create(case: Case) -> None:
    names = [name for name in case.shared(record).at["created"] if name != "poststart"]
    case.equal(names, ["prestart", "prestart2", "createRuntime", "createContainer"], "hooks that ran during create")


@suite.check("order-start", CLAUSE, "start runs startContainer, then the process")
def order_start(case: Case) -> None:
    log = [name for name in case.shared(record).at["stopped"] if name != "poststart"]
    case.equal(log[4:6], ["startContainer", "process"], "after create")


@suite.check("order-poststart", CLAUSE, "poststart runs with start")
def order_poststart(case: Case) -> None:
    found = case.shared(record)
    case.expect("poststart" not in found.at["created"], "poststart ran during create")
    case.contains(found.at["stopped"], "poststart", "hooks that ran until the end")


@suite.check("order-delete", CLAUSE, "poststop runs with delete, and is the last")
def order_delete(case: Case) -> None:
    found = case.shared(record)
    case.equal(found.at["deleted"][-1], "poststop", "last hook")
    case.expect("poststop" not in found.at["running"], "poststop ran while the container was running")


@suite.check("once", CLAUSE, "every hook runs exactly once")
def once(case: Case) -> None:
    log = case.shared(record).at["deleted"]
    case.equal(sorted(log), sorted(set(log)), "hooks that ran")


# What the status on stdin may be at each point; the specification left some of it open for long.
STATUS = {
    "prestart": ("creating", "created"),
    "createRuntime": ("creating", "created"),
    "createContainer": ("creating", "created"),
    "startContainer": ("creating", "created"),
    "poststart": ("running",),
    "poststop": ("stopped",),
}


def _state(name: str, case: Case) -> None:
    found = case.shared(record)
    given = found.state(name)
    case.expect("ociVersion" in given, f"no ociVersion: {given}")
    case.equal(given.get("id"), found.container.id, "id")
    case.equal(given.get("annotations", {}).get("org.example.note"), "for hooks", "annotation")
    if name != "startContainer":  # a check of its own, below
        _expect_bundle_and_status(name, found, given, case)
    if name in ("prestart", "createRuntime", "poststart"):
        case.equal(given.get("pid"), found.pid, "pid")


def _expect_bundle_and_status(name: str, found: Record, given: dict[str, Any], case: Case) -> None:
    case.equal(given.get("bundle"), str(found.container.bundle), "bundle")
    case.contains(STATUS[name], given.get("status"), "status")


@suite.check(
    "state-inside", "runtime.md#state", "startContainer, which runs inside, gets the bundle and the status too"
)
def state_inside(case: Case) -> None:
    found = case.shared(record)
    _expect_bundle_and_status("startContainer", found, found.state("startContainer"), case)


for _name in STATUS:
    suite.add(
        f"state-{_name}", "runtime.md#state", f"{_name} gets the container's state on stdin", partial(_state, _name)
    )


@suite.check("arguments", CLAUSE, "args are argv including argv[0], env is the whole environment")
def arguments(case: Case) -> None:
    found = case.shared(record)
    for name in HOST_HOOKS:
        _, words, value, names, _ = (found.directory / f"call-{name}").read_text().strip().split("|")
        case.equal((words, value), ("an argument", f"of-{name}"), f"argument and variable for {name}")
        case.equal(set(names.split()) - {"VALUE", "PWD", "SHLVL", "_", "OLDPWD"}, set(), f"variables for {name}")


@suite.check("network-ready", CLAUSE, "createRuntime finds the container's network namespace, and may fill it")
def network_ready(case: Case) -> None:
    directory = case.directory("netns")
    container = case.container("ip", "-o", "address", own=True)
    body = f"""
PATH=/usr/sbin:/usr/bin:/sbin:/bin
pid=$(tr -d ' \\n' <{directory}/state-net | sed 's/.*"pid":\\([0-9]*\\).*/\\1/')
readlink /proc/$pid/ns/net >{directory}/found
ip link add cfveth type veth peer name eth7 netns $pid
nsenter --net=/proc/$pid/ns/net ip address add 10.98.76.5/24 dev eth7
nsenter --net=/proc/$pid/ns/net ip link set eth7 up
"""
    container.config["hooks"] = {"createRuntime": [_hook(directory, "net", body)]}
    container.create()
    found = (directory / "found").read_text().strip()
    case.equal(found, str(Path(f"/proc/{container.pid()}/ns/net").readlink()), "network namespace that the hook saw")
    container.start()
    case.matches(container.finished().out, r"eth7 .*10\.98\.76\.5/24", "addresses inside")


def _failing(kind: str, case: Case) -> None:
    directory = case.directory("hooks")
    container = case.container("sh", "-c", "echo ran")
    container.config["hooks"] = {
        kind: [_hook(directory, "bad", "echo it-broke >&2; exit 3"), _hook(directory, "next")],
        "poststop": [_hook(directory, "poststop")],
    }
    outcome = container.try_create()
    case.refused(outcome, "hook|exit|status|it-broke")
    case.expect(not container.pid_file.exists(), "a pid file was written")
    case.expect(not (directory / "call-next").exists(), "the next hook ran all the same")
    case.refused(case.runtime.call("state", container.id), "does not exist|no such file")


for _kind in ("prestart", "createRuntime", "createContainer"):
    suite.add(f"fail-{_kind}", "runtime.md#lifecycle", f"a failing {_kind} hook fails create", partial(_failing, _kind))


@suite.check(
    "fail-startContainer", "runtime.md#lifecycle", "a failing startContainer hook ends the container unstarted"
)
def fail_start_container(case: Case) -> None:
    container = case.container("sh", "-c", "echo ran")
    container.config["hooks"] = {"startContainer": [{"path": "/bin/false", "args": ["false"]}]}
    container.create()
    case.runtime.call("start", container.id)
    code = container.wait()
    case.expect(code != 0, "the container ended with 0")
    case.equal(container.output(), "", "output of the process")


@suite.check("fail-poststart", "runtime.md#lifecycle", "a failing poststart hook is a warning: the container runs on")
def fail_poststart(case: Case) -> None:
    directory = case.directory("hooks")
    container = case.container("sleep", "1000")
    container.config["hooks"] = {"poststart": [_hook(directory, "bad", "exit 3"), _hook(directory, "next")]}
    container.create().start()
    case.equal(container.status(), "running", "status")
    case.expect((directory / "call-next").exists(), "the next hook did not run")


@suite.check("fail-poststop", "runtime.md#lifecycle", "a failing poststop hook is a warning: the container is deleted")
def fail_poststop(case: Case) -> None:
    directory = case.directory("hooks")
    container = case.container("true")
    container.config["hooks"] = {"poststop": [_hook(directory, "bad", "exit 3"), _hook(directory, "next")]}
    container.create().start()
    container.wait()
    container.wait_status("stopped")
    container.delete()
    case.refused(case.runtime.call("state", container.id), "does not exist|no such file")
    case.expect((directory / "call-next").exists(), "the next hook did not run")


@suite.check("poststop-force", "runtime.md#lifecycle", "delete --force runs poststop hooks too")
def poststop_force(case: Case) -> None:
    directory = case.directory("hooks")
    container = case.container("sleep", "1000")
    container.config["hooks"] = {"poststop": [_hook(directory, "poststop")]}
    container.create().start()
    container.delete("--force")
    case.expect((directory / "call-poststop").exists(), "the hook did not run")


@suite.check("timeout", CLAUSE, "a hook that exceeds its timeout is killed and counts as failed")
def timeout(case: Case) -> None:
    directory = case.directory("hooks")
    container = case.container("true")
    body = f"echo $$ >{directory}/pid; exec sleep 3000"
    container.config["hooks"] = {"createRuntime": [_hook(directory, "slow", body, timeout=1)]}
    case.refused(container.try_create())
    pid = int((directory / "pid").read_text())
    case.expect(host.wait_gone(pid, case.runtime.deadline(5)), "the hook runs on")


@suite.check("missing", CLAUSE, "a hook whose program does not exist fails create")
def missing(case: Case) -> None:
    container = case.container("true")
    container.config["hooks"] = {"createRuntime": [{"path": "/no/such/hook"}]}
    case.refused(container.try_create(), "/no/such/hook")


@suite.check("relative", CLAUSE, "a hook whose path is not absolute fails create")
def relative(case: Case) -> None:
    container = case.container("true")
    container.config["hooks"] = {"createRuntime": [{"path": "bin/true"}]}
    case.refused(container.try_create())


@suite.check("output", CLAUSE, "what a hook prints does not get into the container's output")
def hook_output(case: Case) -> None:
    directory = case.directory("hooks")
    container = case.container("echo", "only-this")
    container.config["hooks"] = {"prestart": [_hook(directory, "loud", "echo noise; echo noise >&2")]}
    case.equal(container.run().out, "only-this\n", "stdout of the container")
