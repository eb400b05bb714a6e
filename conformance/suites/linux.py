"""Namespaces, names, sysctls, seccomp: the rest of config-linux.md that a process can see."""

from __future__ import annotations

import os
import subprocess
from functools import partial
from pathlib import Path

from conformance.bundle import Config, namespace
from conformance.case import Case, sections
from conformance.container import Container
from conformance.registry import Suite
from conformance.session import Session

suite = Suite("linux")

PROBE = """
section() { echo; echo "@@ $1"; }
section namespaces; for n in pid net ipc uts mnt; do readlink /proc/self/ns/$n; done
section hostname; hostname; cat /proc/sys/kernel/hostname
section domainname; cat /proc/sys/kernel/domainname
section processes; ls /proc | grep -c '^[0-9]*$'; cat /proc/1/comm
section interfaces; ls /sys/class/net; cat /proc/net/dev
section sysctl; cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ping_group_range
section lo; ip address show dev lo
section boot; cat /proc/sys/kernel/random/boot_id
section semaphores; cat /proc/sysvipc/sem | wc -l
section cgroup; cat /proc/self/cgroup
"""


def standalone(session: Session) -> dict[str, str]:
    """A container of its own with all namespaces new and some sysctls."""
    container = session.keep(Container(session, session.new_name("ns"), ("sh", "-c", PROBE), member=False))
    subprocess.run(["ipcmk", "--semaphore", "1"], check=True, capture_output=True)
    container.config["hostname"] = "first-name"
    container.config["domainname"] = "example.org"
    container.config["linux"]["sysctl"] = {
        "net.ipv4.ip_forward": "1",
        "kernel.msgmax": "9999",
        "net.ipv4.ping_group_range": "0 4242",
    }
    return sections(container.run().out)


@suite.check("namespaces-new", "config-linux.md#namespaces", "namespaces without a path are new ones")
def namespaces_new(case: Case) -> None:
    facts = case.shared(standalone)
    lines = facts["namespaces"].splitlines()
    case.equal(len(lines), 5, "namespaces")
    if facts["boot"] != Path("/proc/sys/kernel/random/boot_id").read_text().strip():
        return  # another kernel: all of its namespaces are new, and its numbers say nothing here
    for kind, line in zip(("pid", "net", "ipc", "uts", "mnt"), lines, strict=True):
        case.expect(line != os.readlink(f"/proc/self/ns/{kind}"), f"the {kind} namespace is the caller's: {line}")


@suite.check("ipc-objects", "config-linux.md#namespaces", "System V objects of the host are not visible")
def ipc_objects(case: Case) -> None:
    case.equal(case.shared(standalone)["semaphores"], "1", "lines of /proc/sysvipc/sem, the head included")


@suite.check("hostname", "config.md#hostname", "the hostname is set")
def hostname(case: Case) -> None:
    case.equal(case.shared(standalone)["hostname"].split(), ["first-name", "first-name"], "hostname")


@suite.check("domainname", "config.md#domainname", "the NIS domain name is set")
def domainname(case: Case) -> None:
    case.equal(case.shared(standalone)["domainname"], "example.org", "domainname")


@suite.check("host-untouched", "config-linux.md#namespaces", "hostname and sysctls of the host stay as they are")
def host_untouched(case: Case) -> None:
    case.shared(standalone)
    case.expect(os.uname().nodename != "first-name", "the host has the container's name")
    case.expect(Path("/proc/sys/kernel/msgmax").read_text().strip() != "9999", "the host has the container's msgmax")


@suite.check("processes", "config-linux.md#namespaces", "only the container's processes are visible")
def processes(case: Case) -> None:
    lines = case.shared(standalone)["processes"].splitlines()
    case.expect(int(lines[0]) <= 4, f"{lines[0]} processes are visible")
    case.equal(lines[1], "sh", "command of pid 1")


@suite.check("interfaces", "config-linux.md#namespaces", "a new network namespace has no interface but lo")
def interfaces(case: Case) -> None:
    found = case.shared(standalone)["interfaces"]
    names = {line.partition(":")[0].strip() for line in found.splitlines() if ":" in line}
    case.equal(names - {"lo", "tunl0", "sit0", "ip6tnl0"}, set(), "interfaces besides lo")


@suite.check("loopback", "callers: network", "lo is up with 127.0.0.1")
def loopback(case: Case) -> None:
    text = case.shared(standalone)["lo"]
    case.matches(text, r"<[^>]*\bUP\b", "flags of lo")
    case.contains(text, "127.0.0.1", "addresses of lo")


@suite.check("sysctl", "config-linux.md#sysctl", "sysctls of network and ipc are set inside")
def sysctl(case: Case) -> None:
    case.equal(case.shared(standalone)["sysctl"].split(), ["1", "9999", "0", "4242"], "sysctls")


