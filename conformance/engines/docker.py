"""Docker with the runtime as its default: what its users do with single containers, through a private dockerd."""

from __future__ import annotations

import json
import time

from conformance import host, leftovers
from conformance.case import Case
from conformance.engines.daemons import docker
from conformance.engines.docker_box import DOCKER, MEMORY_LIMIT, TERMINAL, Box, counting, run_once, suite
from conformance.engines.image import NAME

BUSY = "head -c 64m /dev/zero >/dev/shm/full; echo full; while :; do :; done"


@suite.check("run", DOCKER, "run --rm: output, input, exit code; nothing is left")
def run(case: Case) -> None:
    case.shared(docker)
    run_once(case, "true")  # the first container makes lasting directories
    before = leftovers.look(case.session)
    done = run_once(case, "sh", "-c", "cat; echo err >&2; exit 7", flags=("--interactive",), stdin=b"typed\n")
    case.equal((done.code, done.out, done.err), (7, "typed\n", "err\n"), "exit code, stdout, stderr")
    case.equal(leftovers.wait_clean(case.session, before, 15), [], "left on the host")


@suite.check("run-terminal", DOCKER, "run -it: terminal, resize, input, exit code")
def run_terminal(case: Case) -> None:
    client = case.shared(docker)
    case.session.count_create(False)
    arguments = ("run", "--rm", "-it", "--network", "none", NAME, "sh", "-c", TERMINAL)
    terminal, process = client.on_terminal(*arguments, rows=33, columns=101)
    case.defer(terminal.close)
    terminal.read_until(b"/dev/pts/", case.runtime.deadline(60))
    terminal.resize_until(34, 102, b"34 102", case.runtime.deadline(20))
    terminal.write(b"hello\r")
    terminal.read_until(b"got-hello", case.runtime.deadline(20))
    case.equal(process.wait(case.runtime.deadline(30)), 6, "exit code")


@suite.check(
    "run-options", DOCKER, "user, directory, read-only root, tmpfs, capabilities, limits, hosts, init, shm size"
)
def run_options(case: Case) -> None:
    script = (
        "id -u; pwd; touch /x 2>/dev/null || echo read-only; touch /scratch/x && echo scratch;"
        "grep CapEff /proc/self/status | cut -f2; grep -c 10.1.2.3 /etc/hosts; ulimit -n; echo $COLOUR;"
        "df -k /dev/shm | tail -n 1 | awk '{print $2}'; cat /proc/1/comm"
    )
    flags: tuple[str, ...] = (
        "--user",
        "1000:1000",
        "--workdir",
        "/tmp",
        "--read-only",
        "--tmpfs",
        "/scratch",
        "--env",
        "COLOUR=red",
    )
    flags += ("--cap-drop", "all", "--add-host", "other:10.1.2.3", "--ulimit", "nofile=512:512", "--init")
    done = run_once(case, "sh", "-c", script, flags=(*flags, "--shm-size", "16m"))
    wanted = ["1000", "/tmp", "read-only", "scratch", "0000000000000000", "1", "512", "red", "16384", "docker-init"]
    case.equal(done.out.split(), wanted, f"seen inside ({done.err})")


@suite.check("run-capability", DOCKER, "--cap-add gives a capability")
def run_capability(case: Case) -> None:
    script = "mount -t tmpfs t /mnt 2>/dev/null && echo mounted || echo refused"
    case.equal(run_once(case, "sh", "-c", script).out, "refused\n", "mount without the capability")
    flags = ("--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined")
    case.equal(run_once(case, "sh", "-c", script, flags=flags).out, "mounted\n", "mount with SYS_ADMIN")


@suite.check("run-privileged", DOCKER, "run --privileged")
def run_privileged(case: Case) -> None:
    done = run_once(case, "sh", "-c", "mount -t tmpfs t /mnt && echo mounted", flags=("--privileged",))
    case.equal((done.code, done.out), (0, "mounted\n"), f"exit code and output ({done.err})")


