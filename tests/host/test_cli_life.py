"""The verbs of a container's life, with exits as an engine sees them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.engine import crio, is_running, wait_exit, wait_until
from tests.host.conftest import FakeEngine

pytestmark = pytest.mark.root


def test_create_start_exit_delete(engine: FakeEngine) -> None:
    engine.create("c1", ["sh", "-c", "echo out; echo err >&2; exit 42"])
    state = engine.state("c1")
    assert state["status"] == "created"
    assert state["pid"] == engine.pids["c1"] and is_running(state["pid"])
    assert set(state) == {"ociVersion", "id", "pid", "status", "bundle", "rootfs", "created", "owner"}
    engine.call("start", "c1")
    assert engine.exit_code("c1") == 42
    assert sorted(engine.log("c1").split()) == ["err", "out"]
    state = engine.state("c1")
    assert (state["status"], state["pid"]) == ("stopped", 0)
    engine.call("delete", "c1")
    assert engine.call("state", "c1", check=False).err == "vmpod: container c1 does not exist\n"


def test_the_proxy_looks_like_the_command_and_lives_in_the_namespaces(engine: FakeEngine) -> None:
    engine.create("c1", ["sleep", "1000"])
    pid = engine.pids["c1"]
    assert Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0") == b"sleep\x001000"
    assert Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
    own = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in ("net", "ipc", "uts", "pid", "mnt", "cgroup")}
    proxy = {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in own}
    assert {kind for kind in own if own[kind] != proxy[kind]} == {"net", "ipc", "uts", "pid", "mnt"}
    hostname = subprocess.check_output(["nsenter", "-t", str(pid), "-u", "hostname"], text=True)
    assert hostname == "pod\n"
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert Path(f"/proc/{pid}/smaps_rollup").read_text()


def test_the_proxy_is_small(engine: FakeEngine) -> None:
    engine.create("c1", ["sleep", "1000"])
    lines = Path(f"/proc/{engine.pids['c1']}/smaps_rollup").read_text().splitlines()
    pss_kib = next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    assert pss_kib < 10 * 1024


def test_namespaces_of_a_path_are_joined(engine: FakeEngine) -> None:
    engine.run("pod", ["sleep", "1000"])
    pid = engine.pids["pod"]
    kinds = {"network": "net", "ipc": "ipc", "uts": "uts", "pid": "pid"}
    paths = [{"type": kind, "path": f"/proc/{pid}/ns/{name}"} for kind, name in kinds.items()]
    engine.create("m1", ["true"], linux={"namespaces": paths}, annotations=crio("container", "pod"))
    member = engine.pids["m1"]
    for name in kinds.values():
        assert os.readlink(f"/proc/{member}/ns/{name}") == os.readlink(f"/proc/{pid}/ns/{name}")
    engine.call("delete", "m1")
    # Process 1 of a pid namespace can only go once all others are reaped.
    engine.exit_code("m1")


def test_signals_reach_the_workload_once(engine: FakeEngine) -> None:
    engine.run("c1", ["sh", "-c", 'trap "echo usr1" USR1; echo ready; while :; do sleep 0.05; done'])
    wait_until(lambda: "ready" in engine.log("c1"), "the workload runs")
    engine.call("kill", "c1", "USR1")
    wait_until(lambda: "usr1" in engine.log("c1"), "the signal arrives")
    os.kill(engine.pids["c1"], signal.SIGUSR1)
    wait_until(lambda: engine.log("c1").count("usr1") == 2, "a signal to the proxy arrives")
    engine.call("kill", "c1", "9")
    assert engine.exit_code("c1") == 137
    assert engine.log("c1").count("usr1") == 2
    error = engine.call("kill", "c1", "TERM", check=False)
    assert (error.code, error.err) == (1, "vmpod: container not running: c1\n")
    engine.call("kill", "--all", "c1", "9")


def test_a_killed_proxy_takes_its_process_along(engine: FakeEngine) -> None:
    engine.run("c1", ["sh", "-c", "echo $$; exec sleep 1000"])
    wait_until(lambda: engine.log("c1").strip().isdigit(), "the workload runs")
    workload = int(engine.log("c1"))
    os.kill(engine.pids["c1"], signal.SIGKILL)
    assert engine.exit_code("c1") == 137
    wait_until(lambda: not is_running(workload), "the workload is gone")
    assert engine.state("c1")["status"] == "stopped"


def test_a_dead_sandbox_process_ends_the_proxies(engine: FakeEngine) -> None:
    engine.run("c1", ["sleep", "1000"])
    os.kill(engine.sandbox_record()["pid"], signal.SIGKILL)
    assert engine.exit_code("c1") == 137
    assert engine.state("c1")["status"] == "stopped"
    assert "container not running" in engine.call("kill", "c1", "9", check=False).err
    engine.call("delete", "c1")
    assert not engine.leftovers()


def test_delete_needs_force_while_the_container_runs(engine: FakeEngine) -> None:
    engine.run("c1", ["sleep", "1000"])
    error = engine.call("delete", "c1", check=False)
    assert (error.code, error.err) == (1, "vmpod: cannot delete container c1 that is not stopped: running\n")
    engine.call("delete", "--force", "c1")
    assert engine.exit_code("c1") == 137
    assert not engine.leftovers()
    engine.call("delete", "--force", "c1")
    error = engine.call("delete", "c1", check=False)
    assert (error.code, error.err) == (1, "vmpod: container c1 does not exist\n")


def test_a_created_container_can_be_deleted(engine: FakeEngine) -> None:
    engine.create("c1", ["sleep", "1000"])
    engine.call("delete", "c1")
    assert engine.exit_code("c1") == 137
    assert not engine.leftovers()


def test_several_ids(engine: FakeEngine) -> None:
    for name in ("c1", "c2"):
        engine.create(name, ["true"])
    engine.call("start", "c1", "c2")
    assert engine.exit_code("c1") == engine.exit_code("c2") == 0
    engine.call("delete", "c1", "c2")
    assert not engine.leftovers()


def test_start_twice_and_after_the_end(engine: FakeEngine) -> None:
    engine.run("c1", ["sleep", "1000"])
    assert "cannot start an already running container" in engine.call("start", "c1", check=False).err
    engine.call("kill", "c1", "KILL")
    engine.exit_code("c1")
    assert "cannot start a container that has stopped" in engine.call("start", "c1", check=False).err


def test_members_share_one_sandbox_process(engine: FakeEngine) -> None:
    engine.run("pod", ["sleep", "1000"], annotations=crio("sandbox", "pod"))
    engine.run("m1", ["true"], annotations=crio("container", "pod"))
    assert engine.exit_code("m1") == 0
    assert len(list(engine.root.glob(".sandboxes/*"))) == 1
    engine.call("delete", "m1")
    assert engine.state("pod")["status"] == "running"


def test_the_first_member_of_a_dropped_infra_container_boots(engine: FakeEngine) -> None:
    engine.run("m1", ["sleep", "1000"], annotations=crio("container", "gone"))
    engine.run("m2", ["true"], annotations=crio("container", "gone"))
    assert len(list(engine.root.glob(".sandboxes/*"))) == 1
    assert engine.sandbox_record()["id"] == "gone"


def test_two_first_members_at_once_boot_once(engine: FakeEngine) -> None:
    annotations = crio("container", "gone") | {"fake.boot_s": "0.5"}
    bundles = {name: engine.bundle(name, ["true"], annotations=annotations) for name in ("m1", "m2", "m3")}
    commands = [engine.begin_create(name, bundle) for name, bundle in bundles.items()]
    engine.ids += bundles
    assert [command.wait(20) for command in commands] == [0, 0, 0]
    assert len(list(engine.root.glob(".sandboxes/*"))) == 1
    for name, bundle in bundles.items():
        engine.pids[name] = int((bundle / "pid").read_text())
        assert engine.state(name)["status"] == "created"


def test_run_in_the_foreground(engine: FakeEngine) -> None:
    bundle = engine.bundle("c1", ["sh", "-c", "cat; echo err >&2; exit 3"])
    result = engine.call("run", "--bundle", str(bundle), "c1", check=False, stdin="hello\n")
    assert (result.code, result.out, result.err) == (3, "hello\n", "err\n")
    assert not engine.leftovers()


def test_run_forwards_signals(engine: FakeEngine) -> None:
    bundle = engine.bundle("c1", ["sh", "-c", 'trap "echo term; exit 9" TERM; echo up; while :; do sleep 0.05; done'])
    process = subprocess.Popen(engine.command("run", "-b", str(bundle), "c1"), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    process.terminate()
    assert process.stdout.read() == "term\n"
    assert process.wait(10) == 9
    assert not engine.leftovers()


def test_run_in_the_background(engine: FakeEngine) -> None:
    bundle = engine.bundle("c1", ["sleep", "1000"])
    engine.ids.append("c1")
    subprocess.run(
        engine.command("run", "-d", "--pid-file", "pid", "c1"), cwd=bundle, check=True, stdin=subprocess.DEVNULL
    )
    assert engine.state("c1")["pid"] == int((bundle / "pid").read_text())
    assert engine.state("c1")["status"] == "running"


def test_pause_resume_list(engine: FakeEngine) -> None:
    engine.run("c1", ["sleep", "1000"])
    engine.call("pause", "c1")
    assert engine.state("c1")["status"] == "paused"
    assert "cannot exec in a paused container" in engine.exec("c1", "true", check=False).err
    engine.call("resume", "c1")
    (row,) = json.loads(engine.call("list", "--format", "json").out)
    assert (row["id"], row["status"], row["owner"]) == ("c1", "running", "root")
    assert engine.call("list", "-q").out == "c1\n"
    header, line = engine.call("list").out.splitlines()
    assert header.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert line.split()[:3] == ["c1", str(engine.pids["c1"]), "running"]


def test_an_empty_list_is_runcs(engine: FakeEngine) -> None:
    assert engine.call("list", "--format", "json").out == "null\n"
    assert engine.call("list").out == "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n"


def test_ps_lists_proxies_as_json_and_the_guest_as_table(engine: FakeEngine) -> None:
    engine.run("c1", ["sleep", "1000"])
    other = engine.exec_detached("c1", "sleep", "500")
    assert json.loads(engine.call("ps", "--format", "json", "c1").out) == [engine.pids["c1"], other]
    header, line = engine.call("ps", "c1", "-ef").out.splitlines()
    assert header.split() == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    assert line.endswith("sleep 1000")
    refused = engine.call("ps", "c1", "-o", "pid,args", check=False)
    assert refused.code == 1 and refused.out == "" and refused.err.count("\n") == 1
    assert "ps options '-o pid,args' are not supported" in refused.err
    assert engine.call("ps", "--format", "json", "c1", "-o", "pid").out == f"[{engine.pids['c1']},{other}]\n", "as runc"
    engine.call("kill", "c1", "9")
    assert wait_exit(other) == 137


def test_logs_say_when_there_is_nothing_to_show(engine: FakeEngine) -> None:
    engine.run("c1", ["sleep", "1000"])
    for words, what in ((["logs"], "the console is empty"), (["logs", "--sandbox"], "has logged nothing yet")):
        silent = engine.call(*words, "c1")
        assert silent.out == "" and what in silent.err and silent.err.count("\n") == 1
    (directory,) = engine.root.glob(".sandboxes/*")
    (directory / "console.log").write_text("Kernel panic\n")
    assert engine.call("logs", "c1").out == "Kernel panic\n"
    assert engine.call("logs", "c1").err == ""


def test_update_and_events(engine: FakeEngine) -> None:
    engine.run("c1", ["sleep", "1000"])
    result = engine.call("update", "--memory", "64m", "--pids-limit", "-1", "--cpuset-cpus", "0", "c1")
    assert result.err == "vmpod: warning: cannot change the moon\n"
    (path,) = engine.root.glob(".sandboxes/*/updated.json")
    expected = {"memory": {"limit": 64 << 20}, "pids": {"limit": -1}, "cpu": {"cpus": "0"}}
    assert json.loads(path.read_text()) == expected
    engine.call("update", "--resources", "-", "c1", stdin='{"cpu": {"shares": 512}}')
    assert json.loads(path.read_text()) == {"cpu": {"shares": 512}}
    event = json.loads(engine.call("events", "--stats", "c1").out)
    assert (event["type"], event["id"], event["data"]["memory"]["usage"]["usage"]) == ("stats", "c1", 4096)


def test_events_until_the_end(engine: FakeEngine) -> None:
    engine.run("c1", ["sleep", "1000"])
    process = subprocess.Popen(engine.command("events", "--interval", "50ms", "c1"), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    kinds = {json.loads(process.stdout.readline())["type"] for _ in range(4)}
    assert kinds == {"stats", "oom"}
    engine.call("kill", "c1", "9")
    assert process.wait(10) == 0


def test_hooks_run_in_order_with_the_state(engine: FakeEngine, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    script = f'read state; echo "$0 $PWD $(readlink /proc/self/ns/net) $state" >> {trace}'
    kinds = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]
    hooks = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", script, kind]}] for kind in kinds}
    engine.create("c1", ["sleep", "1000"], hooks=hooks)
    pid, net = engine.pids["c1"], os.readlink(f"/proc/{engine.pids['c1']}/ns/net")
    engine.call("start", "c1")
    engine.call("delete", "-f", "c1")
    lines = [line.split(" ", 3) for line in trace.read_text().splitlines()]
    assert [line[0] for line in lines] == kinds
    states = {line[0]: json.loads(line[3]) for line in lines}
    expected = ["created", "creating", "creating", "running", "stopped"]
    assert [states[kind]["status"] for kind in kinds] == expected
    assert [states[kind]["pid"] for kind in kinds] == [pid, pid, pid, pid, 0]
    assert {line[1] for line in lines} == {str(engine.directory / "bundles" / "c1")}
    assert [line[2] == net for line in lines] == [False, False, True, False, False]
    assert states["prestart"]["bundle"] == str(engine.directory / "bundles" / "c1")


@pytest.mark.parametrize("kind", ["prestart", "createRuntime", "createContainer"])
def test_a_failing_hook_undoes_the_creation(engine: FakeEngine, kind: str) -> None:
    hook = {"path": "/bin/sh", "args": ["sh", "-c", "echo no luck; exit 3"]}
    result = engine.create("c1", ["true"], check=False, hooks={kind: [hook]})
    assert result.code == 1
    assert result.err == f"vmpod: {kind} hook 0 (/bin/sh): exit status 3, output: no luck\n"
    assert not (engine.directory / "bundles" / "c1" / "pid").exists()
    assert not engine.leftovers()


def test_a_hook_has_a_timeout(engine: FakeEngine) -> None:
    hook = {"path": "/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}
    result = engine.create("c1", ["true"], check=False, hooks={"createRuntime": [hook]})
    assert "did not end within its timeout of 1 s" in result.err
    assert not engine.leftovers()


def test_failing_poststart_and_poststop_hooks_change_nothing(engine: FakeEngine) -> None:
    hooks = {kind: [{"path": "/bin/false"}] for kind in ("poststart", "poststop")}
    engine.run("c1", ["true"], hooks=hooks)
    assert engine.exit_code("c1") == 0
    engine.call("delete", "c1")
    assert not engine.leftovers()
