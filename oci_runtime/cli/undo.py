"""A stack of undo steps for a command: newest first, each tried, whatever happens to the others."""

from __future__ import annotations

from oci_runtime.log import get_logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

log = get_logger(__name__)


class UndoStack:
    """Steps to take back; `keep` forgets them once everything has worked."""

    def __init__(self) -> None:
        self._steps: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    def push(self, step: Callable[..., Any], *arguments: Any) -> None:
        """Register an undo, right after the act."""
        self._steps.append((step, arguments))

    def run(self) -> None:
        """Take everything back. Failures are logged: the first cause is what the caller reports."""
        while self._steps:
            step, arguments = self._steps.pop()
            try:
                step(*arguments)
            except Exception as error:  # noqa: BLE001  # the others must be tried, whatever it is
                log.warning(f"cannot undo: {error}")

    def keep(self) -> None:
        """Forget all steps."""
        self._steps.clear()