@suite.check("run-missing", DOCKER, "a missing program gives 127, one that is no program 126")
def run_missing(case: Case) -> None:
    done = run_once(case, "/no/such/program")
    case.equal(done.code, 127, f"exit code ({done.err})")
    done = run_once(case, "no-such-program")
    case.equal(done.code, 127, f"exit code ({done.err})")
    done = run_once(case, "/etc/passwd")
    case.equal(done.code, 126, f"exit code ({done.err})")


@suite.check("detached", DOCKER, "run -d: ps, inspect and logs know it")
def detached(case: Case) -> None:
    box = case.shared(counting)
    case.contains(box.client.must("ps", "--format", "{{.Names}} {{.Status}}"), box.name + " Up", "docker ps")
    case.equal(box.inspect("{{.State.Status}}"), "running", "status")
    case.expect(host.is_alive(int(box.inspect("{{.State.Pid}}"))), "the pid is dead")
    case.equal(box.wait_log("up"), "up\n", "log")


@suite.check("inside", DOCKER, "hostname, environment, hosts and volume inside")
def inside(case: Case) -> None:
    seen = case.shared(counting).inside("hostname; echo $COLOUR; echo kept >/data/file; cat /data/file")
    case.equal(seen.split(), ["box", "blue", "kept"], "hostname, environment, volume")


@suite.check("exec", DOCKER, "exec: output, input, exit code, user, directory, environment")
def exec_box(case: Case) -> None:
    box = case.shared(counting)
    flags = ("--interactive", "--user", "1000", "--workdir", "/tmp", "--env", "X=y")
    done = box.do("exec", "sh", "-c", "cat; id -u; pwd; echo $X; exit 5", flags=flags, stdin=b"typed\n")
    case.equal((done.code, done.out.split()), (5, ["typed", "1000", "/tmp", "y"]), "exit code and output")
    done = box.do("exec", "no-such-program")
    case.contains((126, 127), done.code, f"exit code of a missing program ({done.err})")


@suite.check("exec-terminal", DOCKER, "exec -it")
def exec_terminal(case: Case) -> None:
    box = case.shared(counting)
    terminal, process = box.client.on_terminal("exec", "-it", box.name, "sh", "-c", TERMINAL, rows=21, columns=71)
    case.defer(terminal.close)
    terminal.read_until(b"/dev/pts/", case.runtime.deadline(30))
    terminal.resize_until(22, 72, b"22 72", case.runtime.deadline(20))
    terminal.write(b"hello\r")
    terminal.read_until(b"got-hello", case.runtime.deadline(20))
    case.equal(process.wait(case.runtime.deadline(30)), 6, "exit code")


@suite.check("exec-privileged", DOCKER, "exec --privileged")
def exec_privileged(case: Case) -> None:
    done = case.shared(counting).do("exec", "grep", "CapEff", "/proc/self/status", flags=("--privileged",))
    case.expect(int(case.succeeded(done).out.split()[1], 16) & (1 << 21), f"CAP_SYS_ADMIN is not effective: {done.out}")


@suite.check("copy", DOCKER, "cp into the container and out of it")
def copy(case: Case) -> None:
    box = case.shared(counting)
    directory = case.directory("copy")
    (directory / "in").write_text("copied\n")
    box.client.must("cp", str(directory / "in"), f"{box.name}:/opt/in")
    case.equal(box.inside("cat /opt/in"), "copied\n", "content inside")
    box.inside("echo made-inside >/opt/out")
    box.client.must("cp", f"{box.name}:/opt/out", str(directory / "out"))
    case.equal((directory / "out").read_text(), "made-inside\n", "content outside")


@suite.check("top", DOCKER, "top lists the container's process")
def top(case: Case) -> None:
    box = case.shared(counting)
    text = case.succeeded(box.do("top", "-eo", "pid,args")).out
    case.expect(len(text.splitlines()) > 1, f"no process: {text!r}")
    case.contains(text, "sh -c", "docker top")


