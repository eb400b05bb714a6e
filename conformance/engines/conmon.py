"""CRI-O's way of running pods: real conmon, recorded configurations, the calls that crio makes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from conformance import host, leftovers
from conformance.case import Case
from conformance.console import Terminal
from conformance.engines.conmon_driver import (
    Attachment,
    ExecSync,
    Places,
    exec_sync,
    read_log,
    wait_exit_file,
)
from conformance.engines.crio import CrioContainer, Pod
from conformance.engines.refusals import expect_one_line
from conformance.registry import Suite
from conformance.session import Session

suite = Suite("conmon", "conmon")

CRIO = "callers: CRI-O"


def places(session: Session) -> Places:
    """The directories of conmon."""
    return Places.make(session.scratch)


def pod(session: Session) -> Pod:
    """A pod: sandbox created and started through conmon."""
    made = Pod(session, session.shared(places))
    made.container("sandbox").must_create().must_start()
    return made


def member(session: Session) -> CrioContainer:
    """A container in the pod, as CRI-O recorded it: prints two lines and waits for TERM."""
    made = session.shared(pod).container("container").must_create()
    return made.must_start()


def _exec(case: Case, *args: str, flags: tuple[str, ...] = ()) -> ExecSync:
    container = case.shared(member)
    return exec_sync(
        case.session, container.pod.places, container.id, container.bundle, container.process(*args), *flags
    )


@suite.check("sandbox", CRIO, "a sandbox is created and runs; conmon, pid file and state agree on its pid")
def sandbox(case: Case) -> None:
    made = case.shared(pod).sandbox
    assert made is not None
    state = made.state()
    case.equal((state["status"], state["pid"]), ("running", made.pid()), "status and pid")
    case.equal(state["bundle"], str(made.bundle), "bundle")
    case.expect(host.is_alive(made.pid()), "the sandbox's process is dead")


@suite.check("sandbox-namespaces", CRIO, "the sandbox's process lives in the namespaces that CRI-O pinned")
def sandbox_namespaces(case: Case) -> None:
    made = case.shared(pod)
    assert made.sandbox is not None
    for kind in ("net", "ipc", "uts"):
        pinned = os.stat(made.namespace_path(kind)).st_ino
        case.equal(os.stat(f"/proc/{made.sandbox.pid()}/ns/{kind}").st_ino, pinned, f"{kind} namespace")


@suite.check("member", CRIO, "a container of the pod is created and runs; its parent is conmon")
def member_runs(case: Case) -> None:
    made = case.shared(member)
    case.equal(made.state()["status"], "running", "status")
    process = host.read_process(made.pid())
    assert process is not None
    case.contains(host.command_line(process.ppid), "conmon", "parent of the container's process")


@suite.check("member-log", CRIO, "its lines are in the log, each with its stream")
def member_log(case: Case) -> None:
    made = case.shared(member)
    made.wait_output("hello-stdout\n")
    host.poll_until(lambda: "hello-stderr\n" in made.output("stderr"), case.runtime.deadline(10))
    case.equal((made.output(), made.output("stderr")), ("hello-stdout\n", "hello-stderr\n"), "log")


@suite.check("member-inside", CRIO, "hostname, resolv.conf, cwd and environment are what CRI-O asked for")
def member_inside(case: Case) -> None:
    done = _exec(case, "sh", "-c", "hostname; cat /etc/resolv.conf; echo $FOO; grep -c . /etc/hostname")
    case.equal(done.out.splitlines(), ["pod1", "nameserver 192.0.2.53", "bar", "1"], "seen inside")


@suite.check("shared-shm", CRIO, "containers of the pod share /dev/shm")
def shared_shm(case: Case) -> None:
    _exec(case, "sh", "-c", "echo through-shm >/dev/shm/note")
    other = case.shared(pod).container("container", "cat", "/dev/shm/note").must_create().must_start()
    case.equal(wait_exit_file(case.session, other.pod.places, other.id), 0, "exit code")
    case.equal(other.output(), "through-shm\n", "content")


@suite.check("localhost", CRIO, "containers of the pod reach each other at localhost")
def localhost(case: Case) -> None:
    server = case.shared(pod).container("container", "sh", "-c", "echo reached | nc -l -p 8099; echo served")
    server.must_create().must_start()
    answer = ""
    end = time.monotonic() + case.runtime.deadline(20)
    while "reached" not in answer and time.monotonic() < end:
        answer = _exec(case, "sh", "-c", "nc -w 3 127.0.0.1 8099 </dev/null").out
    case.equal(answer, "reached\n", "answer of the other container")


@suite.check("exec-sync", CRIO, "ExecSync: stdout, stderr and exit code")
def exec_sync_works(case: Case) -> None:
    done = _exec(case, "sh", "-c", "echo out; echo err >&2; exit 5")
    case.equal((done.code, done.out, done.err), (5, "out\n", "err\n"), "exit code, stdout, stderr")


@suite.check("exec-sync-missing", CRIO, "ExecSync of a missing program is an error that names it")
def exec_sync_missing(case: Case) -> None:
    done = _exec(case, "no-such-program")
    case.expect(done.code == -1 and done.message, f"{done}")
    case.matches(done.message, "not found|no such file", "message")


@suite.check("exec-sync-timeout", CRIO, "ExecSync that exceeds its timeout ends, and its process is gone")
def exec_sync_timeout(case: Case) -> None:
    done = _exec(case, "sleep", "4567", flags=("-T", "1"))
    case.equal(done.code, -1, "exit code")
    case.contains(done.message, "timed out", "message")
    script = 'for p in /proc/[0-9]*; do [ "$(tr "\\0" " " <$p/cmdline)" = "sleep 4567 " ] && echo found; done; echo end'
    gone = host.poll_until(lambda: "found" not in _exec(case, "sh", "-c", script).out, case.runtime.deadline(10), 0.2)
    case.expect(gone, "the process runs on")


@suite.check("exec-sync-volume", CRIO, "2 MiB through ExecSync arrive complete")
def exec_sync_volume(case: Case) -> None:
    done = _exec(case, "sh", "-c", "yes 0123456789abcdefghijklmnopqrstuvwxyz0123456789abcdefghijklmno | head -n 32768")
    case.equal((done.code, len(done.out)), (0, 32768 * 62), "exit code and length")


@suite.check("exec-stream", CRIO, "Exec without terminal: crio calls `exec --process` itself, input is passed on")
def exec_stream(case: Case) -> None:
    container = case.shared(member)
    path = container.process_file(container.process("sh", "-c", "cat; echo err >&2; exit 4"))
    done = container.call("exec", "--process", str(path), container.id, stdin=b"typed\n")
    case.equal((done.code, done.out, done.err), (4, "typed\n", "err\n"), "exit code, stdout, stderr")


@suite.check(
    "exec-tty", CRIO, "Exec with a terminal: a pty slave as fds 0 to 2, no console socket, size changes by WINCH"
)
def exec_tty(case: Case) -> None:
    container = case.shared(member)
    script = "tty; while ! read -t 1 line; do echo size-$(stty size); done; echo got-$line; exit 7"
    path = container.process_file(container.process("sh", "-c", script) | {"terminal": True})
    master, slave = os.openpty()
    terminal = Terminal(master)
    case.defer(terminal.close)
    terminal.resize(31, 99)
    process = subprocess.Popen(
        case.runtime.argv("exec", "--process", str(path), container.id),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    case.defer(process.wait)
    case.defer(process.kill)
    seen = terminal.read_until(b"size-31 99", case.runtime.deadline(20)).decode()
    case.matches(seen, "/dev/pts/", "name of the terminal")
    terminal.resize(22, 77)
    process.send_signal(signal.SIGWINCH)
    terminal.read_until(b"size-22 77", case.runtime.deadline(15))
    terminal.write(b"hello\r")
    terminal.read_until(b"got-hello", case.runtime.deadline(15))
    case.equal(process.wait(case.runtime.deadline(15)), 7, "exit code")


@suite.check("update", CRIO, "UpdateContainerResources: `update --resources -`")
def update(case: Case) -> None:
    container = case.shared(member)
    resources = {
        "memory": {"limit": 50331648, "swap": 50331648},
        "cpu": {"shares": 300, "quota": 30000, "period": 100000},
    }
    case.succeeded(container.call("update", "--resources", "-", container.id, stdin=json.dumps(resources).encode()))
    script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null"
    case.equal(_exec(case, "sh", "-c", script).out, "50331648\n", "limit inside")


@suite.check("pause", CRIO, "pause and resume")
def pause(case: Case) -> None:
    container = case.shared(member)
    case.succeeded(container.call("pause", container.id))
    case.equal(container.state()["status"], "paused", "status")
    case.succeeded(container.call("resume", container.id))
    case.equal(container.state()["status"], "running", "status")


@suite.check("checkpoint", CRIO, "CheckpointContainer works, or one line says that it is not supported")
def checkpoint(case: Case) -> None:
    container = case.shared(member)
    image = str(case.directory("image"))
    done = container.call("checkpoint", "--image-path", image, "--leave-running", container.id)
    if not done.ok:
        expect_one_line(case, done, "not supported|criu|unknown command")
    case.equal(container.state()["status"], "running", "status")


@suite.check("restart", CRIO, "after a restart of crio the state tells that container and sandbox run")
def restart(case: Case) -> None:
    container = case.shared(member)
    assert container.pod.sandbox is not None
    for each in (container, container.pod.sandbox):
        outcome = case.runtime.call("state", each.id, environment={"PATH": "/usr/bin:/bin"})
        state = json.loads(case.succeeded(outcome).out)
        case.equal((state["status"], state["pid"]), ("running", each.pid()), "status and pid")


@suite.check("stop", CRIO, "StopContainer: TERM, the exit code is in conmon's exit file, the state is stopped")
def stop(case: Case) -> None:
    container = case.shared(member)
    container.must("kill", container.id, "15")
    case.equal(wait_exit_file(case.session, container.pod.places, container.id), 7, "exit code in the exit file")
    stopped = host.poll_until(lambda: container.state()["status"] == "stopped", case.runtime.deadline(15), 0.1)
    case.expect(stopped, f"state: {container.state()}")
    case.equal(container.state()["pid"], 0, "pid")


@suite.check("remove", CRIO, "RemoveContainer: `delete --force`, twice")
def remove(case: Case) -> None:
    container = case.shared(member)
    case.succeeded(container.call("delete", "--force", container.id))
    case.succeeded(container.call("delete", "--force", container.id))
    case.refused(container.call("state", container.id), "does not exist|no such file")


@suite.check("stop-kill", CRIO, "a container that ignores TERM: KILL follows, exit code 137")
def stop_kill(case: Case) -> None:
    script = "trap 'echo ignored' TERM; echo up; while :; do sleep 0.2; done"
    container = case.shared(pod).container("container", "sh", "-c", script).must_create().must_start()
    container.wait_output("up")
    container.must("kill", container.id, "15")
    container.wait_output("ignored")
    container.must("kill", container.id, "KILL")
    case.equal(wait_exit_file(case.session, container.pod.places, container.id), 137, "exit code")


@suite.check("log-volume", CRIO, "20000 lines of two streams are in the log, complete and in order")
def log_volume(case: Case) -> None:
    script = "i=0; while [ $i -lt 10000 ]; do i=$((i+1)); echo out-$i; echo err-$i >&2; done"
    container = case.shared(pod).container("container", "sh", "-c", script).must_create().must_start()
    case.equal(wait_exit_file(case.session, container.pod.places, container.id, 120), 0, "exit code")
    lines = read_log(container.log)
    for stream, word in (("stdout", "out"), ("stderr", "err")):
        got = "".join(line.text for line in lines if line.stream == stream)
        wanted = "".join(f"{word}-{number}\n" for number in range(1, 10001))
        case.expect(got == wanted, f"{stream} has {got.count(chr(10))} lines, or not the right ones")


@suite.check("log-long-line", CRIO, "a line of 100 kB is in the log, in parts")
def log_long_line(case: Case) -> None:
    script = "head -c 100000 /dev/zero | tr '\\0' x; echo; echo after"
    container = case.shared(pod).container("container", "sh", "-c", script).must_create().must_start()
    case.equal(wait_exit_file(case.session, container.pod.places, container.id), 0, "exit code")
    case.equal(container.output(), "x" * 100000 + "\nafter\n", "log")


@suite.check("exit-codes", CRIO, "exit codes of quick containers are never lost")
def exit_codes(case: Case) -> None:
    for code in (0, 3, 255):
        container = case.shared(pod).container("container", "sh", "-c", f"echo bye; exit {code}")
        container.must_create().must_start()
        case.equal(wait_exit_file(case.session, container.pod.places, container.id), code, "exit code")
        case.equal(container.output(), "bye\n", "log")


@suite.check(
    "create-failure", CRIO, "a create that fails: conmon passes the runtime's words on; delete --force succeeds"
)
def create_failure(case: Case) -> None:
    container = case.shared(pod).container("container", "/no/such/program")
    monitor = container.create()
    case.equal(monitor.pid, -1, "pid that conmon reports")
    case.matches(monitor.message, "no such file or directory", "message")
    case.succeeded(container.call("delete", "--force", container.id))


@suite.check("terminal", CRIO, "a container with terminal and stdin: attach, type, resize, exit")
def terminal_container(case: Case) -> None:
    script = "tty; trap 'echo now-$(stty size)' WINCH; while :; do read line && eval \"$line\"; done"
    container = case.shared(pod).container("container-tty", "sh", "-c", script).must_create("-t", "-i")
    container.must_start()
    attached = Attachment(container.pod.places, container.id)
    case.defer(attached.close)
    attached.send(b"echo typed-$((6*7))\n")
    seen = attached.read_until(b"typed-42", case.runtime.deadline(20))
    case.log(f"  terminal: {seen!r}")
    with open(container.bundle / "ctl", "w") as control:
        control.write("1 37 111\n")
    attached.read_until(b"now-37 111", case.runtime.deadline(15))
    attached.send(b"exit 9\n")
    case.equal(wait_exit_file(case.session, container.pod.places, container.id), 9, "exit code")
    case.matches(container.output(), "/dev/pts/|/dev/console", "log of the terminal")


@suite.check("stdin", CRIO, "a container with stdin: attach, send, end of input")
def stdin_container(case: Case) -> None:
    container = case.shared(pod).container("container", "sh", "-c", "cat; echo done").must_create("-i")
    container.must_start()
    attached = Attachment(container.pod.places, container.id)
    case.defer(attached.close)
    attached.send(b"through stdin\n")
    attached.read_until(b"through stdin\n", case.runtime.deadline(20))
    attached.end_input()
    case.equal(wait_exit_file(case.session, container.pod.places, container.id), 0, "exit code")
    case.equal(container.output(), "through stdin\ndone\n", "log")


@suite.check("security-context", CRIO, "a container with user, groups, capabilities, seccomp and masked paths")
def security_context(case: Case) -> None:
    script = "id -u; grep -E '^(Seccomp|NoNewPrivs|Groups):' /proc/self/status; echo end"
    container = case.shared(pod).container("container-securitycontext", "sh", "-c", script)
    wanted = container.config["process"]
    container.must_create().must_start()
    case.equal(wait_exit_file(case.session, container.pod.places, container.id), 0, "exit code")
    lines = container.output().splitlines()
    case.equal(lines[0], str(wanted["user"]["uid"]), "uid")
    case.contains(container.output(), "Seccomp:\t2", "status")
    no_new = "1" if wanted.get("noNewPrivileges") else "0"
    case.contains(container.output(), f"NoNewPrivs:\t{no_new}", "status")


@suite.check("privileged", CRIO, "a privileged container: all devices and capabilities of the recorded configuration")
def privileged(case: Case) -> None:
    container = case.shared(pod).container(
        "container-privileged", "sh", "-c", "ls /dev | wc -l; touch /sys/fs/cgroup/x; echo end"
    )
    monitor = container.create()
    case.expect(monitor.pid > 0, f"create: {monitor.message}")
    container.must_start()
    case.equal(wait_exit_file(case.session, container.pod.places, container.id), 0, "exit code")
    case.contains(container.output(), "end", "log")


@suite.check("shared-pid", CRIO, "a container in the pid namespace of the sandbox sees its process")
def shared_pid(case: Case) -> None:
    container = case.shared(pod).container(
        "container-shared-pid", "sh", "-c", "tr '\\0' ' ' </proc/1/cmdline; echo; echo $$"
    )
    container.must_create().must_start()
    case.equal(wait_exit_file(case.session, container.pod.places, container.id), 0, "exit code")
    first, own = container.output().splitlines()
    case.contains(first, "/pause", "command line of pid 1")
    case.expect(int(own) > 1, f"own pid {own}")


@suite.check("target-pid", CRIO, "a container in the pid namespace of another one, given by a pinned path")
def target_pid(case: Case) -> None:
    target = case.shared(pod).container("container", "sleep", "2468").must_create().must_start()
    container = case.shared(pod).container("container-target-pid", "sh", "-c", "tr '\\0' ' ' </proc/1/cmdline")
    pinned = container.directory / "pid-of-target"
    pinned.touch()
    host.mount(f"/proc/{target.pid()}/ns/pid", str(pinned), flags=host.MS_BIND)
    case.defer(lambda: host.umount(str(pinned)))
    container.must_create().must_start()
    case.equal(wait_exit_file(case.session, container.pod.places, container.id), 0, "exit code")
    case.contains(container.output(), "sleep 2468", "command line of pid 1")


@suite.check("oom", CRIO, "an out-of-memory kill: exit code 137 and the file `oom` in the bundle")
def oom(case: Case) -> None:
    container = case.shared(pod).container("container", "tail", "/dev/zero")
    container.config["linux"]["resources"]["memory"] = {"limit": 24 << 20, "swap": 24 << 20}
    container.must_create().must_start()
    case.equal(wait_exit_file(case.session, container.pod.places, container.id, 60), 137, "exit code")
    found = host.poll_until(lambda: (container.bundle / "oom").exists(), case.runtime.deadline(10))
    case.expect(found, "no file `oom` in the bundle")


@suite.check("pod-cgroup", CRIO, "the pod's processes are counted in the cgroup where CRI-O looks")
def pod_cgroup(case: Case) -> None:
    made = case.shared(pod)
    assert made.sandbox is not None
    paths = [line.split(":", 2)[2] for line in open(f"/proc/{made.sandbox.pid()}/cgroup").read().splitlines()]
    case.expect(any(f"crio-{made.id}" in path for path in paths), f"cgroups of the sandbox's process: {paths}")


def _usage(cgroup: str) -> tuple[int, float]:
    """Bytes of memory and seconds of processor time of a cgroup and of those below it; cgroups of either version."""
    base = Path("/sys/fs/cgroup")
    if (base / "memory" / cgroup).exists():
        memory = (base / "memory" / cgroup / "memory.usage_in_bytes").read_text()
        return int(memory), int((base / "cpuacct" / cgroup / "cpuacct.usage").read_text()) / 1e9
    processor = (base / cgroup / "cpu.stat").read_text().split()[1]
    return int((base / cgroup / "memory.current").read_text()), int(processor) / 1e6


@suite.check("pod-stats", CRIO, "the pod's cgroup counts the memory and the processor time that its containers take")
def pod_stats(case: Case) -> None:
    made = case.shared(pod)
    script = 'BEGIN { held = sprintf("%20000000s", "x"); print "holds"; fflush(); while (1) turns++ }'
    busy = made.container("container", "awk", script).must_create().must_start()
    case.defer(busy.cleanup)
    busy.wait_output("holds")
    cgroup = os.path.dirname(busy.config["linux"]["cgroupsPath"]).lstrip("/")
    memory, before_s = _usage(cgroup)
    case.expect(memory >= 20_000_000, f"memory {memory} bytes, but a container holds 20 MB")
    taken = host.poll_until(lambda: _usage(cgroup)[1] > before_s + 0.1, case.runtime.deadline(20), 0.1)
    case.expect(taken, "no processor time, but a container does not rest")


@suite.check("oom-score", CRIO, "a sandbox with oomScoreAdj -998 is created, even where the host forbids the value")
def oom_score(case: Case) -> None:
    made = Pod(case.session, case.shared(places))
    sandbox = made.container("sandbox")
    sandbox.config["process"]["oomScoreAdj"] = -998
    case.defer(sandbox.cleanup)
    monitor = sandbox.create()
    case.expect(monitor.pid > 0, f"create: {monitor.message}")


@suite.check(
    "dropped-infra", CRIO, "without a sandbox create, the first container boots the pod and the second joins it"
)
def dropped_infra(case: Case) -> None:
    made = Pod(case.session, case.shared(places), hostname="dropped")
    before = leftovers.look(case.session)
    script = "cat /proc/sys/kernel/random/boot_id; hostname; trap 'exit 0' TERM; while :; do sleep 0.2; done"
    first, second = (made.container("container", "sh", "-c", script) for _ in range(2))
    for container in (first, second):
        container.config["hostname"] = "dropped"
        container.must_create().must_start()
    outputs = [container.wait_output("dropped") for container in (first, second)]
    case.equal(outputs[0], outputs[1], "boot id and hostname in both containers")
    for container in (first, second):
        container.must("kill", container.id, "15")
        case.equal(wait_exit_file(case.session, made.places, container.id), 0, "exit code")
        container.must("delete", "--force", container.id)
    case.equal(leftovers.wait_clean(case.session, before, 15), [], "left on the host")


@suite.check("stop-pod", CRIO, "StopPodSandbox and RemovePodSandbox: TERM, exit code 0, delete; nothing is left")
def stop_pod(case: Case) -> None:
    made = case.shared(pod)
    assert made.sandbox is not None
    made.sandbox.must("kill", made.sandbox.id, "15")
    code = wait_exit_file(case.session, made.places, made.sandbox.id)
    case.equal(code, 0, "exit code of the sandbox")
    made.sandbox.must("delete", "--force", made.sandbox.id)
    case.refused(made.sandbox.call("state", made.sandbox.id), "does not exist|no such file")
    left = [path for path in leftovers.look(case.session).cgroups if made.name in path and "crio-" + made.id in path]
    case.equal(left, [], "cgroups of the sandbox")
