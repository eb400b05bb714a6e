"""podman with `--runtime`: what its users do, from `run` to pods and `play kube`."""

from __future__ import annotations

import json
import time
import urllib.request
from functools import partial
from pathlib import Path

from conformance import host, leftovers
from conformance.case import Case
from conformance.engines.daemons import Client, podman
from conformance.engines.image import NAME, write_image
from conformance.registry import Suite
from conformance.runtime import Outcome
from conformance.session import Session

suite = Suite("podman", "podman")

PODMAN = "callers: podman"
COUNT = (
    "trap 'echo got-term; exit 7' TERM; trap 'echo got-usr1' USR1; echo up; "
    "i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.1; done"
)


class Box:
    """A detached container under podman."""

    def __init__(self, session: Session, *command: str, flags: tuple[str, ...] = ()) -> None:
        self.session = session
        self.client: Client = session.shared(podman)
        self.name = session.new_name("p")
        session.count_create("--pod" in flags)
        self.client.must("run", "--detach", "--name", self.name, *flags, NAME, *command, deadline_s=120)

    def do(self, verb: str, *arguments: str, flags: tuple[str, ...] = (), stdin: bytes = b"") -> Outcome:
        """Run `podman VERB FLAGS NAME ARGUMENTS`."""
        return self.client.run(verb, *flags, self.name, *arguments, stdin=stdin, deadline_s=90)

    def inside(self, script: str) -> str:
        """Return what a shell script prints inside."""
        return self.client.must("exec", self.name, "sh", "-c", script)

    def inspect(self, template: str) -> str:
        """Return one value of `podman inspect`."""
        return self.client.must("inspect", "--format", template, self.name).strip()

    def wait_log(self, marker: str) -> str:
        """Wait until the marker is in the log."""
        seen = ""

        def look() -> bool:
            nonlocal seen
            outcome = self.do("logs")
            seen = outcome.out
            return marker in seen

        host.poll_until(look, self.session.runtime.deadline(20), 0.2)
        return seen

    def remove(self) -> None:
        """Remove it by force."""
        self.client.run("rm", "--force", "--time", "0", self.name, deadline_s=90)


def counting(session: Session) -> Box:
    """A container with a hostname, an environment and a volume, that counts and answers signals."""
    session.shared(podman).must("volume", "create", "shared-volume")
    flags = ("--network", "none", "--hostname", "box", "--env", "COLOUR=blue", "--volume", "shared-volume:/data")
    made = Box(session, "sh", "-c", COUNT, flags=(*flags, "--memory", "128m"))
    session.defer(made.remove)
    return made


def _run(case: Case, *command: str, flags: tuple[str, ...] = (), stdin: bytes = b"") -> Outcome:
    case.session.count_create(False)
    client = case.shared(podman)
    return client.run("run", "--rm", "--network", "none", *flags, NAME, *command, stdin=stdin, deadline_s=120)


@suite.check("info", PODMAN, "podman info shows the runtime")
def info(case: Case) -> None:
    found = json.loads(case.shared(podman).must("info", "--format", "json"))["host"]["ociRuntime"]
    case.equal(Path(found["path"]).name, case.runtime.name, "path")
    case.matches(found["version"], r"\d+\.\d+", "version")


@suite.check("run", PODMAN, "run --rm: output, input, exit code; nothing is left")
def run(case: Case) -> None:
    case.shared(podman)
    _run(case, "true")  # the first container makes podman's own lasting files
    before = leftovers.look(case.session)
    done = _run(case, "sh", "-c", "cat; echo err >&2; exit 7", flags=("--interactive",), stdin=b"typed\n")
    case.equal((done.code, done.out, done.err), (7, "typed\n", "err\n"), "exit code, stdout, stderr")
    case.equal(leftovers.wait_clean(case.session, before, 15), [], "left on the host")


