"""pause, resume, ps, list, events: what engines use while a container runs."""

from __future__ import annotations

import json
import time

from conformance import host
from conformance.case import Case
from conformance.container import Container
from conformance.registry import Suite
from conformance.session import Session

suite = Suite("manage")

COUNTER = "i=0; while :; do i=$((i+1)); echo $i >/opt/count; sleep 0.05; done"


def counting(session: Session) -> Container:
    """A running container that counts in a file."""
    container = session.keep(Container(session, session.new_name("man"), ("sh", "-c", COUNTER), member=True))
    container.create().start()
    host.poll_until(lambda: _count(container) > 0, session.runtime.deadline(20))
    return container


def _count(container: Container) -> int:
    try:
        return int((container.rootfs / "opt/count").read_text() or 0)
    except (OSError, ValueError):
        return 0


def _moves(container: Container, for_s: float) -> bool:
    before = _count(container)
    return host.poll_until(lambda: _count(container) not in (before, 0), for_s)


@suite.check("pause", "callers: pause", "a paused container stands still, its state is `paused`; resume sets it going")
def pause(case: Case) -> None:
    container = case.shared(counting)
    case.succeeded(case.runtime.call("pause", container.id))
    try:
        case.equal(container.status(), "paused", "status")
        time.sleep(0.3)
        case.expect(not _moves(container, 1.0), "the container counts on although it is paused")
    finally:
        outcome = case.runtime.call("resume", container.id)
    case.succeeded(outcome)
    case.equal(container.status(), "running", "status after resume")
    case.expect(_moves(container, case.runtime.deadline(10)), "the container does not count after resume")


@suite.check("resume-running", "callers: pause", "resume of a running container is an error or has no effect")
def resume_running(case: Case) -> None:
    container = case.shared(counting)
    case.runtime.call("resume", container.id)
    case.equal(container.status(), "running", "status")
    case.expect(_moves(container, case.runtime.deadline(10)), "the container stands still")


@suite.check("pause-stopped", "callers: pause", "pause of a container that is unknown or stopped is an error")
def pause_stopped(case: Case) -> None:
    case.refused(case.runtime.call("pause", "no-such-container"), "does not exist|no such file")
    container = case.container("true").create().start()
    container.wait()
    container.wait_status("stopped")
    case.refused(case.runtime.call("pause", container.id))


@suite.check("delete-paused", "callers: delete", "delete --force removes a paused container")
def delete_paused(case: Case) -> None:
    container = case.container("sleep", "1000").create().start()
    case.succeeded(case.runtime.call("pause", container.id))
    pid = container.pid()
    container.delete("--force")
    case.expect(host.wait_gone(pid, case.runtime.deadline(15)), "the process outlived the container")


@suite.check("ps-json", "callers: ps", "`ps --format json` lists live pids of the host, the container's pid among them")
def ps_json(case: Case) -> None:
    container = case.shared(counting)
    pids = json.loads(case.succeeded(case.runtime.call("ps", "--format", "json", container.id)).out)
    case.contains(pids, container.pid(), "pids")


@suite.check("ps-exec", "callers: ps", "`ps --format json` contains the pid of a detached exec")
def ps_exec(case: Case) -> None:
    container = case.shared(counting)
    running = container.exec_detached({"args": ["sleep", "1000"]})
    pids = json.loads(case.succeeded(case.runtime.call("ps", "--format", "json", container.id)).out)
    case.contains(pids, running.pid(), "pids")
    host.send_signal(running.pid())
    running.wait()


@suite.check("ps-table", "callers: ps", "`ps` prints a table with a head and the container's processes")
def ps_table(case: Case) -> None:
    table = case.succeeded(case.runtime.call("ps", case.shared(counting).id)).out
    case.matches(table.splitlines()[0], r"\bPID\b", "head of the table")
    case.expect(len(table.splitlines()) > 1, f"no row: {table!r}")


