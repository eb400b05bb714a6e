"""Docker with the runtime as its default: what its users do, through a private dockerd."""

from __future__ import annotations

import json
import time
import urllib.request

from conformance import host, leftovers
from conformance.case import Case
from conformance.engines.daemons import Client, docker
from conformance.engines.image import NAME
from conformance.registry import Suite
from conformance.runtime import Outcome
from conformance.session import Session

suite = Suite("docker", "docker")

DOCKER = "callers: Docker"
COUNT = (
    "trap 'echo got-term; exit 7' TERM; trap 'echo got-usr1' USR1; echo up; "
    "i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.1; done"
)
SERVE = "echo page >/tmp/index.html; httpd -f -p 80 -h /tmp"
TERMINAL = "tty; while ! read -t 1 line; do stty size; done; echo got-$line; exit 6"
MEMORY_LIMIT = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true"


class Box:
    """A detached container under Docker."""

    def __init__(self, session: Session, *command: str, flags: tuple[str, ...] = ()) -> None:
        self.session = session
        self.client: Client = session.shared(docker)
        self.name = session.new_name("d")
        session.count_create(False)
        self.client.must("run", "--detach", "--name", self.name, *flags, NAME, *command, deadline_s=120)

    def do(self, verb: str, *arguments: str, flags: tuple[str, ...] = (), stdin: bytes = b"") -> Outcome:
        """Run `docker VERB FLAGS NAME ARGUMENTS`."""
        return self.client.run(verb, *flags, self.name, *arguments, stdin=stdin, deadline_s=90)

    def inside(self, script: str) -> str:
        """Return what a shell script prints inside."""
        return self.client.must("exec", self.name, "sh", "-c", script)

    def inspect(self, template: str) -> str:
        """Return one value of `docker inspect`."""
        return self.client.must("inspect", "--format", template, self.name).strip()

    def wait_log(self, marker: str) -> str:
        """Wait until the marker is in the log, and return the log."""
        host.poll_until(lambda: marker in self.do("logs").out, self.session.runtime.deadline(20), 0.2)
        return self.do("logs").out

    def remove(self) -> None:
        """Remove it by force."""
        self.client.run("rm", "--force", self.name, deadline_s=90)


def counting(session: Session) -> Box:
    """A container without network that counts and answers signals."""
    session.shared(docker).must("volume", "create", "shared-volume")
    flags = ("--network", "none", "--hostname", "box", "--env", "COLOUR=blue", "--volume", "shared-volume:/data")
    made = Box(session, "sh", "-c", COUNT, flags=(*flags, "--memory", "128m"))
    session.defer(made.remove)
    return made


def serving(session: Session) -> Box:
    """A container on the default bridge that serves a page at a published port."""
    made = Box(session, "sh", "-c", SERVE, flags=("--publish", "127.0.0.1:18081:80"))
    session.defer(made.remove)
    return made


def _run(case: Case, *command: str, flags: tuple[str, ...] = (), stdin: bytes = b"") -> Outcome:
    case.session.count_create(False)
    client = case.shared(docker)
    return client.run("run", "--rm", "--network", "none", *flags, NAME, *command, stdin=stdin, deadline_s=120)


@suite.check("run", DOCKER, "run --rm: output, input, exit code; nothing is left")
def run(case: Case) -> None:
    case.shared(docker)
    _run(case, "true")  # the first container makes lasting directories
    before = leftovers.look(case.session)
    done = _run(case, "sh", "-c", "cat; echo err >&2; exit 7", flags=("--interactive",), stdin=b"typed\n")
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
    terminal.resize(34, 102)
    terminal.read_until(b"34 102", case.runtime.deadline(20))
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
    done = _run(case, "sh", "-c", script, flags=(*flags, "--shm-size", "16m"))
    wanted = ["1000", "/tmp", "read-only", "scratch", "0000000000000000", "1", "512", "red", "16384", "docker-init"]
    case.equal(done.out.split(), wanted, f"seen inside ({done.err})")