@suite.check("run-terminal", PODMAN, "run -it: terminal, resize, input, exit code")
def run_terminal(case: Case) -> None:
    client = case.shared(podman)
    case.session.count_create(False)
    script = "tty; while ! read -t 1 line; do stty size; done; echo got-$line; exit 6"
    arguments = ("run", "--rm", "-it", "--network", "none", NAME, "sh", "-c", script)
    terminal, process = client.on_terminal(*arguments, rows=33, columns=101)
    case.defer(terminal.close)
    terminal.read_until(b"/dev/pts/", case.runtime.deadline(60))
    terminal.resize(34, 102)
    terminal.read_until(b"34 102", case.runtime.deadline(20))
    terminal.write(b"hello\r")
    terminal.read_until(b"got-hello", case.runtime.deadline(20))
    case.equal(process.wait(case.runtime.deadline(30)), 6, "exit code")


@suite.check("run-options", PODMAN, "user, directory, read-only root, tmpfs, capabilities, limits, hosts")
def run_options(case: Case) -> None:
    script = (
        "id -u; pwd; touch /x 2>/dev/null || echo read-only; touch /scratch/x && echo scratch;"
        "grep CapEff /proc/self/status | cut -f2; grep -c 10.1.2.3 /etc/hosts; ulimit -n; echo $COLOUR"
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
    flags += (
        "--cap-drop",
        "all",
        "--add-host",
        "other:10.1.2.3",
        "--ulimit",
        "nofile=512:512",
        "--ulimit",
        "nproc=4096:4096",
    )
    done = _run(case, "sh", "-c", script, flags=flags)
    wanted = ["1000", "/tmp", "read-only", "scratch", "0000000000000000", "1", "512", "red"]
    case.equal(done.out.split(), wanted, f"seen inside ({done.err})")


@suite.check("secret", PODMAN, "a secret is a file in /run/secrets")
def secret(case: Case) -> None:
    case.shared(podman).must("secret", "create", "token", "-", stdin=b"s3cret")
    done = _run(case, "cat", "/run/secrets/token", flags=("--secret", "token"))
    case.equal(done.out, "s3cret", f"content ({done.err})")


@suite.check("run-privileged", PODMAN, "run --privileged")
def run_privileged(case: Case) -> None:
    done = _run(case, "sh", "-c", "mount -t tmpfs t /mnt && echo mounted", flags=("--privileged",))
    case.equal((done.code, done.out), (0, "mounted\n"), f"exit code and output ({done.err})")


@suite.check("run-missing", PODMAN, "a missing program gives 127, one that is no program 126")
def run_missing(case: Case) -> None:
    done = _run(case, "/no/such/program")
    case.equal(done.code, 127, f"exit code ({done.err})")
    done = _run(case, "/etc/passwd")
    case.equal(done.code, 126, f"exit code ({done.err})")


@suite.check("detached", PODMAN, "run -d: ps, inspect and logs know it")
def detached(case: Case) -> None:
    box = case.shared(counting)
    case.contains(box.client.must("ps", "--format", "{{.Names}} {{.Status}}"), box.name + " Up", "podman ps")
    case.equal(box.inspect("{{.State.Status}}"), "running", "status")
    case.expect(host.is_alive(int(box.inspect("{{.State.Pid}}"))), "the pid is dead")
    case.equal(box.wait_log("up"), "up\n", "log")


@suite.check("inside", PODMAN, "hostname, environment, hosts and volume inside")
def inside(case: Case) -> None:
    seen = case.shared(counting).inside("hostname; echo $COLOUR; echo kept >/data/file; grep -c box /etc/hosts")
    case.equal(seen.split()[:2], ["box", "blue"], "hostname and environment")


@suite.check("exec", PODMAN, "exec: output, input, exit code, user, directory, environment")
def exec_box(case: Case) -> None:
    box = case.shared(counting)
    flags = ("--interactive", "--user", "1000", "--workdir", "/tmp", "--env", "X=y")
    done = box.do("exec", "sh", "-c", "cat; id -u; pwd; echo $X; exit 5", flags=flags, stdin=b"typed\n")
    case.equal((done.code, done.out.split()), (5, ["typed", "1000", "/tmp", "y"]), "exit code and output")
    done = box.do("exec", "no-such-program")
    case.equal(done.code, 127, f"exit code of a missing program ({done.err})")


@suite.check("exec-terminal", PODMAN, "exec -it")
def exec_terminal(case: Case) -> None:
    box = case.shared(counting)
    script = "tty; while ! read -t 1 line; do stty size; done; echo got-$line; exit 6"
    terminal, process = box.client.on_terminal("exec", "-it", box.name, "sh", "-c", script, rows=21, columns=71)
    case.defer(terminal.close)
    terminal.read_until(b"/dev/pts/", case.runtime.deadline(30))
    terminal.resize(22, 72)
    terminal.read_until(b"22 72", case.runtime.deadline(20))
    terminal.write(b"hello\r")
    terminal.read_until(b"got-hello", case.runtime.deadline(20))
    case.equal(process.wait(case.runtime.deadline(30)), 6, "exit code")


@suite.check("exec-detached", PODMAN, "exec -d")
def exec_detached(case: Case) -> None:
    box = case.shared(counting)
    case.succeeded(box.do("exec", "sh", "-c", "echo done >/detached", flags=("--detach",)))
    seen = host.poll_until(lambda: "done" in box.inside("cat /detached 2>/dev/null"), case.runtime.deadline(15), 0.2)
    case.expect(seen, "the detached exec did nothing")


@suite.check("copy", PODMAN, "cp into the container and out of it")
def copy(case: Case) -> None:
    box = case.shared(counting)
    directory = case.directory("copy")
    (directory / "in").write_text("copied\n")
    box.client.must("cp", str(directory / "in"), f"{box.name}:/opt/in")
    case.equal(box.inside("cat /opt/in"), "copied\n", "content inside")
    box.client.must("cp", f"{box.name}:/etc/passwd", str(directory / "out"))
    case.contains((directory / "out").read_text(), "root:x:0:0", "content outside")


@suite.check("top", PODMAN, "top shows the container's process")
def top(case: Case) -> None:
    box = case.shared(counting)
    case.contains(case.succeeded(box.do("top", "pid", "comm")).out, "sh", "podman top")


@suite.check("stats", PODMAN, "stats shows use of memory")
def stats(case: Case) -> None:
    box = case.shared(counting)
    flags = ("--no-stream", "--format", "{{.MemUsage}} {{.PIDs}}")
    line = case.succeeded(box.do("stats", flags=flags)).out.strip()
    case.matches(line, r"^[1-9][\d.]*[kMG]i?B / ", "podman stats")


@suite.check("update", PODMAN, "update changes the memory limit inside")
def update(case: Case) -> None:
    box = case.shared(counting)
    case.succeeded(box.do("update", flags=("--memory", "100m")))
    script = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true"
    case.equal(box.inside(script), "104857600\n", "limit inside")


@suite.check("pause", PODMAN, "pause and unpause")
def pause(case: Case) -> None:
    box = case.shared(counting)
    case.succeeded(box.do("pause"))
    case.equal(box.inspect("{{.State.Status}}"), "paused", "status")
    case.succeeded(box.do("unpause"))
    first = box.inside("cat /count")
    moved = host.poll_until(lambda: box.inside("cat /count") != first, case.runtime.deadline(15), 0.2)
    case.expect(moved, "the container stands still after unpause")


@suite.check("kill", PODMAN, "kill sends the signal that is asked for")
def kill(case: Case) -> None:
    box = case.shared(counting)
    case.succeeded(box.do("kill", flags=("--signal", "USR1")))
    case.contains(box.wait_log("got-usr1"), "got-usr1", "log")


@suite.check("attach", PODMAN, "attach shows what the container prints from now on")
def attach(case: Case) -> None:
    box = Box(
        case.session,
        "sh",
        "-c",
        "while ! [ -e /go ]; do sleep 0.2; done; sleep 1; echo late; exit 4",
        flags=("--network", "none"),
    )
    case.defer(box.remove)
    terminal, process = box.client.on_terminal("attach", box.name)
    case.defer(terminal.close)
    box.inside("touch /go")
    terminal.read_until(b"late", case.runtime.deadline(30))
    process.wait(case.runtime.deadline(30))
    case.equal(box.client.must("wait", box.name).strip(), "4", "exit code of the container")


@suite.check("restart", PODMAN, "restart: the container runs again, its files are kept")
def restart(case: Case) -> None:
    box = case.shared(counting)
    box.inside("echo kept >/opt/kept")
    case.succeeded(box.do("restart", flags=("--time", "5")))
    case.equal(box.inspect("{{.State.Status}}"), "running", "status")
    case.equal(box.inside("cat /opt/kept"), "kept\n", "file")


@suite.check("stop", PODMAN, "stop sends TERM and reports the exit code; start runs it again; rm")
def stop(case: Case) -> None:
    box = case.shared(counting)
    box.wait_log("up")
    case.succeeded(box.do("stop", flags=("--time", "10")))
    case.equal(box.inspect("{{.State.Status}} {{.State.ExitCode}}"), "exited 7", "status and exit code")
    case.contains(box.do("logs").out, "got-term", "log")
    case.succeeded(box.do("start"))
    case.equal(box.inspect("{{.State.Status}}"), "running", "status after start")
    case.succeeded(box.do("rm", flags=("--force", "--time", "0")))


@suite.check("stop-kill", PODMAN, "stop of a container that ignores TERM: KILL, 137")
def stop_kill(case: Case) -> None:
    box = Box(case.session, "sh", "-c", "trap '' TERM; while :; do sleep 0.2; done", flags=("--network", "none"))
    case.defer(box.remove)
    case.succeeded(box.do("stop", flags=("--time", "1")))
    case.equal(box.inspect("{{.State.ExitCode}}"), "137", "exit code")


@suite.check("healthcheck", PODMAN, "a healthcheck runs inside and its result counts")
def healthcheck(case: Case) -> None:
    flags = ("--network", "none", "--health-cmd", "test -e /healthy", "--health-interval", "disable")
    box = Box(case.session, "sleep", "1000", flags=flags)
    case.defer(box.remove)
    case.expect(not box.do("healthcheck", flags=("run",)).ok, "healthy without /healthy")
    box.inside("touch /healthy")
    case.succeeded(box.client.run("healthcheck", "run", box.name))


@suite.check("volumes", PODMAN, "a named volume keeps what a container wrote; a bind mount is read-only")
def volumes(case: Case) -> None:
    client = case.shared(podman)
    client.must("volume", "create", "kept")
    source = case.directory("source")
    (source / "file").write_text("of the host\n")
    flags = ("--volume", "kept:/data", "--volume", f"{source}:/host:ro")
    first = _run(case, "sh", "-c", "cp /host/file /data/copy; touch /host/x 2>/dev/null || echo read-only", flags=flags)
    case.equal(first.out, "read-only\n", "first container")
    second = _run(case, "cat", "/data/copy", flags=("--volume", "kept:/data"))
    case.equal(second.out, "of the host\n", "second container")


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=3) as answer:
        text: str = answer.read().decode()
        return text


