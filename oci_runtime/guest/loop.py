"""The agent's event loop: one epoll in the main thread. Everything that must not block runs here; the rest in threads.

It exists because importing asyncio costs more than the whole agent. Callbacks never raise out of the loop: PID 1 must
not end, so whatever a callback raises is logged and forgotten.
"""

from __future__ import annotations

import os
import select
import time
from _heapq import heappop, heappush
from _thread import get_ident

from oci_runtime.guest.log import log_exception

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable
else:
    from _collections import deque

READ = select.EPOLLIN
WRITE = select.EPOLLOUT
PRIORITY = select.EPOLLPRI
HANGUP = select.EPOLLHUP | select.EPOLLERR


class Timer:
    """A callback that is due at a time; `cancel` forgets it."""

    __slots__ = ("callback", "due")

    def __init__(self, due: float, callback: Callable[[], None]) -> None:
        self.due = due
        self.callback: Callable[[], None] | None = callback

    def __lt__(self, other: Timer) -> bool:
        return self.due < other.due

    def cancel(self) -> None:
        """Never call back. Idempotent."""
        self.callback = None


class Loop:
    """Callbacks for readable and writable descriptors, timers, and work handed over by other threads."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._timers: list[Timer] = []
        self._soon: deque[Callable[[], None]] = deque()
        self._thread = get_ident()
        self._stopped = False
        # Signals write here too (signal.set_wakeup_fd), hence a pipe and not an eventfd.
        self._wake_read, self.wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.on_wake: Callable[[], None] = lambda: None
        self.watch(self._wake_read, READ, self._woken)

    def in_loop(self) -> bool:
        """Whether the caller runs in the loop's thread."""
        return get_ident() == self._thread

    def watch(self, fd: int, events: int, callback: Callable[[int], None]) -> None:
        """Call `callback(events)` whenever `fd` is ready; a second call for the same fd replaces the first."""
        if fd in self._callbacks:
            self._epoll.modify(fd, events)
        else:
            self._epoll.register(fd, events)
        self._callbacks[fd] = callback

    def unwatch(self, fd: int) -> None:
        """Stop watching; must precede the close of `fd`. Idempotent."""
        if self._callbacks.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call back once, `delay_s` from now."""
        timer = Timer(time.monotonic() + delay_s, callback)
        heappush(self._timers, timer)
        return timer

    def soon(self, callback: Callable[[], None]) -> None:
        """Run `callback` in the loop's thread; callable from every thread."""
        self._soon.append(callback)
        try:
            os.write(self.wake_write, b"\0")
        except BlockingIOError:
            pass  # the pipe is full of wake-ups already

    def call(self, callback: Callable[[], None]) -> None:
        """Run `callback` in the loop's thread: now when this is it, else soon."""
        if self.in_loop():
            _guarded(callback)
        else:
            self.soon(callback)

    def stop(self) -> None:
        """Leave `run` after the present round."""
        self._stopped = True

    def run(self) -> None:
        """Serve until `stop`."""
        self._thread = get_ident()
        while not self._stopped:
            for fd, events in self._epoll.poll(self._timeout_s()):
                callback = self._callbacks.get(fd)
                if callback is not None:
                    _guarded(callback, events)
            self._run_timers()
            for _ in range(len(self._soon)):
                _guarded(self._soon.popleft())

    def _timeout_s(self) -> float:
        while self._timers and self._timers[0].callback is None:
            heappop(self._timers)
        if self._soon:
            return 0
        return max(0.0, self._timers[0].due - time.monotonic()) if self._timers else -1

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0].due <= now:
            callback = heappop(self._timers).callback
            if callback is not None:
                _guarded(callback)

    def _woken(self, _: int) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass
        self.on_wake()


def _guarded(callback: Callable[..., None], *arguments: int) -> None:
    try:
        callback(*arguments)
    except BaseException as error:  # noqa: BLE001 - PID 1 must not end
        log_exception("event loop", error)
