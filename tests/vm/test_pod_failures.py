"""What breaks, and what is left then: nothing. Each test provokes the failure for real."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine import Engine, crio, is_running, kill, wait_exit, wait_until

pytestmark = pytest.mark.vm
SLEEP = ["sleep", "100000"]


def run_pod(engine: Engine) -> None:
    """A sandbox and one member."""
    engine.run("s", SLEEP, annotations=crio("sandbox", "s"))
    engine.run("c", SLEEP, annotations=crio("container", "s"))


def assert_pod_died(engine: Engine) -> None:
    """Both containers end with a code that is not zero, are stopped, and can be deleted without a trace."""
    for name in ("s", "c"):
        assert engine.exit_code(name) != 0
    assert_pod_is_over(engine)


def assert_pod_is_over(engine: Engine) -> None:
    """Its containers are stopped, and can be deleted without a trace."""
    for name in ("s", "c"):
        wait_until(lambda name=name: engine.state(name)["status"] == "stopped", "stopped")
        assert engine.state(name)["pid"] == 0
    failed = engine.call("exec", "c", "true", check=False)
    assert failed.code != 0 and "container not running" in failed.err
    for name in ("c", "s"):
        engine.call("delete", "--force", name)
    assert engine.leftovers() == []


_KILL_MACHINE = """
import json, os, pathlib, sys, time
(directory,) = pathlib.Path(sys.argv[1]).glob(".sandboxes/*")
while "qemu" not in (record := json.loads((directory / "sandbox.json").read_text())):
    time.sleep(0.01)
os.kill(record["qemu"]["pid"], 9)
for _ in range(500):
    if (directory / "error.json").exists():
        break
    time.sleep(0.02)
"""


def test_death_of_qemu_ends_the_pod(engine: Engine) -> None:
    reason = "virtual machine ended: killed: QEMU was killed by signal 9"
    run_pod(engine)
    hooks = {"createRuntime": [{"path": sys.executable, "args": ["python", "-c", _KILL_MACHINE, str(engine.root)]}]}
    caught = engine.create("caught", SLEEP, check=False, hooks=hooks, annotations=crio("container", "s"))
    assert caught.code == 1 and reason in caught.err, caught.err
    for name in ("s", "c"):
        assert engine.exit_code(name) == 137
    late = engine.create("late", SLEEP, check=False, annotations=crio("container", "s"))
    assert late.err == f"vmpod: sandbox s is not running any more ({reason})\n"
    for verb in (["logs"], ["logs", "--sandbox"], ["timeline"]):
        assert f"the machine of c is gone: {reason}\n" in engine.call(*verb, "c").err
    assert_pod_is_over(engine)


def test_a_machine_that_ends_before_it_is_asked_for_a_container_says_why(engine: Engine) -> None:
    words = ["python", "-c", _KILL_MACHINE, str(engine.root)]
    hooks = {"createRuntime": [{"path": sys.executable, "args": words}]}
    failed = engine.create("s", SLEEP, check=False, hooks=hooks)
    assert failed.code == 1 and "QEMU" in failed.err and "ended early" not in failed.err, failed.err
    assert engine.leftovers() == []


def test_death_of_virtiofsd_ends_the_pod_without_the_guests_help_and_is_named(engine: Engine) -> None:
    """QEMU is stopped, so nothing but the daemon's own end can tell: no answer, no timeout of a request, no event."""
    run_pod(engine)
    record = engine.sandbox_record()
    kill(record["qemu"]["pid"], signal.SIGSTOP)
    kill(record["virtiofsd"]["pid"])
    for name in ("s", "c"):
        assert engine.exit_code(name) == 137
    (log,) = engine.root.glob(".sandboxes/*/sandbox.log")
    assert "virtiofsd ended, the guest cannot reach its files any more: /usr/lib" in log.read_text()
    assert "killed by signal 9" in log.read_text()
    assert_pod_is_over(engine)
    assert not is_running(record["qemu"]["pid"])


def test_death_of_the_sandbox_process_takes_the_machine_along(engine: Engine) -> None:
    run_pod(engine)
    record = engine.sandbox_record()
    kill(record["pid"])
    wait_until(lambda: not is_running(record["qemu"]["pid"]), "QEMU dies with its parent")
    wait_until(lambda: not is_running(record["virtiofsd"]["pid"]), "virtiofsd dies with its parent")
    assert_pod_died(engine)


def test_guest_panic_ends_the_pod(engine: Engine) -> None:
    engine.run("s", SLEEP, annotations=crio("sandbox", "s"))
    capabilities = {kind: ["CAP_SYS_ADMIN"] for kind in ("bounding", "effective", "permitted")}
    engine.run(
        "c",
        ["sh", "-c", "sleep 1; echo c > /proc/sysrq-trigger; sleep 1000"],
        process={"capabilities": capabilities},
        annotations=crio("container", "s"),
    )
    assert_pod_died(engine)


