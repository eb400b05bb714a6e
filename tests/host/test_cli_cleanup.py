"""Hard ends: signals in the middle of an undo, damaged records, pods that do not answer, records of other runtimes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from oci_runtime.cli.boot import explain_loss
from oci_runtime.cli.cleanup import end_sandbox_directory
from oci_runtime.control.frames import ConnectionLost, Silent
from oci_runtime.host.cgroups import read_layout
from oci_runtime.state.recovery import UNDOERS, recover
from oci_runtime.state.sandboxes import SandboxRecord
from tests.engine import crio, is_running, wait_until
from tests.host.conftest import FakeEngine

pytestmark = pytest.mark.root
SLEEP = ["sleep", "1000"]


# The undo of a create


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_does_not_cut_the_undo_of_a_failed_create_short(
    engine: FakeEngine, tmp_path: Path, number: signal.Signals
) -> None:
    began, go, done = tmp_path / "began", tmp_path / "go", tmp_path / "done"
    os.mkfifo(go)
    script = f"touch {began}; read line < {go}; touch {done}"
    hooks = {"poststop": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]}
    bundle = engine.bundle("c1", ["true"], annotations={"fake.create": "refuse"}, hooks=hooks)
    process = engine.begin_create("c1", bundle)
    wait_until(began.exists, "the undo has begun")
    process.send_signal(number)
    process.send_signal(number)
    go.write_text("on\n")
    assert process.wait(30) == 1
    assert done.exists()
    assert "the guest refuses this container" in engine.log("c1")
    assert not engine.leftovers()


def test_a_pid_file_that_was_written_goes_with_an_undone_create(engine: FakeEngine, tmp_path: Path) -> None:
    bundle = engine.bundle("c1", ["true"])
    pid_file = tmp_path / "missing" / "pid"
    result = engine.call("create", "-b", str(bundle), "--pid-file", str(pid_file), "c1", check=False)
    assert result.code == 1 and str(pid_file) in result.err
    assert not engine.leftovers()


def test_a_record_has_one_writer_once_its_container_is_created(engine: FakeEngine) -> None:
    engine.create("c1", SLEEP)
    answered = json.loads((engine.root / "c1" / "written.json").read_text())
    status = (engine.root / "c1" / "state.json").stat()
    assert answered == [status.st_ino, status.st_mtime_ns]
    assert json.loads((engine.root / "c1" / "state.json").read_text())["creator"] == 0


def test_silence_is_not_called_a_death(tmp_path: Path) -> None:
    silent = Silent("the sandbox process did not answer within 180 s")
    assert explain_loss(str(tmp_path), silent) is silent
    assert explain_loss(str(tmp_path), ConnectionLost("closed")).message == "sandbox process ended early: closed"


# Damaged records

DAMAGE = ["", '{"id": "c1", "pid"', '{"id": "c1", "cgroups": [1]}']


@pytest.mark.parametrize("content", DAMAGE)
def test_delete_force_finds_a_live_container_without_its_record(engine: FakeEngine, content: str) -> None:
    engine.cgroups = [f"{engine.group}/c1"]
    engine.run("c1", SLEEP)
    engine.pids["exec"] = engine.exec_detached("c1", "sleep", "500")
    record = engine.root / "c1" / "state.json"
    record.write_text(content)
    for verb in ("state", "kill", "delete", "exec", "gc"):
        failed = engine.call(verb, *([] if verb == "gc" else ["c1"]), check=False)
        assert failed.code != 0
        assert f"record {record} is damaged" in failed.err and "delete --force" in failed.err
    listed = engine.call("list", "--format", "json")
    assert listed.out == "null\n" and f"vmpod: warning: record {record} is damaged" in listed.err
    engine.call("delete", "--force", "c1")
    assert not engine.leftovers()


@pytest.mark.parametrize("content", ["", '{"resources": 1}'])
@pytest.mark.parametrize("fate", ["alive", "dead", "stopped"])
def test_delete_force_cleans_a_sandbox_without_its_record(engine: FakeEngine, content: str, fate: str) -> None:
    engine.run("c1", SLEEP)
    process = engine.sandbox_record()["pid"]
    (path,) = engine.root.glob(".sandboxes/*/sandbox.json")
    path.write_text(content)
    if fate == "dead":
        os.kill(process, signal.SIGKILL)
        engine.exit_code("c1")
        collected = engine.call("gc")
        assert f"record {path} is damaged" in collected.err and "removed sandbox" in collected.out
    if fate == "stopped":
        # It holds the lock and does not answer: found by the lock, not by the record.
        config = engine.directory / "config.toml"
        config.write_text("[runtime]\nstop_timeout_s = 1\n")
        engine.arguments += ["--config", str(config)]
        os.kill(process, signal.SIGSTOP)
    engine.call("delete", "--force", "c1")
    assert not is_running(process)
    assert not engine.leftovers()


@pytest.mark.parametrize("damaged", [False, True])
def test_only_the_sandbox_process_is_killed_for_its_silence(engine: FakeEngine, damaged: bool) -> None:
    """Others have its lock open as well: commands that wait for it."""
    config = engine.directory / "config.toml"
    config.write_text("[runtime]\nstop_timeout_s = 1\n")
    engine.arguments += ["--config", str(config)]
    engine.run("c1", SLEEP)
    process = engine.sandbox_record()["pid"]
    (path,) = engine.root.glob(".sandboxes/*/sandbox.json")
    if damaged:
        path.write_text("")
    os.kill(process, signal.SIGSTOP)
    with path.with_name("lock").open("rb") as lock:
        waiting = subprocess.Popen(["sleep", "1000"], stdin=lock)
    try:
        engine.call("delete", "--force", "c1")
        assert not is_running(process)
        assert is_running(waiting.pid)
    finally:
        waiting.kill()
        waiting.wait()
    assert not engine.leftovers()


def test_a_command_that_cleans_a_dead_sandbox_is_not_taken_for_it(tmp_path: Path) -> None:
    record = SandboxRecord.new(str(tmp_path), "s", "")
    dead = subprocess.Popen(["true"])
    dead.wait()
    record.values |= {"pid": dead.pid, "pid_start": 1}
    record.save()
    cleaning = subprocess.Popen(["flock", str(tmp_path / "lock"), "-c", "echo; read line"], stdin=-1, stdout=-1)
    assert cleaning.stdout is not None and cleaning.stdout.read(1) == b"\n"
    assert not end_sandbox_directory(str(tmp_path), 0, kill=True)
    assert cleaning.poll() is None
    cleaning.communicate(b"\n")
    assert end_sandbox_directory(str(tmp_path), 0) and not tmp_path.exists()


def test_a_damaged_member_leaves_its_pod_alone(engine: FakeEngine) -> None:
    engine.run("pod", SLEEP, annotations=crio("sandbox", "pod"))
    before = set(engine.leftovers())
    engine.run("m1", SLEEP, annotations=crio("container", "pod"))
    (engine.root / "m1" / "state.json").write_text("")
    engine.call("delete", "--force", "m1")
    assert set(engine.leftovers()) == before
    assert engine.state("pod")["status"] == "running"


def test_a_broken_configuration_keeps_nobody_from_cleaning_up(engine: FakeEngine) -> None:
    engine.run("c1", SLEEP)
    config = engine.directory / "config.toml"
    config.write_text("[vm\n")
    engine.arguments += ["--config", str(config)]
    assert "vmpod: warning: " in engine.call("delete", "--force", "c1").err
    assert not engine.leftovers()


# Pods that do not answer


def test_a_slow_delete_of_one_member_does_not_cost_the_pod(engine: FakeEngine) -> None:
    config = engine.directory / "config.toml"
    config.write_text("[runtime]\nstop_timeout_s = 1\n")
    engine.arguments += ["--config", str(config)]
    engine.run("pod", SLEEP, annotations=crio("sandbox", "pod"))
    engine.run("m1", SLEEP, annotations=crio("container", "pod") | {"fake.delete": "hang"})
    failed = engine.call("delete", "--force", "m1", check=False)
    assert failed.code == 1
    assert failed.err == "vmpod: the sandbox process did not answer within 1 s\n"
    assert is_running(engine.sandbox_record()["pid"])
    assert engine.state("pod")["status"] == engine.state("m1")["status"] == "running"
    engine.call("delete", "--force", "pod")
    # Now it stands in nobody's way any more.
    engine.call("delete", "--force", "m1")
    assert not engine.leftovers()


def test_a_kill_that_meets_a_dying_pod_says_what_engines_expect(engine: FakeEngine) -> None:
    engine.run("c1", SLEEP, annotations={"fake.kill": "die"})
    failed = engine.call("kill", "c1", "TERM", check=False)
    assert failed.err == "vmpod: container not running: c1, its virtual machine is gone\n"
    engine.exit_code("c1")
    engine.run("c2", SLEEP, annotations={"fake.kill": "die"})
    engine.call("kill", "--all", "c2", "KILL")


# Containers of a namespace runtime


@pytest.fixture
def runtime(engine: FakeEngine, tmp_path: Path) -> Path:
    """A namespace runtime that notes its calls, and knows the containers that have a file in `known`."""
    program, known = tmp_path / "runtime", tmp_path / "known"
    known.mkdir()
    program.write_text(
        f"""#!/bin/sh
        echo "$@" >> {tmp_path}/trace
        for last; do :; done
        case "$*" in
        *" create "*) touch {known}/$last ;;
        *" state "*) test -e {known}/$last ;;
        *" delete "*) rm {known}/$last ;;
        esac
        """
    )
    program.chmod(0o755)
    config = tmp_path / "config.toml"
    config.write_text(f'[runtime]\nvm = "untrusted"\nnamespace_runtime = "{program}"\n')
    engine.arguments += ["--config", str(config)]
    return program


def test_delete_of_own_and_delegated_containers_together(engine: FakeEngine, runtime: Path) -> None:
    engine.call("create", "-b", str(engine.bundle("theirs", ["true"])), "theirs")
    engine.run("ours", SLEEP, annotations={"io.kubernetes.cri.untrusted-workload": "true"})
    engine.call("delete", "--force", "ours", "theirs")
    trace = (runtime.parent / "trace").read_text().splitlines()
    assert trace[-1] == f"--root {engine.root} delete --force theirs"
    assert not list((engine.root / ".delegated").iterdir())
    (engine.root / ".delegated").rmdir()
    assert not engine.leftovers()


def test_stale_records_of_delegated_containers_go(engine: FakeEngine, runtime: Path) -> None:
    for name in ("a", "b", "c"):
        engine.call("create", "-b", str(engine.bundle(name, ["true"])), name)
    delegated = engine.root / ".delegated"
    (runtime.parent / "known" / "a").unlink()
    assert engine.call("delete", "a", check=False).code == 1, "the runtime said so"
    (runtime.parent / "known" / "b").unlink()
    assert engine.call("gc").out == "", "the runtime may have been asked with another root, or too early"
    assert sorted(path.name for path in delegated.iterdir()) == ["b", "c"]
    assert engine.call("delete", "b", check=False).code == 1
    assert [path.name for path in delegated.iterdir()] == ["c"]
    (runtime.parent / "known" / "c").unlink()
    engine.call("delete", "--force", "c")
    delegated.rmdir()
    assert not engine.leftovers()


@pytest.mark.parametrize("end", ["missing", "exit 127", "exit 126", "kill -9 $$"])
def test_a_namespace_runtime_that_says_nothing_keeps_its_containers(
    engine: FakeEngine, runtime: Path, end: str
) -> None:
    engine.call("create", "-b", str(engine.bundle("c", ["true"])), "c")
    works = runtime.read_bytes()
    if end == "missing":
        runtime.unlink()
        failed = engine.call("state", "c", check=False)
        assert str(runtime) in failed.err and "it has container c" in failed.err
    else:
        runtime.write_text(f"#!/bin/sh\n{end}\n")
    for words in (["delete", "c"], ["delete", "--force", "c"]):
        failed = engine.call(*words, check=False)
        assert failed.code == 1 and failed.err.count("\n") == 1
        assert f"namespace runtime {runtime} cannot delete its container c, which may still run" in failed.err
    ours = engine.bundle("c", ["true"], annotations={"io.kubernetes.cri.untrusted-workload": "true"})
    failed = engine.call("create", "-b", str(ours), "c", check=False)
    assert f"{runtime} has container c and cannot be asked about it" in failed.err
    runtime.write_bytes(works)
    runtime.chmod(0o755)
    assert "container with id exists: c" in engine.call("create", "-b", str(ours), "c", check=False).err
    engine.call("delete", "--force", "c")
    (engine.root / ".delegated").rmdir()
    assert not engine.leftovers()


@pytest.mark.parametrize("detached", [False, True])
def test_a_namespace_runtime_that_cannot_be_run_has_no_container(
    engine: FakeEngine, runtime: Path, detached: bool
) -> None:
    runtime.write_bytes(b"no program")
    bundle = str(engine.bundle("c", ["true"]))
    done = engine.call("run", *(["--detach"] if detached else []), "-b", bundle, "c", check=False)
    assert done.code == 1
    assert done.err.count("\n") == 1 and f"run {runtime}: Exec format error" in done.err
    (engine.root / ".delegated").rmdir()


def test_later_commands_find_a_delegated_container_where_it_was_created(engine: FakeEngine, runtime: Path) -> None:
    bundle = engine.bundle("c", ["true"])
    engine.call("--cgroup-manager", "systemd", "--rootless=false", "--debug", "create", "-b", str(bundle), "c")
    engine.call("--log", "/dev/null", "kill", "c", "9")
    engine.call("delete", "c")
    lasting = f"--root {engine.root} --rootless false --systemd-cgroup"
    assert (runtime.parent / "trace").read_text().splitlines() == [
        f"{lasting} --debug create -b {bundle} c",
        f"{lasting} --log /dev/null kill c 9",
        f"{lasting} delete c",
    ]
    (engine.root / ".delegated").rmdir()
    assert not engine.leftovers()


@pytest.mark.usefixtures("runtime")
def test_a_damaged_record_of_a_delegated_container_is_named(engine: FakeEngine) -> None:
    engine.call("create", "-b", str(engine.bundle("c", ["true"])), "c")
    record = engine.root / ".delegated" / "c"
    for content in (b"", b"{}", b"[1]", b'{"runtime": 1, "options": []}', b'{"runtime": "/x", "options": 7}', b"\xff"):
        record.write_bytes(content)
        for words in (["state", "c"], ["delete", "--force", "c"]):
            failed = engine.call(*words, check=False)
            assert failed.code == 1 and f"record {record} is damaged" in failed.err and failed.err.count("\n") == 1
    record.unlink()
    record.parent.rmdir()
    assert not engine.leftovers()


# Cgroups


def test_a_dead_machine_s_cgroup_takes_nobody_else_along(tmp_path: Path) -> None:
    (mount,) = [hierarchy.mount for hierarchy in read_layout().hierarchies if "pids" in hierarchy.controllers]
    pod = Path(mount, f"vmpod-test-{os.getpid()}")
    machine, below, other = pod / "vmpod-1", pod / "vmpod-1" / "below", pod / "other"
    children = {}
    for path in (machine, below, other):
        path.mkdir(parents=True)
        children[path] = child = subprocess.Popen(["sleep", "1000"])
        (path / "cgroup.procs").write_text(str(child.pid))
    directory = tmp_path / "sandbox"
    directory.mkdir()
    record = SandboxRecord.new(str(directory), "pod", "now")
    record.add({"kind": "cgroup-parent", "path": str(pod)})
    record.add({"kind": "cgroup", "path": str(machine)})
    (problem,) = recover(str(directory), UNDOERS)
    assert "cgroups of somebody else" in problem
    assert children[machine].wait(10) == -signal.SIGKILL
    assert is_running(children[below].pid) and is_running(children[other].pid)
    for path in (below, other):
        children[path].kill()
        children[path].wait()
    below.rmdir()
    assert recover(str(directory), UNDOERS) == []
    assert not machine.exists() and pod.exists() and not directory.exists()
    other.rmdir()
    pod.rmdir()