@suite.check("stats", DOCKER, "stats shows use of memory")
def stats(case: Case) -> None:
    box = case.shared(counting)
    line = case.succeeded(box.do("stats", flags=("--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}"))).out.strip()
    case.matches(line, r"^[1-9][\d.]*[kMG]i?B / ", "docker stats")


def _usage(box: Box) -> tuple[float, float]:
    """MiB of memory and percent of a processor."""
    line = box.client.must("stats", "--no-stream", "--format", "{{.MemUsage}} {{.CPUPerc}}", box.name)
    memory, _, _, processor = line.split()
    factor = {"KiB": 1 / 1024, "MiB": 1, "GiB": 1024}[memory.lstrip("0123456789.")]
    return float(memory.rstrip("KMGiB")) * factor, float(processor.rstrip("%"))


@suite.check("stats-real", DOCKER, "stats shows the memory and the processor time that a container takes")
def stats_real(case: Case) -> None:
    box = Box(case.session, "sh", "-c", BUSY, flags=("--network", "none", "--shm-size", "80m"))
    case.defer(box.remove)
    case.contains(box.wait_log("full"), "full", "log")
    memory, _ = _usage(box)
    case.expect(memory >= 64, f"memory {memory} MiB, but the container holds 64 MiB")
    seen = host.poll_until(lambda: _usage(box)[1] > 10, case.runtime.deadline(20), 0.5)
    case.expect(seen, f"processor {_usage(box)[1]} %, but the container does not rest")


@suite.check("attach", DOCKER, "attach shows what the container prints, and ends with its exit code")
def attach(case: Case) -> None:
    script = "while ! [ -e /go ]; do sleep 0.2; done; sleep 1; echo late; exit 4"
    box = Box(case.session, "sh", "-c", script, flags=("--network", "none"))
    case.defer(box.remove)
    terminal, process = box.client.on_terminal("attach", box.name)
    case.defer(terminal.close)
    box.inside("touch /go")
    terminal.read_until(b"late", case.runtime.deadline(30))
    case.equal(process.wait(case.runtime.deadline(30)), 4, "exit code")


@suite.check("update", DOCKER, "update changes the memory limit inside")
def update(case: Case) -> None:
    box = case.shared(counting)
    case.succeeded(box.do("update", flags=("--memory", "100m", "--memory-swap", "200m")))
    case.equal(box.inside(MEMORY_LIMIT), "104857600\n", "limit inside")


@suite.check("pause", DOCKER, "pause and unpause")
def pause(case: Case) -> None:
    box = case.shared(counting)
    case.succeeded(box.do("pause"))
    case.equal(box.inspect("{{.State.Status}}"), "paused", "status")
    case.succeeded(box.do("unpause"))
    first = box.inside("cat /count")
    moved = host.poll_until(lambda: box.inside("cat /count") != first, case.runtime.deadline(15), 0.2)
    case.expect(moved, "the container stands still after unpause")


@suite.check("kill", DOCKER, "kill sends the signal that is asked for")
def kill(case: Case) -> None:
    box = case.shared(counting)
    case.succeeded(box.do("kill", flags=("--signal", "USR1")))
    case.contains(box.wait_log("got-usr1"), "got-usr1", "log")


@suite.check("restart", DOCKER, "restart: the container runs again, its files are kept")
def restart(case: Case) -> None:
    box = case.shared(counting)
    box.inside("echo kept >/opt/kept")
    case.succeeded(box.do("restart", flags=("--time", "5")))
    case.equal(box.inspect("{{.State.Status}}"), "running", "status")
    case.equal(box.inside("cat /opt/kept"), "kept\n", "file")


