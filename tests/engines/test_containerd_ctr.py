"""`ctr` with the shim: what a user of containerd does by hand."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import pty
import select
import subprocess
import time
from pathlib import Path

import pytest

from conformance.cri.containerd import BUSYBOX_IMAGE
from tests.engine import make_rootfs
from tests.engines.conftest import BIN, RUNC, SHIM, Ctr, wait_until
from tests.loop_lab import make_image, read_ext4

pytestmark = pytest.mark.engine

LOOP = ("sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done")


def test_run_in_a_kernel_of_its_own(ctr: Ctr) -> None:
    done = ctr.run_rm("uname", "-r")
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().strip() != platform.release()


def test_an_image_file_as_root_is_a_disk_of_the_guest(ctr: Ctr, tmp_path: Path) -> None:
    make_rootfs(tmp_path / "rootfs")
    image = tmp_path / "image"
    make_image(image, size_mib=32, fstype="ext4", content=tmp_path / "rootfs")
    words = ("--rootfs", str(image), ctr.new_name(), "/bin/sh", "-c", "/bin/stat -f -c %T /; echo kept > /etc/file")
    done = ctr.engine.try_ctr("run", "--rm", "--runtime", SHIM, *words)
    assert done.stdout == b"ext2/ext3\n", done.stderr
    assert read_ext4(image, "/etc/file") == "kept\n"


@pytest.mark.parametrize("code", [3, 255])
def test_run_ends_with_the_code_of_its_process(ctr: Ctr, code: int) -> None:
    done = ctr.run_rm("sh", "-c", f"echo out; echo err >&2; exit {code}")
    assert (done.returncode, done.stdout) == (code, b"out\n")
    assert b"err\n" in done.stderr


def test_missing_program_is_named(ctr: Ctr) -> None:
    done = ctr.run_rm("/no/such/program")
    assert done.returncode != 0
    assert b"/no/such/program" in done.stderr


def test_life_of_a_detached_container(ctr: Ctr) -> None:
    name = ctr.run(*LOOP)
    assert ctr.status(name) == "RUNNING"
    assert Path(f"/proc/{ctr.pid(name)}").exists()
    assert b"hello\n" == ctr("task", "exec", "--exec-id", "e1", name, "echo", "hello")
    failed = ctr.engine.try_ctr("task", "exec", "--exec-id", "e2", name, "sh", "-c", "exit 42")
    assert failed.returncode == 42
    assert b"in\n" == ctr("task", "exec", "--exec-id", "e3", name, "cat", stdin=b"in\n")
    missing = ctr.engine.try_ctr("task", "exec", "--exec-id", "e4", name, "nosuch")
    assert missing.returncode == 1 and b"nosuch" in missing.stderr
    ctr("task", "kill", "-s", "SIGTERM", name)
    wait_until(lambda: ctr.status(name) == "STOPPED", "stopped")
    deleted = ctr.engine.try_ctr("task", "rm", name)
    assert b"non-zero exit code 7" in deleted.stderr


def test_pause_metrics_and_processes(ctr: Ctr) -> None:
    name = ctr.run(*LOOP)
    ctr("task", "pause", name)
    assert ctr.status(name) == "PAUSED"
    ctr("task", "resume", name)
    assert ctr.status(name) == "RUNNING"
    lines = ctr("task", "ps", name).decode().splitlines()[1:]
    assert int(lines[0].split()[0]) == ctr.pid(name)
    assert len(lines) >= 2, "the guest's processes follow"
    figures = ctr("task", "metrics", "--format", "json", name)
    found = json.loads(figures)
    usage = found["memory"]["usage"]
    used = usage["usage"] if isinstance(usage, dict) else usage
    assert int(used) > 64 << 20, "what the machine costs is part of its container's figures"
    table = ctr("task", "metrics", name).decode()
    assert "memory" in table and "pids" in table


def test_the_pid_has_the_pods_namespaces_and_killing_it_kills_the_container(ctr: Ctr) -> None:
    name = ctr.run(*LOOP)
    pid = ctr.pid(name)
    for kind in ("net", "ipc", "uts"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")
    os.kill(pid, 9)
    wait_until(lambda: ctr.status(name) == "STOPPED", "stopped")


def test_events_come_in_order(ctr: Ctr) -> None:
    with ctr.events() as lines:
        name = ctr.new_name()
        ctr("run", "--rm", "--runtime", SHIM, BUSYBOX_IMAGE, name, "true")
        topics: list[str] = []
        while "/tasks/delete" not in topics:
            line = next(lines)
            topics += [word for word in line.split() if word.startswith("/tasks/") and name in line]
    assert topics == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]


def test_terminal(ctr: Ctr) -> None:
    master, slave = pty.openpty()
    name = ctr.new_name()
    command = ctr.engine.command("run", "--rm", "-t", "--runtime", SHIM, BUSYBOX_IMAGE, name, "sh")
    process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    try:
        seen = b""

        def read_until(wanted: bytes) -> None:
            nonlocal seen
            until = time.monotonic() + 60
            while wanted not in seen:
                assert time.monotonic() < until, seen
                if select.select([master], [], [], 0.2)[0]:
                    seen += os.read(master, 65536)

        read_until(b"# ")
        os.write(master, b"stty size; echo mark$((40+2))\n")
        read_until(b"mark42")
        os.write(master, b"exit 9\n")
        assert process.wait(30) == 9
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_50_mb_through_stdio(ctr: Ctr, tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * 50
    done = ctr.run_rm("cat", stdin=data)
    assert done.returncode == 0, done.stderr
    assert hashlib.sha256(done.stdout).hexdigest() == hashlib.sha256(data).hexdigest()


def test_log_file(ctr: Ctr, tmp_path: Path) -> None:
    log = tmp_path / "sub" / "log file"
    name = ctr.run("sh", "-c", "echo out; echo err >&2", options=("--log-uri", f"file://{log}".replace(" ", "%20")))
    wait_until(lambda: ctr.status(name) == "STOPPED", "stopped")
    ctr("task", "rm", name)
    assert sorted(log.read_text().splitlines()) == ["err", "out"]


def test_log_program(ctr: Ctr, tmp_path: Path) -> None:
    program, out = tmp_path / "logger", tmp_path / "out"
    program.write_text(
        "#!/bin/sh\n"
        f'echo "$@" $CONTAINER_ID $CONTAINER_NAMESPACE >{out}.arguments\n'
        f"cat <&3 >{out}.3 5>&- & cat <&4 >{out}.4 5>&- & exec 5>&-; wait\n"
    )
    program.chmod(0o755)
    uri = f"binary://{program}?colour=green"
    name = ctr.run("sh", "-c", "echo out; echo err >&2", options=("--log-uri", uri))
    wait_until(lambda: ctr.status(name) == "STOPPED", "stopped")
    ctr("task", "rm", name)
    assert (tmp_path / "out.3").read_text() == "out\n"
    assert (tmp_path / "out.4").read_text() == "err\n"
    assert (tmp_path / "out.arguments").read_text() == f"colour green {name} default\n"


def test_native_snapshotter(ctr: Ctr) -> None:
    archive = ctr.engine.directory / "native.tar"
    ctr("image", "export", str(archive), BUSYBOX_IMAGE)
    ctr("image", "import", "--snapshotter", "native", str(archive))
    done = ctr.run_rm("sh", "-c", "echo x > /file; cat /file", options=("--snapshotter", "native"))
    assert (done.returncode, done.stdout) == (0, b"x\n"), done.stderr


def test_read_only_root(ctr: Ctr) -> None:
    done = ctr.run_rm("touch", "/file", options=("--read-only",))
    assert done.returncode != 0 and b"ead-only file system" in done.stderr


def test_host_network_is_refused(ctr: Ctr) -> None:
    done = ctr.run_rm("true", options=("--net-host",))
    assert done.returncode != 0
    assert b"network namespace" in done.stderr


def test_mounts_and_environment(ctr: Ctr, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content\n")
    mount = f"type=bind,src={tmp_path},dst=/data,options=rbind:ro"
    done = ctr.run_rm("sh", "-c", "cat /data/file; echo $COLOUR", options=("--mount", mount, "--env", "COLOUR=green"))
    assert done.stdout == b"content\ngreen\n", done.stderr


def test_the_command_line_under_runcs_shim(ctr: Ctr) -> None:
    options = ("--runc-binary", str(BIN / "vmpod"), "--runc-root", str(ctr.engine.directory / "oci"))
    done = ctr.run_rm("sh", "-c", "uname -r; exit 3", runtime=RUNC, options=options)
    assert done.returncode == 3, done.stderr
    assert done.stdout.decode().strip() != platform.release()


def test_the_same_commands_work_on_runc(ctr: Ctr) -> None:
    """The control: what fails here is wrong with the tests."""
    done = ctr.run_rm("sh", "-c", "uname -r; exit 3", runtime=RUNC)
    assert (done.returncode, done.stdout.decode().strip()) == (3, platform.release())
