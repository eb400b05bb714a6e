"""The proxy process: `python -I -S -c … PATH SYNC TERMINAL LATE COMMAND...`, executed by `create` and `exec --detach`.

It already is in the namespaces of the container's spec, but for those in LATE, has its standard streams, and a session
of its own. It tells the command that it is ready, receives the attached stream from it, and becomes what the engine
watches: alive while the process in the guest is, then gone with its exit code.

Once it is ready it opens and imports nothing any more: its root becomes the container's (view.py).
"""

from __future__ import annotations

import _socket
import os
import sys

from oci_runtime.proxy.outputs import standard_outputs
from oci_runtime.proxy.relay import LOST, Relay
from oci_runtime.proxy.signals import catch_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from typing import NoReturn
else:
    import _signal

READY = b"r"
FAILED = b"e"
GO = b"g"
MAX_TITLE_BYTES = 4096
# Namespaces in which this interpreter cannot be found, or not be read: entered when it needs nothing any more.
LATE = ("mount", "user")


def main() -> NoReturn:
    """Run the proxy; the process ends here."""
    sync = _socket.socket(fileno=int(sys.argv[2]))
    terminal = 0 if sys.argv[3] == "1" else -1
    set_title(sys.argv[5:])
    # In a pid namespace of its own this is process 1: orphans there are its to reap.
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)
    wakeup = catch_signals()
    outputs = standard_outputs()
    if terminal >= 0:
        import oci_runtime.host.terminal  # noqa: F401  # the relay's, which could not load it later
    if sys.argv[4]:
        try:
            enter_late(sys.argv[4])
        except Exception as error:  # noqa: BLE001  # whatever it is, the other side must hear of it
            sync.send(FAILED + f"proxy: {error}".encode())
            os._exit(LOST)
    connection = _receive_stream(sync)
    sync.close()
    os._exit(Relay(connection, 0, outputs, wakeup, terminal).run())


def _receive_stream(sync: _socket.socket) -> _socket.socket:
    """Wait for the stream; without one the creation has failed, or its command was killed."""
    try:
        sync.send(READY)
        data, ancillary, _, _ = sync.recvmsg(1, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC)
    except OSError:
        os._exit(LOST)
    if data != GO or not ancillary:
        os._exit(LOST)
    return _socket.socket(fileno=int.from_bytes(ancillary[0][2][:4], sys.byteorder))


def enter_late(plan: str) -> None:
    """Enter what is left of the namespaces, in the order of LATE: a user namespace takes the right to the others away.

    plan: entries `KIND=FD` to join, `KIND` to make. Raises OSError, HostError.
    """
    from oci_runtime.host import syscalls

    for entry in plan.split(","):
        kind, _, fd = entry.partition("=")
        if fd:
            syscalls.setns(int(fd), syscalls.NAMESPACE_FLAGS[kind])
            os.close(int(fd))
        else:
            syscalls.unshare(syscalls.NAMESPACE_FLAGS[kind])


def set_title(arguments: list[str]) -> None:
    """Show the container's command as this process's, in ps and top. Best effort.

    The arguments are the tail of our own command line, so they fit into its memory.
    """
    title = b"".join(os.fsencode(word) + b"\0" for word in arguments)[:MAX_TITLE_BYTES]
    name = os.path.basename(os.fsencode(arguments[0]))[:15] if arguments else b""
    try:
        with open("/proc/self/stat", "rb") as file:
            text = file.read()
        fields = text[text.rindex(b")") + 2 :].split()
        start, end = int(fields[45]), int(fields[46])
        fd = os.open("/proc/self/mem", os.O_RDWR | os.O_CLOEXEC)
        try:
            os.pwrite(fd, title.ljust(end - start, b"\0")[: end - start], start)
        finally:
            os.close(fd)
        with open("/proc/self/comm", "wb") as file:
            file.write(name)
    except (OSError, ValueError):
        return
