"""One pod per network namespace, enforced by the kernel.

A claim is an abstract Unix socket, bound inside the namespace: such names are per network namespace, binding one is
atomic, and the kernel frees it when its process dies, however it dies. `ss -xl` shows it.
"""

from __future__ import annotations

import errno
import socket

from oci_runtime.errors import AlreadyExists, HostError

_LOCK = "\0vmpod-network"
_OWNER = "\0vmpod-network-of:"


class Claim:
    """The right to a namespace, held until `close` or the end of the process."""

    def __init__(self, sockets: tuple[socket.socket, ...]) -> None:
        self._sockets = sockets

    def close(self) -> None:
        """Give the namespace up; idempotent."""
        for held in self._sockets:
            held.close()


def claim_namespace(sandbox_id: str) -> Claim:
    """Claim the calling thread's network namespace. Raises AlreadyExists naming the pod that has it, HostError."""
    lock = _bind(_LOCK)
    if lock is None:
        owner = _find_owner()
        raise AlreadyExists(
            f"the network namespace of {sandbox_id} belongs to another running pod ({owner}); "
            "join that pod or use a namespace of its own"
        )
    # A name holds 107 bytes; a longer id is shown by its beginning.
    label = _bind(_OWNER + sandbox_id[:80])
    return Claim((lock,) if label is None else (lock, label))


def _bind(name: str) -> socket.socket | None:
    held = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        held.bind(name)
    except OSError as error:
        held.close()
        if error.errno == errno.EADDRINUSE:
            return None
        raise HostError.from_oserror(error, "bind", "claim of the network namespace") from error
    return held


def _find_owner() -> str:
    """The pod named by the label that stands beside the lock. /proc/thread-self: the thread's own namespace."""
    mark = "@" + _OWNER[1:]
    try:
        with open("/proc/thread-self/net/unix") as file:
            for line in file:
                name = line.rstrip("\n").partition(mark)[2]
                if name:
                    return name
    except OSError:
        pass
    return "unknown"
