"""The agent's log: short lines on the guest's console, which the host keeps with a size bound.

A guest that floods its console slows itself down, so lines are clipped and at most 200 are written in ten seconds.
"""

from __future__ import annotations

import os
import time

_MAX_LINE_BYTES = 1000
_WINDOW_S = 10.0
_MAX_LINES = 200

_fd = 2
_window_start = 0.0
_lines = 0


def open_console() -> None:
    """Write to the console from now on, without ever waiting for it (to standard error before)."""
    global _fd
    try:
        _fd = os.open("/dev/console", os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        log(f"/dev/console: {error}")


def log(text: str) -> None:
    """Write one line; never raises and never blocks for long."""
    global _window_start, _lines
    now = time.monotonic()
    if now - _window_start > _WINDOW_S:
        _window_start, _lines = now, 0
    _lines += 1
    if _lines > _MAX_LINES:
        return
    if _lines == _MAX_LINES:
        text = "too many messages, some are left out"
    line = f"vmpod-agent [{now:.3f}] {text}".replace("\n", " | ").encode("utf-8", "replace")[:_MAX_LINE_BYTES]
    try:
        os.write(_fd, line + b"\n")
    except OSError:
        pass


def log_exception(where: str, error: BaseException) -> None:
    """Log an exception that nobody expected, with the lines where it was raised."""
    import traceback

    frames = traceback.extract_tb(error.__traceback__)[-4:]
    places = ", ".join(f"{os.path.basename(frame.filename)}:{frame.lineno}" for frame in frames)
    log(f"error in {where}: {type(error).__name__}: {error} ({places})")
