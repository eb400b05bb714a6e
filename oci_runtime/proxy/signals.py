"""Catch signals for a relay: each arrives as a byte in a pipe."""

from __future__ import annotations

import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Iterable
else:
    # The public module builds enums; a proxy that waits for days has no use for them.
    import _signal

# Never forwarded: KILL and STOP cannot be caught, CHLD is about our own children, PIPE about our own writes, URG is
# noise of Go programs; a fault (ILL, BUS, FPE, SEGV) of this very process must stay fatal.
_NOT_FORWARDED = frozenset({4, 7, 8, 9, 11, 13, 17, 19, 23})
# In the foreground of a shell these are about this process and its terminal: job control must go on working.
JOB_CONTROL = frozenset({18, 20, 21, 22})
_HIGHEST = 64


def catch_signals(besides: Iterable[int] = ()) -> int:
    """Send every signal that can be forwarded to a pipe and return its reading end. besides: signals left alone.

    Blocked signals are unblocked: the caller's mask is inherited.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    fcntl.fcntl(writing, fcntl.F_SETFL, os.O_NONBLOCK)
    _signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    for number in range(1, _HIGHEST + 1):
        if number in _NOT_FORWARDED or number in besides or number in (32, 33):
            continue
        _signal.signal(number, _nothing)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    return reading


def _nothing(_number: int, _frame: object) -> None:
    """The byte in the pipe says it all."""
