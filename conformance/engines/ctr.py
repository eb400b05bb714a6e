"""containerd's own client: `ctr run --runc-binary RUNTIME`, or a shim of its own (`--external shim=TYPE-OR-PATH`)."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

from conformance import host, leftovers
from conformance.case import Case
from conformance.engines.daemons import Client, containerd, write_wrapper
from conformance.engines.image import NAME
from conformance.engines.refusals import expect_one_line
from conformance.registry import Suite
from conformance.runtime import Outcome
from conformance.session import Session

suite = Suite("ctr", "ctr")

CTR = "callers: containerd"
COUNT = "trap 'exit 7' TERM; echo up; i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.1; done"


def _flags(session: Session) -> list[str]:
    """Return the flags of `ctr run` that choose the runtime under test."""
    shim = session.options.external.get("shim")
    if shim:
        return ["--runtime", shim]
    path = str(session.shared(wrapper)) if session.runtime.arguments else session.runtime.path
    return ["--runc-binary", path, "--runc-root", str(session.runtime.root)]


def wrapper(session: Session) -> Path:
    """A program that adds the global arguments, which ctr cannot pass."""
    return write_wrapper(session.scratch / "with-arguments", session.runtime.path, *session.runtime.arguments)


class Task:
    """A detached container."""

    def __init__(self, session: Session, *command: str, flags: tuple[str, ...] = ()) -> None:
        self.session = session
        self.client: Client = session.shared(containerd)
        self.name = session.new_name("t")
        session.count_create(False)
        arguments = ("run", *_flags(session), "--detach", *flags, NAME, self.name, *command)
        self.client.must(*arguments, deadline_s=90)

    def exec(self, *command: str, flags: tuple[str, ...] = (), stdin: bytes = b"", deadline_s: float = 60) -> Outcome:
        """Run a further process to its end."""
        name = self.session.new_name("x")
        arguments = ("task", "exec", "--exec-id", name, *flags, self.name, *command)
        return self.client.run(*arguments, stdin=stdin, deadline_s=deadline_s)

    def task(self, verb: str, *flags: str) -> Outcome:
        """Run `ctr task VERB FLAGS NAME`."""
        return self.client.run("task", verb, *flags, self.name)

    def status(self) -> str:
        """Return the status word of `ctr task list`, empty when the task is not there."""
        for line in self.client.must("task", "list").splitlines():
            fields = line.split()
            if fields and fields[0] == self.name:
                return fields[2]
        return ""

    def pid(self) -> int:
        """Return the pid of `ctr task list`."""
        lines = [line.split() for line in self.client.must("task", "list").splitlines()]
        return next(int(fields[1]) for fields in lines if fields and fields[0] == self.name)

    def remove(self) -> None:
        """End and remove it."""
        self.client.run("task", "delete", "--force", self.name)
        self.client.run("container", "delete", self.name)


def counting(session: Session) -> Task:
    """A container that counts, and exits with 7 at TERM."""
    session.shared(events)
    made = Task(session, "sh", "-c", COUNT)
    session.defer(made.remove)
    return made


def events(session: Session) -> Path:
    """The file to which `ctr events` writes."""
    client = session.shared(containerd)
    path = session.scratch / "events"
    with open(path, "wb") as stream:
        process = subprocess.Popen([*client.argv, "events"], stdout=stream, env=client.environment)
    session.defer(process.wait)
    session.defer(process.kill)
    return path


def run_once(
    case: Case, *command: str, flags: tuple[str, ...] = (), stdin: bytes = b"", deadline_s: float = 90
) -> Outcome:
    case.session.count_create(False)
    arguments = ("run", *_flags(case.session), "--rm", *flags, NAME, case.session.new_name("r"), *command)
    return case.shared(containerd).run(*arguments, stdin=stdin, deadline_s=deadline_s)


@suite.check("run", CTR, "ctr run --rm: output, exit code, and nothing is left")
def run(case: Case) -> None:
    case.shared(containerd)
    before = leftovers.look(case.session)
    done = run_once(case, "sh", "-c", "echo out; echo err >&2; exit 7")
    case.equal((done.code, done.out), (7, "out\n"), "exit code and stdout")
    case.contains(done.err, "err\n", "stderr")
    case.equal(leftovers.wait_clean(case.session, before, 15), [], "left on the host")


@suite.check("run-terminal", CTR, "ctr run --tty: a terminal, its size, input, exit code")
def run_terminal(case: Case) -> None:
    client = case.shared(containerd)
    script = "tty; while ! read -t 1 line; do stty size; done; echo got-$line; exit 6"
    case.session.count_create(False)
    arguments = ("run", *_flags(case.session), "--rm", "--tty", NAME, case.session.new_name("r"), "sh", "-c", script)
    terminal, process = client.on_terminal(*arguments, rows=33, columns=101)
    case.defer(terminal.close)
    terminal.read_until(b"/dev/pts/", case.runtime.deadline(60))
    terminal.resize_until(34, 102, b"34 102", case.runtime.deadline(20))
    terminal.write(b"hello\r")
    terminal.read_until(b"got-hello", case.runtime.deadline(20))
    case.equal(process.wait(case.runtime.deadline(30)), 6, "exit code")


@suite.check("run-volume", CTR, "50 MB through `cat`, both ways")
def run_volume(case: Case) -> None:
    data = b"".join(b"%015d\n" % number for number in range(50_000_000 // 16))
    client = case.shared(containerd)
    case.session.count_create(False)
    arguments = ("run", *_flags(case.session), "--rm", NAME, case.session.new_name("r"), "cat")
    process = subprocess.Popen(
        [*client.argv, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=client.environment
    )
    case.defer(process.wait)
    case.defer(process.kill)
    out, _ = process.communicate(data, timeout=case.runtime.deadline(180))
    case.equal(process.returncode, 0, "exit code")
    case.expect(out == data, f"{len(out)} of {len(data)} bytes came back, or not the same")


@suite.check("run-options", CTR, "directory, environment, mounts, limits, read-only root")
def run_options(case: Case) -> None:
    source = case.directory("source")
    (source / "file").write_text("of the host\n")
    flags = (
        "--cwd",
        "/tmp",
        "--env",
        "COLOUR=blue",
        "--read-only",
        "--memory-limit",
        "67108864",
    )
    mount = f"type=bind,src={source},dst=/mnt,options=rbind:ro"
    script = "pwd; echo $COLOUR; cat /mnt/file; touch /x 2>/dev/null || echo read-only"
    done = run_once(case, "sh", "-c", script, flags=(*flags, "--mount", mount))
    case.equal(done.out.splitlines(), ["/tmp", "blue", "of the host", "read-only"], "seen inside")


@suite.check("run-native", CTR, "with the native snapshotter")
def run_native(case: Case) -> None:
    done = run_once(case, "echo", "native", flags=("--snapshotter", "native"))
    case.equal((done.code, done.out), (0, "native\n"), "exit code and output")


@suite.check("run-missing", CTR, "a program that does not exist is an error that names it")
def run_missing(case: Case) -> None:
    done = run_once(case, "/no/such/program")
    case.expect(not done.ok, f"{done}")
    case.contains(done.err, "/no/such/program", "error")
    case.matches(done.err, "no such file or directory|not found", "error")


@suite.check("detached", CTR, "ctr run --detach: the task runs and has a live pid of the host")
def detached(case: Case) -> None:
    task = case.shared(counting)
    case.equal(task.status(), "RUNNING", "status")
    case.expect(host.is_alive(task.pid()), "the pid is dead")


@suite.check("exec", CTR, "task exec: stdout, stderr, exit code, input")
def exec_task(case: Case) -> None:
    done = case.shared(counting).exec("sh", "-c", "cat; echo err >&2; exit 5", stdin=b"typed\n")
    case.equal((done.code, done.out), (5, "typed\n"), "exit code and stdout")
    case.contains(done.err, "err", "stderr")


@suite.check("exec-terminal", CTR, "task exec --tty")
def exec_terminal(case: Case) -> None:
    task = case.shared(counting)
    arguments = ("task", "exec", "--exec-id", case.session.new_name("x"), "--tty", task.name)
    script = "tty; while ! read -t 1 line; do stty size; done; echo got-$line; exit 6"
    terminal, process = task.client.on_terminal(*arguments, "sh", "-c", script, rows=21, columns=71)
    case.defer(terminal.close)
    terminal.read_until(b"/dev/pts/", case.runtime.deadline(30))
    terminal.resize_until(22, 72, b"22 72", case.runtime.deadline(20))
    terminal.write(b"hello\r")
    terminal.read_until(b"got-hello", case.runtime.deadline(20))
    case.equal(process.wait(case.runtime.deadline(30)), 6, "exit code")


@suite.check("exec-kill", CTR, "a detached exec can be killed by its id; the container runs on")
def exec_kill(case: Case) -> None:
    task = case.shared(counting)
    name = case.session.new_name("x")
    task.client.must("task", "exec", "--exec-id", name, "--detach", task.name, "sleep", "1000")
    case.contains(case.succeeded(task.task("ps")).out, name, "task ps")
    task.client.must("task", "kill", "--exec-id", name, "--signal", "KILL", task.name)
    gone = host.poll_until(lambda: name not in task.task("ps").out, case.runtime.deadline(15), 0.2)
    case.expect(gone, "the exec is still there")
    case.equal(task.status(), "RUNNING", "status of the container")


@suite.check("processes", CTR, "task ps lists the container's pid")
def processes(case: Case) -> None:
    task = case.shared(counting)
    case.contains(case.succeeded(task.task("ps")).out.split(), str(task.pid()), "task ps")


@suite.check("metrics", CTR, "task metrics has figures of memory and cpu")
def metrics(case: Case) -> None:
    task = case.shared(counting)
    found = json.loads(case.succeeded(task.task("metrics", "--format", "json")).out)
    memory, cpu = found["memory"], found["cpu"]
    used = memory["usage"]["usage"] if isinstance(memory.get("usage"), dict) else memory["usage"]
    case.expect(int(used) > 0, f"memory: {memory}")
    total = cpu["usage"]["total"] if "usage" in cpu and isinstance(cpu["usage"], dict) else cpu["usage_usec"]
    case.expect(int(total) > 0, f"cpu: {cpu}")


@suite.check("pause", CTR, "task pause and resume")
def pause(case: Case) -> None:
    task = case.shared(counting)
    case.succeeded(task.task("pause"))
    case.equal(task.status(), "PAUSED", "status")
    case.succeeded(task.task("resume"))
    first = task.exec("cat", "/count").out
    moved = host.poll_until(lambda: task.exec("cat", "/count").out != first, case.runtime.deadline(15), 0.2)
    case.expect(moved, "the container stands still after resume")


@suite.check("checkpoint", CTR, "checkpoint works, or one line says that it is not supported; the container runs on")
def checkpoint(case: Case) -> None:
    task = case.shared(counting)
    outcome = task.task("checkpoint", "--image-path", str(case.directory("image")))
    if not outcome.ok:
        expect_one_line(case, outcome, "not supported|unsupported|not implemented|criu")
    case.equal(task.status(), "RUNNING", "status")


def _exit_status(case: Case, task: Task) -> int:
    """Return the exit status that containerd published for the first process of a task."""
    found: list[int] = []

    def look() -> bool:
        for line in case.shared(events).read_text().splitlines():
            if "/tasks/exit" in line:
                event = json.loads(line[line.index("{") :])
                if event.get("container_id") == task.name and event.get("id") == task.name:
                    found.append(int(event.get("exit_status", 0)))
        return bool(found)

    case.expect(host.poll_until(look, case.runtime.deadline(15), 0.1), "containerd published no exit")
    case.equal(len(found), 1, "exit events")
    return found[0]


@suite.check("kill", CTR, "task kill TERM: exit code 7; delete")
def kill(case: Case) -> None:
    task = case.shared(counting)
    case.succeeded(task.task("kill", "--signal", "TERM"))
    stopped = host.poll_until(lambda: task.status() == "STOPPED", case.runtime.deadline(15), 0.1)
    case.expect(stopped, f"status {task.status()}")
    case.equal(_exit_status(case, task), 7, "exit status of the event")
    case.succeeded(task.task("delete"))
    case.equal(task.status(), "", "status after delete")


@suite.check("kill-all", CTR, "task kill --all --signal KILL ends the container with 137")
def kill_all(case: Case) -> None:
    case.shared(events)
    task = Task(case.session, "sh", "-c", "trap '' TERM; sleep 1000 & sleep 1000 & wait; wait; wait")
    case.defer(task.remove)
    case.succeeded(task.task("kill", "--all", "--signal", "KILL"))
    stopped = host.poll_until(lambda: task.status() == "STOPPED", case.runtime.deadline(15), 0.1)
    case.expect(stopped, f"status {task.status()}")
    case.equal(_exit_status(case, task), 137, "exit status of the event")


@suite.check("three", CTR, "three containers side by side; afterwards nothing is left")
def three(case: Case) -> None:
    case.shared(containerd)
    before = leftovers.look(case.session)
    tasks = [Task(case.session, "sleep", "1000") for _ in range(3)]
    for task in tasks:
        case.equal(task.status(), "RUNNING", "status")
    for task in tasks:
        task.remove()
    time.sleep(0.1)
    case.equal(leftovers.wait_clean(case.session, before, 15), [], "left on the host")