@suite.check("run-capability", DOCKER, "--cap-add gives a capability")
def run_capability(case: Case) -> None:
    script = "mount -t tmpfs t /mnt 2>/dev/null && echo mounted || echo refused"
    case.equal(_run(case, "sh", "-c", script).out, "refused\n", "mount without the capability")
    flags = ("--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined")
    case.equal(_run(case, "sh", "-c", script, flags=flags).out, "mounted\n", "mount with SYS_ADMIN")


@suite.check("run-privileged", DOCKER, "run --privileged")
def run_privileged(case: Case) -> None:
    done = _run(case, "sh", "-c", "mount -t tmpfs t /mnt && echo mounted", flags=("--privileged",))
    case.equal((done.code, done.out), (0, "mounted\n"), f"exit code and output ({done.err})")


@suite.check("run-missing", DOCKER, "a missing program gives 127, one that is no program 126")
def run_missing(case: Case) -> None:
    done = _run(case, "/no/such/program")
    case.equal(done.code, 127, f"exit code ({done.err})")
    done = _run(case, "no-such-program")
    case.equal(done.code, 127, f"exit code ({done.err})")
    done = _run(case, "/etc/passwd")
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
    terminal.resize(22, 72)
    terminal.read_until(b"22 72", case.runtime.deadline(20))
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
    case.succeeded(box.do("rm", flags=("--force",)))


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
    first = _run(case, "sh", "-c", "cp /host/file /data/copy; touch /host/x 2>/dev/null || echo read-only", flags=flags)
    case.equal(first.out, "read-only\n", "first container")
    second = _run(case, "cat", "/data/copy", flags=("--volume", "kept:/data"))
    case.equal(second.out, "of the host\n", "second container")


def _wait_fetch(case: Case, url: str) -> str:
    """Fetch a page, again until it is there."""
    end = time.monotonic() + case.runtime.deadline(20)
    while True:
        try:
            with urllib.request.urlopen(url, timeout=3) as answer:
                text: str = answer.read().decode()
                return text
        except OSError as error:
            if time.monotonic() > end:
                case.fail(f"{url}: {error}")
            time.sleep(0.3)


@suite.check("bridge", DOCKER, "default bridge: address, gateway, hosts file")
def bridge(case: Case) -> None:
    box = case.shared(serving)
    address = box.inspect("{{.NetworkSettings.IPAddress}}")
    case.contains(box.inside("ip -o -4 address show"), address, "addresses inside")
    case.contains(box.inside("cat /etc/hosts"), address, "/etc/hosts")
    gateway = box.inspect("{{.NetworkSettings.Gateway}}")
    case.contains(box.inside(f"ping -c 1 -W 5 {gateway}"), "1 packets received", "ping of the gateway")


@suite.check("publish", DOCKER, "a published port answers on the host")
def publish(case: Case) -> None:
    box = case.shared(serving)
    address = box.inspect("{{.NetworkSettings.IPAddress}}")
    case.equal(_wait_fetch(case, f"http://{address}/"), "page\n", "page at the container's address")
    case.equal(_wait_fetch(case, "http://127.0.0.1:18081/"), "page\n", "page at the published port")


def _fetch_in_network(case: Case, host_name: str) -> Outcome:
    """Fetch the page of the server in the user network from another container of that network."""
    case.session.count_create(False)
    script = f"for i in $(seq 10); do wget -q -O - http://{host_name}/ && break; sleep 0.5; done"
    client = case.shared(docker)
    return client.run("run", "--rm", "--network", "pair", NAME, "sh", "-c", script, deadline_s=120)


def paired(session: Session) -> Box:
    """A server with an alias in a network of its own."""
    client = session.shared(docker)
    client.must("network", "create", "--subnet", "10.88.96.0/24", "pair")
    session.defer(lambda: client.run("network", "rm", "pair"))
    server = Box(session, "sh", "-c", SERVE, flags=("--network", "pair", "--network-alias", "server"))
    session.defer(server.remove)
    return server


