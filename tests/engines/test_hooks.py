"""The hooks.d definitions through podman: its own matching of conditions, real vmpod, real packets."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.engines import daemons
from conformance.engines.image import NAME
from conformance.runtime import Runtime
from conformance.session import Options, Session
from tests.engine import is_running, kill, wait_until
from tests.engines.conftest import BIN

pytestmark = pytest.mark.engine

HOOKS = Path(__file__).parents[2] / "hooks"
CAPTURE = HOOKS / "capture.py"
SERVE = "echo hello-from-the-pod >/tmp/index.html; httpd -f -p 80 -h /tmp"


class Podman:
    """A private podman with the definitions of `hooks/`, whose paths are those of this test."""

    def __init__(self, directory: Path, network: str) -> None:
        runtime = Runtime(str(BIN / "vmpod"), "vmpod", (), directory / "r", 4.0, lambda text: None)
        self.session = Session(runtime, directory, "1.2.0", Options())
        self.root = runtime.root
        self.client = daemons.podman(self.session)
        self.client.argv[:0] = ["nsenter", f"--net=/run/netns/{network}"]
        self.captures = directory / "captures"
        places = {
            "/usr/local/share/vmpod/hooks": str(HOOKS),
            "/usr/local/bin/vmpod": str(BIN / "vmpod"),
            "/var/log/vmpod/captures": str(self.captures),
            "/run/vmpod": str(self.root),
        }
        for definition in HOOKS.glob("*.json"):
            text = definition.read_text()
            for before, after in places.items():
                text = text.replace(f'"{before}', f'"{after}')
            (directory / "podman" / "hooks" / definition.name).write_text(text)

    def run(self, *command: str, flags: tuple[str, ...] = ()) -> str:
        """A detached container; returns its id."""
        return self.client.must("run", "--detach", *flags, NAME, *command, deadline_s=60).strip()

    def remove(self, container_id: str) -> None:
        self.client.must("rm", "--force", "--time", "0", container_id, deadline_s=60)


@pytest.fixture(scope="module")
def podman(engine_network: str) -> Iterator[Podman]:
    directory = Path(tempfile.mkdtemp(prefix="vh", dir="/tmp"))
    made = Podman(directory, engine_network)
    yield made
    made.session.close()
    shutil.rmtree(directory)


def tcpdumps(directory: Path) -> list[int]:
    """The processes that write into files below a directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            links = [str(link.readlink()) for link in (entry / "fd").iterdir()]
        except OSError:
            continue
        if any(link.startswith(str(directory)) for link in links):
            found.append(int(entry.name))
    return found


def test_a_pod_that_asks_for_it_is_captured_until_its_end(podman: Podman, engine_network: str) -> None:
    flags = ("--annotation", "io.vmpod.capture=true", "--network", "podman")
    container_id = podman.run("sh", "-c", SERVE, flags=flags)
    capture = podman.captures / f"{container_id}.pcap"
    assert capture.stat().st_mode & 0o777 == 0o600 and tcpdumps(podman.captures)
    address = podman.client.must("inspect", "--format", "{{.NetworkSettings.IPAddress}}", container_id).strip()
    fetch = ["nsenter", f"--net=/run/netns/{engine_network}", "curl", "-sS", "--max-time", "30"]
    fetch += ["--retry", "20", "--retry-connrefused", "--retry-delay", "1", f"http://{address}/"]
    assert subprocess.check_output(fetch, text=True) == "hello-from-the-pod\n"
    podman.remove(container_id)
    wait_until(lambda: not tcpdumps(podman.captures), "the capture ends with the pod", 20)
    packets = subprocess.check_output(["tcpdump", "-A", "-n", "-r", str(capture)], text=True, stderr=subprocess.DEVNULL)
    assert "GET / HTTP/1.1" in packets and "hello-from-the-pod" in packets


def test_others_are_not_captured_and_the_dead_are_cleaned_away(podman: Podman) -> None:
    before = set(podman.captures.glob("*"))
    killed = podman.run("sleep", "1000", flags=("--network", "none", "--annotation", "io.vmpod.capture=; reboot"))
    assert set(podman.captures.glob("*")) == before
    (record,) = podman.root.glob(".sandboxes/*/sandbox.json")
    sandbox = json.loads(record.read_text())
    kill(sandbox["pid"], signal.SIGKILL)
    wait_until(lambda: not is_running(sandbox["qemu"]["pid"]), "QEMU dies with the sandbox process", 20)
    assert record.exists()
    ended = podman.client.run("run", "--rm", "--network", "host", "--runtime", "runc", NAME, "true", deadline_s=60)
    assert ended.ok, ended
    assert not record.exists(), "the poststop hook of another container has cleaned up"
    podman.remove(killed)


