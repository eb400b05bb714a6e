"""Find the sandbox process of a pod, or start one: exactly one, however many members arrive at once.

Whoever gets the sandbox's lock boots; the lock's descriptor lives on in the sandbox process. Everybody else waits until
the control socket answers, or until the lock is free again because the boot has failed.
"""

from __future__ import annotations

import json
import os
import sys
import time

from oci_runtime.cli.stopping import Deferred
from oci_runtime.control.client import Client, listen
from oci_runtime.control.frames import ConnectionLost, Silent
from oci_runtime.errors import NotFound, OciRuntimeError, Unavailable
from oci_runtime.host.daemon import describe_end, start_daemon
from oci_runtime.host.files import read_tail, write_all
from oci_runtime.log import timestamp
from oci_runtime.state.endings import explain_end, find_reason
from oci_runtime.state.layout import SANDBOX_LOG
from oci_runtime.state.locks import try_lock
from oci_runtime.state.sandboxes import SandboxRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from oci_runtime.state.layout import Layout

    # From the sandbox's id, and what records a resource before it is made, to the cgroup.procs files to join.
    MakeCgroup = Callable[[str, Callable[[dict[str, Any]], None]], tuple[str, ...]]

_POLL_S = 0.02
_LOG_TAIL_BYTES = 4096
_SIGTERM = 15
# From the end of the connection to the end of the process.
_EXIT_S = 2.0
# Ending a machine that has just been booted takes a second or two.
UNDO_TIMEOUT_S = 20.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_CODE = (
    "import sys; sys.path[:] = sys.argv.pop(1).split(':'); import oci_runtime.sandbox.__main__ as sandbox;"
    " sys.exit(sandbox.main())"
)


class Sandbox:
    """A sandbox process within reach. pid: of one that this command started, and ends when it fails; else 0."""

    def __init__(self, directory: str, client: Client, pid: int = 0) -> None:
        self.directory = directory
        self.client = client
        self.pid = pid


def sandbox_argv() -> list[str]:
    """Return the command of the sandbox process: the interpreter of this one, with the same places to import from.

    `-S`: the site module would cost milliseconds to find them once more.
    """
    package_root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    places = [package_root, *(os.path.abspath(place) for place in sys.path if place)]
    return [sys.executable, "-I", "-S", "-c", _CODE, ":".join(places)]


def ensure_sandbox(
    layout: Layout,
    sandbox_id: str,
    make_document: Callable[[], dict[str, Any]],
    make_cgroup: MakeCgroup,
    timeout_s: float,
    *,
    must_exist: bool = False,
) -> Sandbox:
    """Connect to the sandbox process of a pod, starting it when there is none.

    make_document: the boot document (docs/internals.md), and make_cgroup: what HostCgroup.make_machine does, are called
    only when this command boots. timeout_s: for the whole way of another command's boot. must_exist: never boot.
    Raises NotFound, Unavailable, HostError.
    """
    directory = layout.sandbox(sandbox_id)
    deadline = time.monotonic() + timeout_s
    while True:
        lock: int | None = None
        try:
            # A signal between the two halves of this line would leave the lock in hands that have to undo the boot.
            with Deferred():
                lock = _try_lock(directory, sandbox_id, create=not must_exist)
            if lock is None:
                client = _connect(directory, timeout_s, deadline)
                if client is not None:
                    return Sandbox(directory, client)
            elif must_exist:
                raise NotFound(f"sandbox {sandbox_id} is not running any more ({explain_end(directory)})")
            elif _clear(directory, lock):
                return _boot(layout, sandbox_id, directory, lock, make_document(), make_cgroup, timeout_s)
        finally:
            if lock is not None:
                os.close(lock)
        time.sleep(_POLL_S)


def _try_lock(directory: str, sandbox_id: str, *, create: bool) -> int | None:
    try:
        return try_lock(directory, create=create)
    except FileNotFoundError as error:
        raise NotFound(f"sandbox {sandbox_id} does not exist") from error


def _connect(directory: str, timeout_s: float, deadline: float) -> Client | None:
    """Connect to somebody else's sandbox process; None while its owner is about to listen, or about to end."""
    try:
        return Client.connect(directory, timeout_s)
    except (NotFound, ConnectionLost):
        if time.monotonic() > deadline:
            raise
        return None


def has_ended(directory: str, timeout_s: float) -> bool:
    """Wait for the end of a sandbox process; True once nobody holds its lock."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            lock = try_lock(directory)
        except FileNotFoundError:
            return True
        if lock is not None:
            os.close(lock)
            return True
        time.sleep(_POLL_S)
    return False


def _clear(directory: str, lock: int) -> bool:
    """Undo what a dead sandbox left; True when the directory is new, False when it was removed: lock it anew."""
    if os.listdir(directory) == ["lock"]:
        return True
    from oci_runtime.cli.cleanup import undo_leftovers

    undo_leftovers(directory)
    return False


def _boot(
    layout: Layout,
    sandbox_id: str,
    directory: str,
    lock: int,
    document: dict[str, Any],
    make_cgroup: MakeCgroup,
    timeout_s: float,
) -> Sandbox:
    """Record, listen, start. The lock's descriptor is inherited; the caller closes its own."""
    record = SandboxRecord.new(directory, sandbox_id, timestamp())
    record.save()
    cgroup_procs = make_cgroup(sandbox_id, record.add)
    listener = listen(directory)
    boot = os.memfd_create("boot")
    output = os.open(os.path.join(directory, SANDBOX_LOG), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        write_all(boot, json.dumps({**document, "root": layout.root, "directory": directory}).encode())
        os.lseek(boot, 0, os.SEEK_SET)
        environ = {"PATH": os.environ.get("PATH") or _PATH, "LC_ALL": "C.UTF-8"}
        fds = {"boot": boot, "lock": lock, "listen": listener.fileno()}
        # Id and state directory are for readers of `ps`; what counts is in the boot document.
        argv = [*sandbox_argv(), "--id", sandbox_id, "--root", layout.root]
        joined = [*_root_cgroups(), *cgroup_procs]
        pid = start_daemon(argv, fds, output=output, cgroup_procs=joined, environ=environ, held=(_SIGTERM,))
        return Sandbox(directory, Client.connect(directory, timeout_s), pid)
    finally:
        os.close(output)
        os.close(boot)
        listener.close()


def _root_cgroups() -> list[str]:
    """Return the cgroup.procs files of the roots of all hierarchies: a way out of the caller's cgroup."""
    found = []
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.split()
            kind = fields[fields.index("-") + 1]
            if kind in ("cgroup", "cgroup2") and fields[3] == "/":
                found.append(os.path.join(fields[4], "cgroup.procs"))
    return found


def explain_loss(directory: str, error: ConnectionLost, pid: int = 0) -> OciRuntimeError:
    """Return what a lost connection means: why the sandbox process went away, or that it did not answer.

    pid: of a sandbox process that this command started.
    """
    if isinstance(error, Silent):
        return error
    reason = find_reason(directory)
    if reason is not None:
        return reason
    what = "ended early"
    if pid:
        ended = describe_end(pid, _EXIT_S)
        what = f"ended early ({ended})" if ended else "lives but does not talk to this command any more"
    tail = read_tail(os.path.join(directory, SANDBOX_LOG), _LOG_TAIL_BYTES)
    return Unavailable(f"sandbox process {what}: {error.message}", detail=error.detail or tail)
