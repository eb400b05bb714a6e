"""What survives what: containerd, the shim, QEMU and the guest are taken away, one at a time."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.cri.containerd import BUSYBOX_IMAGE, Containerd
from tests.engines.conftest import BIN, SHIM, Ctr, wait_until

pytestmark = pytest.mark.engine

LOOP = ("sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done")


def sandbox_record(ctr: Ctr) -> dict[str, object]:
    """The record of the only pod."""
    (directory,) = ctr.sandboxes()
    return dict(json.loads((directory / "sandbox.json").read_text()))


def pid_of(record: dict[str, object], what: str) -> int:
    """A pid of a record: "shim", "qemu" or "virtiofsd"."""
    if what == "shim":
        return int(str(record["pid"]))
    entry = record[what]
    assert isinstance(entry, dict)
    return int(entry["pid"])


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_killed_shim_takes_its_pod_with_it_and_nothing_is_left(ctr: Ctr) -> None:
    name = ctr.run(*LOOP)
    record = sandbox_record(ctr)
    holder = ctr.pid(name)
    with ctr.events() as lines:
        os.kill(pid_of(record, "shim"), signal.SIGKILL)
        line = next(line for line in lines if "/tasks/exit" in line)
    assert '"exit_status":137' in line.replace(" ", "")
    wait_until(lambda: not any(is_running(pid_of(record, what)) for what in ("qemu", "virtiofsd")), "machine gone")
    wait_until(lambda: not is_running(holder), "stand-in gone")
    wait_until(lambda: ctr.status(name) == "", "task gone")
    wait_until(lambda: not ctr.leftovers(), f"nothing left: {ctr.leftovers()}")


@pytest.mark.parametrize("victim", ["qemu", "virtiofsd"])
def test_a_killed_machine_ends_its_container_with_an_error(ctr: Ctr, victim: str) -> None:
    name = ctr.run(*LOOP)
    record = sandbox_record(ctr)
    os.kill(pid_of(record, victim), signal.SIGKILL)
    wait_until(lambda: ctr.status(name) == "STOPPED", "stopped")
    wait_until(lambda: not is_running(pid_of(record, "qemu")), "machine gone")
    deleted = ctr.engine.try_ctr("task", "rm", name)
    assert b"non-zero exit code 137" in deleted.stderr
    wait_until(lambda: not is_running(pid_of(record, "shim")), "shim gone")


def test_a_hung_guest_neither_hides_the_state_nor_survives_a_kill(ctr: Ctr) -> None:
    name = ctr.run(*LOOP)
    record = sandbox_record(ctr)
    os.kill(pid_of(record, "qemu"), signal.SIGSTOP)
    try:
        assert ctr.status(name) == "RUNNING"
        ctr.engine.try_ctr("task", "kill", "-s", "SIGKILL", name)
        wait_until(lambda: ctr.status(name) == "STOPPED", "stopped", 90)
    finally:
        if is_running(pid_of(record, "qemu")):
            os.kill(pid_of(record, "qemu"), signal.SIGCONT)


def test_a_killed_shim_cleans_up_after_a_hung_machine(ctr: Ctr) -> None:
    name = ctr.run(*LOOP)
    record = sandbox_record(ctr)
    os.kill(pid_of(record, "qemu"), signal.SIGSTOP)
    os.kill(pid_of(record, "shim"), signal.SIGKILL)
    wait_until(lambda: not is_running(pid_of(record, "qemu")), "machine gone")
    wait_until(lambda: ctr.status(name) == "", "task gone")


@pytest.fixture
def own(engine_network: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ctr]:
    """A containerd of the test's own, which may be stopped and started."""
    directory = Path("/tmp") / f"vr{os.getpid()}"
    directory.mkdir()
    engine = Containerd(directory, shim_path=str(BIN), prefix=("nsenter", f"--net=/run/netns/{engine_network}"))
    engine.start()
    engine.load_images()
    ctr = Ctr(engine)
    yield ctr
    ctr.clean()
    wait_until(lambda: not ctr.leftovers(), f"nothing left: {ctr.leftovers()}", 20)
    engine.remove()


