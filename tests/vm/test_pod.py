"""A pod in a virtual machine, driven by its bundles: one machine, several containers, the life of each."""

from __future__ import annotations

import json
import os
import platform
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.control.client import Client
from tests.engine import Engine, crio, is_running, wait_until

pytestmark = pytest.mark.vm


def member(sandbox_id: str) -> dict[str, Any]:
    """The annotations of a container of the pod, as a keyword argument."""
    return {"annotations": crio("container", sandbox_id)}


def test_the_kernel_is_not_the_hosts(shared: Engine) -> None:
    assert shared.exec("pod", "uname", "-r").out.strip() != platform.release()


def test_state_has_what_engines_read(shared: Engine) -> None:
    state = shared.state("pod")
    assert state["id"] == "pod" and state["status"] == "running"
    assert state["bundle"] == str(shared.directory / "bundles" / "pod")
    assert state["annotations"]["io.kubernetes.cri-o.ContainerType"] == "sandbox"
    assert is_running(state["pid"]) and state["pid"] == shared.pids["pod"]


def test_members_share_one_machine(shared: Engine) -> None:
    shared.run("m1", ["sh", "-c", "echo one; sleep 1000"], **member("pod"))
    shared.run("m2", ["sh", "-c", "echo two; sleep 1000"], **member("pod"))
    boot_ids = {shared.exec(name, "cat", "/proc/sys/kernel/random/boot_id").out for name in ("pod", "m1", "m2")}
    assert len(boot_ids) == 1
    assert len(list(shared.root.glob(".sandboxes/*"))) == 1
    wait_until(lambda: shared.log("m1") == "one\n" and shared.log("m2") == "two\n", "output of both")
    for name in ("m1", "m2"):
        shared.call("kill", name, "KILL")
        assert shared.exit_code(name) == 137
        shared.call("delete", name)


def test_members_have_root_file_systems_of_their_own(shared: Engine) -> None:
    mounts = [{"destination": "/data", "type": "bind", "source": str(shared.directory), "options": ["bind", "ro"]}]
    shared.run("m3", ["sleep", "1000"], more_mounts=mounts, **member("pod"))
    assert "bundles" in shared.exec("m3", "ls", "/data").out
    assert shared.exec("m3", "touch", "/data/x", check=False).code != 0
    assert "bundles" not in shared.exec("pod", "ls", "/").out
    shared.call("delete", "--force", "m3")
    assert shared.exec("pod", "true").code == 0


