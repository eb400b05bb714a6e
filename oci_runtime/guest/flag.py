"""A one-way signal between threads: threading.Event without the import of threading."""

from __future__ import annotations

from _thread import allocate_lock


class Flag:
    """Unset until `set`; never unset again."""

    __slots__ = ("_gate", "_is_set")

    def __init__(self) -> None:
        self._gate = allocate_lock()
        self._gate.acquire()
        self._is_set = False

    def set(self) -> None:
        """Let every waiter pass, now and later. Call it once."""
        self._is_set = True
        self._gate.release()

    def wait(self, timeout_s: float = -1) -> bool:
        """Wait until it is set (-1: for ever); False after `timeout_s`."""
        if self._is_set:
            return True
        if not self._gate.acquire(timeout=timeout_s):
            return self._is_set
        self._gate.release()  # for the next waiter
        return True
