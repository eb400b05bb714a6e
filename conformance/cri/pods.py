"""Pods: network, members, names, resources, refusals, the end."""

from __future__ import annotations

import time
from pathlib import Path

import grpc

from conformance.case import Case
from conformance.cri.lab import FOREVER, HANDLER, Pod, container_of, lab_of, pod_of, refused, wide_pod
from conformance.cri.proto import runtime_pb2 as cri
from conformance.registry import Suite

suite = Suite("cri-pods", "cri")
CLAUSE = "Kubernetes CRI v1, RuntimeService"


def _is_vm(pod: Pod, container: str) -> bool:
    """Whether a container has a kernel of its own."""
    inside = pod.out(container, "cat", "/proc/sys/kernel/random/boot_id")
    return inside != Path("/proc/sys/kernel/random/boot_id").read_text()


@suite.check("version", CLAUSE, "Version and Status answer, runtime and network are ready")
def version(case: Case) -> None:
    client = lab_of(case).client
    case.equal(client.call("Version", version="v1").runtime_name, "containerd", "runtime name")
    conditions = {entry.type: entry.status for entry in client.call("Status").status.conditions}
    case.equal(conditions, {"RuntimeReady": True, "NetworkReady": True}, "conditions")


@suite.check("ready", CLAUSE, "a pod gets an address and is ready; its status carries what it was made with")
def ready(case: Case) -> None:
    lab = lab_of(case)
    status = lab.client.pod_status(lab.shared_pod().id)
    case.equal(status.state, cri.SANDBOX_READY, "state")
    case.matches(status.network.ip, r"^10\.88\.98\.\d+$", "address")
    case.equal(len(status.network.additional_ips), 1, "number of further addresses")
    case.equal(dict(status.labels), {"app": "x"}, "labels")
    case.equal(dict(status.annotations), {"note": "kept"}, "annotations")
    case.equal(status.runtime_handler, HANDLER, "handler")


@suite.check("members", CLAUSE, "two containers of a pod share kernel, network and host name, and no processes")
def members(case: Case) -> None:
    pod, first = container_of(case)
    _pod, second = container_of(case, "sleep", "4711")
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/sys/kernel/hostname"):
        case.equal(pod.out(first, "cat", path), pod.out(second, "cat", path), path)
    address = lab_of(case).client.pod_status(pod.id).network.ip
    for container in (first, second):
        case.contains(pod.out(container, "ip", "addr"), address, "addresses")
    case.equal(pod.out(first, "hostname").strip(), pod.config.hostname, "host name")
    case.expect("4711" not in pod.out(first, "ps"), "the first container sees the second one's process")


@suite.check("localhost", CLAUSE, "a container reaches another one of its pod over localhost")
def localhost(case: Case) -> None:
    container_of(case, "sh", "-c", "mkdir /www; echo served > /www/index.html; httpd -f -p 127.0.0.1:8080 -h /www")
    pod, client = container_of(case)
    case.equal(
        pod.out(
            client,
            "sh",
            "-c",
            "for i in 1 2 3 4 5 6 7 8 9; do wget -qO- http://127.0.0.1:8080/ && break; sleep 0.3; done",
        ),
        "served\n",
        "answer",
    )


@suite.check("reach", CLAUSE, "host and pod reach each other over IPv4 and IPv6")
def reach(case: Case) -> None:
    pod, container = container_of(case)
    for gateway in ("10.88.98.1", "fd00:88:98::1"):
        case.contains(pod.out(container, "ping", "-c", "1", "-W", "10", gateway), "1 packets received", gateway)


@suite.check("two-pods", CLAUSE, "two pods reach each other")
def two_pods(case: Case) -> None:
    server = pod_of(case)
    server.run("sh", "-c", "mkdir /www; echo served > /www/index.html; httpd -f -p 8088 -h /www")
    address = lab_of(case).client.pod_status(server.id).network.ip
    client, container = container_of(case)
    command = f"for i in 1 2 3 4 5 6 7 8 9; do wget -qO- http://{address}:8088/ && break; sleep 0.3; done 2>&1"
    case.equal(client.out(container, "sh", "-c", command), "served\n", "answer")