def _wait_fetch(case: Case, url: str) -> str:
    """Fetch a page, again until it is there."""
    end = time.monotonic() + case.runtime.deadline(20)
    while True:
        try:
            return _fetch(url)
        except OSError as error:
            if time.monotonic() > end:
                case.fail(f"{url}: {error}")
            time.sleep(0.3)


SERVE = "echo page >/tmp/index.html; httpd -f -p 80 -h /tmp"


@suite.check("network", PODMAN, "bridge network: address, gateway, published port, stats of the interface")
def network(case: Case) -> None:
    box = Box(case.session, "sh", "-c", SERVE, flags=("--publish", "127.0.0.1:18080:80"))
    case.defer(box.remove)
    address = box.inspect("{{.NetworkSettings.IPAddress}}")
    case.contains(box.inside("ip -o -4 address show"), address, "addresses inside")
    case.equal(_wait_fetch(case, f"http://{address}/"), "page\n", "page at the container's address")
    case.equal(_wait_fetch(case, "http://127.0.0.1:18080/"), "page\n", "page at the published port")
    gateway = box.inspect("{{.NetworkSettings.Gateway}}")
    case.contains(box.inside(f"ping -c 1 -W 5 {gateway}"), "1 packets received", "ping of the gateway")


@suite.check("network-two", PODMAN, "two containers in a network of their own reach each other")
def network_two(case: Case) -> None:
    client = case.shared(podman)
    client.must("network", "create", "--disable-dns", "--subnet", "10.77.95.0/24", "pair")
    case.defer(lambda: client.run("network", "rm", "--force", "pair"))
    server = Box(case.session, "sh", "-c", SERVE, flags=("--network", "pair", "--ip", "10.77.95.10"))
    case.defer(server.remove)
    case.session.count_create(False)
    script = "for i in $(seq 20); do wget -q -O - http://10.77.95.10/ && exit; sleep 0.5; done"
    done = client.run("run", "--rm", "--network", "pair", NAME, "sh", "-c", script, deadline_s=120)
    case.equal(done.out, "page\n", f"page of the other container ({done.err})")