@suite.check("stop", DOCKER, "stop sends TERM and reports the exit code; start runs it again")
def stop(case: Case) -> None:
    box = case.shared(counting)
    box.inside("until [ -e /count ]; do sleep 0.1; done")
    case.succeeded(box.do("stop", flags=("--time", "10")))
    case.equal(box.inspect("{{.State.Status}} {{.State.ExitCode}}"), "exited 7", "status and exit code")
    case.contains(box.do("logs").out, "got-term", "log")
    case.succeeded(box.do("start"))
    case.equal(box.inspect("{{.State.Status}}"), "running", "status after start")


@suite.check("restart-policy", DOCKER, "--restart on-failure:2 runs a failing container three times")
def restart_policy(case: Case) -> None:
    box = Box(
        case.session, "sh", "-c", "echo once-more; exit 3", flags=("--network", "none", "--restart", "on-failure:2")
    )
    case.defer(box.remove)
    ended = host.poll_until(lambda: box.inspect("{{.State.Status}}") == "exited", case.runtime.deadline(60), 0.3)
    case.expect(ended, f"status {box.inspect('{{.State.Status}}')}")
    case.equal(box.do("logs").out, "once-more\n" * 3, "log")
    case.equal(box.inspect("{{.State.ExitCode}} {{.RestartCount}}"), "3 2", "exit code and restarts")


@suite.check("oom", DOCKER, "a container that exceeds its memory: 137 and OOMKilled")
def oom(case: Case) -> None:
    flags = ("--network", "none", "--memory", "24m", "--memory-swap", "24m")
    box = Box(case.session, "tail", "/dev/zero", flags=flags)
    case.defer(box.remove)
    case.equal(box.client.must("wait", box.name, deadline_s=90).strip(), "137", "exit code")
    case.equal(box.inspect("{{.State.OOMKilled}}"), "true", "OOMKilled")


@suite.check("healthcheck", DOCKER, "a healthcheck runs inside and its result is the health")
def healthcheck(case: Case) -> None:
    flags = (
        "--network",
        "none",
        "--health-cmd",
        "test -e /healthy",
        "--health-interval",
        "1s",
        "--health-retries",
        "1",
    )
    box = Box(case.session, "sleep", "1000", flags=flags)
    case.defer(box.remove)

    def health() -> str:
        return box.inspect("{{.State.Health.Status}}")

    case.expect(host.poll_until(lambda: health() == "unhealthy", case.runtime.deadline(30), 0.3), health())
    box.inside("touch /healthy")
    case.expect(host.poll_until(lambda: health() == "healthy", case.runtime.deadline(30), 0.3), health())


@suite.check("events", DOCKER, "events tell of create, start, exec, die and destroy")
def events(case: Case) -> None:
    client = case.shared(docker)
    since = str(int(time.time()) - 1)
    box = Box(case.session, "sh", "-c", "sleep 2; exit 4", flags=("--network", "none"))
    box.do("exec", "true")
    box.client.must("wait", box.name, deadline_s=90)
    box.remove()
    until = str(int(time.time()) + 1)
    text = client.must(
        "events", "--since", since, "--until", until, "--filter", f"container={box.name}", "--format", "{{json .}}"
    )
    found = [json.loads(line) for line in text.splitlines()]
    names = [event["Action"].partition(":")[0] for event in found]
    for name in ("create", "start", "exec_start", "die", "destroy"):
        case.contains(names, name, "events")
    died = next(event for event in found if event["Action"] == "die")
    case.equal(died["Actor"]["Attributes"]["exitCode"], "4", "exit code of the event")


@suite.check("volumes", DOCKER, "a named volume keeps what a container wrote; a bind mount is read-only")
def volumes(case: Case) -> None:
    source = case.directory("source")
    (source / "file").write_text("of the host\n")
    flags = ("--volume", "kept:/data", "--volume", f"{source}:/host:ro")
    script = "cp /host/file /data/copy; touch /host/x 2>/dev/null || echo read-only"
    first = run_once(case, "sh", "-c", script, flags=flags)
    case.equal(first.out, "read-only\n", "first container")
    second = run_once(case, "cat", "/data/copy", flags=("--volume", "kept:/data"))
    case.equal(second.out, "of the host\n", "second container")