def test_death_of_a_proxy_kills_its_process_only(shared: Engine) -> None:
    namespaces = [{"type": kind} for kind in ("ipc", "uts", "mount", "network")]
    namespaces.append({"type": "pid", "path": f"/proc/{shared.pids['pod']}/ns/pid"})
    linux = {"namespaces": namespaces}
    shared.run("c", ["sleep", "4711"], annotations=crio("container", "pod"), linux=linux)
    assert "sleep 4711" in shared.exec("pod", "ps").out
    kill(shared.pids["c"])
    wait_exit(shared.pids["c"])
    wait_until(lambda: "sleep 4711" not in shared.exec("pod", "ps").out, "process ended")
    assert shared.state("c")["status"] == "stopped"
    assert shared.state("pod")["status"] == "running"
    shared.call("delete", "c")


def test_command_killed_in_the_middle_of_create(engine: Engine) -> None:
    for delay_s, verb in ((0.05, "delete"), (0.3, "delete"), (1.0, "gc"), (2.0, "delete")):
        bundle = engine.bundle("k", SLEEP)
        creation = engine.begin_create("k", bundle)
        time.sleep(delay_s)
        creation.send_signal(signal.SIGKILL)
        creation.wait(10)
        engine.call(*([verb] if verb == "gc" else [verb, "--force", "k"]))
        wait_until(lambda: not engine.leftovers(), f"after {delay_s} s: {engine.leftovers()}", 10)


@pytest.mark.parametrize("moment", ["while the monitor is awaited", "while the guest boots"])
def test_delete_force_cancels_a_create(engine: Engine, tmp_path: Path, moment: str) -> None:
    """Neither would come to its end before the engine's patience does."""
    silent = script(tmp_path, "exec sleep 1000")
    monitor = moment == "while the monitor is awaited"
    with_config(engine, f'[vm]\nqemu = "{silent}"' if monitor else '[vm]\nkernel_parameters = "rdinit=/bin/cat"')
    creation = engine.begin_create("d", engine.bundle("d", SLEEP, annotations=crio("sandbox", "d")))
    wait_until(lambda: list(engine.root.glob(".sandboxes/*/console.log")), "QEMU is watched")
    engine.call("delete", "--force", "d")
    assert creation.wait(20) == 1
    assert engine.log("d") == "vmpod: create of d was cancelled by delete --force\n"
    assert engine.leftovers() == []


def script(directory: Path, text: str) -> Path:
    """A program that anybody may run."""
    path = Path(tempfile.mkdtemp(dir=directory)) / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    for place in (path, *path.parents[: len(path.parts) - len(Path(tempfile.gettempdir()).parts) - 1]):
        place.chmod(0o755)
    return path


@pytest.mark.parametrize("setting", ["[vm]\nqemu", "[storage]\nvirtiofsd"])
def test_a_program_that_ends_at_once_is_named_with_its_last_words(engine: Engine, tmp_path: Path, setting: str) -> None:
    program = script(tmp_path, "echo first >&2; echo last words >&2; exit 3")
    with_config(engine, f'{setting} = "{program}"')
    failed = engine.create("x", SLEEP, check=False)
    assert failed.code == 1 and engine.leftovers() == []
    line = failed.err.splitlines()[0]
    assert str(program) in line and line.endswith("exit status 3: last words"), failed.err


def with_config(engine: Engine, text: str) -> None:
    """Give the engine's calls a configuration file."""
    engine.config = engine.directory / "config.toml"
    engine.config.write_text(text)


@pytest.fixture
def broken_image(tmp_path: Path) -> Callable[[str], Path]:
    """A copy of the default image's store with one asset changed."""

    def make(asset: str) -> Path:
        from oci_runtime.image.store import DEFAULT_STORE

        source = Path(os.environ.get("VMPOD_IMAGE_STORE", DEFAULT_STORE), "default").resolve()
        store = tmp_path / "store"
        shutil.copytree(source, store / source.name)
        (store / "default").symlink_to(source.name)
        with (store / source.name / asset).open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last[0] ^ 1]))
        return store

    return make


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ('[vm]\nqemu = "/nowhere/qemu"', ("/nowhere/qemu", "qemu-system-x86")),
        ('[storage]\nvirtiofsd = "/nowhere/virtiofsd"', ("/nowhere/virtiofsd", "qemu-system-common")),
        ('[image]\nstore = "/nowhere"', ("/nowhere", "vmpod image build")),
        ('[vm]\nmachin = "q35"', ("machin", "machine")),
    ],
)
def test_what_is_missing_is_named(engine: Engine, config: str, words: tuple[str, ...]) -> None:
    with_config(engine, config)
    failed = engine.create("x", SLEEP, check=False)
    assert failed.code == 1
    assert all(word in failed.err for word in words), failed.err
    assert engine.leftovers() == []


@pytest.mark.parametrize("asset", ["kernel", "initrd", "rootfs"])
def test_a_changed_image_is_refused(engine: Engine, broken_image: Callable[[str], Path], asset: str) -> None:
    with_config(engine, f'[image]\nstore = "{broken_image(asset)}"')
    failed = engine.create("x", SLEEP, check=False)
    assert failed.code == 1 and asset in failed.err and "vmpod image build" in failed.err, failed.err
    assert engine.leftovers() == []


