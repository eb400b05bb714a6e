"""`start`, `delete`, `-v` and `-info` as processes; no machine boots here: its failure is Create's matter."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from oci_runtime.host.cgroups import plan_group, read_layout
from oci_runtime.shim.location import layout_for
from oci_runtime.shim.proto.task_pb2 import DeleteResponse
from oci_runtime.shim.proto.types_pb2 import RuntimeInfo

pytestmark = pytest.mark.root

SHIM = str(Path(sys.executable).parent / "containerd-shim-vmpod-v2")
CRI = "io.kubernetes.cri."
PREFIX = CRI.encode()


class Engine:
    """Runs the shim as an engine does; without a guest image, so that no machine boots."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.address = str(directory / "c.sock")
        self.layout = layout_for("test", self.address)
        config = directory / "vmpod.toml"
        config.write_text(f'[image]\nstore = "{directory}/none"\n')
        self.environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "VMPOD_CONFIG": str(config)}

    def bundle(self, name: str, annotations: dict[str, str] | None = None) -> Path:
        path = self.directory / name
        path.mkdir()
        os.mkfifo(path / "log", 0o700)
        namespaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network")]
        process = {"args": ["true"], "cwd": "/", "user": {"uid": 0, "gid": 0}}
        spec = {
            "ociVersion": "1.0.2",
            "process": process,
            "root": {"path": "rootfs"},
            "linux": {"namespaces": namespaces},
        }
        (path / "config.json").write_text(json.dumps(spec | {"annotations": annotations or {}}))
        return path

    def run(
        self, bundle: Path, action: str, *, stdin: bytes = b"", **environment: str
    ) -> subprocess.CompletedProcess[bytes]:
        arguments = ["-namespace", "test", "-address", self.address, "-publish-binary", "/bin/false"]
        extra = ["-bundle", str(bundle)] if action == "delete" else []
        return subprocess.run(
            [SHIM, *arguments, "-id", bundle.name, *extra, action],
            cwd=bundle,
            env=self.environment | environment,
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )

    def start(self, bundle: Path, **environment: str) -> str:
        done = self.run(bundle, "start", stdin=b"", **environment)
        assert (done.returncode, done.stderr) == (0, b""), done
        return done.stdout.decode()

    def shims(self) -> list[int]:
        """Pids of the processes that stayed behind."""
        found = []
        for entry in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = entry.read_bytes().split(b"\0")
            except OSError:
                continue
            if self.address.encode() in words and b"start" in words:
                found.append(int(entry.parent.name))
        return found

    def stop(self) -> None:
        for pid in self.shims():
            os.kill(pid, signal.SIGTERM)
        self.wait(lambda: not self.shims())

    @staticmethod
    def wait(condition: object) -> None:
        for _ in range(1500):
            if condition():  # type: ignore[operator]
                return
            time.sleep(0.02)
        raise AssertionError("the condition does not come true")


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = Engine(tmp_path)
    yield made
    made.stop()
    assert not list(Path(made.layout.root).glob(".sandboxes/*"))


def test_start_answers_with_a_socket_that_is_ours_alone(engine: Engine) -> None:
    bundle = engine.bundle("a")
    address = engine.start(bundle)
    assert (bundle / "address").read_text() == address
    path = Path(address.removeprefix("unix://"))
    assert path.is_socket() and path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))


def test_what_stays_behind_keeps_nothing_of_the_engine(engine: Engine) -> None:
    bundle = engine.bundle("a")
    engine.start(bundle)  # returns only at the end of file on both pipes
    (pid,) = engine.shims()
    links = {name: os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
    assert links["0"] == "/dev/null" and links["1"] == links["2"]
    assert links["1"].endswith("sandbox.log")
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    assert os.getsid(pid) == pid


def test_bootstrap_parameters_for_newer_engines(engine: Engine) -> None:
    bundle = engine.bundle("a")
    answer = json.loads(engine.start(bundle, MAX_SHIM_VERSION="3"))
    assert answer == {"version": 3, "address": (bundle / "address").read_text(), "protocol": "ttrpc"}


@pytest.mark.parametrize("version", ["2", "", "nonsense"])
def test_a_bare_address_for_all_others(engine: Engine, version: str) -> None:
    assert engine.start(engine.bundle("a"), MAX_SHIM_VERSION=version).startswith("unix:///")


def test_members_get_the_address_of_their_sandbox(engine: Engine) -> None:
    sandbox = engine.bundle("s", {CRI + "container-type": "sandbox", CRI + "sandbox-id": "s"})
    address = engine.start(sandbox)
    for name in ("m1", "m2"):
        member = engine.bundle(name, {CRI + "container-type": "container", CRI + "sandbox-id": "s"})
        assert engine.start(member) == address
        assert (member / "address").read_text() == address
    assert len(engine.shims()) == 1
    assert engine.start(engine.bundle("other")) != address


def test_two_first_members_at_once_start_one_shim(engine: Engine) -> None:
    annotations = {CRI + "container-type": "container", CRI + "sandbox-id": "s"}
    bundles = [engine.bundle(f"m{number}", annotations) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(engine.start, bundles))) == 1
    assert len(engine.shims()) == 1


def test_a_second_sandbox_of_the_same_name_is_refused(engine: Engine, tmp_path: Path) -> None:
    engine.start(engine.bundle("s"))
    done = engine.run(tmp_path / "s", "start")
    assert done.returncode == 1 and b"sandbox s exists" in done.stderr


