"""A process that stays behind: what it inherits, and that it never ends without a word."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from oci_runtime.errors import HostError
from oci_runtime.host.daemon import describe_end, start_daemon

pytestmark = pytest.mark.root


def start(tmp_path: Path, *words: str, held: tuple[int, ...] = ()) -> int:
    """Start a command whose output goes to `output`."""
    output = os.open(tmp_path / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return start_daemon(words, {}, output=output, held=held)
    finally:
        os.close(output)


def test_its_end_is_told_to_whoever_started_it(tmp_path: Path) -> None:
    living = start(tmp_path, "/bin/sleep", "1000")
    assert os.getsid(living) == living
    assert describe_end(living, 0) == ""
    os.kill(living, signal.SIGKILL)
    assert describe_end(living, 10) == "killed by signal 9"
    assert describe_end(start(tmp_path, "/bin/sh", "-c", "exit 7"), 10) == "exit status 7"
    assert describe_end(1, 0) == "", "no child of ours"


def test_a_termination_waits_from_its_first_instruction(tmp_path: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), 15); os.write(1, b'lives'); signal.pthread_sigmask(1, {15})"
    pid = start(tmp_path, sys.executable, "-c", code, held=(signal.SIGTERM,))
    assert describe_end(pid, 30) == "killed by signal 15"
    assert (tmp_path / "output").read_text() == "lives"


@pytest.mark.parametrize(("program", "reason"), [("/none", "No such file"), ("/bin/true\0", "null byte")])
def test_one_that_cannot_start_is_an_error(tmp_path: Path, program: str, reason: str) -> None:
    with pytest.raises(HostError, match=reason):
        start(tmp_path, program)