@suite.check("untrusted", CLAUSE, "the annotation untrusted-workload chooses the handler `untrusted`")
def untrusted(case: Case) -> None:
    lab = lab_of(case)
    pod = lab.run_pod("", annotations={"io.kubernetes.cri.untrusted-workload": "true"})
    case.defer(pod.remove)
    runtime = lab.info(pod)["runtimeType"]
    expected = lab.info(lab.shared_pod())["runtimeType"]
    case.equal(runtime, expected, "runtime")
    case.equal(pod.out(pod.run(), "echo", "hello"), "hello\n", "output")


@suite.check("untrusted-handler", CLAUSE, "an untrusted workload with a handler of its own choice is refused")
def untrusted_handler(case: Case) -> None:
    lab = lab_of(case)
    marked = {"io.kubernetes.cri.untrusted-workload": "true"}
    refused(case, lambda: lab.run_pod(HANDLER, annotations=marked), "untrusted workload")


@suite.check("unknown-handler", CLAUSE, "an unknown handler is refused by its name")
def unknown_handler(case: Case) -> None:
    refused(case, lambda: lab_of(case).run_pod("nosuch"), "nosuch")


@suite.check(
    "host-network", CLAUSE, "the host's network: refused by a virtual machine before anything is made, else given"
)
def host_network(case: Case) -> None:
    lab = lab_of(case)
    options = cri.NamespaceOption(network=cri.NODE)
    linux = cri.LinuxPodSandboxConfig(
        security_context=cri.LinuxSandboxSecurityContext(namespace_options=options),
    )
    if _is_vm(*container_of(case)):
        refused(case, lambda: lab.run_pod(linux=linux, hostname=""), "network namespace")
    else:
        pod = pod_of(case, linux=linux, hostname="")
        case.contains(pod.out(pod.run(), "ip", "addr"), "10.88.98.1/", "addresses of the host")


@suite.check("sysctls", CLAUSE, "a pod's sysctl holds for its containers")
def sysctls(case: Case) -> None:
    pod = case.shared(wide_pod)
    case.equal(pod.out(pod.run(), "cat", "/proc/sys/net/ipv4/ip_forward"), "1\n", "sysctl")


@suite.check("pid-namespace", CLAUSE, "a pod-wide pid namespace shows the processes of all its containers")
def pid_namespace(case: Case) -> None:
    pod = case.shared(wide_pod)
    member = cri.LinuxContainerConfig(
        security_context=cri.LinuxContainerSecurityContext(namespace_options=cri.NamespaceOption(pid=cri.POD))
    )
    first = pod.run(*FOREVER, linux=member)
    pod.run("sleep", "4711", linux=member)
    case.contains(pod.out(first, "ps"), "sleep 4711", "processes")


@suite.check("target-pid", CLAUSE, "a debugging container joins the pid namespace of the container that it names")
def target_pid(case: Case) -> None:
    alone = cri.NamespaceOption(pid=cri.CONTAINER)
    pod, target = container_of(
        case,
        "sleep",
        "4711",
        linux=cri.LinuxContainerConfig(security_context=cri.LinuxContainerSecurityContext(namespace_options=alone)),
    )
    container_of(case, "sleep", "4712")
    aimed = cri.NamespaceOption(pid=cri.TARGET, target_id=target)
    _pod, debugger = container_of(
        case,
        *FOREVER,
        linux=cri.LinuxContainerConfig(security_context=cri.LinuxContainerSecurityContext(namespace_options=aimed)),
    )
    processes = pod.out(debugger, "ps")
    case.contains(processes, "sleep 4711", "processes")
    case.expect("sleep 4712" not in processes, "it sees the processes of another container as well")