@pytest.fixture
def victim() -> Iterator[subprocess.Popen[bytes]]:
    """A process in a network namespace with an interface, as a container's process is."""
    link = "ip link add eth0 type veth peer name p0 && ip link set p0 up && ip link set eth0 up"
    script = f"{link} && echo up && exec sleep 1000"
    with subprocess.Popen(["unshare", "--net", "sh", "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout and process.stdout.readline() == b"up\n"
        yield process
        process.kill()


def run_capture(directory: Path, document: object, *options: str) -> subprocess.CompletedProcess[str]:
    text = document if isinstance(document, str) else json.dumps(document)
    argv = [str(CAPTURE), "--directory", str(directory), *options]
    return subprocess.run(argv, input=text, capture_output=True, text=True, timeout=60, check=False)


def state(pid: int, value: object, container_id: object = "c1") -> dict[str, object]:
    return {"id": container_id, "pid": pid, "annotations": {"io.vmpod.capture": value}}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("eth9", "no interface eth9"),
        ("--help", "must be"),
        ("eth0;reboot", "must be"),
        ("../x", "must be"),
        ("x" * 100, "must be"),
        (["eth0"], "must be"),
    ],
)
def test_hostile_annotations(tmp_path: Path, victim: subprocess.Popen[bytes], value: object, words: str) -> None:
    done = run_capture(tmp_path / "captures", state(victim.pid, value))
    assert done.returncode == 1 and words in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.glob("captures/*"))


def test_states_that_are_none(tmp_path: Path, victim: subprocess.Popen[bytes]) -> None:
    documents: list[object] = ["", "{", "[]", "[" * 100_000, "x" * (5 << 20), {"id": "c1"}]
    documents += [state(victim.pid, "true", name) for name in ("../c1", "a/b", "", 7, "x" * 300)]
    documents += [state(pid, "true") for pid in (0, 1, -1)]
    for document in documents:
        assert run_capture(tmp_path / "captures", document).returncode == 1
    assert run_capture(tmp_path / "captures", {"id": "c1", "pid": victim.pid}).returncode == 0
    assert not (tmp_path / "captures").exists()


def start_with_slow_tcpdump(directory: Path, document: object, ready_s: int) -> subprocess.Popen[bytes]:
    """capture.py with a tcpdump that never says that it listens."""
    slow = directory / "tcpdump"
    slow.write_text("#!/bin/sh\necho starting >&2\nexec sleep 1000\n")
    slow.chmod(0o755)
    program = shutil.which("tcpdump", path="/usr/sbin:/usr/bin:/sbin:/bin")
    script = f'mount --bind {slow} {program} && exec "$0" "$@"'
    argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, str(CAPTURE)]
    argv += ["--directory", str(directory), "--ready-s", str(ready_s)]
    capture = subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    assert capture.stdin
    capture.stdin.write(json.dumps(document).encode())
    capture.stdin.close()
    return capture


def test_a_slow_tcpdump_is_given_up_and_leaves_nothing(tmp_path: Path, victim: subprocess.Popen[bytes]) -> None:
    for ready_s, words in ((1, b"did not start within 1 s"), (60, b"the container has ended")):
        with start_with_slow_tcpdump(tmp_path, state(victim.pid, "true"), ready_s) as capture:
            if ready_s == 60:
                wait_until(lambda: tcpdumps(tmp_path), "tcpdump is there", 60)
                victim.kill()
            assert capture.stderr and words in capture.stderr.read()
        assert capture.returncode == 1
        assert not tcpdumps(tmp_path) and not list(tmp_path.glob("*.pcap"))


def test_the_network_of_the_host_is_not_captured(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "1000"]) as process:
        done = run_capture(tmp_path, state(process.pid, "lo"))
        process.kill()
    assert done.returncode == 1 and "network of the host" in done.stderr


def test_files_are_never_overwritten_and_bounded(tmp_path: Path, victim: subprocess.Popen[bytes]) -> None:
    (tmp_path / "c1.pcap").symlink_to(tmp_path / "elsewhere")
    assert run_capture(tmp_path, state(victim.pid, "true"), "--max-mib", "1").returncode == 0
    assert not (tmp_path / "elsewhere").exists()
    inside = ["nsenter", f"--net=/proc/{victim.pid}/ns/net", "sh", "-c"]
    setup = "ip addr add 10.9.9.1/24 dev eth0; ip neigh add 10.9.9.2 lladdr 02:00:00:00:00:01 dev eth0"
    subprocess.run([*inside, setup], check=True, timeout=60)

    def has_ended() -> bool:
        # The kernel drops what tcpdump is too slow for: packets are sent until it has enough.
        blast = "head -c 1000000 /dev/zero | socat -u -b 1400 - UDP:10.9.9.2:9"
        subprocess.run([*inside, blast], check=True, timeout=60)
        return not tcpdumps(tmp_path)

    wait_until(has_ended, "tcpdump ends at its bound", 60)
    assert 1 << 19 < (tmp_path / "c1.2.pcap").stat().st_size <= 1 << 20
    tmp_path.chmod(0o777)
    done = run_capture(tmp_path, state(victim.pid, "true"))
    assert done.returncode == 1 and "by others" in done.stderr