def test_a_dead_shims_place_can_be_used_again(engine: Engine) -> None:
    bundle = engine.bundle("s")
    engine.start(bundle)
    (pid,) = engine.shims()
    os.kill(pid, signal.SIGKILL)
    engine.wait(lambda: not engine.shims())
    engine.start(bundle)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (None, b"config.json does not exist"),
        (b"{", b"not JSON"),
        (b'{"annotations": 3}', b"annotations"),
        (b'{"annotations": {"io.kubernetes.cri.container-type": "x"}}', b"container-type"),
        (b'{"annotations": {"io.kubernetes.cri.container-type": "container"}}', b"names the sandbox"),
        (b'{"annotations": {"%scontainer-type": "container", "%ssandbox-id": "../x"}}' % (PREFIX, PREFIX), b"invalid"),
    ],
)
def test_bundles_that_cannot_be_used(engine: Engine, content: bytes | None, word: bytes) -> None:
    bundle = engine.bundle("a")
    (bundle / "config.json").unlink()
    if content is not None:
        (bundle / "config.json").write_bytes(content)
    done = engine.run(bundle, "start")
    assert done.returncode == 1 and done.stdout == b""
    assert word in done.stderr and done.stderr.count(b"\n") == 1


def test_delete_of_nothing_is_quiet_and_says_killed(engine: Engine) -> None:
    bundle = engine.bundle("a")
    for _ in range(2):
        done = engine.run(bundle, "delete")
        assert (done.returncode, done.stderr) == (0, b"")
        response = DeleteResponse.FromString(done.stdout)
        assert (response.pid, response.exit_status) == (0, 137)
        assert abs(response.exited_at.seconds - time.time()) < 60


def test_delete_after_a_crash_removes_the_sandbox_and_unmounts_the_bundle(engine: Engine) -> None:
    bundle = engine.bundle("a")
    engine.start(bundle)
    (pid,) = engine.shims()
    os.kill(pid, signal.SIGKILL)
    rootfs = bundle / "rootfs"
    rootfs.mkdir()
    for _ in range(2):
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", rootfs], check=True)
    done = engine.run(bundle, "delete")
    assert done.returncode == 0 and DeleteResponse.FromString(done.stdout).exit_status == 137
    assert not os.path.ismount(rootfs)
    assert not list(Path(engine.layout.root).glob(".sandboxes/*"))


def test_delete_leaves_a_living_shim_alone(engine: Engine) -> None:
    bundle = engine.bundle("a")
    engine.start(bundle)
    assert engine.run(bundle, "delete").returncode == 0
    assert len(engine.shims()) == 1


def test_sigterm_ends_a_shim_and_leaves_nothing(engine: Engine) -> None:
    engine.start(engine.bundle("a"))
    engine.stop()
    assert not list(Path(engine.layout.root).glob(".sandboxes/*"))


def test_a_machine_that_cannot_start_gives_its_cgroups_back_while_the_shim_lives(engine: Engine) -> None:
    name = f"cgroup-{os.getpid()}"
    paths = plan_group(read_layout(), "", name).paths
    engine.start(engine.bundle(name))
    logs = Path(engine.layout.sandbox(name), "sandbox.log")
    engine.wait(lambda: "cannot launch the virtual machine" in logs.read_text())
    assert engine.shims() and paths
    assert not [path for path in paths if os.path.exists(path)], logs.read_text()


def test_a_termination_is_held_back_until_the_pod_can_end_in_order(engine: Engine) -> None:
    """From its first instruction: an engine may have second thoughts as soon as `start` has answered."""
    bundle = engine.bundle("a")
    code = """
import os, signal, sys
from oci_runtime.shim.arguments import parse_arguments
from oci_runtime.shim.bootstrap import start

def serve(handover):
    os.kill(os.getpid(), signal.SIGTERM)
    os.write(2, b"lives")
    return 0

start(parse_arguments(sys.argv[1:]), serve, 0)
"""
    arguments = ["-namespace", "test", "-address", engine.address, "-publish-binary", "/bin/false", "-id", "a", "start"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=bundle, input=b"", capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"lives")
    assert engine.run(bundle, "delete").returncode == 0


def test_version_and_usage() -> None:
    for flag in ("-v", "--version"):
        assert b"containerd-shim-vmpod-v2:" in subprocess.check_output([SHIM, flag])
    assert subprocess.run([SHIM], capture_output=True, check=False).returncode == 1
    assert subprocess.run([SHIM, "-help"], capture_output=True, check=False).returncode == 0
    wrong = subprocess.run([SHIM, "-nonsense"], capture_output=True, check=False)
    assert wrong.returncode == 1 and b"unknown flag -nonsense" in wrong.stderr


def test_info_is_a_message() -> None:
    done = subprocess.run([SHIM, "-info"], input=b"", capture_output=True, check=True)
    info = RuntimeInfo.FromString(done.stdout)
    assert info.name == "io.containerd.vmpod.v2" and info.version.version
    broken = subprocess.run([SHIM, "-info"], input=b"\xff", capture_output=True, check=False)
    assert broken.returncode == 1


def test_start_imports_little() -> None:
    """The engine waits for it with every container."""
    code = "import sys, oci_runtime.shim.bootstrap; print(' '.join(sys.modules))"
    modules = set(subprocess.check_output([sys.executable, "-c", code], text=True).split())
    heavy = {"asyncio", "google.protobuf", "qemu", "pyroute2", "subprocess", "ctypes", "logging", "tomllib"}
    assert not modules & heavy
