"""The agent's channel to the host: a virtio-serial port, a vsock socket, or a descriptor that a test hands over.

The choice comes from the kernel's command line, `vmpod.transport=serial|vsock[:PORT]|fd:N`.
"""

from __future__ import annotations

import os
import select

from oci_runtime.errors import InvalidInput
from oci_runtime.guest.log import log
from oci_runtime.guest.loop import READ

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from oci_runtime.guest.loop import Loop

PORT_NAME = "vmpod.agent"
VSOCK_PORT = 1024
_PORTS = "/sys/class/virtio-ports"
_HOST_CID = 2


def read_parameters(command_line: str) -> dict[str, str]:
    """The `vmpod.*` words of a kernel command line, without the prefix."""
    words = (word.partition("=") for word in command_line.split() if word.startswith("vmpod."))
    return {name[len("vmpod.") :]: value for name, _, value in words}


def keep_standard_fds() -> None:
    """Make 0-2 exist before anything else is opened: a channel that became fd 0 would end up in a child's stdin."""
    for fd, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            target = "/dev/null" if fd == 0 or not os.path.exists("/dev/console") else "/dev/console"
            opened = os.open(target, flags | os.O_NOCTTY)
            if opened != fd:
                os.dup2(opened, fd)
                os.close(opened)
            os.set_inheritable(fd, True)


class Channel:
    """Brings the byte stream, again each time the host comes anew (a restored guest has a new host)."""

    def __init__(self, loop: Loop, transport: str, connect: Callable[[int], None]) -> None:
        """connect: gets each new descriptor, above 2. Raises InvalidInput for an unknown transport."""
        kind, _, argument = transport.partition(":")
        if kind not in ("serial", "vsock", "fd") or (argument and not argument.isdigit()):
            raise InvalidInput(f"vmpod.transport={transport}: expected serial, vsock[:PORT] or fd:N")
        self.kind = kind
        self._loop = loop
        self._connect = connect
        self._argument = int(argument) if argument else 0
        self._listener: socket.socket | None = None
        self._fd = -1
        self._tries = 0

    def start(self) -> None:
        """Look for the host; `connect` is called once it is there."""
        if self.kind == "fd":
            self._connect(self._argument)
        elif self.kind == "vsock":
            self._listen()
        else:
            self._try_serial()

    def lost(self) -> None:
        """The connection has ended: close its descriptor and look for the next host."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        if self.kind == "serial":
            self._tries = 0
            self._try_serial()
        elif self.kind == "fd":
            self._loop.stop()

    def _try_serial(self) -> None:
        """Open the port once the host listens: before, a read would look like its end.

        The kernel tells this by POLLHUP alone, which an epoll would report without end; hence a timer.
        """
        path = find_port(PORT_NAME)
        if path:
            if self._fd < 0:
                self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
            poll = select.poll()
            poll.register(self._fd, select.POLLOUT)
            if not any(events & select.POLLHUP for _, events in poll.poll(0)):
                self._connect(self._fd)
                return
        elif self._tries == 2000:
            log(f"the virtual machine has no virtio-serial port {PORT_NAME}")
        self._tries += 1
        self._loop.later(0.002 if self._tries < 500 else 0.05, self._try_serial)

    def _listen(self) -> None:
        import socket

        self._listener = socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        self._listener.bind((socket.VMADDR_CID_ANY, self._argument or VSOCK_PORT))
        self._listener.listen(4)
        self._loop.watch(self._listener.fileno(), READ, self._accept)

    def _accept(self, _: int) -> None:
        assert self._listener is not None
        connection, (cid, _port) = self._listener.accept()
        if cid != _HOST_CID or self._fd >= 0:
            connection.close()
            return
        self._fd = connection.detach()
        self._connect(self._fd)


def find_port(name: str, root: str = _PORTS) -> str:
    """The device of the virtio-serial port called `name`; empty when there is none yet."""
    try:
        entries = os.listdir(root)
    except OSError:
        return ""
    for entry in entries:
        try:
            with open(f"{root}/{entry}/name", encoding="utf-8") as file:
                found = file.read().strip()
        except OSError:
            continue
        device = f"/dev/{entry}"
        if found == name and os.path.exists(device):
            return device
    return ""
