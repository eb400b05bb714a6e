"""One container of the runtime under test, driven as an engine drives it."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conformance import host, reaper
from conformance.bundle import Config, default_config, make_rootfs, namespace, write_config
from conformance.console import ConsoleSocket, Terminal
from conformance.runtime import CheckFailed, DeadlineMissed, Outcome

if TYPE_CHECKING:
    from conformance.session import Session

CREATE_DEADLINE_S = 60
EXIT_DEADLINE_S = 30


@dataclass(frozen=True)
class Finished:
    """A container or exec that ran to its end. `code` is 128+n for a signal."""

    code: int
    out: str
    err: str


class Container:
    """A bundle and the container made from it. Change `config` before `create`.

    member: place it in the session's shared pod (for runtimes that know pods; others ignore the annotations).
    """

    def __init__(self, session: Session, container_id: str, args: tuple[str, ...], *, member: bool) -> None:
        self.session = session
        self.runtime = session.runtime
        self.id = container_id
        self.member = member
        self.bundle = session.scratch / "bundles" / session.new_name("b")
        self.rootfs = self.bundle / "rootfs"
        make_rootfs(self.rootfs, session.busybox)
        self.config: Config = default_config(session.oci_version)
        self.config["process"]["args"] = list(args) or ["true"]
        self.config["linux"]["cgroupsPath"] = f"{session.cgroup}/{self.id}"
        self.pid_file = self.bundle / "pid"
        self.out_path = self.bundle / "stdout"
        self.err_path = self.bundle / "stderr"
        self.terminal: Terminal | None = None
        self._watch: reaper.Watch | None = None

    def write(self) -> None:
        """Write config.json as it is now."""
        write_config(self.bundle, self.config)

    def join_pod(self) -> None:
        """Add what makes this container a member of the session's pod."""
        pod = self.session.pod()
        self.config["annotations"] |= {
            "io.kubernetes.cri.container-type": "container",
            "io.kubernetes.cri.sandbox-id": pod.id,
        }
        namespace(self.config, "network")["path"] = f"/proc/{pod.pid()}/ns/net"

    def try_create(
        self, *flags: str, stdin: int = subprocess.DEVNULL, stdout: int = -1, stderr: int = -1, write: bool = True
    ) -> Outcome:
        """Run `create` with the container's stdio in files (or the given descriptors) and return what came of it."""
        if write:
            if self.member:
                self.join_pod()
            self.write()
        self.session.count_create(self.member)
        begin = time.monotonic()
        with open(self.out_path, "wb") as out, open(self.err_path, "wb") as err:
            process = self.runtime.start(
                *("create", "--bundle", str(self.bundle), "--pid-file", str(self.pid_file), *flags, self.id),
                stdin=stdin,
                stdout=out if stdout < 0 else stdout,
                stderr=err if stderr < 0 else stderr,
                cwd=self.bundle,
            )
        outcome = self.runtime.finish(process, CREATE_DEADLINE_S, begin, self.err_path)
        if outcome.ok and self.pid_file.exists():
            self._watch = reaper.Watch(self.pid())
        return outcome

    def create(self, *flags: str, stdin: int = subprocess.DEVNULL, stdout: int = -1, stderr: int = -1) -> Container:
        """Create or raise CheckFailed."""
        if self.config["process"].get("terminal") and "--console-socket" not in flags:
            return self._create_with_terminal(*flags)
        outcome = self.try_create(*flags, stdin=stdin, stdout=stdout, stderr=stderr)
        if not outcome.ok:
            raise CheckFailed(str(outcome))
        return self

    def _create_with_terminal(self, *flags: str) -> Container:
        console = ConsoleSocket(self.session.scratch / self.session.new_name("tty"))
        try:
            self.create("--console-socket", str(console.path), *flags)
            self.terminal = console.receive(self.runtime.deadline(5))
            self.session.defer(self.terminal.close)
        finally:
            console.close()
        return self

    def start(self) -> Container:
        """Start or raise CheckFailed."""
        return self._must("start", self.id)

    def kill(self, sent: str | int = "KILL", *flags: str) -> Container:
        """Send a signal or raise CheckFailed."""
        return self._must("kill", *flags, self.id, str(sent))

    def delete(self, *flags: str) -> Container:
        """Delete or raise CheckFailed."""
        return self._must("delete", *flags, self.id)

    def _must(self, *arguments: str) -> Container:
        outcome = self.runtime.call(*arguments)
        if not outcome.ok:
            raise CheckFailed(str(outcome))
        return self

    def state(self) -> dict[str, Any]:
        """Return the state as the runtime reports it. Raises CheckFailed for an error or for what is no JSON object."""
        outcome = self.runtime.call("state", self.id)
        if not outcome.ok:
            raise CheckFailed(str(outcome))
        try:
            state = json.loads(outcome.out)
        except ValueError as error:
            raise CheckFailed(f"`state` is no JSON: {error}: {outcome.out[:300]!r}") from None
        if not isinstance(state, dict):
            raise CheckFailed(f"`state` is no object: {outcome.out[:300]!r}")
        return state

    def status(self) -> str:
        """Return the status word of the state."""
        return str(self.state().get("status"))

    def wait_status(self, wanted: str, deadline_s: float = 15) -> None:
        """Wait until the state says so. Raises DeadlineMissed."""
        if not host.poll_until(lambda: self.status() == wanted, self.runtime.deadline(deadline_s), 0.1):
            raise DeadlineMissed(f"status is {self.status()!r}, not {wanted!r}")

    def pid(self) -> int:
        """Return the number in the pid file. Raises CheckFailed."""
        try:
            return int(self.pid_file.read_text())
        except (OSError, ValueError) as error:
            raise CheckFailed(f"pid file: {error}") from None

    def wait(self, deadline_s: float = EXIT_DEADLINE_S) -> int:
        """Wait for the container's process as a subreaper does and return its exit code (128+n for signals)."""
        pid = self.pid()
        if self._watch is None:
            self._watch = reaper.Watch(pid)
        if not self._watch.wait(self.runtime.deadline(deadline_s)):
            raise DeadlineMissed(f"process {pid} ({host.command_line(pid)}) did not exit")
        if self._watch.code is None:
            raise CheckFailed(f"process {pid} of the pid file is not a child of the caller's subreaper")
        self.session.trace(f"  process {pid} exited {self._watch.code}")
        return self._watch.code

    def run(self, *flags: str, stdin: int = subprocess.DEVNULL) -> Finished:
        """Create, start, wait for the end, and return exit code and output."""
        self.create(*flags, stdin=stdin)
        self.start()
        return self.finished()

    def finished(self) -> Finished:
        """Wait for the end of a started container and return exit code and output."""
        code = self.wait()
        result = Finished(code, self.output(), self.errors())
        self.session.trace(
            f"  container's stdout: {result.out[-4000:]!r}\n  container's stderr: {result.err[-2000:]!r}"
        )
        return result

    def output(self) -> str:
        """Return what the container wrote to stdout so far."""
        return self.out_path.read_text(errors="replace") if self.out_path.exists() else ""

    def errors(self) -> str:
        """Return what the container wrote to stderr so far."""
        return self.err_path.read_text(errors="replace") if self.err_path.exists() else ""

    def wait_output(self, marker: str, deadline_s: float = 20) -> str:
        """Wait until the marker is in stdout and return stdout. Raises DeadlineMissed."""
        if not host.poll_until(lambda: marker in self.output(), self.runtime.deadline(deadline_s)):
            raise DeadlineMissed(
                f"{marker!r} did not come; stdout is {self.output()[-500:]!r}, {self.errors()[-500:]!r}"
            )
        return self.output()

    def exec(self, *arguments: str, stdin: bytes = b"", deadline_s: float = 30) -> Outcome:
        """Run `exec` in the foreground: flags, then the container's id is put before the first word after `--`.

        `exec("--cwd", "/tmp", "--", "pwd")` becomes `exec --cwd /tmp ID pwd`; without `--` all words are the command.
        """
        split = arguments.index("--") if "--" in arguments else -1
        flags, command = arguments[: max(split, 0)], arguments[split + 1 :]
        return self.runtime.call("exec", *flags, self.id, *command, stdin=stdin, deadline_s=deadline_s)

    def exec_process(self, process: Config, *flags: str, stdin: bytes = b"", deadline_s: float = 30) -> Outcome:
        """Run `exec --process FILE` in the foreground with a process object of our own."""
        path = self.process_file(process)
        return self.runtime.call("exec", "--process", str(path), *flags, self.id, stdin=stdin, deadline_s=deadline_s)

    def process_file(self, process: Config) -> Path:
        """Write a process object; whatever it does not say is taken from the container's own process."""
        path = self.session.scratch / self.session.new_name("process")
        base = {key: self.config["process"][key] for key in ("user", "env", "cwd", "capabilities")}
        path.write_text(json.dumps(base | process))
        return path

    def exec_detached(self, process: Config, *flags: str) -> Exec:
        """Run `exec --detach --pid-file` as conmon and containerd's shim do, with stdio in files."""
        path = self.process_file(process)
        pid_file, out_path, err_path = (path.with_name(path.name + suffix) for suffix in (".pid", ".out", ".err"))
        begin = time.monotonic()
        with open(out_path, "wb") as out, open(err_path, "wb") as err:
            started = self.runtime.start(
                *("exec", "--process", str(path), "--detach", "--pid-file", str(pid_file), *flags, self.id),
                stdout=out,
                stderr=err,
            )
        outcome = self.runtime.finish(started, EXIT_DEADLINE_S, begin, err_path)
        watch = reaper.Watch(int(pid_file.read_text())) if outcome.ok and pid_file.exists() else None
        return Exec(self, outcome, watch, pid_file, out_path, err_path)

    def cleanup(self) -> None:
        """Remove whatever is left of the container; errors are only logged."""
        if self.terminal is not None:
            self.terminal.close()
        try:
            self.runtime.call("delete", "--force", self.id, deadline_s=30)
        except CheckFailed as error:
            self.session.trace(f"  clean-up: {error}")


