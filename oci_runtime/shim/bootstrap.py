"""`start`: find the shim of a container's pod, or become it; tell the engine its address.

The engine waits for this with every container, so nothing heavy is imported: the socket is bound here, and the process
that stays behind loads the rest while the engine already connects. Exactly one process gets a sandbox's lock, however
many members of a pod arrive at once.
"""

from __future__ import annotations

import _socket
import os
import time

from oci_runtime.annotations.route import MEMBER, identify
from oci_runtime.bundle.ids import validate_id
from oci_runtime.bundle.load import read_json_object
from oci_runtime.control.client import listen
from oci_runtime.errors import HostError, InvalidInput, Unavailable
from oci_runtime.host.files import write_atomic
from oci_runtime.log import timestamp
from oci_runtime.record import Record
from oci_runtime.shim.location import ADDRESS_FILE, SOCKET_NAME, layout_for, socket_path
from oci_runtime.state.layout import LOCK_FILE
from oci_runtime.state.locks import try_lock
from oci_runtime.state.sandboxes import SandboxRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable

    from oci_runtime.shim.arguments import Arguments
    from oci_runtime.state.layout import Layout
else:
    import _signal

MAX_OPTIONS_BYTES = 1 << 20
# How long a sandbox of the same name may take to end before its name can be used again.
WAIT_S = 10.0
# Held back from before the process that stays behind exists until its event loop can end the pod in order.
TERMINATION = frozenset({_signal.SIGTERM, _signal.SIGQUIT})
_POLL_S = 0.02


class Handover(Record):
    """What the process that stays behind starts with. Descriptors are numbers; options: what came on stdin."""

    arguments: Arguments
    bundle: str
    sandbox_id: str
    owner: bool
    root: str
    directory: str
    options: bytes
    ttrpc_address: str
    origin_ns: int
    lock: int
    listener: int
    control: int


def start(arguments: Arguments, serve: Callable[[Handover], int], origin_ns: int) -> int:
    """Answer `start` on standard output. Returns the exit code; in the process that stays behind, that of `serve`.

    Raises: InvalidInput (arguments, annotations, config.json), Unavailable (a sandbox of that name does not end).
    """
    if arguments.bundle:
        os.chdir(arguments.bundle)
    bundle = os.getcwd()
    validate_id(arguments.id)
    options = _read_options()
    raw = read_json_object(os.path.join(bundle, "config.json"))
    annotations = raw.get("annotations") or {}
    if not isinstance(annotations, dict):
        raise InvalidInput("config.json: annotations is not an object")
    kind, sandbox_id = identify(annotations, arguments.id)
    validate_id(sandbox_id, "sandbox id")
    layout = layout_for(arguments.namespace, arguments.address)
    path = socket_path(layout, sandbox_id)
    lock = _lock_or_find(layout, sandbox_id, path, member=kind == MEMBER)
    if lock is None:
        _answer(bundle, path)
        _open_and_close_log(bundle)
        return 0
    directory = layout.sandbox(sandbox_id)
    SandboxRecord.new(directory, sandbox_id, timestamp()).save()
    listener, control = listen(directory, SOCKET_NAME), listen(directory)
    os.chmod(path, 0o600)
    _signal.pthread_sigmask(_signal.SIG_BLOCK, TERMINATION)
    if os.fork():
        _answer(bundle, path)
        return 0
    handover = Handover(
        arguments=arguments,
        bundle=bundle,
        sandbox_id=sandbox_id,
        owner=kind != MEMBER,
        root=layout.root,
        directory=directory,
        options=options,
        ttrpc_address=os.environ.get("TTRPC_ADDRESS", ""),
        origin_ns=origin_ns,
        lock=lock,
        listener=listener.detach(),
        control=control.detach(),
    )
    return serve(handover)


def _read_options() -> bytes:
    """What the engine writes to stdin: nothing, or an Any. A terminal is nobody's engine."""
    if os.isatty(0):
        return b""
    chunks: list[bytes] = []
    size = 0
    while chunk := os.read(0, 1 << 16):
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_OPTIONS_BYTES:
            raise InvalidInput(f"the options on standard input are larger than {MAX_OPTIONS_BYTES} bytes")
    return b"".join(chunks)


def _lock_or_find(layout: Layout, sandbox_id: str, path: str, *, member: bool) -> int | None:
    """The lock of a sandbox that does not exist yet, or None when a shim answers at `path` for a member."""
    layout.prepare()
    directory = layout.sandbox(sandbox_id)
    deadline = time.monotonic() + WAIT_S
    while True:
        lock = try_lock(directory, create=True)
        if lock is not None:
            if os.listdir(directory) == [LOCK_FILE]:
                return lock
            _clear(directory, lock)
            continue
        if member and _answers(path):
            return None
        if time.monotonic() > deadline:
            raise Unavailable(f"sandbox {sandbox_id} exists and does not end (its directory is {directory})")
        time.sleep(_POLL_S)


def _clear(directory: str, lock: int) -> None:
    """Undo what a dead shim left, with its directory and lock."""
    from oci_runtime.cli.cleanup import undo_leftovers

    try:
        undo_leftovers(directory)
    finally:
        os.close(lock)


def _answers(path: str) -> bool:
    sock = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        sock.connect(path)
    except OSError:
        return False
    finally:
        sock.close()
    return True


def _answer(bundle: str, path: str) -> None:
    """Write the address where the engine looks for it later (`address`), and where it waits for it now."""
    address = f"unix://{path}"
    write_atomic(os.path.join(bundle, ADDRESS_FILE), address.encode(), 0o644, sync=False)
    answer = address.encode()
    if _max_version() >= 3:
        import json

        answer = json.dumps({"version": 3, "address": address, "protocol": "ttrpc"}).encode()
    try:
        os.write(1, answer)
    except OSError as error:
        raise HostError.from_oserror(error, "write", "standard output") from error


def _max_version() -> int:
    """The newest shim version that the engine takes; engines that do not say so take a bare address only."""
    try:
        return int(os.environ.get("MAX_SHIM_VERSION", ""))
    except ValueError:
        return 2


def _open_and_close_log(bundle: str) -> None:
    """An engine that waits for a writer of a member's `log` need not wait for ever: the pod's goes to the sandbox's."""
    try:
        os.close(os.open(os.path.join(bundle, "log"), os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError:
        return
