"""The agent's ttRPC server: one connection to the host at a time, in the event loop.

A method is answered in one of three ways (`registry.py`): at once in the loop, by a worker thread, or later by whoever
holds its `Call`. A failing call gets a status and never harms the others; only a lost framing ends the connection, and
then the calls that wait are told, so that no output is read for a host that is gone.
"""

from __future__ import annotations

import _thread
import os

from oci_runtime.errors import InvalidInput, OciRuntimeError, Unsupported
from oci_runtime.guest.log import log, log_exception
from oci_runtime.guest.loop import HANGUP, READ, WRITE
from oci_runtime.ttrpc import frames
from oci_runtime.ttrpc.lean import DecodeError, length_prefix
from oci_runtime.ttrpc.proto import ttrpc_lean
from oci_runtime.ttrpc.status import (
    DETAIL_URL,
    MAX_DETAIL_BYTES,
    RESOURCE_EXHAUSTED,
    StatusError,
    clip,
    code_of,
    message_of,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from oci_runtime.guest.loop import Loop
    from oci_runtime.ttrpc.lean import Message
else:
    from _collections import deque

SERVICE = "vmpod.agent.v1.Agent"
MAX_CALLS = 2048
MAX_WORKERS = 64
_READ_BYTES = 1 << 16
_READS = 64
_SHORT_BYTES = 4096
_PAYLOAD_FIELD = 2


class Call:
    """A request that waits for its answer. `reply` and `fail` may be called once, from any thread."""

    __slots__ = ("_connection", "method", "on_cancel", "stream_id")

    def __init__(self, connection: Connection, stream_id: int, method: str) -> None:
        self._connection = connection
        self.stream_id = stream_id
        self.method = method
        self.on_cancel: Callable[[], None] | None = None

    def cancel(self) -> None:
        """Nobody waits for the answer any more."""
        if self.on_cancel is not None:
            self.on_cancel()

    def supersede(self) -> None:
        """This call is the first of a new host: forget the calls of the one before."""
        self._connection.cancel_all_but(self)

    def reply(self, message: Message) -> None:
        """Answer with `message`."""
        parts = message.parts()
        length = sum(map(len, parts))
        if length > frames.MAX_DATA_BYTES - 64:
            self.fail(StatusError(RESOURCE_EXHAUSTED, f"an answer of {length} bytes does not fit a message"))
            return
        # This is ttrpc_lean.Response(payload=...) without copying the payload into it.
        self._connection.answer(self, [length_prefix(_PAYLOAD_FIELD, length), *parts])

    def fail(self, error: BaseException) -> None:
        """Answer with an error. What is not an expected error is logged as well."""
        if not isinstance(error, (OciRuntimeError, DecodeError, TimeoutError)):
            log_exception(self.method, error)
        if isinstance(error, DecodeError):
            error = InvalidInput(f"request of {self.method}: {error}")
        status = ttrpc_lean.Status(code=code_of(error), message=message_of(error))
        detail = getattr(error, "detail", "")
        if detail:
            value = clip(detail, MAX_DETAIL_BYTES).encode()
            status.details.append(ttrpc_lean.Any(type_url=DETAIL_URL, value=value))
        self._connection.answer(self, ttrpc_lean.Response(status=status).parts())


class Connection:
    """The byte stream to the host: parses requests, writes answers in the order in which they are given."""

    def __init__(
        self, loop: Loop, fd: int, dispatch: Callable[[Call, bytes], None], on_lost: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._fd = fd
        self._dispatch = dispatch
        self._on_lost = on_lost
        self._parser = frames.FrameParser()
        self._calls: dict[int, Call] = {}
        self._out: deque[memoryview] = deque()
        self._lost = False
        os.set_blocking(fd, False)
        loop.watch(fd, READ, self._ready)

    def answer(self, call: Call, response: list[bytes]) -> None:
        """Send the answer of `call`; forgotten when the connection is lost or the call is answered already."""
        parts = frames.encode_parts(call.stream_id, frames.RESPONSE, response)
        if self._loop.in_loop():
            self._send(call, parts)
        else:
            self._loop.soon(lambda: self._send(call, parts))

    def lose(self, reason: str) -> None:
        """End the connection and cancel its calls. Idempotent; the descriptor stays open, it is the caller's."""
        if self._lost:
            return
        self._lost = True
        log(f"connection to the host ended: {reason}")
        self._loop.unwatch(self._fd)
        self._out.clear()
        self.cancel_all_but(None)
        self._on_lost()

    def cancel_all_but(self, kept: Call | None) -> None:
        """Forget the calls that wait: nobody is there for their answers."""
        calls, self._calls = self._calls, {}
        if kept is not None and calls.pop(kept.stream_id, None) is kept:
            self._calls[kept.stream_id] = kept
        for call in calls.values():
            call.cancel()

    def _send(self, call: Call, parts: list[bytes]) -> None:
        if self._lost or self._calls.get(call.stream_id) is not call:
            return
        del self._calls[call.stream_id]
        idle = not self._out
        # Short pieces go together: each write is a message to the host.
        short = bytearray()
        for part in parts:
            if len(part) < _SHORT_BYTES:
                short += part
                continue
            if short:
                self._out.append(memoryview(bytes(short)))
                short.clear()
            self._out.append(memoryview(part))
        if short:
            self._out.append(memoryview(short))
        if idle:
            self._flush()

    def _flush(self) -> None:
        try:
            while self._out:
                view = self._out[0]
                written = os.write(self._fd, view)
                if written == len(view):
                    self._out.popleft()
                else:
                    self._out[0] = view[written:]
        except BlockingIOError:
            pass
        except OSError as error:
            self.lose(str(error))
            return
        self._loop.watch(self._fd, READ | WRITE if self._out else READ, self._ready)

    def _ready(self, events: int) -> None:
        if events & WRITE and self._out:
            self._flush()
        if not self._lost and events & (READ | HANGUP):
            self._read()

    def _read(self) -> None:
        """Take what is there, a bounded number of times: a virtio-serial port gives 4 KiB at most per read."""
        received: list[frames.Frame] = []
        reason = ""
        try:
            for _ in range(_READS):
                data = os.read(self._fd, _READ_BYTES)
                if not data:
                    reason = "the host has closed it"
                    break
                received += self._parser.feed(data)
        except BlockingIOError:
            pass
        except (OSError, frames.FramingLost) as error:
            reason = str(error)
        for frame in received:
            self._request(frame)
        if reason:
            self.lose(reason)

    def _request(self, frame: frames.Frame) -> None:
        if frame.kind != frames.REQUEST:
            return  # there are no streams here: data for one is stale
        call = Call(self, frame.stream_id, "?")
        before = self._calls.pop(frame.stream_id, None)
        if before is not None:
            # A host never uses a number twice: this is another host, which knows nothing of the earlier call.
            before.cancel()
        self._calls[frame.stream_id] = call
        try:
            if frame.oversized:
                raise StatusError(RESOURCE_EXHAUSTED, f"request of {frame.oversized} bytes: 4 MiB are allowed")
            if len(self._calls) > MAX_CALLS:
                raise StatusError(RESOURCE_EXHAUSTED, f"more than {MAX_CALLS} calls wait for an answer")
            if frame.flags & frames.FLAG_REMOTE_OPEN:
                raise Unsupported("the agent has no streaming methods")
            request = ttrpc_lean.Request.FromString(frame.data, views=True)
            call.method = request.method
            if request.service != SERVICE:
                raise Unsupported(f"unknown service {request.service!r}")
            self._dispatch(call, request.payload)
        except Exception as error:  # noqa: BLE001 - one bad call never ends the connection
            call.fail(error)


class Workers:
    """Threads for handlers that block: started when needed, at most MAX_WORKERS, the rest waits its turn."""

    def __init__(self) -> None:
        self._lock = _thread.allocate_lock()
        self._waiting: deque[Callable[[], None]] = deque()
        self._running = 0

    def submit(self, work: Callable[[], None]) -> None:
        """Run `work`, which must not raise, in a thread."""
        with self._lock:
            if self._running >= MAX_WORKERS:
                self._waiting.append(work)
                return
            self._running += 1
        try:
            _thread.start_new_thread(self._run, (work,))
        except RuntimeError as error:
            with self._lock:
                self._running -= 1
            raise StatusError(RESOURCE_EXHAUSTED, f"no thread for the call: {error}") from error

    def _run(self, work: Callable[[], None] | None) -> None:
        while work is not None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - PID 1 must not lose a worker's place
                log_exception("worker", error)
            with self._lock:
                if self._waiting:
                    work = self._waiting.popleft()
                else:
                    work = None
                    self._running -= 1