@suite.check("sysctl-unknown", "config-linux.md#sysctl", "an unknown sysctl is an error of create")
def sysctl_unknown(case: Case) -> None:
    container = case.container("true")
    container.config["linux"]["sysctl"] = {"kernel.msg_no_such_thing": "1"}
    outcome = container.try_create()
    if outcome.ok:
        outcome = case.runtime.call("start", container.id)
    case.refused(outcome)


@suite.check("pid-process-namespaces", "callers: namespaces", "the process that callers see lives in new namespaces")
def pid_process_namespaces(case: Case) -> None:
    pod = case.session.pod()
    for kind in ("net", "ipc", "uts"):
        theirs, ours = (os.stat(f"/proc/{pid}/ns/{kind}").st_ino for pid in (pod.pid(), os.getpid()))
        case.expect(theirs != ours, f"the {kind} namespace of the container's process is the caller's")


@suite.check("shared-ipc-uts", "config-linux.md#namespaces", "a member that joins ipc and uts of its pod shares them")
def shared_namespaces(case: Case) -> None:
    pod = case.session.pod()
    script = "hostname; for n in ipc uts; do readlink /proc/self/ns/$n; done"
    member = case.container("sh", "-c", script)
    member.config.pop("hostname")
    for kind in ("ipc", "uts"):
        namespace(member.config, kind)["path"] = f"/proc/{pod.pid()}/ns/{kind}"
    case.equal(member.run().out, pod.exec("sh", "-c", script).out, "hostname, ipc and uts namespace")


@suite.check(
    "shared-pid", "config-linux.md#namespaces", "a container that joins another's pid namespace sees its processes"
)
def shared_pid(case: Case) -> None:
    first = case.container("sleep", "4321").create().start()
    second = case.container("sh", "-c", "cat /proc/1/cmdline | tr '\\0' ' '")
    namespace(second.config, "pid")["path"] = f"/proc/{first.pid()}/ns/pid"
    case.contains(second.run().out, "sleep 4321", "command line of pid 1")


@suite.check(
    "separate-pids", "config-linux.md#namespaces", "containers with pid namespaces of their own do not see each other"
)
def separate_pids(case: Case) -> None:
    case.container("sleep", "5432").create().start()
    script = 'for p in /proc/[0-9]*; do [ "$(tr "\\0" " " <$p/cmdline)" = "sleep 5432 " ] && echo $p; done; echo end'
    second = case.container("sh", "-c", script)
    case.equal(second.run().out, "end\n", "processes of the other container")


@suite.check("separate-ipc", "config-linux.md#namespaces", "POSIX shared memory and hostnames of containers are apart")
def separate_ipc(case: Case) -> None:
    first = case.container("sh", "-c", "echo x >/dev/shm/mine; sleep 1000").create().start()
    first.config["hostname"] = "unused"
    second = case.container("sh", "-c", "ls /dev/shm; hostname")
    second.config["hostname"] = "second-name"
    case.equal(second.run().out.split(), ["second-name"], "content of /dev/shm and hostname")
    case.equal(first.exec("hostname").out.strip(), "conformance", "hostname of the first")


@suite.check("namespace-path-missing", "config-linux.md#namespaces", "a namespace path that does not exist is an error")
def namespace_path_missing(case: Case) -> None:
    container = case.container("true", own=True)
    namespace(container.config, "network")["path"] = "/proc/self/ns/no-such-namespace"
    case.refused(container.try_create())


@suite.check("namespace-duplicate", "config-linux.md#namespaces", "two namespaces of one kind are an error")
def namespace_duplicate(case: Case) -> None:
    container = case.container("true", own=True)
    container.config["linux"]["namespaces"].append({"type": "ipc"})
    case.refused(container.try_create())


def _seccomp(action: str, extra: Config) -> Config:
    return {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": action} | extra],
    }


@suite.check("seccomp-errno", "config-linux.md#seccomp", "a filter that answers with EPERM, and leaves the rest alone")
def seccomp_errno(case: Case) -> None:
    script = "mkdir /opt/x; echo $?; touch /opt/y && echo rest-works; grep ^Seccomp: /proc/self/status"
    container = case.container("sh", "-c", script)
    container.config["linux"]["seccomp"] = _seccomp("SCMP_ACT_ERRNO", {})
    done = container.run()
    case.contains(done.err, "Operation not permitted", "stderr")
    case.equal(done.out.split(), ["1", "rest-works", "Seccomp:", "2"], "mkdir, touch, mode")


@suite.check("seccomp-errno-ret", "config-linux.md#seccomp", "errnoRet chooses the error")
def seccomp_errno_ret(case: Case) -> None:
    container = case.container("mkdir", "/opt/x")
    container.config["linux"]["seccomp"] = _seccomp("SCMP_ACT_ERRNO", {"errnoRet": 28})
    case.contains(container.run().err, "No space left on device", "stderr")


