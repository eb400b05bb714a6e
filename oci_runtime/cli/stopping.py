"""Turn the signals that end a command into an exception, so that what it has begun is undone."""

from __future__ import annotations

import os

from oci_runtime.errors import OciRuntimeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
else:
    import _signal

_SIGNALS = {1: "SIGHUP", 2: "SIGINT", 15: "SIGTERM"}


class Stopped(OciRuntimeError):
    """The command was asked to stop."""


def stop_on_signals() -> None:
    """Raise Stopped at the first of these signals; later ones are ignored: undoing must come to its end."""
    owner = os.getpid()

    def stop(number: int, _frame: object) -> None:
        if os.getpid() != owner:
            os._exit(128 + number)
        for other in _SIGNALS:
            _signal.signal(other, _signal.SIG_IGN)
        raise Stopped(f"stopped by {_SIGNALS.get(number, number)}")

    for number in _SIGNALS:
        _signal.signal(number, stop)