@suite.check("pod", PODMAN, "a pod with two containers: one boot id, shared localhost and hostname, names in ps")
def pod(case: Case) -> None:
    client = case.shared(podman)
    name = case.session.new_name("pod")
    client.must(
        "pod", "create", "--name", name, "--infra-image", NAME, "--infra-command", "sleep 100000", "--network", "none"
    )
    case.defer(lambda: client.run("pod", "rm", "--force", "--time", "0", name, deadline_s=120))
    case.session.count_create(False)
    first = Box(case.session, "sh", "-c", SERVE, flags=("--pod", name))
    second = Box(case.session, "sleep", "1000", flags=("--pod", name))
    script = "cat /proc/sys/kernel/random/boot_id; hostname"
    case.equal(first.inside(script), second.inside(script), "boot id and hostname")
    page = second.inside("for i in $(seq 20); do wget -q -O - http://127.0.0.1/ && exit; sleep 0.3; done")
    case.equal(page, "page\n", "page of the other container at localhost")
    case.contains(client.must("pod", "ps"), name, "podman pod ps")
    client.must("pod", "stop", "--time", "1", name, deadline_s=120)
    case.matches(client.must("pod", "ps", "--filter", f"name={name}"), "Exited", "podman pod ps")
    client.must("pod", "start", name, deadline_s=120)
    case.equal(first.inside(script), second.inside(script), "boot id and hostname after stop and start")


