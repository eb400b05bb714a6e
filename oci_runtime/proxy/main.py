"""The proxy process: `python -I -S -c … PATH SYNC TERMINAL COMMAND...`, executed by `create` and `exec --detach`.

It already is in the namespaces of the container's spec, has its standard streams, and a session of its own. It tells
the command that it is ready, receives the attached stream from it, and becomes what the engine watches: alive while the
process in the guest is, then gone with its exit code.

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
GO = b"g"
MAX_TITLE_BYTES = 4096


def main() -> NoReturn:
    """Run the proxy; the process ends here."""
    sync = _socket.socket(fileno=int(sys.argv[2]))
    terminal = 0 if sys.argv[3] == "1" else -1
    set_title(sys.argv[4:])
    # In a pid namespace of its own this is process 1: orphans there are its to reap.
    _signal.signal(_signal.SIGCHLD, _signal.SIG_IGN)
    wakeup = catch_signals()
    outputs = standard_outputs()
    if terminal >= 0:
        import oci_runtime.host.terminal  # noqa: F401  # the relay's, which could not load it later
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
