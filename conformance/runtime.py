"""Runs the binary under test: one place that builds its command line, keeps deadlines and writes the log of a check."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

CLEAN_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}
QUOTED_BYTES = 4000


class CheckFailed(Exception):
    """The runtime did something that the check forbids, or did not do what it demands."""


class DeadlineMissed(CheckFailed):
    """A call did not end, or did not let go of its pipes, in time."""


@dataclass(frozen=True)
class Outcome:
    """What one call of the binary gave back; `out` and `err` are decoded leniently."""

    verb: str
    code: int
    out: str
    err: str
    seconds: float

    @property
    def ok(self) -> bool:
        """True for exit status 0."""
        return self.code == 0

    def __str__(self) -> str:
        return f"`{self.verb}` exited {self.code}: {(self.err or self.out).strip()[-600:] or 'no output'}"


@dataclass
class Runtime:
    """A runtime binary with its global arguments and a root of its own.

    slow: factor on all deadlines. trace: where each call is logged.
    """

    path: str
    name: str
    arguments: tuple[str, ...]
    root: Path
    slow: float
    trace: Callable[[str], None]

    def argv(self, *arguments: str) -> list[str]:
        """Return the command line for a verb and its arguments, in the order that engines use."""
        return [self.path, *self.arguments, "--root", str(self.root), *arguments]

    def deadline(self, seconds: float) -> float:
        """Scale a deadline for this runtime."""
        return seconds * self.slow

    def version(self) -> str:
        """Return the first line of `--version`. Raises CheckFailed when it cannot be asked."""
        answer = self.command([self.path, *self.arguments, "--version"], deadline_s=60)
        if not answer.ok or not answer.out.strip():
            raise CheckFailed(f"{self.path} --version: {answer}")
        return answer.out.splitlines()[0].strip()

    def call(
        self,
        *arguments: str,
        stdin: bytes = b"",
        deadline_s: float = 30,
        environment: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Outcome:
        """Run a verb with pipes as an engine does and return once they reached EOF. Raises DeadlineMissed."""
        return self.command(
            self.argv(*arguments), stdin=stdin, deadline_s=self.deadline(deadline_s), environment=environment, cwd=cwd
        )

    def command(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        deadline_s: float,
        environment: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> Outcome:
        """Run any program like `call` does; `deadline_s` is taken as it is."""
        begin = time.monotonic()
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=CLEAN_ENVIRONMENT if environment is None else environment,
            cwd=cwd,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(stdin or None, timeout=deadline_s)
        except subprocess.TimeoutExpired:
            raise self._missed(process, argv, deadline_s) from None
        outcome = Outcome(
            self._verb(argv),
            _exit_code(process.returncode),
            out.decode(errors="replace"),
            err.decode(errors="replace"),
            time.monotonic() - begin,
        )
        self.log_outcome(argv, outcome)
        return outcome

    def start(
        self,
        *arguments: str,
        stdin: int | IO[bytes] = subprocess.DEVNULL,
        stdout: int | IO[bytes],
        stderr: int | IO[bytes],
        cwd: Path | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a verb whose stdio belongs to a container (`create`, `run`, `exec`); `finish` collects it."""
        return subprocess.Popen(
            self.argv(*arguments),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=CLEAN_ENVIRONMENT,
            cwd=cwd,
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[bytes], deadline_s: float, begin: float, error: Path) -> Outcome:
        """Wait for a verb from `start`; its error text is read from the file that it wrote to."""
        argv = [str(argument) for argument in _arguments(process)]
        try:
            code = process.wait(self.deadline(deadline_s))
        except subprocess.TimeoutExpired:
            raise self._missed(process, argv, self.deadline(deadline_s)) from None
        text = error.read_text(errors="replace") if error.exists() else ""
        outcome = Outcome(self._verb(argv), _exit_code(code), "", text, time.monotonic() - begin)
        self.log_outcome(argv, outcome)
        return outcome

    def log_outcome(self, argv: Sequence[str], outcome: Outcome) -> None:
        """Write one call to the log of the check."""
        self.trace(f"$ {_quote(argv)}\n  → {outcome.code} after {outcome.seconds:.3f} s")
        for label, text in (("stdout", outcome.out), ("stderr", outcome.err)):
            if text.strip():
                self.trace(f"  {label}: {text.strip()[-QUOTED_BYTES:]}")

    def _verb(self, argv: Sequence[str]) -> str:
        known = {self.path, *self.arguments, "--root", str(self.root)}
        words = [word for word in argv if word not in known]
        return words[0] if words and argv[0] == self.path else os.path.basename(argv[0])

    def _missed(self, process: subprocess.Popen[bytes], argv: Sequence[str], deadline_s: float) -> DeadlineMissed:
        alive = process.poll() is None
        if alive:
            process.send_signal(signal.SIGKILL)
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        what = "did not end" if alive else "ended, but something keeps its pipes open"
        self.trace(f"$ {_quote(argv)}\n  → {what} within {deadline_s:.0f} s")
        return DeadlineMissed(f"`{self._verb(argv)}` {what} within {deadline_s:.0f} s")


def _exit_code(code: int) -> int:
    return 128 - code if code < 0 else code


def _arguments(process: subprocess.Popen[bytes]) -> Sequence[str]:
    assert isinstance(process.args, list)
    return process.args


def _quote(argv: Sequence[str]) -> str:
    return " ".join(shlex.quote(word) for word in argv)
