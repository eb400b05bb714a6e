"""Bad input, failures in the middle, interrupted commands: clear messages, and nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.engine import crio, is_running, wait_until
from tests.host.conftest import FakeEngine

pytestmark = pytest.mark.root


def fail(engine: FakeEngine, name: str = "c1", **changes: Any) -> str:
    """A create that must fail: returns what it printed and checks that nothing is left, at once."""
    bundle = engine.bundle(name, ["true"], **changes)
    return fail_with(engine, bundle, name)


def fail_with(engine: FakeEngine, bundle: Path, name: str = "c1") -> str:
    pid_file = engine.directory / "pid"
    result = engine.call("create", "-b", str(bundle), "--pid-file", str(pid_file), name, check=False)
    assert result.code == 1 and result.out == ""
    assert result.err.startswith("vmpod: ")
    assert not pid_file.exists()
    assert not engine.leftovers()
    return result.err.removeprefix("vmpod: ").rstrip("\n")


def test_bundles_that_are_no_bundles(engine: FakeEngine, tmp_path: Path) -> None:
    assert fail_with(engine, tmp_path / "missing") == f"bundle {tmp_path}/missing does not exist or is not a directory"
    assert fail_with(engine, tmp_path) == f"{tmp_path}/config.json does not exist"
    (tmp_path / "config.json").write_text('{"ociVersion": ')
    assert fail_with(engine, tmp_path).startswith(f"{tmp_path}/config.json is not JSON: line 1 column 16")
    (tmp_path / "config.json").write_text("[]")
    assert "must hold a JSON object" in fail_with(engine, tmp_path)


def test_wrong_contents(engine: FakeEngine) -> None:
    assert "does not exist" in fail(engine, root={"path": "/no/such/rootfs"})
    assert "ociVersion" in fail(engine, ociVersion="7.0.0")
    assert "mounts[0] /data: source /no/such" in fail(
        engine, mounts=[{"destination": "/data", "type": "bind", "source": "/no/such", "options": ["bind"]}]
    )


def test_a_read_only_root_that_lacks_mount_points_is_refused_before_anything_boots(engine: FakeEngine) -> None:
    bare = engine.directory / "bare"
    bare.mkdir()
    subprocess.run(["mount", "--bind", bare, bare], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", bare], check=True)
    try:
        message = fail(engine, root={"path": str(bare)}, annotations={"fake.create": "die"})
    finally:
        subprocess.run(["umount", bare], check=True)
    assert message == f"mounts[0] /dev: root file system {bare} is mounted read-only and has no such mount point: " + (
        "make it there first"
    )


def test_a_config_without_a_process(engine: FakeEngine) -> None:
    bundle = engine.bundle("c1", ["true"])
    config = json.loads((bundle / "config.json").read_text())
    del config["process"]
    (bundle / "config.json").write_text(json.dumps(config))
    assert "config.json has no process" in fail_with(engine, bundle)


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".hidden", "-x-", "x" * 256, "ä"])
def test_ids_are_checked_by_every_verb(engine: FakeEngine, name: str) -> None:
    bundle = engine.bundle("c1", ["true"])
    for words in (["create", "-b", str(bundle), "--", name], ["state", "--", name], ["delete", "-f", "--", name]):
        result = engine.call(*words, check=False)
        assert result.code == 1
        assert "invalid container id" in result.err
    assert not engine.leftovers()


def test_a_long_id_is_fine(engine: FakeEngine) -> None:
    name = "x" * 255
    bundle = engine.bundle("c1", ["true"])
    engine.ids.append(name)
    null = subprocess.DEVNULL
    subprocess.run(engine.command("create", "-b", str(bundle), name), check=True, stdin=null, stdout=null, stderr=null)
    assert engine.state(name)["status"] == "created"


def test_a_long_state_directory_is_fine(engine: FakeEngine) -> None:
    engine.root = engine.directory / ("deep" * 40) / ("down" * 10)
    engine.run("c1", ["true"])
    assert engine.exit_code("c1") == 0
    assert engine.exec("c1", "true", check=False).code == 255
    engine.call("delete", "c1")


def test_a_duplicate_id(engine: FakeEngine) -> None:
    engine.run("c1", ["sleep", "1000"])
    result = engine.create("c1", ["true"], check=False)
    assert "container with id exists: c1" in result.err
    assert engine.state("c1")["status"] == "running"


def test_namespace_paths_are_checked(engine: FakeEngine, tmp_path: Path) -> None:
    def create(kind: str, path: str) -> str:
        others = [{"type": other} for other in ("network", "pid", "ipc", "uts", "mount") if other != kind]
        return fail(engine, linux={"namespaces": [*others, {"type": kind, "path": path}]})

    assert create("ipc", "/no/such") == "ipc namespace /no/such: No such file or directory"
    assert create("uts", "/proc/self/ns/ipc") == "uts namespace /proc/self/ns/ipc: it is a ipc namespace"
    (tmp_path / "file").touch()
    assert create("pid", str(tmp_path / "file")).endswith("file: not a namespace")
    assert create("mount", "/proc/self/ns/uts").endswith("it is a uts namespace")


def test_shared_memory_of_another_machine_is_refused(engine: FakeEngine) -> None:
    """`podman run --ipc container:other`: the container would start, and share nothing."""
    engine.run("other", ["sleep", "1000"])
    path = f"/proc/{engine.pids['other']}/ns/ipc"
    spaces = [{"type": "ipc", "path": path}, *({"type": kind} for kind in ("network", "pid", "uts", "mount"))]
    bundle = engine.bundle("c1", ["true"], linux={"namespaces": spaces})
    refused = engine.call("create", "-b", str(bundle), "c1", check=False)
    assert refused.code == 1
    assert refused.err.startswith(f"vmpod: ipc namespace {path} belongs to container other of another virtual machine")
    assert not (engine.root / "c1").exists()


@pytest.mark.parametrize(
    ("kind", "namespaces"),
    [
        ("network", [{"type": "ipc"}]),
        ("network", [{"type": "ipc"}, {"type": "network", "path": "/proc/self/ns/net"}]),
        ("ipc", [{"type": "network"}, {"type": "ipc", "path": "/proc/self/ns/ipc"}]),
        ("pid", [{"type": "network"}, {"type": "ipc"}, {"type": "pid", "path": "/proc/self/ns/pid"}]),
    ],
    ids=["absent", "network", "ipc", "pid"],
)
def test_namespaces_of_the_host_are_refused(engine: FakeEngine, kind: str, namespaces: list[dict[str, str]]) -> None:
    own = [] if kind == "pid" else [{"type": "pid"}]
    error = fail(engine, linux={"namespaces": [*own, *namespaces]})
    assert f"host's {kind} namespace" in error and f'host_{kind} = "namespace"' in error


def test_a_member_of_a_dead_pod(engine: FakeEngine) -> None:
    engine.run("pod", ["sleep", "1000"], annotations=crio("sandbox", "pod"))
    os.kill(engine.sandbox_record()["pid"], signal.SIGKILL)
    engine.exit_code("pod")
    result = engine.create("m1", ["true"], check=False, annotations=crio("container", "pod"))
    assert result.err == "vmpod: sandbox pod is not running any more (its sandbox process was killed)\n"
    assert not (engine.root / "m1").exists()
    for verb in ("logs", "timeline"):
        assert "its sandbox process was killed" in engine.call(verb, "pod", check=False).err
    engine.call("gc")
    for verb in ("logs", "timeline"):
        error = engine.call(verb, "pod", check=False).err
        assert error.startswith("vmpod: nothing is kept of the machine of pod: vmpod gc"), error
        assert engine.call(verb, "none", check=False).err.startswith("vmpod: no container and no sandbox none exists")
    engine.call("delete", "--force", "pod")
    assert not engine.leftovers()


def test_a_dropped_infra_pod_that_died_boots_anew(engine: FakeEngine) -> None:
    engine.run("m1", ["sleep", "1000"], annotations=crio("container", "gone"))
    first = engine.sandbox_record()["pid"]
    os.kill(first, signal.SIGKILL)
    engine.exit_code("m1")
    engine.run("m2", ["sleep", "1000"], annotations=crio("container", "gone"))
    assert engine.sandbox_record()["pid"] != first
    engine.call("delete", "-f", "m1")
    assert engine.state("m2")["status"] == "running"


def test_a_member_that_meets_an_ending_pod_boots_it_anew(engine: FakeEngine) -> None:
    engine.run("m1", ["true"], annotations=crio("container", "gone"))
    engine.exit_code("m1")
    first = engine.sandbox_record()["pid"]
    engine.run("m2", ["true"], annotations=crio("container", "gone") | {"fake.create": "ending"})
    assert engine.exit_code("m2") == 0
    assert engine.sandbox_record()["pid"] != first
    (engine.directory / "run.ended").unlink()


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        ("refuse", "the guest refuses this container"),
        ("explain", "guest image is missing"),
        ("die", "sandbox process ended early (exit status 1)"),
        ("killed", "sandbox process ended early (killed by signal 9)"),
        ("hang up", "sandbox process lives but does not talk to this command any more"),
    ],
)
def test_a_guest_that_fails(engine: FakeEngine, failure: str, message: str) -> None:
    error = fail(engine, annotations={"fake.create": failure})
    assert error.startswith(message)
    detail = {"refuse": "last words\n  | of the console", "explain": "why"}.get(failure, "the fake sandbox dies")
    assert f"\n  | {detail}" in error


def test_a_failing_member_leaves_the_pod_alone(engine: FakeEngine) -> None:
    engine.run("pod", ["sleep", "1000"], annotations=crio("sandbox", "pod"))
    before = set(engine.leftovers())
    annotations = crio("container", "pod") | {"fake.create": "refuse"}
    result = engine.create("m1", ["true"], check=False, annotations=annotations)
    assert result.code == 1
    assert set(engine.leftovers()) == before
    assert engine.state("pod")["status"] == "running"


def test_the_log_has_the_error_as_json(engine: FakeEngine) -> None:
    log = engine.directory / "log.json"
    engine.arguments += ["--log", str(log), "--log-format", "json"]
    result = engine.call("state", "nope", check=False)
    assert result.err == "vmpod: container nope does not exist\n"
    (line,) = log.read_text().splitlines()
    record = json.loads(line)
    assert (record["level"], record["msg"]) == ("error", "container nope does not exist")
    assert record["time"].endswith("Z")


def test_a_log_that_cannot_be_opened_is_an_error_but_not_where_the_disk_is_full(engine: FakeEngine) -> None:
    engine.run("c1", ["true"])
    assert engine.exit_code("c1") == 0
    engine.arguments = ["--log", "/no/such/directory/log"]
    result = engine.call("delete", "c1", check=False)
    assert (result.code, result.err) == (1, "vmpod: open log /no/such/directory/log: No such file or directory\n")
    full = engine.directory / "full"
    full.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=1", "none", str(full)], check=True)
    try:
        engine.arguments = ["--log", str(full / "log")]
        engine.call("delete", "c1")
    finally:
        subprocess.run(["umount", str(full)], check=True)
    engine.arguments = []
    assert not engine.leftovers()


def begin_hanging(engine: FakeEngine, **annotations: str) -> subprocess.Popen[bytes]:
    """A create whose guest never answers, at the point where it waits for it."""
    bundle = engine.bundle("c1", ["true"], annotations={"fake.create": "hang"} | annotations)
    engine.ids.append("c1")
    process = engine.begin_create("c1", bundle)
    wait_until(lambda: list(engine.root.glob(".sandboxes/*/control.sock")), "the sandbox process is started")
    time.sleep(0.3)
    return process


def test_delete_force_cancels_a_creation(engine: FakeEngine) -> None:
    process = begin_hanging(engine)
    assert engine.state("c1")["status"] == "creating"
    error = engine.call("delete", "c1", check=False)
    assert "cannot delete container c1 that is not stopped: creating" in error.err
    engine.call("delete", "--force", "c1")
    assert process.wait(10) == 1
    assert engine.log("c1") == "vmpod: create of c1 was cancelled by delete --force\n"
    assert not engine.leftovers()


def test_a_terminated_create_undoes_itself(engine: FakeEngine) -> None:
    process = begin_hanging(engine)
    process.terminate()
    assert process.wait(30) == 1
    assert not engine.leftovers()


def test_a_killed_create_leaves_what_delete_force_cleans(engine: FakeEngine) -> None:
    process = begin_hanging(engine)
    process.kill()
    process.wait()
    assert engine.state("c1") | {"pid": 0} == engine.state("c1")
    assert engine.state("c1")["status"] == "stopped"
    engine.call("delete", "--force", "c1")
    assert not engine.leftovers()


def test_a_create_killed_before_its_record(engine: FakeEngine) -> None:
    (engine.root / "c1").mkdir(parents=True)
    assert "does not exist" in engine.call("state", "c1", check=False).err
    assert engine.call("delete", "c1", check=False).code == 1
    engine.call("delete", "--force", "c1")
    assert not engine.leftovers()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": "other"}', '{"id": "c1", "pid": "x"}', "\x00" * 100])
def test_a_damaged_record(engine: FakeEngine, content: str) -> None:
    (engine.root / "c1").mkdir(parents=True)
    (engine.root / "c1" / "state.json").write_text(content)
    result = engine.call("state", "c1", check=False)
    assert result.code == 1 and "record" in result.err
    assert engine.call("list", "--format", "json").out == "null\n"
    engine.call("delete", "--force", "c1")
    assert not engine.leftovers()


def test_the_state_directory_of_an_earlier_boot(engine: FakeEngine) -> None:
    engine.run("c1", ["sleep", "1000"])
    pid = engine.pids["c1"]
    for path in [engine.root / "c1" / "state.json", *engine.root.glob(".sandboxes/*/sandbox.json")]:
        record = json.loads(path.read_text())
        path.write_text(json.dumps(record | {"boot_id": "00000000-0000-0000-0000-000000000000"}))
    # Processes with the recorded pids and start times may exist by now, but they are not ours.
    sandbox = engine.sandbox_record()["pid"]
    assert engine.state("c1")["status"] == "stopped"
    assert "container not running" in engine.call("kill", "c1", "9", check=False).err
    os.kill(sandbox, signal.SIGKILL)
    engine.exit_code("c1")
    unrelated = subprocess.Popen(["sleep", "1000"])
    stat = Path(f"/proc/{unrelated.pid}/stat").read_text().rpartition(")")[2].split()
    (path,) = engine.root.glob(".sandboxes/*/sandbox.json")
    process = {"kind": "process", "pid": unrelated.pid, "pid_start": int(stat[19])}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"resources": [process]}))
    engine.call("gc")
    assert not engine.leftovers()
    assert is_running(unrelated.pid) and not is_running(pid)
    unrelated.kill()
    unrelated.wait()


def test_gc_keeps_what_lives_and_what_has_an_exit_code(engine: FakeEngine) -> None:
    engine.run("c1", ["true"], annotations=crio("sandbox", "c1"))
    engine.exit_code("c1")
    engine.run("c2", ["sleep", "1000"])
    wait_until(lambda: engine.state("c1")["status"] == "stopped", "c1 has stopped")
    assert engine.call("gc").out == ""
    assert {row["id"] for row in json.loads(engine.call("list", "-f", "json").out)} == {"c1", "c2"}
    assert engine.state("c2")["status"] == "running"


def test_gc_ends_a_machine_that_a_killed_create_left(engine: FakeEngine) -> None:
    process = begin_hanging(engine, **{"fake.boot_s": "1000"})
    assert engine.call("gc").out == ""
    process.kill()
    process.wait()
    assert engine.call("gc").out == "removed container c1\n"
    assert not engine.leftovers()


def test_gc_ends_a_machine_whose_container_is_on_no_record(engine: FakeEngine) -> None:
    begin_hanging(engine, **{"fake.boot_s": "1000"}).kill()
    shutil.rmtree(engine.root / "c1")
    assert engine.call("gc").out.startswith("removed sandbox ")
    wait_until(lambda: not engine.leftovers(), "nothing is left", 10)


def test_recorded_resources_of_a_killed_sandbox_are_undone(engine: FakeEngine) -> None:
    engine.run("c1", ["sleep", "1000"])
    (path,) = engine.root.glob(".sandboxes/*/sandbox.json")
    share = path.parent / "share"
    share.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(share)], check=True)
    helper = subprocess.Popen(["sleep", "1000"])
    stat = Path(f"/proc/{helper.pid}/stat").read_text().rpartition(")")[2].split()
    resources = [
        {"kind": "mount", "path": str(share)},
        {"kind": "process", "pid": helper.pid, "pid_start": int(stat[19])},
        {"kind": "file", "path": str(path.parent / "gone-already")},
    ]
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"resources": resources}))
    os.kill(record["pid"], signal.SIGKILL)
    engine.exit_code("c1")
    engine.call("delete", "c1")
    assert helper.wait(5) == -signal.SIGKILL
    assert not engine.leftovers()


def test_a_full_state_directory(engine: FakeEngine) -> None:
    engine.root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", str(engine.root)], check=True)
    try:
        bundle = engine.bundle("c1", ["true"])
        result = engine.call("create", "-b", str(bundle), "c1", check=False)
        assert result.code == 1
        assert "No space left on device" in result.err and "the file system is full" in result.err
        assert not [path for path in engine.root.rglob("*") if path.name != ".sandboxes"]
    finally:
        subprocess.run(["umount", str(engine.root)], check=True)


def test_a_state_directory_that_others_can_write(engine: FakeEngine) -> None:
    engine.root.mkdir()
    engine.root.chmod(0o777)
    bundle = engine.bundle("c1", ["true"])
    result = engine.call("create", "-b", str(bundle), "c1", check=False)
    assert "can be written by others" in result.err


def test_an_exec_in_a_stopped_container(engine: FakeEngine) -> None:
    engine.run("c1", ["true"])
    engine.exit_code("c1")
    wait_until(lambda: engine.state("c1")["status"] == "stopped", "c1 has stopped")
    result = engine.exec("c1", "true", check=False)
    assert result.code == 255
    assert result.err == "vmpod: cannot exec in a stopped container: container not running: c1\n"


def test_delegated_containers_go_to_the_namespace_runtime(engine: FakeEngine, tmp_path: Path) -> None:
    trace, runtime = tmp_path / "trace", tmp_path / "runtime"
    runtime.write_text(f'#!/bin/sh\necho "$@" >> {trace}\ncase "$*" in *" state "*) exit 1 ;; esac\n')
    runtime.chmod(0o755)
    config = tmp_path / "config.toml"
    config.write_text(f'[runtime]\nvm = "untrusted"\nnamespace_runtime = "{runtime}"\n')
    engine.arguments += ["--config", str(config)]
    bundle = engine.bundle("c1", ["true"])
    expected = [["create", "-b", str(bundle), "c1"], ["start", "c1"], ["kill", "c1", "9"], ["delete", "c1"]]
    for words in expected:
        engine.call(*words)
    prefix = f"--root {engine.root} "
    assert trace.read_text().splitlines() == [prefix + " ".join(words) for words in expected]
    assert "does not exist" in engine.call("state", "c1", check=False).err
    bundle = engine.bundle("c1", ["true"])
    assert engine.call("run", "-b", str(bundle), "c1").out == ""
    assert trace.read_text().splitlines()[-2:] == [f"{prefix}run -b {bundle} c1", f"{prefix}state c1"]
    (engine.root / ".delegated").rmdir()
    untrusted = {"io.kubernetes.cri.untrusted-workload": "true"}
    engine.run("c2", ["true"], annotations=untrusted)
    assert engine.exit_code("c2") == 0


@pytest.mark.parametrize("delay_ms", range(0, 600, 40))
def test_a_create_that_is_stopped_at_any_moment_leaves_nothing(engine: FakeEngine, delay_ms: int) -> None:
    bundle = engine.bundle("c1", ["true"], annotations={"fake.boot_s": "0.2"})
    process = engine.begin_create("c1", bundle)
    time.sleep(delay_ms / 1000)
    process.terminate()
    code = process.wait(30)
    if code == 0:
        engine.pids["c1"] = int((bundle / "pid").read_text())
    if code != 1:
        # It was through already, or did not yet listen to signals: then nothing was begun.
        engine.call("delete", "--force", "c1")
    wait_until(lambda: not engine.leftovers(), f"nothing left: {engine.leftovers()}", 5)


@pytest.mark.parametrize("delay_ms", range(20, 620, 50))
def test_a_create_that_is_killed_at_any_moment_can_be_cleaned(engine: FakeEngine, delay_ms: int) -> None:
    bundle = engine.bundle("c1", ["true"], annotations={"fake.boot_s": "0.2"})
    process = engine.begin_create("c1", bundle)
    time.sleep(delay_ms / 1000)
    process.kill()
    process.wait(30)
    engine.call("delete", "--force", "c1")
    wait_until(lambda: not engine.leftovers(), f"nothing left: {engine.leftovers()}", 5)
    engine.run("c1", ["true"])
    assert engine.exit_code("c1") == 0