def test_a_root_file_system_may_be_nothing_but_a_program(shared: Engine, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    shutil.copy2(shared.rootfs / "bin" / "busybox", tmp_path / "bin")
    script = "/bin/busybox echo something > /dev/null; /bin/busybox ls /"
    changes: dict[str, Any]
    for name, changes in (("bare", {"mounts": []}), ("usual", {})):
        shared.run(name, ["/bin/busybox", "sh", "-c", script], root={"path": str(tmp_path)}, **changes, **member("pod"))
        assert shared.exit_code(name) == 0, shared.log(name)
        assert shared.log(name).split()[:2] == ["bin", "dev"]
        shared.call("delete", name)


def test_poststart_hooks_come_after_the_program_and_so_after_what_is_run_inside(shared: Engine, tmp_path: Path) -> None:
    def hook(path: str, log: Path) -> list[dict[str, Any]]:
        return [{"path": path, "args": ["sh", "-c", f"sleep 1; echo {path} >>{log}"], "env": ["PATH=/bin:/usr/bin"]}]

    hooks = {"startContainer": hook("/bin/sh", Path("/data/log")), "poststart": hook("/usr/bin/env", tmp_path / "log")}
    hooks["poststart"][0]["args"][:0] = ["env"]
    mounts = [{"destination": "/data", "type": "bind", "source": str(tmp_path), "options": ["bind", "rw"]}]
    shared.run("hooked", ["sleep", "1000"], hooks=hooks, more_mounts=mounts, **member("pod"))
    assert (tmp_path / "log").read_text().split() == ["/bin/sh", "/usr/bin/env"]
    shared.call("delete", "--force", "hooked")


@pytest.mark.parametrize("code", [0, 7, 255])
def test_exit_codes(shared: Engine, code: int) -> None:
    shared.run("ends", ["sh", "-c", f"exit {code}"], **member("pod"))
    assert shared.exit_code("ends") == code
    assert shared.state("ends")["status"] == "stopped" and shared.state("ends")["pid"] == 0
    shared.call("delete", "ends")


def test_exit_by_signal_from_outside_is_128_plus_n(shared: Engine) -> None:
    shared.run("ends", ["sh", "-c", "trap 'exit 42' USR1; while :; do sleep 0.1; done"], **member("pod"))
    wait_until(lambda: shared.exec("ends", "true").code == 0, "running")
    shared.call("kill", "ends", "USR1")
    assert shared.exit_code("ends") == 42
    shared.call("delete", "ends")
    shared.run("ends", ["sleep", "1000"], **member("pod"))
    shared.call("kill", "ends", "9")
    assert shared.exit_code("ends") == 137
    shared.call("delete", "ends")


def test_a_members_processes_see_only_their_own(shared: Engine) -> None:
    shared.run("m4", ["sleep", "4444"], **member("pod"))
    processes = shared.exec("m4", "ps").out
    assert "sleep 4444" in processes and "sleep 100000" not in processes
    shared.call("delete", "--force", "m4")


def test_pid_namespace_shared_with_the_sandbox(shared: Engine) -> None:
    namespaces = [{"type": kind} for kind in ("ipc", "uts", "mount", "network")]
    namespaces.append({"type": "pid", "path": f"/proc/{shared.pids['pod']}/ns/pid"})
    shared.run("m5", ["sleep", "5555"], linux={"namespaces": namespaces}, **member("pod"))
    processes = shared.exec("m5", "ps").out
    assert "sleep 5555" in processes and "sleep 100000" in processes
    shared.call("delete", "--force", "m5")
    shared.run("m5", ["sh", "-c", "sleep 5656 & exit 4"], linux={"namespaces": namespaces}, **member("pod"))
    assert shared.exit_code("m5") == 4
    wait_until(lambda: "5656" not in shared.exec("pod", "ps").out, "what it left behind ends with it")
    assert shared.state("m5")["status"] == "stopped"
    shared.call("delete", "m5")
    assert shared.state("pod")["status"] == "running"


def test_a_hook_of_the_guest_that_fails_is_told_in_the_containers_output(shared: Engine) -> None:
    hooks = {"startContainer": [{"path": "/no/such/hook"}]}
    shared.run("hooked", ["echo", "never"], hooks=hooks, **member("pod"))
    assert shared.exit_code("hooked") == 1
    assert shared.log("hooked") == "error executing hook `/no/such/hook` (exit code: 1)\n"
    shared.call("delete", "hooked")


def test_what_the_guest_does_not_know_is_left_out_with_a_warning(shared: Engine, tmp_path: Path) -> None:
    names = ["CAP_KILL", "CAP_FLY"]
    process = {
        "apparmorProfile": "strict",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), names),
    }
    try:
        shared.arguments = ["--log", str(tmp_path / "log")]
        shared.run("m7", ["sleep", "1000"], process=process, **member("pod"))
    finally:
        shared.arguments = []
    log = (tmp_path / "log").read_text()
    assert "level=warning" in log and "process.apparmorProfile 'strict' is unknown to the guest" in log
    assert "process.capabilities: unknown and left out: CAP_FLY" in log
    assert shared.call("exec", "--cap", "CAP_SING", "m7", "grep", "CapBnd", "/proc/self/status").err == (
        "vmpod: warning: process.capabilities: unknown and left out: CAP_SING\n"
    )
    shared.call("delete", "--force", "m7")


def test_an_exec_that_ignores_the_pause_begins_at_the_resume(shared: Engine) -> None:
    shared.run("m6", ["sleep", "1000"], **member("pod"))
    shared.call("pause", "m6")
    assert "paused" in shared.exec("m6", "true", check=False).err
    command = shared.command("exec", "--ignore-paused", "m6", "echo", "at last")
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    proxies = shared.call("ps", "--format", "json", "m6").out
    assert proxies and process.poll() is None
    assert shared.state("m6")["status"] == "paused"
    shared.call("resume", "m6")
    assert process.communicate(timeout=60)[0] == "at last\n" and process.returncode == 0
    shared.call("delete", "--force", "m6")


def test_a_missing_interpreter_fails_at_the_start_as_with_runc(shared: Engine) -> None:
    script = shared.rootfs / "bin" / "orphan"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    shared.create("m7", ["/bin/orphan"], **member("pod"))
    shared.call("start", "m7", check=False)
    assert shared.exit_code("m7") != 0
    assert "no such file or directory" in shared.log("m7").lower()
    assert shared.state("m7")["status"] == "stopped"
    shared.call("delete", "m7")