@suite.check(
    "stop-remove",
    CLAUSE,
    "stopping a pod ends its containers; both stay visible until they are removed; both steps may be repeated",
)
def stop_remove(case: Case) -> None:
    lab = lab_of(case)
    pod = pod_of(case)
    container = pod.run("sleep", "100000")
    lab.client.stop_pod(pod.id)
    case.equal(lab.client.pod_status(pod.id).state, cri.SANDBOX_NOTREADY, "pod state")
    status = lab.client.wait_exited(container)
    case.equal(status.exit_code, 137, "exit code")
    lab.client.stop_pod(pod.id)  # idempotent
    lab.client.remove_pod(pod.id)
    lab.client.remove_pod(pod.id)
    refused(case, lambda: lab.client.pod_status(pod.id), "not found", grpc.StatusCode.NOT_FOUND)


@suite.check("same-name", CLAUSE, "a second pod of the same name is refused")
def same_name(case: Case) -> None:
    lab = lab_of(case)
    config = lab.shared_pod().config
    refused(case, lambda: lab.client.run_pod(config, HANDLER), "reserve|name")


@suite.check("stats", CLAUSE, "figures of containers and pods are there, grow, and know limits")
def stats(case: Case) -> None:
    lab = lab_of(case)
    limits = cri.LinuxContainerResources(memory_limit_in_bytes=64 << 20)
    pod, container = container_of(case, linux=cri.LinuxContainerConfig(resources=limits))
    first = lab.client.call("ContainerStats", container_id=container).stats
    pod.out(container, "sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
    second = lab.client.call("ContainerStats", container_id=container).stats
    before, after = (one.cpu.usage_core_nano_seconds.value for one in (first, second))
    case.expect(after > before > 0, f"processor time does not grow: {before} {after}")
    case.expect(0 < second.memory.working_set_bytes.value <= 64 << 20, f"memory: {second.memory}")
    listed = lab.client.call("ListContainerStats", filter=cri.ContainerStatsFilter(pod_sandbox_id=pod.id)).stats
    case.equal([entry.attributes.id for entry in listed], [container], "listed containers")
    pods = lab.client.call("ListPodSandboxStats", filter=cri.PodSandboxStatsFilter(id=pod.id)).stats
    case.equal(len(pods), 1, "listed pods")
    case.expect(pods[0].linux.memory.working_set_bytes.value > 0, f"memory of the pod: {pods[0].linux.memory}")
    case.expect(pods[0].linux.cpu.usage_core_nano_seconds.value > 0, f"time of the pod: {pods[0].linux.cpu}")


@suite.check("update", CLAUSE, "changed limits reach the container")
def update(case: Case) -> None:
    lab = lab_of(case)
    limits = cri.LinuxContainerResources(memory_limit_in_bytes=64 << 20)
    pod, container = container_of(case, linux=cri.LinuxContainerConfig(resources=limits))
    read = "cat /sys/fs/cgroup/memory.max 2>/dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes"
    case.equal(pod.out(container, "sh", "-c", read).strip(), str(64 << 20), "limit")
    lab.client.call(
        "UpdateContainerResources",
        container_id=container,
        linux=cri.LinuxContainerResources(memory_limit_in_bytes=96 << 20, cpu_shares=512),
    )
    case.equal(pod.out(container, "sh", "-c", read).strip(), str(96 << 20), "limit after the update")


@suite.check("crash-loop", CLAUSE, "a container may end and be made anew any number of times while its pod goes on")
def crash_loop(case: Case) -> None:
    lab = lab_of(case)
    pod = lab.shared_pod()
    for attempt in range(3):
        container = pod.run("sh", "-c", f"exit {attempt}")
        status = lab.client.wait_exited(container)
        case.equal((status.exit_code, status.reason), (attempt, "Error" if attempt else "Completed"), "end")
        lab.client.remove(container)
        time.sleep(0.1)
    case.equal(lab.client.pod_status(pod.id).state, cri.SANDBOX_READY, "pod state")