@suite.check("seccomp-kill", "config-linux.md#seccomp", "a filter that kills: the process dies of SYS")
def seccomp_kill(case: Case) -> None:
    container = case.container("sh", "-c", "mkdir /opt/x; echo $?")
    container.config["linux"]["seccomp"] = _seccomp("SCMP_ACT_KILL", {})
    case.equal(container.run().out.strip(), "159", "exit code of mkdir inside")


@suite.check("seccomp-arguments", "config-linux.md#seccomp", "rules may look at arguments")
def seccomp_arguments(case: Case) -> None:
    container = case.container("sh", "-c", "mkdir -m 700 /opt/a && echo one; mkdir -m 711 /opt/b && echo two")
    rule = {"args": [{"index": 1, "value": 0o711, "op": "SCMP_CMP_EQ"}]}
    container.config["linux"]["seccomp"] = _seccomp("SCMP_ACT_ERRNO", rule)
    done = container.run()
    case.expect("one" in done.out, f"mkdir with another mode: {done}")


@suite.check("seccomp-unknown", "config-linux.md#seccomp", "unknown system calls in a filter are ignored")
def seccomp_unknown(case: Case) -> None:
    container = case.container("echo", "fine")
    container.config["linux"]["seccomp"] = _seccomp("SCMP_ACT_ERRNO", {})
    container.config["linux"]["seccomp"]["syscalls"][0]["names"].append("no_such_call")
    case.equal(container.run().out, "fine\n", "output")


@suite.check("seccomp-invalid", "config-linux.md#seccomp", "an unknown action is an error")
def seccomp_invalid(case: Case) -> None:
    container = case.container("true")
    container.config["linux"]["seccomp"] = _seccomp("SCMP_ACT_DANCE", {})
    case.refused(container.try_create())


@suite.check("user-namespace", "config-linux.md#user-namespace-mappings", "a user namespace with mappings")
def user_namespace(case: Case) -> None:
    script = "id -u; cat /proc/self/uid_map /proc/self/gid_map; touch /opt/made"
    container = case.container("sh", "-c", script, own=True)
    (container.rootfs / "opt").chmod(0o777)
    for directory in [container.rootfs, *container.rootfs.iterdir()]:
        os.chown(directory, 100000, 100000, follow_symlinks=False)
    linux: Config = container.config["linux"]
    linux["namespaces"].append({"type": "user"})
    for key in ("uidMappings", "gidMappings"):
        linux[key] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    done = container.run()
    case.equal(done.out.split(), ["0"] + ["0", "100000", "65536"] * 2, "uid and maps")
    case.equal((container.rootfs / "opt/made").stat().st_uid, 100000, "owner on the host of a file made inside")


@suite.check(
    "cgroup-namespace",
    "config-linux.md#namespaces",
    "with a cgroup namespace the process is at the root of its cgroups",
)
def cgroup_namespace(case: Case) -> None:
    container = case.container("cat", "/proc/self/cgroup")
    container.config["linux"]["namespaces"].append({"type": "cgroup"})
    lines = container.run().out.split()
    case.expect(any(line.endswith(":/") for line in lines), f"{lines}")
    case.expect(not any(container.id in line for line in lines), f"the path of the host shows: {lines}")


@suite.check("personality", "config-linux.md#personality", "personality LINUX32 makes a 32-bit machine")
def personality(case: Case) -> None:
    container = case.container("uname", "-m")
    container.config["linux"]["personality"] = {"domain": "LINUX32"}
    case.equal(container.run().out, "i686\n", "machine")


def _host_namespace(kind: str, case: Case) -> None:
    name = {"network": "net"}.get(kind, kind)
    script = f"hostname; readlink /proc/self/ns/{name}"
    container = case.container("sh", "-c", script, own=True)
    linux = container.config["linux"]
    linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] != kind]
    if kind == "uts":
        container.config.pop("hostname")
    if kind == "network":
        for mount in container.config["mounts"]:
            if mount["destination"] == "/sys":
                mount |= {"type": "bind", "source": "/sys", "options": ["rbind", "ro"]}
    hostname, found = container.run().out.split()
    if kind == "uts":
        case.equal(hostname, os.uname().nodename, "hostname")
    else:
        case.equal(found, os.readlink(f"/proc/self/ns/{name}"), f"{kind} namespace")


for _kind in ("network", "ipc", "uts"):
    suite.add(
        f"host-{_kind}",
        "config-linux.md#namespaces",
        f"without an entry for {_kind}, the runtime's {_kind} namespace is kept",
        partial(_host_namespace, _kind),
    )
