"""The guest's console: its beginning and its end are kept, whatever a hostile guest prints, and the middle is dropped.

The file holds the beginning while the machine runs and gains the end when the log is closed, with a line between them
that says how much is missing: a chatty guest costs memory copies, not disk writes.
"""

from __future__ import annotations

import codecs
import os
from pathlib import Path

from oci_runtime.errors import HostError

LIMIT_BYTES = 512 * 1024
# Everything that could move a cursor, change a terminal's state or end a log line early; tab and line feed stay.
_UNSAFE: dict[int, str] = {
    code: f"\\x{code:02x}" for code in [*range(0x20), *range(0x7F, 0xA0)] if code not in (0x09, 0x0A)
}
_UNSAFE[0x0D] = ""


class ConsoleLog:
    """Collects console output as printable text: invalid bytes replaced, control characters shown as \\xNN.

    Not thread-safe; it lives in the event loop's thread. Sizes are bytes of that text.
    """

    def __init__(self, path: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        """Create (or truncate) the log. limit_bytes: half for the beginning, half for the end, which is in memory.

        Raises: HostError.
        """
        self._path = str(path)
        self._head_bytes = self._tail_bytes = limit_bytes // 2
        self._total = 0
        self._recent = bytearray()
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._fd = os.open(self._path, flags, 0o600)
        except OSError as error:
            raise HostError.from_oserror(error, "create console log", self._path) from error

    def write(self, data: bytes) -> None:
        """Take output as the guest sent it. A full disk loses the log, never the machine."""
        text = self._decoder.decode(data).translate(_UNSAFE).encode()
        head_left = max(0, self._head_bytes - self._total)
        self._write_file(text[:head_left])
        self._total += len(text)
        self._recent += text
        if len(self._recent) > 2 * self._tail_bytes:
            del self._recent[: -self._tail_bytes]

    @property
    def total_bytes(self) -> int:
        """How much was written so far."""
        return self._total

    def tail(self, lines: int) -> str:
        """Return the last `lines` lines."""
        text = self._recent[-64 * 1024 :].decode("utf-8", "replace")
        return "\n".join(text.rstrip("\n").split("\n")[-lines:])

    def contains(self, text: str) -> bool:
        """Whether `text` is in the recent output."""
        return text.encode() in self._recent

    def close(self) -> None:
        """Write the kept end and close the file; idempotent. `tail` still answers."""
        if self._fd < 0:
            return
        beyond_head = max(0, self._total - self._head_bytes)
        kept = min(beyond_head, self._tail_bytes, len(self._recent))
        if beyond_head > kept:
            self._write_file(f"\n[... {beyond_head - kept} bytes of console output dropped ...]\n".encode())
        self._write_file(bytes(self._recent[len(self._recent) - kept :]))
        os.close(self._fd)
        self._fd = -1

    def _write_file(self, data: bytes) -> None:
        if self._fd >= 0 and data:
            try:
                os.write(self._fd, data)
            except OSError:
                os.close(self._fd)
                self._fd = -1
