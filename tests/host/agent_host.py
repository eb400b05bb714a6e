"""The guest's agent as an ordinary process of this machine: PID 1 of private namespaces, spoken to over a socket pair.

It runs real containers with the host's crun, in a cgroup v2 hierarchy mounted in its own mount namespace. What a guest
has and this has not: controllers (on a hybrid host), devices, a kernel of its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from oci_runtime import __version__
from oci_runtime.agent.client import AgentClient
from tests.agent_lab import Guest

ROOT = Path(__file__).resolve().parents[2]
APPLETS = (
    "sh cat echo sleep true false ls id ps yes head wc mount stty env kill dd sha256sum seq touch tr tty nproc mkdir"
    " hostname grep printf test readlink stat timeout sort"
)
_START = """
set -e
echo $$ > "$2/cgroup.procs"
exec unshare --cgroup --mount --propagation private sh -c '
mount -t tmpfs run /run
mkdir -p /run/vmpod/rootfs
mount --bind "$2" /run/vmpod/rootfs
mount -t cgroup2 none /sys/fs/cgroup
# A cgroup that hands on controllers must not hold processes itself, unless it is the root of all.
mkdir /sys/fs/cgroup/agent
echo $$ > /sys/fs/cgroup/agent/cgroup.procs
exec "$3" -I -S -c "
import sys
sys.path.insert(0, sys.argv[1])
from oci_runtime.guest.main import main
main(sys.argv[2:])" "$4" "vmpod.transport=fd:$1"
' sh "$1" "$3" "$4" "$5"
"""


def make_rootfs(directory: Path) -> Path:
    """A root file system with busybox."""
    busybox = shutil.which("busybox")
    assert busybox, "busybox is missing (apt install busybox-static)"
    for name in ("bin", "dev", "etc", "proc", "sys", "tmp"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    shutil.copy(busybox, directory / "bin/busybox")
    for applet in APPLETS.split():
        (directory / "bin" / applet).symlink_to("busybox")
    (directory / "etc/passwd").write_text("root:x:0:0:root:/:/bin/sh\nworker:x:1000:1000::/:/bin/sh\n")
    return directory


def unified_root() -> Path:
    """Where cgroup v2 is mounted."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if " - cgroup2 " in line:
            return Path(line.split()[4])
    raise AssertionError("no cgroup v2 hierarchy is mounted")


@contextlib.asynccontextmanager
async def running_agent(rootfs: Path) -> AsyncIterator[Guest]:
    """Start the agent and greet it."""
    with agent_socket(rootfs) as (sock, pid, log):
        agent = await AgentClient.connect(sock)
        try:
            hello = await agent.hello(__version__, os.urandom(64), timeout_s=30)
            yield Guest(agent, hello, log, pid)
        except BaseException:
            print(log.read_text(errors="replace")[-8000:])
            raise
        finally:
            await agent.close()


@contextlib.contextmanager
def agent_socket(rootfs: Path) -> Iterator[tuple[socket.socket, int, Path]]:
    """Start the agent; yield the host's end of its channel, a pid, its log. Kill its pid namespace in the end."""
    ours, theirs = socket.socketpair()
    cgroup = unified_root() / f"vmpod-agent-test-{os.getpid()}-{ours.fileno()}"
    cgroup.mkdir()
    log = rootfs.parent / "agent.log"
    child = _start(theirs, cgroup, rootfs, log)
    try:
        yield ours, child.pid, log
    finally:
        ours.close()
        _end(child, cgroup)


def _start(channel: socket.socket, cgroup: Path, rootfs: Path, log: Path) -> subprocess.Popen[bytes]:
    command = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--net", "--fork", "--kill-child", "--mount-proc"]
    arguments = [
        str(channel.fileno()),
        str(cgroup),
        str(rootfs),
        getattr(sys, "_base_executable", sys.executable),
        str(ROOT),
    ]
    with channel, log.open("wb") as output:
        return subprocess.Popen(
            [*command, "sh", "-c", _START, "sh", *arguments], pass_fds=[channel.fileno()], stdin=subprocess.DEVNULL,
            stdout=output, stderr=output,
        )  # fmt: skip


def _end(child: subprocess.Popen[bytes], cgroup: Path) -> None:
    """The agent leaves with its channel; SIGKILL to unshare takes its child along."""
    try:
        child.wait(5)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGKILL)
        child.wait(5)
    for directory in sorted(cgroup.rglob("*"), reverse=True):
        if directory.is_dir():
            directory.rmdir()
    for _ in range(100):
        with contextlib.suppress(OSError):
            cgroup.rmdir()
            return
        os.sched_yield()
    cgroup.rmdir()