def test_an_oops_of_the_guest_s_kernel_is_a_panic(shared: Engine) -> None:
    assert shared.exec("pod", "cat", "/proc/sys/kernel/panic_on_oops").out == "1\n"


def test_timeline_tells_the_phases_in_order(shared: Engine) -> None:
    phases = json.loads(shared.call("timeline", "--format", "json", "pod").out)["phases"]
    names = [phase["name"] for phase in phases]
    assert names.index("QEMU started") < names.index("agent answers") < names.index("container pod")
    assert all(phase["duration_ms"] >= 0 for phase in phases)


def test_clock_and_host_name_are_set(shared: Engine) -> None:
    guest = int(shared.exec("pod", "date", "+%s").out)
    assert abs(guest - int(subprocess.check_output(["date", "+%s"]))) <= 5
    assert shared.exec("pod", "hostname").out == "pod\n"


def test_twenty_containers_in_one_pod(shared: Engine) -> None:
    names = [f"n{number}" for number in range(20)]
    for name in names:
        shared.run(name, ["sh", "-c", f"echo {name}; exec sleep 1000"], **member("pod"))
    assert [shared.exec(name, "cat", "/proc/1/comm").out for name in names] == ["sleep\n"] * 20
    for name in names:
        shared.call("delete", "--force", name)
    assert shared.state("pod")["status"] == "running"


def test_50_mib_through_standard_streams(shared: Engine, tmp_path: Path) -> None:
    """bench/streams.py sends more, and measures."""
    source = tmp_path / "random"
    with source.open("wb") as file:
        for _ in range(50):
            file.write(os.urandom(1 << 20))
    with source.open("rb") as stdin:
        shared.create("cat", ["cat"], stdin=stdin, **member("pod"))
    shared.call("start", "cat")
    assert shared.exit_code("cat", 240) == 0
    assert subprocess.run(["cmp", str(source), str(shared.log_path("cat"))], check=False).returncode == 0
    shared.call("delete", "cat")


def test_end_of_the_sandbox_ends_its_members(engine: Engine) -> None:
    engine.run("s", ["sleep", "1000"], annotations=crio("sandbox", "s"))
    engine.run("c", ["sleep", "1000"], **member("s"))
    engine.call("kill", "s", "KILL")
    assert engine.exit_code("s") == 137
    assert engine.exit_code("c") == 137
    assert engine.state("c")["status"] == "stopped"
    late = engine.create("late", ["true"], check=False, **member("s"))
    assert late.code == 1 and "sandbox s" in late.err, "a sandbox that has ended is named"
    engine.call("delete", "c")
    engine.call("delete", "s")
    assert engine.leftovers() == []


def test_dropped_infra_first_members_at_once_boot_one_machine_and_the_last_delete_ends_it(engine: Engine) -> None:
    creations = []
    for name in ("a", "b"):
        bundle = engine.bundle(name, ["sleep", "1000"], **member("spoofed"))
        engine.ids.append(name)
        creations.append(engine.begin_create(name, bundle))
    assert [creation.wait(60) for creation in creations] == [0, 0], engine.log("a") + engine.log("b")
    assert len(list(engine.root.glob(".sandboxes/*"))) == 1
    for name in ("a", "b"):
        engine.pids[name] = engine.state(name)["pid"]
        engine.call("start", name)
    assert engine.exec("a", "true").code == engine.exec("b", "true").code == 0
    qemu = engine.sandbox_record()["qemu"]["pid"]
    engine.call("kill", "a", "KILL")
    assert engine.exit_code("a") == 137
    engine.call("delete", "a")
    assert is_running(qemu), "a pod whose container is restarted keeps its machine"
    engine.run("a", ["sleep", "1000"], **member("spoofed"))
    engine.call("delete", "--force", "a")
    engine.call("delete", "--force", "b")
    wait_until(lambda: not is_running(qemu), "machine ends with the last container")
    assert engine.leftovers() == []


