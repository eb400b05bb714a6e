"""Structured logging: one line per event, in the two forms that runc knows (`text` and `json`).

Engines parse `{"level","msg","time"}` lines in the file that `--log` names and show the last error. The command line
must start in milliseconds, so this is not built on `logging`: it costs nothing until a line is written.
"""

from __future__ import annotations

import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}
_MAX_LINE_BYTES = 65536


class Sink:
    """Where lines go. path: a file to append to, "" for standard error. Failing to log is never an error."""

    def __init__(self, path: str = "", *, json_lines: bool = False, level: str = "info", fd: int = 2) -> None:
        self.json_lines = json_lines
        self.threshold = LEVELS[level]
        self.fields: dict[str, Any] = {}
        self._path = path
        self._fd = -1 if path else fd

    def open(self) -> None:
        """Open the file now; otherwise the first line does. Raises OSError."""
        if self._fd < 0:
            self._fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def write(self, level: str, message: str, fields: dict[str, Any]) -> None:
        """Write one line if `level` reaches the threshold."""
        if LEVELS[level] < self.threshold:
            return
        record = {"level": level, "msg": message, "time": timestamp(), **self.fields, **fields}
        line = _as_json(record) if self.json_lines else _as_text(record)
        self.emit(line.encode("utf-8", "backslashreplace")[:_MAX_LINE_BYTES] + b"\n")

    def emit(self, data: bytes) -> None:
        """Write the bytes of one line; never fails."""
        try:
            self.open()
            os.write(self._fd, data)
        except OSError:
            return


class Logger:
    """Writes events with named values: `log.info("container started", container=ID)`."""

    def __init__(self, name: str, fields: dict[str, Any] | None = None) -> None:
        self._name = name
        self._fields = fields or {}

    def bind(self, **fields: Any) -> Logger:
        """Return a logger that adds `fields` to each of its lines."""
        return Logger(self._name, {**self._fields, **fields})

    def debug(self, message: str, /, **fields: Any) -> None:
        """Log what only a developer wants to see."""
        _sink.write("debug", message, {**self._fields, **fields})

    def info(self, message: str, /, **fields: Any) -> None:
        """Log a normal event."""
        _sink.write("info", message, {**self._fields, **fields})

    def warning(self, message: str, /, **fields: Any) -> None:
        """Log something that a reader should know."""
        _sink.write("warning", message, {**self._fields, **fields})

    def error(self, message: str, /, **fields: Any) -> None:
        """Log a failure."""
        _sink.write("error", message, {**self._fields, **fields})

    def exception(self, message: str, /, **fields: Any) -> None:
        """Log a failure with the traceback of the exception that is being handled."""
        import traceback

        _sink.write("error", message, {**self._fields, **fields, "traceback": traceback.format_exc()})


_sink = Sink()


def configure(sink: Sink) -> None:
    """Send all later lines of this process to `sink`."""
    global _sink
    _sink = sink


def get_logger(name: str) -> Logger:
    """Return a logger for a module (`__name__`); it carries no state of its own."""
    return Logger(name)


def timestamp() -> str:
    """Return the present as RFC 3339 in UTC with nanoseconds."""
    seconds, rest = divmod(time.time_ns(), 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"


def _as_json(record: dict[str, Any]) -> str:
    import json

    return json.dumps(record, default=str)


def _as_text(record: dict[str, Any]) -> str:
    first = f'time="{record["time"]}" level={record["level"]} msg={_quote(record["msg"])}'
    rest = [f" {key}={_quote(value)}" for key, value in record.items() if key not in ("time", "level", "msg")]
    return first + "".join(rest)


def _quote(value: object) -> str:
    text = str(value).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{text}"'
