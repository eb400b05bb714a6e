"""Turn the signals that end a command into an exception, so that what it has begun is undone."""

from __future__ import annotations

import os

from oci_runtime.errors import OciRuntimeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal

# What `delete --force` sends to the `create` that it cancels (SIGUSR1).
CANCEL = 10
_SIGNALS = {
    1: "stopped by SIGHUP",
    2: "stopped by SIGINT",
    CANCEL: "cancelled by delete --force",
    15: "stopped by SIGTERM",
}


class Stopped(OciRuntimeError):
    """The command was asked to stop."""


def stop_on_signals(what: str) -> None:
    """Raise Stopped at the first of these signals; later ones have no effect: undoing must come to its end.

    what: the command, for the error.
    """
    owner = os.getpid()

    def stop(number: int, _frame: object) -> None:
        if os.getpid() != owner:
            os._exit(128 + number)
        _replace_handlers()
        raise Stopped(f"{what} was {_SIGNALS[number]}")

    for number in _SIGNALS:
        _signal.signal(number, stop)


def shield() -> None:
    """From here on these signals have no effect: the command is undoing what it did, and ends by itself.
    One that arrives in this very moment is swallowed as well: the command is failing already.
    """
    try:
        _replace_handlers()
    except Stopped:
        return  # its handler has done the same


def _replace_handlers() -> None:
    for number in _SIGNALS:
        _signal.signal(number, _do_nothing)


def _do_nothing(_number: int, _frame: object) -> None:
    """A handler, because an ignored signal would stay ignored in the hooks that an undo runs."""


class Deferred:
    """While the context lasts, these signals wait; they act at its end. For an act and the note of how to undo it."""

    def __enter__(self) -> None:
        self._before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _SIGNALS)

    def __exit__(self, *_: object) -> None:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self._before)
