"""Containers and execs: logs, codes, signals, users, mounts."""

from __future__ import annotations

import grpc

from conformance.case import Case
from conformance.cri.lab import FOREVER, container_of, lab_of, refused
from conformance.cri.proto import runtime_pb2 as cri
from conformance.registry import Suite

suite = Suite("cri-containers", "cri")
CLAUSE = "Kubernetes CRI v1, RuntimeService"


@suite.check("log", CLAUSE, "every line of both outputs is in the log on disk, in order, with its stream")
def log(case: Case) -> None:
    script = "i=0; while [ $i -lt 500 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done; printf 'no end'"
    pod, container = container_of(case, "sh", "-c", script)
    lab_of(case).client.wait_exited(container)
    pod.wait_log(container, "no end")
    lines = pod.log(container)
    for stream, word in (("stdout", "out"), ("stderr", "err")):
        got = [text for name, tag, text in lines if name == stream and tag == "F"]
        case.equal(got, [f"{word} {number}" for number in range(500)], f"full lines of {stream}")
    case.equal([text for _name, tag, text in lines if tag == "P"], ["no end"], "partial lines")


@suite.check("long-line", CLAUSE, "a line of 100 kB arrives in pieces and complete")
def long_line(case: Case) -> None:
    pod, container = container_of(case, "sh", "-c", "head -c 100000 /dev/zero | tr '\\0' x; echo; echo end")
    lab_of(case).client.wait_exited(container)
    pod.wait_log(container, "end")
    case.equal("".join(text for _s, _t, text in pod.log(container)), "x" * 100000 + "end", "the text")


@suite.check("exec", CLAUSE, "ExecSync returns output, errors and code")
def exec_sync(case: Case) -> None:
    _pod, container = container_of(case)
    result = lab_of(case).client.exec(container, "sh", "-c", "echo out; echo err >&2; exit 42")
    case.equal((result.stdout, result.stderr, result.exit_code), (b"out\n", b"err\n", 42), "result")


@suite.check("exec-large", CLAUSE, "ExecSync returns 4 MB of output")
def exec_large(case: Case) -> None:
    _pod, container = container_of(case)
    result = lab_of(case).client.exec(container, "head", "-c", "4000000", "/dev/zero")
    case.equal((len(result.stdout), result.exit_code), (4000000, 0), "result")


@suite.check("exec-timeout", CLAUSE, "a command that takes too long is killed, and the error says so")
def exec_timeout(case: Case) -> None:
    pod, container = container_of(case)
    client = lab_of(case).client
    refused(
        case,
        lambda: client.exec(container, "sleep", "47110", timeout=1),
        "timeout|deadline",
        grpc.StatusCode.DEADLINE_EXCEEDED,
    )
    case.expect("47110" not in pod.out(container, "ps"), "the command still runs")


@suite.check("exec-missing", CLAUSE, "a command that does not exist is an error that names it")
def exec_missing(case: Case) -> None:
    _pod, container = container_of(case)
    refused(case, lambda: lab_of(case).client.exec(container, "/no/such"), "/no/such|no such file|not found")


@suite.check("exec-parallel", CLAUSE, "twenty execs at once do not disturb each other")
def exec_parallel(case: Case) -> None:
    from concurrent.futures import ThreadPoolExecutor

    _pod, container = container_of(case)
    client = lab_of(case).client
    with ThreadPoolExecutor(20) as pool:
        results = pool.map(lambda n: client.exec(container, "sh", "-c", f"echo {n}; exit {n}"), range(20))
    got = [(result.stdout, result.exit_code) for result in results]
    case.equal(got, [(f"{n}\n".encode(), n) for n in range(20)], "results")


@suite.check("exec-ended", CLAUSE, "exec in a container that has ended is refused")
def exec_ended(case: Case) -> None:
    _pod, container = container_of(case, "true")
    client = lab_of(case).client
    client.wait_exited(container)
    refused(case, lambda: client.exec(container, "true"), "not running|exited|stopped|state")


@suite.check("stop-grace", CLAUSE, "StopContainer sends the stop signal and waits for the end")
def stop_grace(case: Case) -> None:
    pod, container = container_of(case, "sh", "-c", "trap 'exit 9' TERM; echo ready; while :; do sleep 0.1; done")
    pod.wait_log(container, "ready")
    lab_of(case).client.stop(container, 30)
    case.equal(lab_of(case).client.status(container).exit_code, 9, "exit code")