@dataclass(frozen=True)
class Exec:
    """A detached exec."""

    container: Container
    outcome: Outcome
    watch: reaper.Watch | None
    pid_file: Path
    out_path: Path
    err_path: Path

    def pid(self) -> int:
        """Return the number in the pid file. Raises CheckFailed."""
        if self.watch is None:
            raise CheckFailed("exec wrote no pid file" if self.outcome.ok else str(self.outcome))
        return self.watch.pid

    def wait(self, deadline_s: float = EXIT_DEADLINE_S) -> Finished:
        """Wait for its end as a subreaper does. Raises CheckFailed, DeadlineMissed."""
        pid = self.pid()
        assert self.watch is not None
        if not self.watch.wait(self.container.runtime.deadline(deadline_s)):
            raise DeadlineMissed(f"exec process {pid} did not exit")
        code = self.watch.code
        if code is None:
            raise CheckFailed(f"exec process {pid} is not a child of the caller's subreaper")
        out, err = (path.read_text(errors="replace") for path in (self.out_path, self.err_path))
        self.container.session.trace(f"  exec process {pid} exited {code}: {out[-2000:]!r} {err[-2000:]!r}")
        return Finished(code, out, err)


def read_all(descriptor: int) -> bytes:
    """Read a pipe to its end and close it."""
    with os.fdopen(descriptor, "rb") as stream:
        return stream.read()
