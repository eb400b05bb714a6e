"""Announcements of the kernel about devices, by netlink: waiting for hot-plugged hardware without polling."""

from __future__ import annotations

import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_NETLINK_KOBJECT_UEVENT = 15
_KERNEL_GROUP = 1
_BUFFER_BYTES = 1 << 20
# An announcement lost to a full buffer must not cost the whole deadline.
_ANYWAY_S = 1.0


def retry_on_uevent(attempt: Callable[[], bool], timeout_s: float) -> bool:
    """Call `attempt` now and after each announcement until it returns true; False at the deadline.

    The socket is bound before the first attempt, so nothing is missed in between. Runs in a worker thread.
    """
    import _socket

    if attempt():
        return True
    deadline = time.monotonic() + timeout_s
    kind = _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK
    listener = _socket.socket(_socket.AF_NETLINK, kind, _NETLINK_KOBJECT_UEVENT)
    try:
        listener.setsockopt(_socket.SOL_SOCKET, _socket.SO_RCVBUF, _BUFFER_BYTES)
        listener.bind((0, _KERNEL_GROUP))
        poll = select.poll()
        poll.register(listener.fileno(), select.POLLIN)
        while True:
            if attempt():
                return True
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                return False
            poll.poll(min(remaining_s, _ANYWAY_S) * 1000)
            _drain(listener)
    finally:
        listener.close()


def _drain(listener: object) -> None:
    """Forget what has arrived: each attempt looks at the present state itself."""
    try:
        while listener.recv(1 << 16):  # type: ignore[attr-defined]
            pass
    except OSError:
        pass  # empty, or overrun: both mean that it is time to look again