@suite.check("user-network", DOCKER, "a network of one's own: a pair of containers, one reaches the other")
def user_network(case: Case) -> None:
    address = case.shared(paired).inspect("{{.NetworkSettings.Networks.pair.IPAddress}}")
    done = _fetch_in_network(case, address)
    case.equal(done.out, "page\n", f"page at the address ({done.err})")


@suite.check("user-network-names", DOCKER, "in a network of one's own, containers find each other by name")
def user_network_names(case: Case) -> None:
    case.shared(paired)
    done = _fetch_in_network(case, "server")
    case.equal(done.out, "page\n", f"page at the name ({done.err})")


@suite.check("connect", DOCKER, "network connect and disconnect of a running container")
def connect(case: Case) -> None:
    box = case.shared(serving)
    box.client.must("network", "create", "--subnet", "10.88.95.0/24", "late")
    case.defer(lambda: box.client.run("network", "rm", "late"))
    box.client.must("network", "connect", "--ip", "10.88.95.7", "late", box.name)
    seen = host.poll_until(lambda: "10.88.95.7" in box.inside("ip -o -4 address"), case.runtime.deadline(15), 0.3)
    case.expect(seen, f"the address did not appear: {box.inside('ip -o address')}")
    case.equal(_wait_fetch(case, "http://10.88.95.7/"), "page\n", "page at the new address")
    box.client.must("network", "disconnect", "late", box.name)
    gone = host.poll_until(lambda: "10.88.95.7" not in box.inside("ip -o -4 address"), case.runtime.deadline(15), 0.3)
    case.expect(gone, "the address stayed")


@suite.check(
    "shared-network", DOCKER, "--network container:OTHER works, or is refused in words that a user understands"
)
def shared_network(case: Case) -> None:
    box = case.shared(serving)
    script = "for i in $(seq 10); do wget -q -O - http://127.0.0.1/ && break; sleep 0.5; done"
    case.session.count_create(False)
    arguments = ("run", "--rm", "--network", f"container:{box.name}", NAME, "sh", "-c", script)
    done = box.client.run(*arguments, deadline_s=120)
    if done.ok:
        case.equal(done.out, "page\n", "page of the other container at localhost")
    else:
        case.matches(done.err, "network", "error")


def _host_request(flag: str, words: str, case: Case) -> None:
    case.session.count_create(False)
    done = case.shared(docker).run("run", "--rm", flag, NAME, "echo", "fine", deadline_s=120)
    if done.ok:
        case.equal(done.out, "fine\n", "output")
    else:
        case.matches(done.err, words, "error")


@suite.check("host-network", DOCKER, "--network host works, or is refused in words that a user understands")
def host_network(case: Case) -> None:
    _host_request("--network=host", "host.*network", case)


@suite.check("host-ipc", DOCKER, "--ipc host works, or is refused in words that a user understands")
def host_ipc(case: Case) -> None:
    _host_request("--ipc=host", "host.*ipc", case)


@suite.check("host-pid", DOCKER, "--pid host works, or is refused in words that a user understands")
def host_pid(case: Case) -> None:
    _host_request("--pid=host", "host.*pid", case)


@suite.check("device", DOCKER, "--device works, or is refused in words that a user understands")
def device(case: Case) -> None:
    done = _run(case, "sh", "-c", "head -c 4 /dev/source | wc -c", flags=("--device", "/dev/zero:/dev/source"))
    if done.ok:
        case.equal(done.out.strip(), "4", "bytes from the device")
    else:
        case.matches(done.err, "device", "error")


@suite.check("clean", DOCKER, "after everything was removed, nothing is left")
def clean(case: Case) -> None:
    client = case.shared(docker)
    ids = client.must("ps", "--all", "--quiet").split()
    if ids:
        client.must("rm", "--force", *ids, deadline_s=120)

    def left() -> list[str]:
        names = leftovers.look(case.session)
        processes = [name for name in names.processes if "containerd-shim" in name or case.runtime.path in name]
        return [*processes, *(name for name in names.cgroups if f"/{case.session.tag}" in name)]

    case.expect(host.poll_until(lambda: not left(), case.runtime.deadline(15), 0.3), f"left: {left()}")