def test_a_guest_that_never_comes_up_shows_its_console(engine: Engine) -> None:
    with_config(engine, '[vm]\nboot_timeout_s = 60\ndebug = true\nkernel_parameters = "rdinit=/nothing"')
    failed = engine.create("x", SLEEP, check=False)
    assert failed.code == 1
    assert failed.err.startswith("vmpod: virtual machine ended: panic\n"), failed.err
    assert "Kernel panic" in failed.err or "rdinit" in failed.err or "nothing" in failed.err, failed.err
    assert engine.leftovers() == []


def test_a_guest_that_is_silent_is_said_to_be(engine: Engine) -> None:
    with_config(engine, "[vm]\nboot_timeout_s = 1")
    failed = engine.create("x", SLEEP, check=False)
    assert failed.err == (
        "vmpod: guest did not answer within 1 s (setting vm.boot_timeout_s); its console is empty, try vmpod check"
        " --guest, or another vm.accel\n"
    )
    assert engine.leftovers() == []


def test_exec_of_a_missing_program_fails_at_once_and_litters_nothing(shared: Engine) -> None:
    before = shared.exec("pod", "ps").out.count("\n")
    for program, words in (("nothing", "executable file not found in $PATH"), ("/no/x", "no such file or directory")):
        failed = shared.exec("pod", program, check=False)
        assert failed.code != 0 and words in failed.err, failed
    assert shared.exec("pod", "ps").out.count("\n") == before


def test_create_of_a_missing_program_fails_in_create(engine: Engine) -> None:
    failed = engine.create("x", ["/no/such/program"], check=False)
    assert failed.code == 1 and "no such file or directory" in failed.err
    assert engine.leftovers() == []


def test_full_disk_in_the_state_directory(engine: Engine) -> None:
    engine.root.mkdir(mode=0o700)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k,mode=0700", "tmpfs", str(engine.root)], check=True)
    try:
        (engine.root / "filler").write_bytes(b"x" * 8192)
        failed = engine.create("x", SLEEP, check=False)
        assert failed.code == 1 and "No space left on device" in failed.err, failed.err
        (engine.root / "filler").unlink()
        assert [path for path in engine.root.rglob("*") if path.name != ".sandboxes"] == []
    finally:
        engine.ids.clear()
        subprocess.run(["umount", str(engine.root)], check=True)


def test_state_directory_of_an_earlier_boot(engine: Engine) -> None:
    engine.run("s", SLEEP, annotations=crio("sandbox", "s"))
    record = engine.sandbox_record()
    for pid in (record["pid"], engine.pids["s"]):
        kill(pid)
    wait_exit(engine.pids["s"])
    wait_until(lambda: not is_running(record["qemu"]["pid"]), "QEMU gone")
    for path in (*engine.root.glob(".sandboxes/*/sandbox.json"), engine.root / "s" / "state.json"):
        values = json.loads(path.read_text())
        values["boot_id"] = "00000000-0000-0000-0000-000000000000"
        path.write_text(json.dumps(values))
    assert engine.state("s")["status"] == "stopped"
    engine.call("delete", "--force", "s")
    assert engine.leftovers() == []


def test_a_hung_guest_does_not_hang_state_and_delete_ends_it(engine: Engine) -> None:
    with_config(engine, "[runtime]\nkill_timeout_s = 1\n[vm]\nstop_timeout_s = 0")
    engine.run("s", SLEEP)
    os.kill(engine.sandbox_record()["qemu"]["pid"], signal.SIGSTOP)
    assert json.loads(engine.call("state", "s", deadline_s=10).out)["status"] == "running"
    failed = engine.call("kill", "s", "TERM", check=False)
    assert failed.code == 1 and "no answer from the guest's agent within 1 s" in failed.err
    engine.call("delete", "--force", "s")
    assert engine.leftovers() == []


def test_delete_does_not_wait_for_somebody_to_read_the_output(engine: Engine) -> None:
    """A full log pipe stops the proxy, and a pod that has ended waits for its proxies."""
    bundle = engine.bundle("s", ["sh", "-c", "while :; do echo yes; done"])
    reader, writer = os.pipe()
    engine.ids.append("s")
    command = engine.command("create", "--bundle", str(bundle), "--pid-file", str(bundle / "pid"), "s")
    subprocess.run(command, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, check=True, timeout=60)
    engine.pids["s"] = int((bundle / "pid").read_text())
    engine.call("start", "s")
    wait_until(lambda: not select.select((), (writer,), (), 0)[1], "the pipe is full")
    engine.call("kill", "s", "KILL")
    record = engine.root / "s" / "state.json"
    wait_until(lambda: json.loads(record.read_text())["status"] == "stopped", "the guest's process has ended")
    assert is_running(engine.pids["s"]), "its proxy has output that nobody took"
    engine.call("delete", "--force", "s")
    assert engine.leftovers() == []
    os.close(reader)
    os.close(writer)
