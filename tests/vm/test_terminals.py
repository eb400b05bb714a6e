"""Terminals, foreground commands and their signals, with processes of a real machine."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import termios
from pathlib import Path

import pytest

from tests.engine import Engine, crio, wait_exit, wait_until
from tests.terminal import ASK, listen, own_terminal, read_until, receive_master, run_silently, set_size

pytestmark = pytest.mark.vm

_PTS = {
    "destination": "/dev/pts",
    "type": "devpts",
    "source": "devpts",
    "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
}


@pytest.fixture(scope="module")
def box(shared: Engine) -> Engine:
    """The shared pod with a running member `box` that can make terminals."""
    shared.run("box", ["sleep", "100000"], annotations=crio("container", "pod"), more_mounts=[_PTS])
    return shared


def test_exec_in_the_foreground_of_a_terminal(box: Engine) -> None:
    master, slave = pty.openpty()
    set_size(slave, 40, 90)
    before = termios.tcgetattr(slave)
    script = f"stty size; {ASK}; exit 9"
    process = subprocess.Popen(
        box.command("exec", "--tty", "box", "sh", "-c", script),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: own_terminal(0),
    )
    read_until(master, b"40 90\r\n")
    set_size(master, 41, 91)
    read_until(master, b"41 91\r\n")
    os.write(master, b"word\r")
    read_until(master, b"got word\r\n")
    assert process.wait(20) == 9
    assert termios.tcgetattr(slave) == before
    os.close(slave)
    os.close(master)


def test_interrupt_from_the_keyboard(box: Engine) -> None:
    master, slave = pty.openpty()
    script = 'trap "echo interrupted; exit 3" INT; echo ready; while :; do sleep 0.1; done'
    process = subprocess.Popen(
        box.command("exec", "--tty", "box", "sh", "-c", script),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: own_terminal(0),
    )
    read_until(master, b"ready")
    os.write(master, b"\x03")
    read_until(master, b"interrupted")
    assert process.wait(20) == 3
    os.close(slave)
    os.close(master)


def test_a_detached_exec_with_a_terminal(box: Engine, tmp_path: Path) -> None:
    listener = listen(tmp_path / "console")
    options = ["--tty", "--console-socket", str(tmp_path / "console"), "-d", "--pid-file", str(tmp_path / "pid")]
    run_silently(box.command("exec", *options, "box", "sh", "-c", f"{ASK}; exit 4"))
    master = receive_master(listener)
    set_size(master, 25, 81)
    read_until(master, b"25 81\r\n")
    os.write(master, b"it\n")
    read_until(master, b"got it\r\n")
    assert wait_exit(int((tmp_path / "pid").read_text())) == 4
    os.close(master)


def test_a_closed_terminal_hangs_up_the_process(box: Engine, tmp_path: Path) -> None:
    listener = listen(tmp_path / "console")
    options = ["--tty", "--console-socket", str(tmp_path / "console"), "-d", "--pid-file", str(tmp_path / "pid")]
    run_silently(box.command("exec", *options, "box", "sleep", "1000"))
    os.close(receive_master(listener))
    assert wait_exit(int((tmp_path / "pid").read_text()), 10) == 128 + signal.SIGHUP


def test_exec_passes_streams_options_and_code(box: Engine) -> None:
    script = "cat; echo $A; pwd; id -u; echo err >&2; exit 5"
    options = ["--env", "A=x", "--cwd", "/tmp", "--user", "7:8"]
    result = box.call("exec", *options, "box", "sh", "-c", script, check=False, stdin="in\n")
    assert (result.code, result.out, result.err) == (5, "in\nx\n/tmp\n7\n", "err\n")


def test_signals_pass_through_a_foreground_exec(box: Engine) -> None:
    script = 'trap "echo term; exit 9" TERM; echo up; while :; do sleep 0.1; done'
    process = subprocess.Popen(box.command("exec", "box", "sh", "-c", script), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    process.terminate()
    assert process.stdout.read() == "term\n"
    assert process.wait(20) == 9


def test_a_killed_exec_ends_in_the_guest_within_a_second(box: Engine) -> None:
    process = subprocess.Popen(
        box.command("exec", "box", "sh", "-c", "echo up; exec sleep 4711"), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "up\n"
    process.kill()
    process.wait()
    wait_until(lambda: "sleep 4711" not in box.call("ps", "box").out, "the process is gone")


def test_run_in_the_foreground(engine: Engine) -> None:
    script = "cat; echo err >&2; exit 3"
    bundle = engine.bundle("c1", ["sh", "-c", script])
    result = engine.call("run", "--bundle", str(bundle), "c1", check=False, stdin="hello\n")
    assert (result.code, result.out, result.err) == (3, "hello\n", "err\n")
    assert not engine.leftovers()