@suite.check("kube", PODMAN, "generate kube, play kube, play kube --down")
def kube(case: Case) -> None:
    client = case.shared(podman)
    manifest = case.directory("kube") / "pod.yaml"
    container = {
        "image": NAME,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", "echo from-kube; sleep 1000"],
    }
    spec = {"containers": [container | {"name": "one"}, container | {"name": "two"}], "hostNetwork": False}
    kube_pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "kubed"}, "spec": spec}
    manifest.write_text(json.dumps(kube_pod))
    _load_pause(client)
    case.defer(lambda: client.run("pod", "rm", "--force", "--time", "0", "kubed", deadline_s=120))
    client.must("play", "kube", "--network", "none", str(manifest), deadline_s=180)
    for name in ("kubed-one", "kubed-two"):
        seen = host.poll_until(partial(_has_log, client, name, "from-kube"), case.runtime.deadline(20), 0.2)
        case.expect(seen, f"no output of {name}")
    case.contains(client.must("generate", "kube", "kubed"), "from-kube", "generate kube")
    client.must("play", "kube", "--down", str(manifest), deadline_s=120)
    case.expect("kubed" not in client.must("pod", "ps"), "the pod is still there")


def _has_log(client: Client, name: str, marker: str) -> bool:
    return marker in client.must("logs", name)


