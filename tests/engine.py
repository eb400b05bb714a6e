"""A small engine for tests: bundles, a state directory of its own, exits as conmon sees them, leftovers counted."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oci_runtime.host.processes import start_time

VMPOD = str(Path(sys.executable).parent / "vmpod")
DEADLINE_S = 60.0
_PR_SET_CHILD_SUBREAPER = 36
_REAP_INTERVAL_S = 0.05
_reaped: dict[int, int] = {}
_TREES: tuple[tuple[str, str, list[str]], ...] = (
    ("/dev", "tmpfs", ["nosuid", "mode=755"]),
    ("/proc", "proc", []),
    ("/tmp", "tmpfs", ["mode=1777"]),
)


def become_subreaper() -> None:
    """Let the proxies that vmpod leaves behind become our children, as conmon and the shim do."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(condition: Any, what: str, deadline_s: float = DEADLINE_S) -> None:
    """Wait until `condition()` holds; fail with `what` when it does not in time."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not in {deadline_s} s: {what}"
        time.sleep(0.02)


def crio(kind: str, sandbox_id: str, **more: str) -> dict[str, str]:
    """The annotations by which CRI-O tells a sandbox from a container."""
    prefix = "io.kubernetes.cri-o."
    return {f"{prefix}ContainerType": kind, f"{prefix}SandboxID": sandbox_id} | more


@dataclass
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass
class Engine:
    """Drives vmpod. directory: everything lies below it, the state directory at `run`."""

    directory: Path
    config: Path | None = None
    arguments: list[str] = field(default_factory=list)
    earlier: list[int] = field(default_factory=list, init=False)  # pids of containers whose names were used again

    def __post_init__(self) -> None:
        self.root = self.directory / "run"
        self.rootfs = self.directory / "rootfs"
        make_rootfs(self.rootfs)
        self.ids: list[str] = []
        self.pids: dict[str, int] = {}
        self.began: dict[str, int] = {}  # start times of those pids: numbers come around in a long run
        self.group = f"vmpod-test-{os.getpid()}-{id(self):x}"
        self.cgroups: list[str] = []  # paths below the hierarchies that must be gone in the end

    def command(self, *arguments: str) -> list[str]:
        """The command line of one verb."""
        config = ["--config", str(self.config)] if self.config else []
        return [VMPOD, "--root", str(self.root), *config, *self.arguments, *arguments]

    def call(self, *arguments: str, check: bool = True, stdin: str = "", deadline_s: float = DEADLINE_S) -> Result:
        """Run one verb to its end."""
        pipe = subprocess.PIPE
        adopted = self._adopted()
        end = time.monotonic() + deadline_s
        with subprocess.Popen(self.command(*arguments), stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
            given: str | None = stdin
            while True:
                try:
                    out, err = process.communicate(given, timeout=_REAP_INTERVAL_S)
                    break
                except subprocess.TimeoutExpired:
                    given = None
                    if time.monotonic() > end:
                        process.kill()
                        raise
                    reap(adopted)
        result = Result(process.returncode, out, err)
        assert not check or result.code == 0, f"{arguments}: {result}"
        return result

    def _adopted(self) -> list[int]:
        """Processes that vmpod left to us: an engine reaps them at once, or their cgroups could not be removed."""
        found = [*self.pids.values(), *self.earlier]
        for path in self.root.glob(".sandboxes/*/sandbox.json"):
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):  # some tests damage it
                found.append(json.loads(path.read_text())["pid"])
        return found

    def bundle(self, container_id: str, arguments: Sequence[str], **changes: Any) -> Path:
        """Write a bundle; `changes` replace members of the spec; `process`, `linux`, `more_mounts` add."""
        bundle = self.directory / "bundles" / container_id
        bundle.mkdir(parents=True, exist_ok=True)
        spec: dict[str, Any] = {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": 0, "gid": 0},
                "args": list(arguments),
                "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
                "cwd": "/",
            }
            | changes.pop("process", {}),
            "root": {"path": str(self.rootfs)},
            "hostname": "pod",
            "mounts": [
                {"destination": where, "type": kind, "source": kind, "options": options}
                for where, kind, options in _TREES
            ]
            + changes.pop("more_mounts", []),
            "annotations": {},
            "linux": {
                "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")],
                # The host's cgroups are shared with other workers, whose containers may have the same name.
                "cgroupsPath": f"/{self.group}-{container_id}",
            }
            | changes.pop("linux", {}),
        }
        (bundle / "config.json").write_text(json.dumps(spec | changes))
        return bundle

    def create(
        self,
        container_id: str,
        arguments: Sequence[str],
        *,
        check: bool = True,
        stdin: Any = subprocess.DEVNULL,
        **changes: Any,
    ) -> Result:
        """Run `create` with output going to `<directory>/<id>.log`, as an engine's log pipe would."""
        bundle = self.bundle(container_id, arguments, **changes)
        self.ids.append(container_id)
        process = self.begin_create(container_id, bundle, stdin=stdin)
        code = process.wait(DEADLINE_S)
        result = Result(code, "", self.log(container_id))
        assert not check or code == 0, f"create {container_id}: {result}"
        if code == 0:
            self.note_proxy(container_id, int((bundle / "pid").read_text()))
        return result

    def note_proxy(self, name: str, pid: int) -> None:
        """Remember a process of the host that has to be gone in the end."""
        if name in self.pids:
            self.earlier.append(self.pids[name])
        self.pids[name], self.began[name] = pid, start_time(pid)

    def begin_create(
        self, container_id: str, bundle: Path, *, stdin: Any = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """Start `create` and return at once."""
        with self.log_path(container_id).open("ab") as log:
            return subprocess.Popen(
                self.command("create", "--bundle", str(bundle), "--pid-file", str(bundle / "pid"), container_id),
                stdin=stdin,
                stdout=log,
                stderr=log,
            )

    def run(self, container_id: str, arguments: Sequence[str], **changes: Any) -> None:
        """create and start."""
        self.create(container_id, arguments, **changes)
        self.call("start", container_id)

    def log_path(self, container_id: str) -> Path:
        """Where a container's output goes."""
        return self.directory / f"{container_id}.log"

    def log(self, container_id: str) -> str:
        """What a container (and its create) has printed so far."""
        path = self.log_path(container_id)
        return path.read_text(errors="replace") if path.exists() else ""

    def exit_code(self, container_id: str, deadline_s: float = DEADLINE_S) -> int:
        """Wait for the end of a container's proxy and return its exit code, signals as 128 + n."""
        return wait_exit(self.pids[container_id], deadline_s)

    def state(self, container_id: str) -> dict[str, Any]:
        """The `state` document."""
        document: dict[str, Any] = json.loads(self.call("state", container_id).out)
        return document

    def exec(self, container_id: str, *arguments: str, check: bool = True) -> Result:
        """Run a command in a container."""
        return self.call("exec", container_id, *arguments, check=check)

    def sandbox_record(self) -> dict[str, Any]:
        """The record of the only sandbox."""
        (path,) = self.root.glob(".sandboxes/*/sandbox.json")
        record: dict[str, Any] = json.loads(path.read_text())
        return record

    def clean(self) -> None:
        """Delete every container that a test made, with force."""
        for container_id in reversed(self.ids):
            self.call("delete", "--force", container_id)

    def reap(self) -> None:
        """Collect proxies that have ended: PID 1 of a namespace ends only after the others were collected."""
        for pid in (*self.pids.values(), *self.earlier):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)

    def _lives(self, name: str, pid: int) -> bool:
        began = start_time(pid)
        return is_running(pid) and self.began.get(name, began) == began

    def leftovers(self) -> list[str]:
        """Everything of this engine's pods that still exists."""
        self.reap()
        found = []
        for place, below, files in os.walk(self.root):  # which does not mind that something goes meanwhile
            found += [f"file {place}/{name}" for name in (*below, *files) if name != ".sandboxes"]
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        found += [f"mount {line}" for line in mounts if str(self.root) in line]
        found += [f"proxy {name} {pid}" for name, pid in self.pids.items() if self._lives(name, pid)]
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    open_files = [os.readlink(link) for link in (entry / "fd").iterdir()]
                except OSError:
                    continue
                if str(self.root) in command or any(str(self.root) in path for path in open_files):
                    found.append(f"process {entry.name} {command}")
        for cgroup in self.cgroups:
            found += [f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob(f"*/{cgroup}")]
        return found