def test_ten_pods_side_by_side(engine: Engine) -> None:
    names = [f"p{number}" for number in range(10)]
    creations = []
    for name in names:
        creations.append(engine.begin_create(name, engine.bundle(name, ["sh", "-c", f"echo {name}; sleep 1000"])))
        engine.ids.append(name)
    for name, creation in zip(names, creations, strict=True):
        assert creation.wait(240) == 0, engine.log(name)
        engine.pids[name] = engine.state(name)["pid"]
        engine.call("start", name)
    boot_ids = {engine.exec(name, "cat", "/proc/sys/kernel/random/boot_id").out for name in names}
    assert len(boot_ids) == 10


def cgroups_of(pid: int) -> dict[str, str]:
    """controllers: path, of each hierarchy that a process is in."""
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return {line.split(":")[1]: line.split(":")[2] for line in lines}


def test_host_cgroups_count_the_machine_and_never_limit_it(engine: Engine) -> None:
    pod = f"vmpodtest-{os.getpid()}"
    engine.cgroups = [pod, f"{pod}/s", f"{pod}/c"]
    limits = {"memory": {"limit": 64 << 20}, "pids": {"limit": 50}}
    sandbox = {"cgroupsPath": f"/{pod}/s", "resources": limits}
    engine.run("s", ["sleep", "1000"], annotations=crio("sandbox", "s"), linux=sandbox)
    member_linux = {"cgroupsPath": f"/{pod}/c", "resources": limits}
    engine.run("c", ["sleep", "1000"], linux=member_linux, **member("s"))
    qemu = cgroups_of(engine.sandbox_record()["qemu"]["pid"])
    assert qemu["memory"] == f"/{pod}/s"
    assert int(Path(f"/sys/fs/cgroup/memory/{pod}/s/memory.limit_in_bytes").read_text()) > 1 << 40
    assert int(Path(f"/sys/fs/cgroup/memory/{pod}/s/memory.usage_in_bytes").read_text()) > 50 << 20
    assert cgroups_of(engine.pids["c"])["memory"] == f"/{pod}/c"
    assert int(Path(f"/sys/fs/cgroup/memory/{pod}/c/memory.limit_in_bytes").read_text()) == 64 << 20
    engine.call("update", "--memory", str(80 << 20), "--memory-swap", str(80 << 20), "c")
    assert int(Path(f"/sys/fs/cgroup/memory/{pod}/c/memory.limit_in_bytes").read_text()) == 80 << 20
    engine.call("delete", "--force", "c")
    engine.call("delete", "--force", "s")
    assert engine.leftovers() == []


def test_a_stopped_member_is_deleted_without_the_guest(shared: Engine) -> None:
    """It has left guest and share when its output was read; what engines ask for is there until the `delete`."""
    shared.run("brief", ["sh", "-c", "echo words; exit 3"], **member("pod"))
    assert shared.exit_code("brief") == 3
    wait_until(lambda: "/brief." not in Path("/proc/self/mountinfo").read_text(), "out of the share")
    assert shared.log("brief") == "words\n" and shared.state("brief")["status"] == "stopped"
    for verb in (("exec", "brief", "true"), ("kill", "brief", "KILL"), ("ps", "brief"), ("events", "--stats", "brief")):
        failed = shared.call(*verb, check=False)
        assert failed.code != 0 and "not running" in failed.err, failed
    qemu = shared.sandbox_record()["qemu"]["pid"]
    os.kill(qemu, signal.SIGSTOP)
    try:
        shared.call("delete", "brief", deadline_s=30)
    finally:
        os.kill(qemu, signal.SIGCONT)
    assert shared.exec("pod", "true").code == 0
    shared.run("brief", ["true"], **member("pod"))
    assert shared.exit_code("brief") == 0
    shared.call("delete", "brief")


def test_execs_are_forgotten(shared: Engine) -> None:
    for _ in range(3):
        shared.exec("pod", "true")
    (sandbox,) = shared.root.glob(".sandboxes/*")
    with Client.connect(str(sandbox), 20) as client:
        wait_until(lambda: client.call("info")["containers"][0]["processes"] == 1, "only the first process is known")


def test_cancelled_creation_of_a_member_leaves_the_pod_alone(shared: Engine) -> None:
    for delay_s in (0.05, 0.15, 0.25):
        creation = shared.begin_create("late", shared.bundle("late", ["sleep", "1000"], **member("pod")))
        time.sleep(delay_s)
        shared.call("delete", "--force", "late")
        creation.wait(60)
        shared.call("delete", "--force", "late")
        assert shared.state("pod")["status"] == "running"
    assert shared.exec("pod", "true").code == 0
