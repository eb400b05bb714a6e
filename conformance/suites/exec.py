"""Further processes in a container: every flag of `exec`, its errors, many at once."""

from __future__ import annotations

import json
import os
import threading

from conformance import host, reaper
from conformance.case import Case, sections
from conformance.console import ConsoleSocket, Terminal
from conformance.container import Container
from conformance.registry import Suite
from conformance.runtime import Outcome
from conformance.session import Session

suite = Suite("exec")

MIB = 1 << 20

PROBE = """
section() { echo; echo "@@ $1"; }
section env; tr '\\0' '\\n' </proc/self/environ
section cwd; pwd
section status; cat /proc/self/status
section umask; umask
section limits; cat /proc/self/limits
section namespaces; for n in pid net ipc uts mnt; do readlink /proc/self/ns/$n; done
section init; for n in pid net ipc uts mnt; do readlink /proc/1/ns/$n; done
section cgroup; cat /proc/self/cgroup
section init-cgroup; cat /proc/1/cgroup
section words; for word in "$@"; do printf '<%s>' "$word"; done
section hostname; hostname
"""


def target(session: Session) -> Container:
    """A running container that the checks execute in."""
    script = "trap 'exit 0' TERM; while :; do sleep 0.2; done"
    container = session.keep(Container(session, session.new_name("exec"), ("sh", "-c", script), member=True))
    container.config["process"]["env"].append("FROM_CONFIG=yes")
    (container.rootfs / "opt/data").write_text("no program\n")
    return container.create().start()


def plain(session: Session) -> dict[str, str]:
    """An exec by process file, with everything set."""
    container = session.shared(target)
    process = {
        "args": ["sh", "-c", PROBE, "sh", "two words", "", "ü"],
        "env": ["PATH=/bin", "ONLY=this", "SPACE=a b"],
        "cwd": "/tmp",
        "user": {"uid": 1000, "gid": 1001, "additionalGids": [5, 2000], "umask": 0o077},
        "capabilities": {key: ["CAP_KILL"] for key in ("bounding", "permitted", "effective", "inheritable", "ambient")},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 333, "hard": 444}],
        "noNewPrivileges": True,
    }
    return sections(container.exec_process(process).out)


def _status(facts: dict[str, str], key: str) -> str:
    return next((line.partition(":")[2].strip() for line in facts["status"].splitlines() if line.startswith(key)), "")