def test_containerd_comes_back_and_finds_its_pods(own: Ctr) -> None:
    goes_on, ends = own.run(*LOOP), own.run("sh", "-c", "read x; exit 5")
    own.engine.stop(signal.SIGKILL)
    own.engine.start()
    assert own.status(goes_on) == "RUNNING"
    assert own("task", "exec", "--exec-id", "e1", goes_on, "echo", "still") == b"still\n"
    wait_until(lambda: own.status(ends) in ("RUNNING", "STOPPED"), "known")
    own.engine.stop()
    record = own.sandboxes()
    assert len(record) == 2
    own.engine.start()
    own("task", "kill", "-s", "SIGTERM", goes_on)
    wait_until(lambda: own.status(goes_on) == "STOPPED", "stopped")
    assert b"code 7" in own.engine.try_ctr("task", "rm", goes_on).stderr


def test_a_container_that_ends_while_containerd_is_away_keeps_its_code(own: Ctr, tmp_path: Path) -> None:
    mount = ("--mount", f"type=bind,src={tmp_path},dst=/told,options=rbind:ro")
    name = own.run("sh", "-c", "until [ -e /told/end ]; do sleep 0.1; done; exit 5", options=mount)
    record = sandbox_record(own)
    own.engine.stop()
    (tmp_path / "end").touch()
    wait_until(lambda: not is_running(pid_of(record, "qemu")), "the machine ends with it")
    own.engine.start()
    wait_until(lambda: own.status(name) == "STOPPED", "stopped")
    assert b"code 5" in own.engine.try_ctr("task", "rm", name).stderr


def test_a_shim_that_dies_while_containerd_is_away_is_cleaned_up_later(own: Ctr) -> None:
    name = own.run(*LOOP)
    record = sandbox_record(own)
    own.engine.stop()
    os.kill(pid_of(record, "shim"), signal.SIGKILL)
    wait_until(lambda: not is_running(pid_of(record, "qemu")), "machine gone")
    own.engine.start()
    wait_until(lambda: own.status(name) == "", "task gone")
    wait_until(lambda: not own.leftovers(), f"nothing left: {own.leftovers()}")


def test_output_goes_on_while_containerd_is_away(own: Ctr, tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "i=0; while [ $i -lt 30 ]; do echo line $i; i=$((i+1)); sleep 0.1; done"
    name = own.run("sh", "-c", script, options=("--log-uri", f"file://{log}"))
    own.engine.stop(signal.SIGKILL)
    own.engine.start()
    wait_until(lambda: own.status(name) == "STOPPED", "stopped", 90)
    assert log.read_text().splitlines() == [f"line {number}" for number in range(30)]


def test_a_missing_guest_image_is_named_and_nothing_is_left(own: Ctr, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'[image]\nstore = "{tmp_path}/nothing"\n')
    done = own.run_rm("true", options=("--runtime-config-path", str(config)))
    assert done.returncode != 0
    assert str(tmp_path / "nothing").encode() in done.stderr or b"image" in done.stderr
    wait_until(lambda: not own.leftovers(), f"nothing left: {own.leftovers()}")


def test_a_missing_configuration_is_named(own: Ctr, tmp_path: Path) -> None:
    done = own.run_rm("true", options=("--runtime-config-path", str(tmp_path / "none.toml")))
    assert done.returncode != 0
    assert b"none.toml does not exist" in done.stderr


def test_unusable_bundles_are_refused(own: Ctr) -> None:
    done = own.engine.try_ctr(
        "run", "--rm", "--runtime", SHIM, "--annotation", "io.kubernetes.cri.container-type=nonsense",
        BUSYBOX_IMAGE, own.new_name(), "true",
    )  # fmt: skip
    assert done.returncode != 0
    assert b"container-type" in done.stderr
