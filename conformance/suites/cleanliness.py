"""Nothing stays behind: processes, mounts, cgroups, files and interfaces are counted before and after."""

from __future__ import annotations

import os
import signal
import time

from conformance import host, leftovers, reaper
from conformance.case import Case
from conformance.registry import Suite

suite = Suite("cleanliness")


def _clean(case: Case, before: leftovers.Leftovers) -> None:
    case.equal(leftovers.wait_clean(case.session, before, 15), [], "left on the host")


@suite.check("whole-life", "runtime.md#delete", "create, start, exec, end, delete: nothing is left")
def whole_life(case: Case) -> None:
    before = leftovers.look(case.session)
    container = case.container("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done", own=True)
    container.create().start()
    container.exec("true")
    container.kill("TERM")
    container.wait()
    container.wait_status("stopped")
    container.delete()
    _clean(case, before)


@suite.check("member", "runtime.md#delete", "a member of a pod leaves nothing, and the pod lives on")
def member(case: Case) -> None:
    pod = case.session.pod()
    before = leftovers.look(case.session)
    container = case.container("true").create().start()
    container.wait()
    container.wait_status("stopped")
    container.delete()
    _clean(case, before)
    case.equal(pod.status(), "running", "status of the pod")


@suite.check("force", "callers: delete", "delete --force of a running container with execs leaves nothing")
def force(case: Case) -> None:
    before = leftovers.look(case.session)
    container = case.container("sleep", "1000", own=True).create().start()
    running = container.exec_detached({"args": ["sleep", "1000"]})
    pid = running.pid()
    container.delete("--force")
    host.wait_gone(pid, case.runtime.deadline(10))
    _clean(case, before)


@suite.check("failed-create", "runtime.md#create", "a create that fails late leaves nothing, without any delete")
def failed_create(case: Case) -> None:
    before = leftovers.look(case.session)
    container = case.container("/no/such/program", own=True)
    outcome = container.try_create()
    if outcome.ok:
        outcome = case.runtime.call("start", container.id)
        container.delete("--force")
    case.refused(outcome)
    container.pid_file.unlink(missing_ok=True)
    _clean(case, before)


@suite.check("killed-create", "callers: crash", "a create that is killed half-way is cleaned up by delete --force")
def killed_create(case: Case) -> None:
    before = leftovers.look(case.session)
    for wait_s in (0.01, 0.05, 0.3):
        container = case.container("sleep", "1000", own=True)
        container.write()
        case.session.count_create(False)
        with open(container.out_path, "wb") as out, open(container.err_path, "wb") as err:
            process = case.runtime.start(
                *("create", "--bundle", str(container.bundle), "--pid-file", str(container.pid_file), container.id),
                stdout=out,
                stderr=err,
            )
        time.sleep(wait_s)
        process.kill()
        process.wait()
        case.log(f"  create killed after {wait_s} s")
        outcome = case.runtime.call("delete", "--force", container.id, deadline_s=60)
        case.succeeded(outcome)
        container.pid_file.unlink(missing_ok=True)
    _clean(case, before)


@suite.check(
    "killed-process", "callers: crash", "KILL to the container's process from outside: stopped, 137, nothing left"
)
def killed_process(case: Case) -> None:
    before = leftovers.look(case.session)
    container = case.container("sleep", "1000", own=True).create().start()
    host.send_signal(container.pid(), signal.SIGKILL)
    case.equal(container.wait(), 137, "exit code")
    container.wait_status("stopped")
    container.delete()
    _clean(case, before)


@suite.check(
    "daemon-descriptors", "callers: daemons", "what a runtime leaves running holds no descriptor of the caller"
)
def daemon_descriptors(case: Case) -> None:
    read_end, write_end = os.pipe()
    try:
        container = case.container("sleep", "1000", own=True)
        container.create(stdout=write_end, stderr=write_end)
        container.start()
        name = os.readlink(f"/proc/self/fd/{write_end}")
        holders = [
            f"{pid} {host.command_line(pid)}"
            for pid in host.descendants(reaper.subreaper())
            if pid not in (container.pid(), os.getpid()) and name in _descriptors(pid)
        ]
        case.equal(holders, [], "processes besides the container's own that hold its output pipe")
    finally:
        os.close(read_end)
        os.close(write_end)


def _descriptors(pid: int) -> list[str]:
    found = []
    try:
        for entry in os.listdir(f"/proc/{pid}/fd"):
            found.append(os.readlink(f"/proc/{pid}/fd/{entry}"))
    except OSError:
        return found
    return found


@suite.check("many", "runtime.md#delete", "five containers side by side, deleted together, leave nothing")
def many(case: Case) -> None:
    case.session.pod()
    before = leftovers.look(case.session)
    containers = [case.container("sleep", "1000").create().start() for _ in range(5)]
    for container in containers:
        case.equal(container.status(), "running", "status")
    for container in containers:
        container.kill("KILL")
    for container in containers:
        case.equal(container.wait(), 137, "exit code")
        container.wait_status("stopped")
        container.delete()
    _clean(case, before)