@suite.check("ps-commands", "callers: ps", "the table of `ps` shows command lines")
def ps_commands(case: Case) -> None:
    container = case.container("sleep", "1357").create().start()
    table = case.succeeded(case.runtime.call("ps", container.id)).out
    case.contains(table, "sleep 1357", "table")


@suite.check("list", "callers: list", "`list` shows ids, pids and states; -q only ids")
def list_containers(case: Case) -> None:
    container = case.shared(counting)
    rows = json.loads(case.succeeded(case.runtime.call("list", "--format", "json")).out)
    row: dict[str, object] = next((row for row in rows if row["id"] == container.id), {})
    case.equal((row.get("status"), row.get("pid")), ("running", container.pid()), "status and pid in the list")
    case.equal(row.get("bundle"), str(container.bundle), "bundle in the list")
    case.contains(case.succeeded(case.runtime.call("list")).out, container.id, "table")
    quiet = case.succeeded(case.runtime.call("list", "--quiet")).out
    case.contains(quiet.split(), container.id, "list -q")


@suite.check("list-stopped", "callers: list", "`list` shows a stopped container as stopped")
def list_stopped(case: Case) -> None:
    container = case.container("true").create().start()
    container.wait()
    container.wait_status("stopped")
    rows = json.loads(case.succeeded(case.runtime.call("list", "--format", "json")).out)
    row: dict[str, object] = next((row for row in rows if row["id"] == container.id), {})
    case.equal((row.get("status"), row.get("pid")), ("stopped", 0), "status and pid in the list")


@suite.check("events-stats", "callers: events", "`events --stats` prints figures of cpu, memory and pids once")
def events_stats(case: Case) -> None:
    container = case.shared(counting)
    event = json.loads(case.succeeded(case.runtime.call("events", "--stats", container.id)).out)
    case.equal((event.get("type"), event.get("id")), ("stats", container.id), "type and id")
    data = event["data"]
    case.expect(data["cpu"]["usage"]["total"] > 0, f"cpu usage: {data['cpu']}")
    case.expect(data["memory"]["usage"]["usage"] > 0, f"memory usage: {data['memory']['usage']}")
    case.expect(data["pids"]["current"] >= 1, f"pids: {data['pids']}")


@suite.check("log-file", "callers: --log", "--log and --log-format json: an error is a JSON line with level and msg")
def log_file(case: Case) -> None:
    path = case.scratch / case.session.new_name("log")
    argv = [case.runtime.path, *case.runtime.arguments, "--root", str(case.runtime.root)]
    argv += ["--log", str(path), "--log-format", "json", "state", "no-such-container"]
    outcome = case.runtime.command(argv, deadline_s=case.runtime.deadline(30))
    case.expect(not outcome.ok, f"{outcome}")
    lines = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    errors = [line for line in lines if line.get("level") == "error"]
    case.expect(errors, f"no line with level error: {lines}")
    case.matches(errors[-1].get("msg", ""), "does not exist|no such file", "msg")
    case.matches(errors[-1].get("time", ""), r"^\d{4}-\d\d-\d\dT", "time")


@suite.check("root-separate", "callers: --root", "containers under different roots do not know each other")
def root_separate(case: Case) -> None:
    container = case.shared(counting)
    root = case.directory("other-root")
    argv = [case.runtime.path, *case.runtime.arguments, "--root", str(root), "state", container.id]
    case.refused(case.runtime.command(argv, deadline_s=case.runtime.deadline(30)), "does not exist|no such file")


@suite.check(
    "no-environment", "callers: environment", "state, kill, pause, resume and delete work without any environment"
)
def no_environment(case: Case) -> None:
    container = case.container("sleep", "1000").create().start()
    for arguments in (("state",), ("pause",), ("resume",), ("kill",), ("delete", "--force")):
        tail = ("KILL",) if arguments == ("kill",) else ()
        case.succeeded(case.runtime.call(*arguments, container.id, *tail, environment={}))
