"""podman with `--runtime`: what its users do with single containers."""

from __future__ import annotations

import json
from pathlib import Path

from conformance import host, leftovers
from conformance.case import Case
from conformance.engines.daemons import podman
from conformance.engines.image import NAME
from conformance.engines.podman_box import PODMAN, Box, counting, run_once, suite


@suite.check("info", PODMAN, "podman info shows the runtime")
def info(case: Case) -> None:
    found = json.loads(case.shared(podman).must("info", "--format", "json"))["host"]["ociRuntime"]
    case.equal(Path(found["path"]).name, case.runtime.name, "path")
    case.matches(found["version"], r"\d+\.\d+", "version")


@suite.check("run", PODMAN, "run --rm: output, input, exit code; nothing is left")
def run(case: Case) -> None:
    case.shared(podman)
    run_once(case, "true")  # the first container makes podman's own lasting files
    before = leftovers.look(case.session)
    done = run_once(case, "sh", "-c", "cat; echo err >&2; exit 7", flags=("--interactive",), stdin=b"typed\n")
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
    terminal.resize_until(34, 102, b"34 102", case.runtime.deadline(20))
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
    done = run_once(case, "sh", "-c", script, flags=flags)
    wanted = ["1000", "/tmp", "read-only", "scratch", "0000000000000000", "1", "512", "red"]
    case.equal(done.out.split(), wanted, f"seen inside ({done.err})")


@suite.check("secret", PODMAN, "a secret is a file in /run/secrets")
def secret(case: Case) -> None:
    case.shared(podman).must("secret", "create", "token", "-", stdin=b"s3cret")
    done = run_once(case, "cat", "/run/secrets/token", flags=("--secret", "token"))
    case.equal(done.out, "s3cret", f"content ({done.err})")


@suite.check("run-privileged", PODMAN, "run --privileged")
def run_privileged(case: Case) -> None:
    done = run_once(case, "sh", "-c", "mount -t tmpfs t /mnt && echo mounted", flags=("--privileged",))
    case.equal((done.code, done.out), (0, "mounted\n"), f"exit code and output ({done.err})")


@suite.check("run-missing", PODMAN, "a missing program gives 127, one that is no program 126")
def run_missing(case: Case) -> None:
    done = run_once(case, "/no/such/program")
    case.equal(done.code, 127, f"exit code ({done.err})")
    done = run_once(case, "/etc/passwd")
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
    terminal.resize_until(22, 72, b"22 72", case.runtime.deadline(20))
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
    name = f"in-{box.name}"
    box.client.must("cp", str(directory / "in"), f"{box.name}:/opt/{name}")
    box.client.must("cp", str(directory / "in"), f"{box.name}:/data/{name}")
    case.equal(
        box.inside(f"cat /opt/{name} /data/{name}"), "copied\n" * 2, "content inside, in the root and the volume"
    )
    case.expect(not Path("/opt", name).exists(), "the file went into the host's /opt")
    box.inside("echo made-inside >/opt/out; ln -sf /etc/hostname /opt/link")
    box.client.must("cp", f"{box.name}:/opt/out", str(directory / "out"))
    case.equal((directory / "out").read_text(), "made-inside\n", "content outside")
    box.client.must("cp", f"{box.name}:/opt/link", str(directory / "name"))
    case.equal((directory / "name").read_text().strip(), "box", "a link is followed in the container")
    missing = box.client.run("cp", f"{box.name}:/etc/machine-id-none", str(directory / "none"))
    case.refused(missing, "machine-id-none")


@suite.check("copy-readonly", PODMAN, "cp into a read-only container fails and writes nothing")
def copy_readonly(case: Case) -> None:
    flags = ("--network", "none", "--read-only", "--tmpfs", "/scratch")
    box = Box(case.session, "sleep", "1000", flags=flags)
    case.defer(box.remove)
    source = case.directory("copy") / "in"
    source.write_text("copied\n")
    case.refused(box.client.run("cp", str(source), f"{box.name}:/opt/in"), "read-only")
    case.expect(not Path("/opt/in").exists(), "the file went into the host's /opt")
    case.equal(box.inside("ls /opt"), "", "files in /opt")


@suite.check("top", PODMAN, "top shows the container's process, and none of the host")
def top(case: Case) -> None:
    box = case.shared(counting)
    lines = case.succeeded(box.do("top", "pid", "comm")).out.splitlines()[1:]
    case.equal(lines[0].split(), ["1", "sh"], "podman top")
    case.expect(len(lines) <= 3, f"podman top: more than the container's processes: {lines}")
    case.contains(case.succeeded(box.do("top")).out, "sh -c", "podman top with its own columns")


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


@suite.check("stop", PODMAN, "stop sends TERM and reports the exit code; start runs it again")
def stop(case: Case) -> None:
    box = case.shared(counting)
    box.wait_log("up")
    case.succeeded(box.do("stop", flags=("--time", "10")))
    case.equal(box.inspect("{{.State.Status}} {{.State.ExitCode}}"), "exited 7", "status and exit code")
    case.contains(box.do("logs").out, "got-term", "log")
    case.succeeded(box.do("start"))
    case.equal(box.inspect("{{.State.Status}}"), "running", "status after start")


@suite.check("stop-kill", PODMAN, "stop of a container that ignores TERM: KILL, 137; rm")
def stop_kill(case: Case) -> None:
    box = Box(case.session, "sh", "-c", "trap '' TERM; while :; do sleep 0.2; done", flags=("--network", "none"))
    case.defer(box.remove)
    case.succeeded(box.do("stop", flags=("--time", "1")))
    case.equal(box.inspect("{{.State.ExitCode}}"), "137", "exit code")
    case.succeeded(box.do("rm"))
    case.refused(box.do("logs"), "no such container")


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
    first = run_once(
        case, "sh", "-c", "cp /host/file /data/copy; touch /host/x 2>/dev/null || echo read-only", flags=flags
    )
    case.equal(first.out, "read-only\n", "first container")
    second = run_once(case, "cat", "/data/copy", flags=("--volume", "kept:/data"))
    case.equal(second.out, "of the host\n", "second container")


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
    case.succeeded(run_once(case, "true"))
    case.expect(not proof.exists(), "the hook ran for a container without the annotation")
    case.succeeded(run_once(case, "true", flags=("--annotation", "org.example.hook=yes")))
    case.expect("pid" in json.loads(proof.read_text()), "the hook got no state")