@suite.check("exit-code", "callers: exec", "the exit code of a foreground exec is the process's, 128+n for a signal")
def exit_code(case: Case) -> None:
    container = case.shared(target)
    for script, code in (("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137), ("kill -15 $$", 143)):
        case.equal(container.exec("sh", "-c", script).code, code, f"exit code of `{script}`")


@suite.check("output", "callers: exec", "stdout and stderr stay apart, stdin is passed on")
def output(case: Case) -> None:
    done = case.shared(target).exec("sh", "-c", "cat; echo err >&2", stdin=b"through\n")
    case.equal((done.out, done.err), ("through\n", "err\n"), "stdout and stderr")


@suite.check("volume", "callers: exec", "8 MiB go in and come out of an exec unharmed")
def volume(case: Case) -> None:
    data = "".join(f"{number:015d}\n" for number in range(8 * MIB // 16))
    process = case.shared(target).exec("cat", stdin=data.encode(), deadline_s=120)
    case.expect(process.out == data, f"{len(process.out)} of {len(data)} bytes came back, or not the same")


@suite.check("process-file", "callers: exec", "--process: arguments, environment, directory, user, groups, umask")
def process_file(case: Case) -> None:
    facts = case.shared(plain)
    case.equal(facts["words"], "<two words><><ü>", "arguments")
    for entry in ("ONLY=this", "SPACE=a b"):
        case.contains(facts["env"].splitlines(), entry, "environment")
    case.expect("FROM_CONFIG" not in facts["env"], "the container's own environment leaked into the exec")
    case.equal(facts["cwd"], "/tmp", "directory")
    case.equal(_status(facts, "Uid").split()[0], "1000", "uid")
    case.equal(_status(facts, "Gid").split()[0], "1001", "gid")
    case.equal({int(word) for word in _status(facts, "Groups").split()} - {1001}, {5, 2000}, "additional gids")


@suite.check("process-file-umask", "callers: exec", "--process: user.umask")
def process_file_umask(case: Case) -> None:
    case.equal(case.shared(plain)["umask"], "0077", "umask")


@suite.check("process-file-limits", "callers: exec", "--process: capabilities, limits, noNewPrivileges")
def process_file_limits(case: Case) -> None:
    facts = case.shared(plain)
    for key in ("CapPrm", "CapEff", "CapBnd", "CapAmb"):
        case.equal(_status(facts, key), f"{1 << 5:016x}", key)
    case.equal(_status(facts, "NoNewPrivs"), "1", "NoNewPrivs")
    case.matches(facts["limits"], r"^Max open files\s+333\s+444\s", "limits")


@suite.check("namespaces", "callers: exec", "an exec runs in the namespaces and cgroups of its container")
def namespaces(case: Case) -> None:
    facts = case.shared(plain)
    as_root = sections(case.shared(target).exec("sh", "-c", PROBE).out)
    case.equal(as_root["namespaces"], as_root["init"], "namespaces")
    case.equal(facts["namespaces"], as_root["namespaces"], "namespaces of an exec as an ordinary user")
    case.equal(as_root["cgroup"], as_root["init-cgroup"], "cgroups")
    case.equal(facts["hostname"], "conformance", "hostname")


@suite.check("flag-env", "callers: exec", "--env adds to the container's environment")
def flag_env(case: Case) -> None:
    done = case.shared(target).exec("--env", "ADDED=a b", "--env", "MORE=1", "--", "env")
    for entry in ("ADDED=a b", "MORE=1", "FROM_CONFIG=yes"):
        case.contains(done.out.splitlines(), entry, "environment")


@suite.check("flag-cwd", "callers: exec", "--cwd sets the directory")
def flag_cwd(case: Case) -> None:
    case.equal(case.shared(target).exec("--cwd", "/usr/bin", "--", "pwd").out, "/usr/bin\n", "directory")


@suite.check("flag-user", "callers: exec", "--user UID:GID sets both")
def flag_user(case: Case) -> None:
    done = case.shared(target).exec("--user", "1000:1001", "--", "sh", "-c", "id -u; id -g")
    case.equal(done.out.split(), ["1000", "1001"], "uid and gid")


@suite.check("flag-cap", "callers: exec", "--cap adds a capability")
def flag_cap(case: Case) -> None:
    done = case.shared(target).exec("--cap", "CAP_SYS_TIME", "--", "grep", "CapEff", "/proc/self/status")
    case.succeeded(done)
    case.expect(int(done.out.split()[1], 16) & (1 << 25), f"CAP_SYS_TIME is not effective: {done.out}")


@suite.check("flag-no-new-privs", "callers: exec", "--no-new-privs is set")
def flag_no_new_privs(case: Case) -> None:
    done = case.shared(target).exec("--no-new-privs", "--", "grep", "NoNewPrivs", "/proc/self/status")
    case.equal(done.out.split()[1:], ["1"], "NoNewPrivs")


@suite.check("flag-preserve-fds", "callers: exec", "--preserve-fds hands further descriptors over")
def flag_preserve_fds(case: Case) -> None:
    container = case.shared(target)
    data = case.scratch / case.session.new_name("data")
    data.write_text("from descriptor 3\n")
    inner = case.runtime.argv("exec", "--preserve-fds", "1", container.id, "cat", "/proc/self/fd/3")
    argv = ["sh", "-c", f'exec "$@" 3<{data}', "sh", *inner]
    outcome = case.succeeded(case.runtime.command(argv, deadline_s=case.runtime.deadline(30)))
    case.equal(outcome.out, "from descriptor 3\n", "output")


@suite.check(
    "detach", "callers: exec", "--detach --pid-file: a child of the subreaper that exits with the process's code"
)
def detach(case: Case) -> None:
    running = case.shared(target).exec_detached(
        {"args": ["sh", "-c", "echo out; echo err >&2; until [ -e /opt/go ]; do sleep 0.1; done; exit 5"]}
    )
    pid = running.pid()
    process = host.read_process(pid)
    case.expect(process is not None and process.ppid == reaper.subreaper(), f"parent of the exec: {process}")
    (running.container.rootfs / "opt/go").write_text("")
    done = running.wait()
    case.equal((done.code, done.out, done.err), (5, "out\n", "err\n"), "exit code, stdout, stderr")


@suite.check("detach-kill", "callers: exec", "a signal to the pid of a detached exec reaches its process")
def detach_kill(case: Case) -> None:
    script = "trap 'echo got-term; exit 9' TERM; echo up; while :; do sleep 0.1; done"
    running = case.shared(target).exec_detached({"args": ["sh", "-c", script]})
    host.poll_until(lambda: "up" in running.out_path.read_text(), case.runtime.deadline(15))
    os.kill(running.pid(), 15)
    done = running.wait()
    case.equal((done.code, done.out), (9, "up\ngot-term\n"), "exit code and output")


@suite.check("detach-sigkill", "callers: exec", "KILL to the pid of a detached exec ends its process")
def detach_sigkill(case: Case) -> None:
    container = case.shared(target)
    running = container.exec_detached({"args": ["sleep", "7654"]})
    seen = _sleeping(container, "7654")
    case.expect(seen, "the process is not seen inside")
    os.kill(running.pid(), 9)
    case.equal(running.wait().code, 137, "exit code")
    gone = host.poll_until(lambda: not _sleeping(container, "7654"), case.runtime.deadline(10), 0.2)
    case.expect(gone, "the process runs on inside")


def _sleeping(container: Container, seconds: str) -> bool:
    script = f'for p in /proc/[0-9]*; do [ "$(tr "\\0" " " <$p/cmdline)" = "sleep {seconds} " ] && echo found; done'
    return "found" in container.exec("sh", "-c", script).out


@suite.check("tty-foreground", "callers: exec", "exec -t from a terminal: the slave of the caller's pty as fds 0 to 2")
def tty_foreground(case: Case) -> None:
    container = case.shared(target)
    master, slave = os.openpty()
    case.defer(lambda: os.close(master))
    script = "[ -t 0 ] && [ -t 1 ] && echo tty-yes; exit 4"
    argv = case.runtime.argv("exec", "--tty", container.id, "sh", "-c", script)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.login_tty(slave)
        os.execv(argv[0], argv)
    os.close(slave)
    seen = Terminal(master).read_until(b"tty-yes", case.runtime.deadline(20))
    case.log(f"  terminal: {seen!r}")
    case.expect(host.wait_gone(pid, case.runtime.deadline(15)), "exec did not end")
    case.equal(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 4, "exit code")


@suite.check("console-socket", "callers: exec", "exec --tty --console-socket --detach, as conmon calls it for podman")
def console_socket(case: Case) -> None:
    container = case.shared(target)
    console = ConsoleSocket(case.scratch / case.session.new_name("tty"))
    case.defer(console.close)
    process = {"terminal": True, "args": ["sh", "-c", "tty; exit 3"]}
    running = container.exec_detached(process, "--tty", "--console-socket", str(console.path))
    terminal = console.receive(case.runtime.deadline(10))
    case.defer(terminal.close)
    case.matches(terminal.read_to_end(case.runtime.deadline(15)).decode(), "/dev/pts/", "name of the terminal")
    case.equal(running.wait().code, 3, "exit code")


@suite.check(
    "missing-program", "callers: error texts", "a program that does not exist: words that engines turn into 127"
)
def missing_program(case: Case) -> None:
    container = case.shared(target)
    case.refused(container.exec("no-such-program"), r"executable file .*not found in \$PATH")
    case.refused(container.exec("/no/such/program"), "no such file or directory")


@suite.check("not-executable", "callers: error texts", "a file without execute permission: `permission denied`")
def not_executable(case: Case) -> None:
    case.refused(case.shared(target).exec("/opt/data"), "permission denied")


@suite.check(
    "missing-detached",
    "callers: error texts",
    "a missing program with --detach is an error of the call, without pid file",
)
def missing_detached(case: Case) -> None:
    running = case.shared(target).exec_detached({"args": ["/no/such/program"]})
    case.refused(running.outcome, "no such file or directory")
    case.expect(not running.pid_file.exists(), "a pid file was written")


@suite.check("missing-cwd", "callers: exec", "a directory that does not exist is an error, or is made")
def missing_cwd(case: Case) -> None:
    done = case.shared(target).exec("--cwd", "/no/such/directory", "--", "pwd")
    if done.ok:
        case.equal(done.out, "/no/such/directory\n", "directory")
    else:
        case.refused(done, "no such file or directory|does not exist")


@suite.check("broken-process-file", "callers: exec", "a process file that is no JSON or does not exist is an error")
def broken_process_file(case: Case) -> None:
    container = case.shared(target)
    path = case.scratch / case.session.new_name("broken")
    path.write_text("{")
    case.refused(case.runtime.call("exec", "--process", str(path), container.id))
    case.refused(case.runtime.call("exec", "--process", str(path) + ".missing", container.id))
    path.write_text(json.dumps({"args": [], "cwd": "/", "user": {"uid": 0, "gid": 0}}))
    case.refused(case.runtime.call("exec", "--process", str(path), container.id))


@suite.check("unknown-container", "callers: exec", "exec in an unknown container: `does not exist`")
def unknown_container(case: Case) -> None:
    case.refused(case.runtime.call("exec", "no-such-container", "true"), "does not exist|no such file")


@suite.check("created", "callers: exec", "exec works in a container that is created, not started")
def in_created(case: Case) -> None:
    container = case.container("sleep", "1000").create()
    done = container.exec("sh", "-c", "echo in-created")
    case.equal((done.code, done.out), (0, "in-created\n"), "exit code and output")
    case.equal(container.status(), "created", "status afterwards")
    container.start()
    case.equal(container.status(), "running", "status after start")


@suite.check("paused", "callers: exec", "exec in a paused container is an error at once")
def in_paused(case: Case) -> None:
    container = case.container("sleep", "1000").create().start()
    case.succeeded(case.runtime.call("pause", container.id))
    case.defer(lambda: case.runtime.call("resume", container.id))
    case.refused(container.exec("true"), "pause")


@suite.check("parallel", "callers: exec", "eight execs at once, each with its own input, output and code")
def parallel(case: Case) -> None:
    container = case.shared(target)
    done: dict[int, Outcome | Exception] = {}

    def one(number: int) -> None:
        try:
            script = f"read line; echo $line; echo e{number} >&2; exit {number}"
            done[number] = container.exec("sh", "-c", script, stdin=b"in%d\n" % number, deadline_s=60)
        except Exception as error:  # noqa: BLE001 - reported below by the main thread
            done[number] = error

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(8):
        outcome = done[number]
        case.expect(isinstance(outcome, Outcome), f"exec {number}: {outcome}")
        assert isinstance(outcome, Outcome)
        case.equal(
            (outcome.code, outcome.out, outcome.err), (number, f"in{number}\n", f"e{number}\n"), f"exec {number}"
        )


@suite.check("background-child", "callers: exec", "an exec ends when its process ends, whatever that left running")
def background_child(case: Case) -> None:
    container = case.shared(target)
    done = container.exec("sh", "-c", "sleep 8765 >/dev/null 2>&1 </dev/null & echo started")
    case.equal((done.code, done.out), (0, "started\n"), "exit code and output")
    case.expect(_sleeping(container, "8765"), "the child of the exec is gone")


@suite.check("container-ends", "callers: exec", "when the container ends, a detached exec ends with it")
def container_ends(case: Case) -> None:
    container = case.container("sleep", "1000").create().start()
    running = container.exec_detached({"args": ["sleep", "1000"]})
    running.pid()
    container.kill("KILL")
    case.equal(running.wait().code, 137, "exit code of the exec")
    case.equal(container.wait(), 137, "exit code of the container")
