"""Runs the real conmon as CRI-O does: sync pipe, start pipe, exit directory, attach socket, exec through conmon."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conformance import host
from conformance.runtime import CLEAN_ENVIRONMENT, CheckFailed, DeadlineMissed
from conformance.session import Session


def find_conmon() -> str:
    """Return the path of conmon. Raises CheckFailed when it is not installed."""
    found = shutil.which("conmon", path="/usr/libexec/crio:/usr/libexec/podman:" + CLEAN_ENVIRONMENT["PATH"])
    if found is None:
        raise CheckFailed("conmon is not installed")
    return found


class SyncPipe:
    """The pipe on which conmon reports a pid, an exit code or an error as lines of JSON."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._seen = b""

    def message(self, deadline_s: float) -> dict[str, Any]:
        """Return the next message. Raises DeadlineMissed, and CheckFailed when conmon ended without one."""
        end = time.monotonic() + deadline_s
        while b"\n" not in self._seen:
            if not select.select([self._descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
                raise DeadlineMissed("conmon did not report in time")
            data = os.read(self._descriptor, 65536)
            if not data:
                raise CheckFailed(f"conmon ended without a report; it sent {self._seen!r}")
            self._seen += data
        line, _, self._seen = self._seen.partition(b"\n")
        message: dict[str, Any] = json.loads(line)
        return message

    def close(self) -> None:
        """Close our end."""
        os.close(self._descriptor)


@dataclass(frozen=True)
class Monitor:
    """What a conmon said about the container that it started (pid -1: failed, `message` says why)."""

    pid: int
    message: str


@dataclass(frozen=True)
class Places:
    """The directories that CRI-O gives to every conmon."""

    exits: Path
    sockets: Path

    @classmethod
    def make(cls, base: Path) -> Places:
        places = cls(base / "exits", base / "s")
        places.exits.mkdir()
        places.sockets.mkdir()
        return places


def start_conmon(
    session: Session, places: Places, container_id: str, bundle: Path, pid_file: Path, log: Path, *flags: str
) -> Monitor:
    """Have conmon create a container, as CRI-O calls it, and read its report."""
    report = _run_conmon(
        session,
        bundle,
        [
            *("-b", str(bundle), "-c", container_id, "-u", container_id, "-n", container_id),
            *("--exit-dir", str(places.exits), "-l", str(log), "--log-level", "info", "-p", str(pid_file)),
            *("-P", f"{pid_file}.conmon", "--persist-dir", str(bundle), "--socket-dir-path", str(places.sockets)),
            *flags,
        ],
    )
    return Monitor(int(report.get("pid", report.get("data", -1))), str(report.get("message", "")))


def _run_conmon(session: Session, cwd: Path, arguments: list[str]) -> dict[str, Any]:
    """Run conmon with sync and start pipe until its first report. Raises CheckFailed when it gives none."""
    runtime = session.runtime
    argv = [find_conmon(), *arguments, "-r", runtime.path]
    argv += [f"--runtime-arg={word}" for word in (*runtime.arguments, f"--root={runtime.root}")]
    sync_read, sync_write = os.pipe()
    start_read, start_write = os.pipe()
    environment = CLEAN_ENVIRONMENT | {"_OCI_SYNCPIPE": str(sync_write), "_OCI_STARTPIPE": str(start_read)}
    with subprocess.Popen(
        argv,
        env=environment,
        cwd=cwd,
        pass_fds=(sync_write, start_read),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    ) as process:
        os.close(sync_write)
        os.close(start_read)
        os.write(start_write, b"\0")
        os.close(start_write)
        session.trace("$ " + " ".join(argv))
        pipe = SyncPipe(sync_read)
        try:
            report = pipe.message(runtime.deadline(60))
        except CheckFailed as failure:
            process.send_signal(signal.SIGKILL)
            assert process.stderr is not None
            words = process.stderr.read().decode(errors="replace").strip()
            raise CheckFailed(f"{failure}; conmon says: {words}") from None
        finally:
            pipe.close()
    session.trace(f"  conmon reported {report}")
    return report


@dataclass(frozen=True)
class ExecSync:
    """What an exec through conmon gave back, as CRI-O's ExecSync reads it. `code` is -1 after a timeout."""

    code: int
    out: str
    err: str
    message: str


def exec_sync(
    session: Session, places: Places, container_id: str, bundle: Path, process: dict[str, Any], *flags: str
) -> ExecSync:
    """Run an exec through conmon, as CRI-O calls it, and wait for its end. Raises CheckFailed, DeadlineMissed."""
    base = session.scratch / session.new_name("exec")
    base.mkdir()
    spec, log = base / "process.json", base / "log"
    spec.write_text(json.dumps(process))
    report = _run_conmon(
        session,
        bundle,
        [
            *("-c", container_id, "-n", container_id, "-p", str(base / "pid"), "-e", "-l", str(log)),
            *(
                "--socket-dir-path",
                str(places.sockets),
                "--log-level",
                "info",
                "--exec-process-spec",
                str(spec),
                *flags,
            ),
        ],
    )
    lines = read_log(log)
    out, err = ("".join(line.text for line in lines if line.stream == stream) for stream in ("stdout", "stderr"))
    code = int(report.get("exit_code", report.get("data", -1)))
    session.trace(f"  exec: {code}, {out[-2000:]!r}, {err[-2000:]!r}")
    return ExecSync(code, out, err, str(report.get("message", "")))


@dataclass(frozen=True)
class LogLine:
    """One line of a container's log in the kubelet's format; `text` ends with a newline unless it is partial."""

    stream: str
    text: str


def read_log(path: Path) -> list[LogLine]:
    """Read a log as the kubelet does. Raises CheckFailed for a line in another form."""
    found = []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        fields = line.split(" ", 3)
        if len(fields) < 4 or fields[1] not in ("stdout", "stderr") or fields[2] not in ("F", "P"):
            raise CheckFailed(f"line of the log is not in the kubelet's format: {line[:200]!r}")
        found.append(LogLine(fields[1], fields[3] + ("\n" if fields[2] == "F" else "")))
    return found


class Attachment:
    """A client of conmon's attach socket."""

    def __init__(self, places: Places, container_id: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.connect(str(places.sockets / container_id / "attach"))
        self.seen = b""

    def send(self, data: bytes) -> None:
        """Type."""
        self._socket.sendall(data)

    def read_until(self, marker: bytes, deadline_s: float) -> bytes:
        """Collect output until the marker is there. Raises DeadlineMissed, CheckFailed at the end of the stream."""
        end = time.monotonic() + deadline_s
        while marker not in self.seen:
            self._socket.settimeout(max(0.01, end - time.monotonic()))
            try:
                packet = self._socket.recv(65536)
            except TimeoutError:
                raise DeadlineMissed(f"no {marker!r} on the attach socket; it gave {self.seen[-500:]!r}") from None
            if not packet:
                raise CheckFailed(f"the attach socket closed before {marker!r}; it gave {self.seen[-500:]!r}")
            self.seen += packet[1:]
        head, _, self.seen = self.seen.partition(marker)
        return head + marker

    def end_input(self) -> None:
        """Close the input side."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Detach."""
        self._socket.close()


def wait_exit_file(session: Session, places: Places, container_id: str, deadline_s: float = 30) -> int:
    """Return the exit code that conmon writes when the container ends. Raises DeadlineMissed."""
    path = places.exits / container_id

    def is_there() -> bool:
        return path.exists() and path.stat().st_size > 0

    if not host.poll_until(is_there, session.runtime.deadline(deadline_s)):
        raise DeadlineMissed("conmon wrote no exit file")
    return int(path.read_text())
