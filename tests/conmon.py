"""The real conmon, driven as CRI-O and podman drive it: sync pipes, exit files, log files, attach sockets."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.engine import Engine, wait_until

_SYNC_S = 90.0


@dataclass
class Conmon:
    """Containers of one engine, each under a conmon of its own."""

    engine: Engine
    exits: Path = field(init=False)
    message: str = ""  # what conmon says about a creation that failed

    def __post_init__(self) -> None:
        self.exits = self.engine.directory / "exits"
        self.exits.mkdir(exist_ok=True)

    def create(self, container_id: str, bundle: Path, *options: str) -> int:
        """Run `create` under conmon and return what conmon reports: a pid, or a negative number after a failure."""
        self.engine.ids.append(container_id)
        pid_file, log = bundle / "pidfile", bundle / "log"
        common = self._common(container_id, container_id, bundle, pid_file, log)
        (report,) = self._start(["conmon", *common, *options])
        self.message = str(report.get("message", ""))
        pid = int(report["data"])
        if pid > 0:
            self.engine.note_proxy(container_id, pid)
        return pid

    def exec(self, container_id: str, name: str, process: dict[str, Any], *options: str) -> tuple[int, int]:
        """Run an exec under conmon to its end, as CRI-O's ExecSync does; return its pid and its exit code."""
        bundle = self.engine.directory / "bundles" / container_id
        specification = bundle / f"{name}.json"
        specification.write_text(json.dumps(process))
        common = self._common(container_id, name, bundle, bundle / f"{name}.pid", bundle / f"{name}.log")
        words = ["--exec", "--exec-process-spec", str(specification), *options]
        started, ended = self._start(["conmon", *common, *words], reports=2)
        return int(started["data"]), int(ended["data"])

    def _common(self, container_id: str, name: str, bundle: Path, pid_file: Path, log: Path) -> list[str]:
        program, *arguments = self.engine.command()
        runtime = [word for argument in arguments for word in ("--runtime-arg", argument)]
        words = [
            "--api-version",
            "1",
            "--cid",
            container_id,
            "--cuuid",
            name,
            "--name",
            name,
            "--runtime",
            program,
            *runtime,
        ]
        words += ["--bundle", str(bundle), "--container-pidfile", str(pid_file), "--log-path", f"k8s-file:{log}"]
        # conmon names the file after the container, for execs too.
        exits = self.exits if name == container_id else self.exits / "execs"
        exits.mkdir(exist_ok=True)
        words += ["--exit-dir", str(exits), "--socket-dir-path", str(self.engine.directory / "sockets")]
        return [*words, "--conmon-pidfile", str(bundle / f"{name}.conmon")]

    def _start(self, command: list[str], reports: int = 1) -> list[dict[str, Any]]:
        """Start conmon with its two pipes and return the first lines of its report."""
        (self.engine.directory / "sockets").mkdir(exist_ok=True)
        sync_read, sync_write = os.pipe()
        start_read, start_write = os.pipe()
        environment = {**os.environ, "_OCI_SYNCPIPE": str(sync_write), "_OCI_STARTPIPE": str(start_read)}
        process = subprocess.Popen(
            command,
            env=environment,
            pass_fds=(sync_write, start_read),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(sync_write)
        os.close(start_read)
        os.write(start_write, b"x")
        try:
            return self._read_reports(sync_read, reports)
        finally:
            os.close(start_write)
            os.close(sync_read)
            process.wait(30)

    @staticmethod
    def _read_reports(fd: int, count: int) -> list[dict[str, Any]]:
        data, end = b"", time.monotonic() + _SYNC_S
        while data.count(b"\n") < count:
            ready, _, _ = select.select([fd], [], [], max(0.0, end - time.monotonic()))
            assert ready, f"conmon reports nothing: {data!r}"
            piece = os.read(fd, 65536)
            assert piece, f"conmon ended early: {data!r}"
            data += piece
        return [json.loads(line) for line in data.splitlines()]

    def exit_code(self, name: str) -> int:
        """Wait for the exit file of a container or exec and return the code in it."""
        path = self.exits / name
        wait_until(lambda: path.exists() and path.read_text().strip(), f"exit file of {name}")
        return int(path.read_text())

    def log(self, container_id: str, name: str = "") -> str:
        """The bytes that a container or exec has printed, put together from the lines of the log."""
        path = self.engine.directory / "bundles" / container_id / (f"{name}.log" if name else "log")
        output = ""
        for line in path.read_text().splitlines() if path.exists() else ():
            _time, _stream, kind, text = line.split(" ", 3)
            output += text + ("\n" if kind == "F" else "")
        return output

    def attach(self, name: str) -> socket.socket:
        """Connect to a container's attach socket: what is sent is its input; packets carry a byte for the stream."""
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(_SYNC_S)
        connection.connect(str(self.engine.directory / "sockets" / name / "attach"))
        return connection

    def resize(self, container_id: str, rows: int, columns: int) -> None:
        """Change the size of a container's terminal through conmon's control pipe."""
        with (self.engine.directory / "bundles" / container_id / "ctl").open("w") as control:
            control.write(f"1 {rows} {columns}\n")