def _load_pause(client: Client) -> None:
    """Load an image under the name that this podman builds its infra image as, so that it need not build one."""
    version = json.loads(client.must("version", "--format", "json"))["Client"]
    archive = client.session.scratch / "pause.tar"
    name = f"localhost/podman-pause:{version['Version']}-{version.get('Built', 0)}"
    write_image(archive, name, ("sleep", "100000"))
    client.must("load", "--input", str(archive))


@suite.check("hooks", PODMAN, "a hook of hooks.d runs when its condition fits")
def hooks(case: Case) -> None:
    case.shared(podman)
    directory = case.session.scratch / "podman/hooks"
    proof = case.directory("proof") / "state"
    script = directory.parent / "hook"
    script.write_text(f"#!/bin/sh\ncat >{proof}\n")
    script.chmod(0o755)
    hook = {"version": "1.0.0", "hook": {"path": str(script)}, "when": {"annotations": {"^org.example.hook$": "yes"}}}
    path = Path(directory / "proof.json")
    path.write_text(json.dumps(hook | {"stages": ["prestart"]}))
    case.defer(path.unlink)
    case.succeeded(_run(case, "true"))
    case.expect(not proof.exists(), "the hook ran for a container without the annotation")
    case.succeeded(_run(case, "true", flags=("--annotation", "org.example.hook=yes")))
    case.expect("pid" in json.loads(proof.read_text()), "the hook got no state")


def _host_request(flag: str, words: str, case: Case) -> None:
    case.session.count_create(False)
    done = case.shared(podman).run("run", "--rm", flag, NAME, "echo", "fine", deadline_s=120)
    if done.ok:
        case.equal(done.out, "fine\n", "output")
    else:
        case.matches(done.err, words, "error")


@suite.check("host-network", PODMAN, "--network host works, or is refused in words that a user understands")
def host_network(case: Case) -> None:
    _host_request("--network=host", "host.*network", case)


@suite.check("host-ipc", PODMAN, "--ipc host works, or is refused in words that a user understands")
def host_ipc(case: Case) -> None:
    _host_request("--ipc=host", "host.*ipc", case)


@suite.check("host-pid", PODMAN, "--pid host works, or is refused in words that a user understands")
def host_pid(case: Case) -> None:
    _host_request("--pid=host", "host.*pid", case)


@suite.check(
    "device", PODMAN, "--device of a device that is safe everywhere works, of others works or is refused in words"
)
def device(case: Case) -> None:
    done = _run(case, "sh", "-c", "head -c 4 /dev/source | wc -c", flags=("--device", "/dev/zero:/dev/source"))
    if done.ok:
        case.equal(done.out.strip(), "4", "bytes from the device")
    else:
        case.matches(done.err, "device", "error")


@suite.check("clean", PODMAN, "after everything was removed, nothing is left")
def clean(case: Case) -> None:
    client = case.shared(podman)
    client.run("pod", "rm", "--all", "--force", "--time", "0", deadline_s=120)
    client.must("rm", "--all", "--force", "--time", "0", deadline_s=120)
    left = [name for name in leftovers.look(case.session).processes if "conmon" in name or "conformance" in name]
    case.equal(left, [], "processes")
    root = case.runtime.root
    containers = [path.name for path in root.iterdir() if not path.name.startswith(".")] if root.exists() else []
    case.equal(containers, [], "containers in the runtime's root")
