"""Connections that the host opens inside the guest: the far half of the host's localhost relay.

A connection is a number for the host. Its two directions are the same streams as those of a process: pulled reads,
pushed writes that are answered when they are taken, so a slow server slows its client down.
"""

from __future__ import annotations

import _socket
import errno
import itertools
import os

from oci_runtime.errors import InvalidInput, NotFound, OciRuntimeError, Unavailable
from oci_runtime.guest.streams import Input, Output
from oci_runtime.ttrpc.proto import agent_lean as pb
from oci_runtime.ttrpc.status import RESOURCE_EXHAUSTED, StatusError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.guest.agent import Agent
    from oci_runtime.guest.loop import Loop
    from oci_runtime.guest.server import Call

MAX_CONNECTIONS = 2048
_MAX_TIMEOUT_MS = 60_000
_DEFAULT_TIMEOUT_MS = 10_000
_numbers = itertools.count(1)
_connections: dict[int, _Connection] = {}


class _WriteHalf(Input):
    """The sending direction of a socket: its end is told to the peer, while the other direction goes on."""

    def _end(self) -> None:
        if not self._ended:
            try:
                socket = _socket.socket(fileno=os.dup(self._fd))
                try:
                    socket.shutdown(_socket.SHUT_WR)
                finally:
                    socket.close()
            except OSError:
                pass  # the peer has gone
        super()._end()


class _Connection:
    """Both directions of one connection; owns the socket's descriptor."""

    def __init__(self, loop: Loop, fd: int) -> None:
        self.output = Output(loop, fd, lambda data, eof: pb.ReadOutputResponse(data=data, eof=eof))
        self.input = _WriteHalf(loop, os.dup(fd), lambda written: pb.WriteStdinResponse(written=written))

    def close(self) -> None:
        self.input.close()
        self.output.close()


def dial(agent: Agent, request: pb.DialRequest) -> pb.DialResponse:
    """Connect to an address of the guest. Runs in a worker thread.

    Raises InvalidInput for what is no IP address and port, Unavailable with the kernel's words (refused, timed out).
    """
    family = _socket.AF_INET6 if ":" in request.address else _socket.AF_INET
    try:
        _socket.inet_pton(family, request.address)
    except OSError:
        raise InvalidInput(f"address {request.address!r}: not an IP address") from None
    if not 0 < request.port < 65536:
        raise InvalidInput(f"port {request.port}: not within 1-65535")
    if len(_connections) >= MAX_CONNECTIONS:
        raise StatusError(RESOURCE_EXHAUSTED, f"{MAX_CONNECTIONS} connections into the guest are open already")
    timeout_ms = min(request.timeout_ms or _DEFAULT_TIMEOUT_MS, _MAX_TIMEOUT_MS)
    fd = _connect(family, request.address, request.port, timeout_ms / 1000)
    number = next(_numbers)
    _connections[number] = _Connection(agent.loop, fd)
    return pb.DialResponse(connection=number)


def conn_read(agent: Agent, request: pb.ConnReadRequest, call: Call) -> None:
    """Answer with the next bytes, or with the end of file."""
    _find(request.connection).output.read(call, request.max_bytes)


def conn_write(agent: Agent, request: pb.ConnWriteRequest, call: Call) -> None:
    """Write; answers when all is taken, with less when the peer takes no more. eof: nothing follows."""
    connection = _find(request.connection)
    connection.input.write(call, request.data)
    if request.eof:
        connection.input.close_when_written()


def conn_close(agent: Agent, request: pb.ConnCloseRequest) -> pb.Empty:
    """Close and forget a connection; one that is unknown is closed already."""
    connection = _connections.pop(request.connection, None)
    if connection is not None:
        connection.close()
    return pb.Empty()


def _find(number: int) -> _Connection:
    connection = _connections.get(number)
    if connection is None:
        raise NotFound(f"connection {number} does not exist in the guest")
    return connection


def _connect(family: int, address: str, port: int, timeout_s: float) -> int:
    socket = _socket.socket(family, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        socket.settimeout(timeout_s)
        socket.connect((address, port))
        socket.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
        return socket.detach()
    except TimeoutError:
        socket.close()
        raise Unavailable(f"connect to {address} port {port} in the guest: no answer within {timeout_s:g} s") from None
    except OSError as error:
        socket.close()
        reason = os.strerror(error.errno or errno.EIO)
        raise OciRuntimeError(f"connect to {address} port {port} in the guest: {reason}") from None
