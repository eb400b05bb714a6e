"""The life of a container: create, start, state, kill, delete, in every order, as runtime.md demands."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conformance import host, reaper
from conformance.case import Case
from conformance.container import CREATE_DEADLINE_S, Container
from conformance.registry import Suite
from conformance.runtime import Outcome
from conformance.session import Session

suite = Suite("lifecycle")

LOOP = "echo running; trap 'echo got-term; exit 3' TERM; while :; do sleep 0.1; done"


@dataclass
class Walk:
    """What one container answered on its way through all states; each check looks at a part of it."""

    container: Container
    calls: dict[str, Outcome] = field(default_factory=dict)
    states: dict[str, dict[str, Any]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def call(self, key: str, *arguments: str) -> None:
        self.calls[key] = self.container.runtime.call(*arguments)

    def state(self, key: str) -> None:
        self.states[key] = self.container.state()


def walk(session: Session) -> Walk:
    """One container of its own through all states."""
    container = session.keep(Container(session, session.new_name("walk"), ("sh", "-c", LOOP), member=False))
    container.config["annotations"]["org.example.note"] = "kept"
    done = Walk(container)
    done.call("state-before", "state", container.id)
    container.create()
    done.facts["output-created"] = container.output()
    done.facts["pid"] = container.pid()
    process = host.read_process(container.pid())
    done.facts["process"] = process
    done.state("created")
    _edit_config(container)
    done.facts["duplicate"] = _duplicate(session, container)
    done.state("created-after-duplicate")
    container.start()
    container.wait_output("running")
    done.state("running")
    done.call("start-running", "start", container.id)
    done.call("delete-running", "delete", container.id)
    done.call("kill-unknown-signal", "kill", container.id, "NOSUCHSIGNAL")
    done.state("running-still")
    done.call("kill", "kill", container.id, "TERM")
    done.facts["exit"] = container.wait()
    done.facts["output"] = container.output()
    container.wait_status("stopped")
    done.state("stopped")
    done.call("kill-stopped", "kill", container.id, "TERM")
    done.call("start-stopped", "start", container.id)
    done.call("exec-stopped", "exec", container.id, "true")
    done.call("delete", "delete", container.id)
    done.call("state-deleted", "state", container.id)
    done.call("start-deleted", "start", container.id)
    done.call("kill-deleted", "kill", container.id, "TERM")
    done.call("delete-deleted", "delete", container.id)
    done.call("force-deleted", "delete", "--force", container.id)
    return done


def _edit_config(container: Container) -> None:
    """Change the bundle after create: the specification wants no effect on the container."""
    edited = json.loads(json.dumps(container.config))
    edited["process"]["args"] = ["sh", "-c", "echo edited; sleep 1000"]
    edited["annotations"] = {"org.example.note": "edited"}
    (container.bundle / "config.json").write_text(json.dumps(edited))


def _duplicate(session: Session, container: Container) -> Outcome:
    other = Container(session, container.id, ("true",), member=False)
    return other.try_create()


@suite.check("state-unknown", "runtime.md#query-state", "state of an unknown container is an error: `does not exist`")
def state_unknown(case: Case) -> None:
    case.refused(case.shared(walk).calls["state-before"], "does not exist|no such file")


@suite.check("create", "runtime.md#create", "create leaves a container in the state `created`")
def create(case: Case) -> None:
    case.equal(case.shared(walk).states["created"]["status"], "created", "status")


@suite.check("create-runs-nothing", "runtime.md#create", "create does not run the user's program")
def create_runs_nothing(case: Case) -> None:
    case.equal(case.shared(walk).facts["output-created"], "", "output after create")


@suite.check(
    "pid-file", "callers: pid file", "the pid file names a live process whose parent is the caller's subreaper"
)
def pid_file(case: Case) -> None:
    process = case.shared(walk).facts["process"]
    case.expect(process is not None and process.state not in "ZX", f"process of the pid file: {process}")
    case.equal(process.ppid, reaper.subreaper(), "parent of the process")


@suite.check("pid-in-state", "runtime.md#state", "state reports the pid of the pid file while created and running")
def pid_in_state(case: Case) -> None:
    done = case.shared(walk)
    case.equal(done.states["created"]["pid"], done.facts["pid"], "pid in state when created")
    case.equal(done.states["running"]["pid"], done.facts["pid"], "pid in state when running")


@suite.check(
    "state-fields", "runtime.md#state", "state has ociVersion, id, status, bundle and annotations, of the right kind"
)
def state_fields(case: Case) -> None:
    done = case.shared(walk)
    for key in ("created", "running", "stopped"):
        state = done.states[key]
        case.matches(str(state.get("ociVersion")), r"^\d+\.\d+\.\d+", f"ociVersion when {key}")
        case.equal(state.get("id"), done.container.id, f"id when {key}")
        case.equal(state.get("status"), key, "status")
        case.equal(state.get("bundle"), str(done.container.bundle), f"bundle when {key}")
        case.equal((state.get("annotations") or {}).get("org.example.note"), "kept", f"annotation when {key}")


@suite.check("state-created-time", "callers: state", "`created` in the state, if present, is a time by RFC 3339")
def state_created_time(case: Case) -> None:
    created = case.shared(walk).states["running"].get("created")
    if created is not None:
        case.matches(created, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$", "created")


@suite.check("config-edits", "runtime.md#lifecycle", "edits of config.json after create change nothing")
def config_edits(case: Case) -> None:
    done = case.shared(walk)
    case.equal(done.facts["output"].splitlines()[0], "running", "first line of output")
    case.equal(done.states["stopped"]["annotations"].get("org.example.note"), "kept", "annotation")


@suite.check("duplicate-id", "runtime.md#create", "create with an id in use fails and leaves the container alone")
def duplicate_id(case: Case) -> None:
    done = case.shared(walk)
    case.refused(done.facts["duplicate"], "exist")
    case.equal(done.states["created-after-duplicate"]["status"], "created", "status afterwards")
    case.equal(done.states["created-after-duplicate"]["pid"], done.facts["pid"], "pid afterwards")


@suite.check("start", "runtime.md#start", "start runs the program and the state becomes `running`")
def start(case: Case) -> None:
    case.equal(case.shared(walk).states["running"]["status"], "running", "status")


@suite.check("start-running", "runtime.md#start", "start of a running container fails and leaves it running")
def start_running(case: Case) -> None:
    done = case.shared(walk)
    case.refused(done.calls["start-running"])
    case.equal(done.states["running-still"]["status"], "running", "status afterwards")


@suite.check("delete-running", "runtime.md#delete", "delete of a running container fails and leaves it running")
def delete_running(case: Case) -> None:
    done = case.shared(walk)
    case.refused(done.calls["delete-running"], "stopped|running")
    case.equal(done.states["running-still"]["status"], "running", "status afterwards")


@suite.check(
    "kill-unknown-signal", "runtime.md#kill", "an unknown signal is an error that names it, and changes nothing"
)
def kill_unknown_signal(case: Case) -> None:
    done = case.shared(walk)
    case.refused(done.calls["kill-unknown-signal"], "signal")
    case.equal(done.states["running-still"]["status"], "running", "status afterwards")


@suite.check(
    "kill-term", "runtime.md#kill", "the signal reaches the container's process, whose exit code the caller sees"
)
def kill_term(case: Case) -> None:
    done = case.shared(walk)
    case.succeeded(done.calls["kill"])
    case.equal(done.facts["output"], "running\ngot-term\n", "output")
    case.equal(done.facts["exit"], 3, "exit code")


@suite.check("stopped", "runtime.md#state", "after its process ended, the container is `stopped` with no pid or pid 0")
def stopped(case: Case) -> None:
    state = case.shared(walk).states["stopped"]
    case.equal(state["status"], "stopped", "status")
    case.contains((0, None), state.get("pid"), "pid")


@suite.check("kill-stopped", "runtime.md#kill", "kill of a stopped container fails with a text that callers know")
def kill_stopped(case: Case) -> None:
    case.refused(
        case.shared(walk).calls["kill-stopped"], "container not running|no such process|does not exist|not running"
    )


@suite.check("start-stopped", "runtime.md#start", "start of a stopped container fails")
def start_stopped(case: Case) -> None:
    case.refused(case.shared(walk).calls["start-stopped"])


@suite.check("exec-stopped", "callers: exec", "exec in a stopped container fails")
def exec_stopped(case: Case) -> None:
    case.refused(case.shared(walk).calls["exec-stopped"])


@suite.check("delete", "runtime.md#delete", "delete of a stopped container succeeds, and state no longer knows it")
def delete(case: Case) -> None:
    done = case.shared(walk)
    case.succeeded(done.calls["delete"])
    case.refused(done.calls["state-deleted"], "does not exist|no such file")


@suite.check(
    "after-delete", "runtime.md#operations", "start, kill and delete of a deleted container fail: `does not exist`"
)
def after_delete(case: Case) -> None:
    done = case.shared(walk)
    for key in ("start-deleted", "kill-deleted", "delete-deleted"):
        case.refused(done.calls[key], "does not exist|no such file")


@suite.check("delete-force-unknown", "callers: delete", "delete --force of an unknown container succeeds")
def delete_force_unknown(case: Case) -> None:
    case.succeeded(case.shared(walk).calls["force-deleted"])


@suite.check("reuse-id", "runtime.md#delete", "an id can be used again after delete")
def reuse_id(case: Case) -> None:
    container = case.container("sh", "-c", "echo first")
    case.equal(container.run().out, "first\n", "first run")
    container.delete()
    again = case.container("sh", "-c", "echo second", name=container.id)
    case.equal(again.run().out, "second\n", "second run")


@suite.check(
    "pid-file-last", "callers: pid file", "when the pid file appears, the container is `created` for everybody"
)
def pid_file_last(case: Case) -> None:
    container = case.container("sleep", "1000", own=True)
    container.write()
    case.session.count_create(False)
    begin = time.monotonic()
    with open(container.out_path, "wb") as out, open(container.err_path, "wb") as err:
        process = case.runtime.start(
            *("create", "--bundle", str(container.bundle), "--pid-file", str(container.pid_file), container.id),
            stdout=out,
            stderr=err,
        )
    appeared = host.poll_until(
        lambda: _has_text(container.pid_file) or process.poll() is not None,
        case.runtime.deadline(CREATE_DEADLINE_S),
        0.0005,
    )
    status = container.status() if appeared and _has_text(container.pid_file) else "no pid file"
    outcome = case.runtime.finish(process, CREATE_DEADLINE_S, begin, container.err_path)
    case.succeeded(outcome)
    case.equal(status, "created", "status at the moment when the pid file appeared")
    container.kill("KILL")
    case.equal(container.wait(), 137, "exit code of a created container that was killed")
    container.wait_status("stopped")
    container.delete()


def _has_text(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


@suite.check("kill-created", "runtime.md#kill", "kill works on a created container, which then is stopped")
def kill_created(case: Case) -> None:
    container = case.container("sleep", "1000").create().kill("KILL")
    case.equal(container.wait(), 137, "exit code")
    container.wait_status("stopped")
    case.refused(case.runtime.call("start", container.id))
    container.delete()


@suite.check(
    "delete-created",
    "runtime.md#delete",
    "delete of a created container either fails and keeps it, or removes it fully",
)
def delete_created(case: Case) -> None:
    container = case.container("sleep", "1000").create()
    pid = container.pid()
    outcome = case.runtime.call("delete", container.id)
    if outcome.ok:
        case.expect(host.wait_gone(pid, case.runtime.deadline(10)), "the process outlived the container")
        case.refused(case.runtime.call("state", container.id), "does not exist|no such file")
    else:
        case.equal(container.status(), "created", "status after the refused delete")


@suite.check("delete-force-created", "callers: delete", "delete --force removes a created container and its process")
def delete_force_created(case: Case) -> None:
    container = case.container("sleep", "1000").create()
    pid = container.pid()
    container.delete("--force")
    case.expect(host.wait_gone(pid, case.runtime.deadline(10)), "the process outlived the container")


@suite.check("delete-force-running", "callers: delete", "delete --force removes a running container and its process")
def delete_force_running(case: Case) -> None:
    container = case.container("sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done").create().start()
    container.wait_output("up")
    pid = container.pid()
    container.delete("--force")
    case.expect(host.wait_gone(pid, case.runtime.deadline(10)), "the process outlived the container")
    case.equal(container.wait(), 137, "exit code that the caller sees")
    case.refused(case.runtime.call("state", container.id), "does not exist|no such file")


SIGNALS = (("TERM", "TERM"), ("SIGUSR1", "USR1"), ("12", "USR2"), ("HUP", "HUP"), ("28", "WINCH"), ("2", "INT"))


@suite.check("kill-signals", "runtime.md#kill", "signals by name, by SIG-name and by number arrive as what they are")
def kill_signals(case: Case) -> None:
    traps = " ".join(f"trap 'echo got-{name}' {name};" for _, name in SIGNALS)
    container = case.container("sh", "-c", f"{traps} echo ready; while :; do sleep 0.1; done").create().start()
    container.wait_output("ready")
    for sent, name in SIGNALS:
        container.kill(sent)
        container.wait_output(f"got-{name}\n")
    container.kill("9")
    case.equal(container.wait(), 137, "exit code after signal 9")


@suite.check("kill-default", "callers: kill", "kill without a signal sends TERM")
def kill_default(case: Case) -> None:
    container = case.container("sh", "-c", LOOP).create().start()
    container.wait_output("running")
    case.succeeded(case.runtime.call("kill", container.id))
    case.equal(container.wait(), 3, "exit code")


@suite.check("kill-all", "callers: kill", "kill --all reaches every process of the container")
def kill_all(case: Case) -> None:
    child = "trap 'echo child-term >>/log; exit' TERM; echo child-up >>/log; while :; do sleep 0.1; done"
    script = f"sh -c \"{child}\" & trap 'echo init-term >>/log; wait; exit 4' TERM; wait; wait"
    container = case.container("sh", "-c", script).create().start()
    log = container.rootfs / "log"
    host.poll_until(lambda: log.exists() and "child-up" in log.read_text(), case.runtime.deadline(20))
    container.kill("TERM", "--all")
    case.equal(container.wait(), 4, "exit code")
    case.equal(sorted(log.read_text().split()), ["child-term", "child-up", "init-term"], "log of both processes")


@suite.check("exit-codes", "callers: exit codes", "exit codes 0, 1, 42 and 255 come out as they are")
def exit_codes(case: Case) -> None:
    for code in (0, 1, 42, 255):
        container = case.container("sh", "-c", f"exit {code}")
        case.equal(container.run().code, code, f"exit code of `exit {code}`")


@suite.check("run", "callers: run", "`run` passes stdio and exit code through and removes the container")
def run_foreground(case: Case) -> None:
    container = case.container("sh", "-c", "cat; echo err >&2; exit 9")
    container.join_pod()
    container.write()
    case.session.count_create(True)
    outcome = case.runtime.call(
        "run", "--bundle", str(container.bundle), container.id, stdin=b"through\n", deadline_s=90
    )
    case.equal((outcome.code, outcome.out, outcome.err), (9, "through\n", "err\n"), "exit code, stdout and stderr")
    case.refused(case.runtime.call("state", container.id), "does not exist|no such file")


@suite.check("run-detach", "callers: run", "`run --detach` returns when the program runs; the pid file is there")
def run_detached(case: Case) -> None:
    container = case.container("sh", "-c", LOOP)
    container.join_pod()
    container.write()
    case.session.count_create(True)
    begin = time.monotonic()
    flags = ("--detach", "--bundle", str(container.bundle), "--pid-file", str(container.pid_file))
    with open(container.out_path, "wb") as out, open(container.err_path, "wb") as err:
        process = case.runtime.start("run", *flags, container.id, stdout=out, stderr=err)
    case.succeeded(case.runtime.finish(process, CREATE_DEADLINE_S, begin, container.err_path))
    container.wait_output("running")
    case.equal(container.status(), "running", "status")
    container.kill("TERM")
    case.equal(container.wait(), 3, "exit code")


@suite.check("bundle-is-cwd", "runtime.md#create", "create without --bundle takes the current directory")
def bundle_is_cwd(case: Case) -> None:
    container = case.container("true")
    container.join_pod()
    container.write()
    case.session.count_create(True)
    begin = time.monotonic()
    with open(container.out_path, "wb") as out, open(container.err_path, "wb") as err:
        process = case.runtime.start("create", container.id, stdout=out, stderr=err, cwd=container.bundle)
    case.succeeded(case.runtime.finish(process, CREATE_DEADLINE_S, begin, container.err_path))
    case.equal(container.state()["bundle"], str(container.bundle), "bundle in the state")
