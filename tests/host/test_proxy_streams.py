"""Bytes, back pressure, ends and terminals through a proxy or a foreground command."""

from __future__ import annotations

import fcntl
import hashlib
import os
import pty
import select
import signal
import socket
import subprocess
import termios
import time
from pathlib import Path
from typing import Any

import pytest

from tests.engine import is_running, wait_exit, wait_until
from tests.host.conftest import FakeEngine
from tests.terminal import ASK, listen, own_terminal, read_until, receive_master, run_silently, set_size

pytestmark = pytest.mark.root
_MIB = 1 << 20


def create(engine: FakeEngine, name: str, arguments: list[str], streams: dict[str, Any], **changes: Any) -> int:
    """create with streams of the test's choice; returns the proxy's pid."""
    bundle = engine.bundle(name, arguments, **changes)
    engine.ids.append(name)
    command = engine.command("create", "-b", str(bundle), "--pid-file", str(bundle / "pid"), name)
    subprocess.run(command, check=True, timeout=60, **streams)
    engine.pids[name] = int((bundle / "pid").read_text())
    return engine.pids[name]


def read_all(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        return file.read()


def resident_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def test_bytes_pass_unchanged_in_both_directions(engine: FakeEngine, tmp_path: Path) -> None:
    data = os.urandom(_MIB) * 40
    source, target = tmp_path / "in", tmp_path / "out"
    source.write_bytes(data)
    with source.open("rb") as reading, target.open("wb") as writing:
        create(engine, "c1", ["cat"], {"stdin": reading, "stdout": writing, "stderr": subprocess.DEVNULL})
    engine.call("start", "c1")
    assert engine.exit_code("c1") == 0
    assert hashlib.sha256(target.read_bytes()).digest() == hashlib.sha256(data).digest()


def test_pipes_pass_everything_and_stay_blocking(engine: FakeEngine) -> None:
    out_read, out_write = os.pipe()
    err_read, err_write = os.pipe()
    script = "head -c 5000000 /dev/zero; head -c 60000 /dev/zero >&2"
    create(engine, "c1", ["sh", "-c", script], {"stdin": subprocess.DEVNULL, "stdout": out_write, "stderr": err_write})
    engine.call("start", "c1")
    assert not fcntl.fcntl(out_write, fcntl.F_GETFL) & os.O_NONBLOCK
    os.close(out_write)
    os.close(err_write)
    assert len(read_all(out_read)) == 5000000
    assert len(read_all(err_read)) == 60000
    assert engine.exit_code("c1") == 0


def test_a_reader_that_pauses_stops_the_workload(engine: FakeEngine, tmp_path: Path) -> None:
    out_read, out_write = os.pipe()
    progress = tmp_path / "progress"
    script = f"i=0; while [ $i -lt 64 ]; do head -c 1000000 /dev/zero; i=$((i+1)); echo $i > {progress}; done"
    streams = {"stdin": subprocess.DEVNULL, "stdout": out_write, "stderr": subprocess.DEVNULL}
    pid = create(engine, "c1", ["sh", "-c", script], streams)
    os.close(out_write)
    engine.call("start", "c1")
    select.select([out_read], [], [], 10)
    counts = [-1, -2]
    while counts[-1] != counts[-2]:
        time.sleep(0.5)
        counts.append(int(progress.read_text().strip() or 0) if progress.exists() else 0)
    assert counts[-1] < 20
    assert resident_kib(pid) < 16 * 1024
    assert len(read_all(out_read)) == 64_000_000
    assert engine.exit_code("c1") == 0


def test_a_reader_that_leaves_does_not_end_the_workload(engine: FakeEngine) -> None:
    out_read, out_write = os.pipe()
    streams = {"stdin": subprocess.DEVNULL, "stdout": out_write, "stderr": subprocess.DEVNULL}
    create(engine, "c1", ["sh", "-c", "head -c 3000000 /dev/zero; exit 5"], streams)
    os.close(out_write)
    os.close(out_read)
    engine.call("start", "c1")
    assert engine.exit_code("c1") == 5


def test_signals_arrive_while_output_and_input_are_stuck(engine: FakeEngine) -> None:
    out_read, out_write = os.pipe()
    in_read, in_write = os.pipe()
    script = 'trap "exit 6" TERM; head -c 10000000 /dev/zero & while :; do sleep 0.05; done'
    streams = {"stdin": in_read, "stdout": out_write, "stderr": subprocess.DEVNULL}
    pid = create(engine, "c1", ["sh", "-c", script], streams)
    os.close(out_write)
    os.close(in_read)
    engine.call("start", "c1")
    os.set_blocking(in_write, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(in_write, bytes(65536))
            time.sleep(0.01)
    os.kill(pid, signal.SIGTERM)
    time.sleep(0.2)
    read_all(out_read)
    os.close(in_write)
    assert engine.exit_code("c1") == 6


def test_output_that_nobody_reads_is_given_up_when_the_pod_is_gone(engine: FakeEngine) -> None:
    out_read, out_write = os.pipe()
    streams = {"stdin": subprocess.DEVNULL, "stdout": out_write, "stderr": subprocess.DEVNULL}
    pid = create(engine, "c1", ["cat", "/dev/zero"], streams)
    os.close(out_write)
    engine.call("start", "c1")
    select.select([out_read], [], [], 10)
    time.sleep(0.3)
    os.kill(engine.sandbox_record()["pid"], signal.SIGKILL)
    assert wait_exit(pid, 30) == 137
    os.close(out_read)


def test_end_of_input_is_passed_on(engine: FakeEngine) -> None:
    in_read, in_write = os.pipe()
    create(engine, "c1", ["sh", "-c", "cat; echo end"], {"stdin": in_read, **_log(engine)})
    os.close(in_read)
    engine.call("start", "c1")
    os.write(in_write, b"line\n")
    wait_until(lambda: engine.log("c1") == "line\n", "the line comes back")
    os.close(in_write)
    assert engine.exit_code("c1") == 0
    assert engine.log("c1") == "line\nend\n"


def _log(engine: FakeEngine) -> dict[str, int]:
    fd = os.open(engine.log_path("c1"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return {"stdout": fd, "stderr": fd}


def test_sockets_and_closed_descriptors_as_streams(engine: FakeEngine) -> None:
    ours, theirs = socket.socketpair()
    create(engine, "c1", ["sh", "-c", "cat; exit 3"], {"stdin": theirs, "stdout": theirs, "stderr": theirs})
    theirs.close()
    engine.call("start", "c1")
    ours.sendall(b"over a socket")
    assert ours.recv(100) == b"over a socket"
    ours.shutdown(socket.SHUT_WR)
    assert engine.exit_code("c1") == 3
    bundle = engine.bundle("c2", ["sh", "-c", "echo lost; exit 4"])
    command = engine.command("run", "-b", str(bundle), "c2")
    script = 'exec "$@" <&- >&- 2>&-'
    assert subprocess.run(["sh", "-c", script, "sh", *command], timeout=60, check=False).returncode == 4


def test_nothing_else_is_inherited(engine: FakeEngine, tmp_path: Path) -> None:
    secret = os.open(tmp_path / "secret", os.O_WRONLY | os.O_CREAT)
    os.set_inheritable(secret, True)
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    pid = create(engine, "c1", ["sleep", "1000"], {**streams, "close_fds": False})
    for process in (pid, engine.sandbox_record()["pid"]):
        targets = [os.readlink(link) for link in Path(f"/proc/{process}/fd").iterdir()]
        assert not [target for target in targets if "secret" in target]


# Terminals


def test_a_terminal_through_the_console_socket(engine: FakeEngine, tmp_path: Path) -> None:
    listener = listen(tmp_path / "console")
    script = f"stty size; {ASK}; tty; exit 7"
    process = {"terminal": True, "consoleSize": {"height": 11, "width": 22}}
    bundle = engine.bundle("c1", ["busybox", "sh", "-c", script], process=process)
    engine.ids.append("c1")
    command = engine.command("create", "--console-socket", str(tmp_path / "console"), "--pid-file", "pid", "c1")
    run_silently(command, bundle)
    engine.pids["c1"] = int((bundle / "pid").read_text())
    master = receive_master(listener)
    assert os.readlink(f"/proc/{engine.pids['c1']}/fd/0").startswith("/dev/pts/")
    engine.call("start", "c1")
    read_until(master, b"11 22\r\n")
    set_size(master, 33, 44)
    read_until(master, b"33 44\r\n")
    os.write(master, b"word\r")
    assert b"got word\r\n" in read_until(master, b"/dev/pts/")
    assert engine.exit_code("c1") == 7


def test_a_terminal_whose_master_is_gone_hangs_up_the_workload(engine: FakeEngine, tmp_path: Path) -> None:
    listener = listen(tmp_path / "console")
    bundle = engine.bundle("c1", ["sleep", "1000"], process={"terminal": True})
    engine.ids.append("c1")
    command = engine.command("run", "-d", "--console-socket", str(tmp_path / "console"), "--pid-file", "pid", "c1")
    run_silently(command, bundle)
    pid = int((bundle / "pid").read_text())
    os.close(receive_master(listener))
    assert wait_exit(pid) == 128 + signal.SIGHUP


def test_exec_in_the_foreground_of_a_terminal(engine: FakeEngine) -> None:
    engine.run("c1", ["sleep", "1000"])
    master, slave = pty.openpty()
    set_size(slave, 40, 90)
    before = termios.tcgetattr(slave)
    script = f"stty size; {ASK}; exit 9"
    command = engine.command("exec", "--tty", "c1", "busybox", "sh", "-c", script)
    process = subprocess.Popen(
        command, stdin=slave, stdout=slave, stderr=slave, start_new_session=True, preexec_fn=lambda: own_terminal(0)
    )
    read_until(master, b"40 90\r\n")
    assert termios.tcgetattr(slave)[3] & termios.ECHO == 0
    set_size(master, 41, 91)
    read_until(master, b"41 91\r\n")
    os.write(master, b"word\r")
    read_until(master, b"got word\r\n")
    assert process.wait(60) == 9
    assert termios.tcgetattr(slave) == before
    os.close(slave)
    os.close(master)


def test_run_in_the_foreground_of_a_terminal(engine: FakeEngine) -> None:
    bundle = engine.bundle(
        "c1", ["sh", "-c", "stty size; read line; echo got $line; exit 8"], process={"terminal": True}
    )
    master, slave = pty.openpty()
    set_size(slave, 12, 34)
    before = termios.tcgetattr(slave)
    process = subprocess.Popen(
        engine.command("run", "-b", str(bundle), "c1"),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: own_terminal(0),
    )
    read_until(master, b"12 34\r\n")
    os.write(master, b"there\r")
    read_until(master, b"got there\r\n")
    assert process.wait(20) == 8
    assert termios.tcgetattr(slave) == before
    assert not engine.leftovers()


@pytest.mark.parametrize(
    ("terminal", "socket_given", "message"),
    [
        (True, False, "cannot allocate tty if vmpod will detach without setting console socket"),
        (False, True, "cannot use console socket if vmpod will not detach or allocate tty"),
    ],
)
def test_terminal_and_console_socket_belong_together(
    engine: FakeEngine, terminal: bool, socket_given: bool, message: str
) -> None:
    bundle = engine.bundle("c1", ["true"], process={"terminal": terminal})
    extra = ["--console-socket", "/nowhere"] if socket_given else []
    result = engine.call("create", "-b", str(bundle), *extra, "c1", check=False)
    assert (result.code, result.err) == (1, f"vmpod: {message}\n")
    assert not engine.leftovers()


# Execs


def test_exec_passes_code_streams_and_options(engine: FakeEngine) -> None:
    engine.run("c1", ["sleep", "1000"])
    script = "cat; echo $A$B; pwd; echo err >&2; exit 5"
    options = ["--env", "A=x", "-e", "B=y", "--cwd", "/tmp"]
    result = engine.call("exec", *options, "c1", "sh", "-c", script, check=False, stdin="in\n")
    assert (result.code, result.out, result.err) == (5, "in\nxy\n/tmp\n", "err\n")


def test_exec_detached_outlives_the_command(engine: FakeEngine) -> None:
    engine.run("c1", ["sleep", "1000"])
    pid = engine.exec_detached("c1", "sh", "-c", "sleep 0.5; echo done; exit 11")
    assert is_running(pid)
    assert Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")[0] == b"sh"
    assert wait_exit(pid) == 11
    assert engine.log("c1") == "done\n"


def test_exec_of_a_missing_program(engine: FakeEngine) -> None:
    engine.run("c1", ["sleep", "1000"])
    result = engine.exec("c1", "no-such-program", check=False)
    assert result.code == 255
    assert "executable file not found in $PATH" in result.err
    pid_file = engine.directory / "e"
    result = engine.call("exec", "-d", "--pid-file", str(pid_file), "c1", "no-such-program", check=False)
    assert result.code == 255
    assert not pid_file.exists()


def test_exec_with_a_process_file_and_its_terminal(engine: FakeEngine, tmp_path: Path) -> None:
    engine.run("c1", ["sleep", "1000"])
    listener = listen(tmp_path / "console")
    process = tmp_path / "process.json"
    process.write_text(
        '{"terminal": true, "args": ["sh", "-c", "tty; exit 6"], "cwd": "/", "env": ["PATH=/bin:/usr/bin"]}'
    )
    options = ["--process", str(process), "--tty", "--console-socket", str(tmp_path / "console")]
    command = engine.command("exec", *options, "-d", "--pid-file", str(tmp_path / "pid"), "c1")
    run_silently(command)
    master = receive_master(listener)
    read_until(master, b"/dev/pts/")
    assert wait_exit(int((tmp_path / "pid").read_text())) == 6


def test_exec_in_a_created_container(engine: FakeEngine) -> None:
    engine.create("c1", ["sleep", "1000"])
    assert engine.exec("c1", "echo", "early").out == "early\n"


def test_a_killed_exec_command_ends_its_process(engine: FakeEngine) -> None:
    engine.run("c1", ["sleep", "1000"])
    process = subprocess.Popen(
        engine.command("exec", "c1", "sh", "-c", "echo $$; exec sleep 1000"), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    workload = int(process.stdout.readline())
    process.kill()
    process.wait()
    wait_until(lambda: not is_running(workload), "the process is gone")


def test_exec_keeps_the_process_of_the_creation(engine: FakeEngine) -> None:
    engine.run("c1", ["sleep", "1000"], process={"env": ["PATH=/bin:/usr/bin", "KEPT=yes"]})
    config = engine.directory / "bundles" / "c1" / "config.json"
    config.write_text("{}")
    assert engine.exec("c1", "sh", "-c", "echo $KEPT").out == "yes\n"
    config.unlink()
    assert engine.state("c1")["status"] == "running"