def make_rootfs(directory: Path) -> None:
    """A root file system of busybox and its applets."""
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (directory / name).mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox, "busybox is missing: apt-get install busybox-static"
    shutil.copy2(busybox, directory / "bin" / "busybox")
    for applet in subprocess.check_output([busybox, "--list"], text=True).split():
        if applet != "busybox":
            os.symlink("busybox", directory / "bin" / applet)


def reap(pids: Sequence[int]) -> None:
    """Reap those of our children that have ended; `wait_exit` still knows how."""
    for pid in pids:
        with contextlib.suppress(ChildProcessError):
            done, status = os.waitpid(pid, os.WNOHANG) if pid > 0 else (0, 0)
            if done:
                _reaped[pid] = _exit_code(status)


def _exit_code(status: int) -> int:
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def wait_exit(pid: int, deadline_s: float = DEADLINE_S) -> int:
    """Reap a child (or adopted child) and return its code, signals as 128 + n."""
    if pid in _reaped:
        return _reaped.pop(pid)
    end = time.monotonic() + deadline_s
    pidfd = os.pidfd_open(pid)
    try:
        import select

        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(max(0.0, end - time.monotonic()) * 1000), f"process {pid} does not end"
    finally:
        os.close(pidfd)
    _, status = os.waitpid(pid, 0)
    return _exit_code(status)


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to a process that a test knows."""
    os.kill(pid, number)
