"""Name queries of the guest, taken at an address that means somebody on the host's side: Docker's resolver, 127.0.0.11.

Docker answers in the pod's network namespace, where the guest's loopback does not reach. The agent takes the queries at
the same address here; the host fetches them one by one (NextQuery), asks, and brings the answers (AnswerQuery). All of
it runs in the event loop. A query that nobody answers is forgotten: resolvers ask again.
"""

from __future__ import annotations

import _socket
import itertools
import os

from oci_runtime.errors import InvalidInput, OciRuntimeError
from oci_runtime.guest.loop import READ
from oci_runtime.ttrpc.proto import agent_lean as pb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from oci_runtime.guest.agent import Agent
    from oci_runtime.guest.loop import Loop
    from oci_runtime.guest.server import Call
else:
    from _collections import deque  # the package would bring six modules along

MAX_WAITING = 512
MAX_STREAMS = 64
_MAX_MESSAGE_BYTES = 65535
_FORGET_S = 30.0
_BACKLOG = 16


class Resolver:
    """One address and port, both transports. At most MAX_WAITING queries wait; more are dropped."""

    def __init__(self, loop: Loop, address: str, port: int) -> None:
        """Raises OSError; then nothing is bound."""
        self._loop = loop
        self._numbers = itertools.count(1)
        self._queries: deque[pb.Query] = deque()
        self._answers: dict[int, Callable[[bytes], None]] = {}
        self._caller: Call | None = None
        self._streams: dict[int, _Stream] = {}
        self._datagrams = _bound(_socket.SOCK_DGRAM, address, port)
        try:
            self._listener = _bound(_socket.SOCK_STREAM, address, port)
            self._listener.listen(_BACKLOG)
        except OSError:
            self._datagrams.close()
            raise
        loop.watch(self._datagrams.fileno(), READ, self._datagram)
        loop.watch(self._listener.fileno(), READ, self._connection)

    def next(self, call: Call) -> None:
        """Answer `call` with the oldest query, now or when there is one. A new caller takes the place of an old one."""
        self._caller = call
        call.on_cancel = lambda: self._forget_caller(call)
        self._hand_over()

    def answer(self, number: int, data: bytes) -> None:
        """Send the answer of a query; one that is forgotten, or whose client is gone, is dropped."""
        send = self._answers.pop(number, None)
        if send is not None:
            send(data)

    def take(self, data: bytes, *, tcp: bool, send: Callable[[bytes], None]) -> None:
        """Put a query into the queue. send: how its answer gets back."""
        if len(self._answers) >= MAX_WAITING:
            return
        number = next(self._numbers)
        self._answers[number] = send
        self._queries.append(pb.Query(id=number, data=data, tcp=tcp))
        self._loop.later(_FORGET_S, lambda: self._forget(number))
        self._hand_over()

    def drop_stream(self, fd: int) -> None:
        """Forget a connection that has ended."""
        self._streams.pop(fd, None)

    def _forget(self, number: int) -> None:
        if self._answers.pop(number, None) is not None:
            self._queries = deque(query for query in self._queries if query.id != number)

    def _forget_caller(self, call: Call) -> None:
        if self._caller is call:
            self._caller = None

    def _hand_over(self) -> None:
        if self._caller is not None and self._queries:
            call, self._caller = self._caller, None
            call.reply(self._queries.popleft())

    def _datagram(self, _: int) -> None:
        try:
            data, peer = self._datagrams.recvfrom(_MAX_MESSAGE_BYTES)
        except OSError:
            return

        def send(answer: bytes) -> None:
            try:
                self._datagrams.sendto(answer, peer)
            except OSError:
                pass  # the client is gone, or will ask again

        self.take(data, tcp=False, send=send)

    def _connection(self, _: int) -> None:
        try:
            fd, _peer = self._listener._accept()  # type: ignore[attr-defined]
        except OSError:
            return
        if len(self._streams) >= MAX_STREAMS:
            os.close(fd)
            return
        self._streams[fd] = _Stream(self, self._loop, fd)


class _Stream:
    """A client's TCP connection: messages with their lengths in front, one answer for each."""

    def __init__(self, resolver: Resolver, loop: Loop, fd: int) -> None:
        self._resolver = resolver
        self._loop = loop
        self._fd = fd
        self._data = bytearray()
        self._ended = False
        os.set_blocking(fd, False)
        loop.watch(fd, READ, self._ready)
        loop.later(_FORGET_S, self._end)

    def _ready(self, _: int) -> None:
        try:
            data = os.read(self._fd, _MAX_MESSAGE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end()
            return
        self._data += data
        while len(self._data) >= 2:
            length = int.from_bytes(self._data[:2], "big")
            if len(self._data) < 2 + length:
                return
            message = bytes(self._data[2 : 2 + length])
            del self._data[: 2 + length]
            self._resolver.take(message, tcp=True, send=self._send)

    def _send(self, answer: bytes) -> None:
        if self._ended:
            return
        framed = len(answer).to_bytes(2, "big") + answer
        try:
            complete = os.write(self._fd, framed) == len(framed)
        except OSError:
            complete = False
        if not complete:
            self._end()  # a client that does not read its answers gets no more

    def _end(self) -> None:
        if not self._ended:
            self._ended = True
            self._loop.unwatch(self._fd)
            os.close(self._fd)
            self._resolver.drop_stream(self._fd)


_resolver: Resolver | None = None


def serve_resolver(agent: Agent, request: pb.ServeResolverRequest) -> pb.Empty:
    """Take queries from now on. Once per guest; a second call changes nothing. Raises InvalidInput, OciRuntimeError."""
    global _resolver
    if _resolver is not None:
        return pb.Empty()
    try:
        _socket.inet_pton(_socket.AF_INET, request.address)
    except OSError:
        raise InvalidInput(f"address {request.address!r}: not an IPv4 address") from None
    if not 0 < request.port < 65536:
        raise InvalidInput(f"port {request.port}: not within 1-65535")
    try:
        _resolver = Resolver(agent.loop, request.address, request.port)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise OciRuntimeError(
            f"name queries at {request.address} port {request.port} in the guest: {reason}"
        ) from error
    return pb.Empty()


def next_query(agent: Agent, request: pb.Empty, call: Call) -> None:
    """Answer with the oldest query, when there is one."""
    _require().next(call)


def answer_query(agent: Agent, request: pb.Query) -> pb.Empty:
    """Bring an answer."""
    _require().answer(request.id, request.data)
    return pb.Empty()


def _require() -> Resolver:
    if _resolver is None:
        raise OciRuntimeError("the guest takes no name queries")
    return _resolver


def _bound(kind: int, address: str, port: int) -> _socket.socket:
    bound = _socket.socket(_socket.AF_INET, kind | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
    try:
        bound.setsockopt(_socket.SOL_SOCKET, _socket.SO_REUSEADDR, 1)
        bound.bind((address, port))
    except OSError:
        bound.close()
        raise
    return bound