@suite.check("stop-kill", CLAUSE, "a container that ignores the stop signal is killed after the grace")
def stop_kill(case: Case) -> None:
    pod, container = container_of(case, "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
    pod.wait_log(container, "ready")
    lab_of(case).client.stop(container, 1)
    case.equal(lab_of(case).client.status(container).exit_code, 137, "exit code")


@suite.check("missing-program", CLAUSE, "a container whose program is missing fails to start and says why")
def missing_program(case: Case) -> None:
    lab = lab_of(case)
    pod = lab.shared_pod()
    container = pod.create("/no/such")
    case.defer(lambda: lab.client.remove(container))
    refused(case, lambda: lab.client.start(container), "/no/such")
    status = lab.client.status(container)
    case.equal(status.state, cri.CONTAINER_EXITED, "state")
    case.expect(status.exit_code != 0, "the exit code is 0")


@suite.check("created-removed", CLAUSE, "a container that was never started can be removed")
def created_removed(case: Case) -> None:
    lab = lab_of(case)
    container = lab.shared_pod().create()
    case.equal(lab.client.status(container).state, cri.CONTAINER_CREATED, "state")
    lab.client.remove(container)
    refused(case, lambda: lab.client.status(container), "not found", grpc.StatusCode.NOT_FOUND)


@suite.check("out-of-memory", CLAUSE, "a container that exceeds its memory limit is reported as OOMKilled")
def out_of_memory(case: Case) -> None:
    limits = cri.LinuxContainerResources(memory_limit_in_bytes=16 << 20)
    _pod, container = container_of(
        case, "sh", "-c", "x=a; while :; do x=$x$x; done", linux=cri.LinuxContainerConfig(resources=limits)
    )
    status = lab_of(case).client.wait_exited(container)
    case.equal((status.exit_code, status.reason), (137, "OOMKilled"), "end")


@suite.check("user", CLAUSE, "user, groups, environment and working directory are those of the configuration")
def user(case: Case) -> None:
    context = cri.LinuxContainerSecurityContext(
        run_as_user=cri.Int64Value(value=1234), run_as_group=cri.Int64Value(value=4321), supplemental_groups=[77]
    )
    pod, container = container_of(
        case,
        *FOREVER,
        linux=cri.LinuxContainerConfig(security_context=context),
        envs=[cri.KeyValue(key="COLOUR", value="green")],
        working_dir="/tmp",
    )
    case.equal(
        pod.out(container, "sh", "-c", "echo $(id -u) $(id -g) $COLOUR; pwd"), "1234 4321 green\n/tmp\n", "facts"
    )
    case.contains(pod.out(container, "id", "-G").split(), "77", "groups")


@suite.check("mounts", CLAUSE, "host directories are mounted, read-only where that is asked for")
def mounts(case: Case) -> None:
    source = case.directory("mount")
    (source / "file").write_text("content")
    pod, container = container_of(
        case,
        *FOREVER,
        mounts=[
            cri.Mount(container_path="/rw", host_path=str(source)),
            cri.Mount(container_path="/ro", host_path=str(source), readonly=True),
        ],
    )
    pod.out(container, "sh", "-c", "echo new > /rw/new")
    case.equal((source / "new").read_text(), "new\n", "what the host sees")
    case.equal(pod.out(container, "cat", "/ro/file"), "content", "what the container sees")
    result = lab_of(case).client.exec(container, "touch", "/ro/x")
    case.expect(result.exit_code != 0, "the read-only mount can be written")


@suite.check("read-only-root", CLAUSE, "a read-only root file system refuses writes")
def read_only_root(case: Case) -> None:
    context = cri.LinuxContainerSecurityContext(readonly_rootfs=True)
    _pod, container = container_of(case, *FOREVER, linux=cri.LinuxContainerConfig(security_context=context))
    result = lab_of(case).client.exec(container, "touch", "/x")
    case.matches(result.stderr.decode(), "read-only", "the error")


@suite.check("capabilities", CLAUSE, "capabilities are dropped as asked")
def capabilities(case: Case) -> None:
    context = cri.LinuxContainerSecurityContext(capabilities=cri.Capability(drop_capabilities=["ALL"]))
    pod, container = container_of(case, *FOREVER, linux=cri.LinuxContainerConfig(security_context=context))
    case.matches(pod.out(container, "cat", "/proc/1/status"), r"CapEff:\s+0{16}$", "effective capabilities")


@suite.check("privileged", CLAUSE, "a privileged container has all capabilities and sees devices")
def privileged(case: Case) -> None:
    lab = lab_of(case)
    context = cri.LinuxSandboxSecurityContext(privileged=True)
    pod = lab.run_pod(linux=cri.LinuxPodSandboxConfig(security_context=context))
    case.defer(pod.remove)
    inner = cri.LinuxContainerSecurityContext(privileged=True)
    container = pod.run(*FOREVER, linux=cri.LinuxContainerConfig(security_context=inner))
    mask = int(pod.out(container, "sh", "-c", "awk '/CapEff/ {print $2}' /proc/1/status").strip(), 16)
    case.expect(mask & 1 << 21, f"CAP_SYS_ADMIN is missing in {mask:x}")
