"""A stack of undo steps for a command: newest first, each tried, whatever happens to the others."""

from __future__ import annotations

from oci_runtime.cli.stopping import shield
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

    def guard(self, work: Callable[[], None]) -> None:
        """Do some work that registers its undos here: keep all of it, or nothing of it. Raises what the work raises."""
        try:
            try:
                work()
                self.keep()
            except BaseException:
                self.run()
                raise
        except BaseException:
            self.run()  # a signal that came between a failure and its undo; else nothing is left to do
            raise

    def run(self) -> None:
        """Take everything back; signals do not interrupt it, each step has a deadline of its own.

        Failures are logged: the first cause is what the caller reports.
        """
        shield()
        while self._steps:
            step, arguments = self._steps.pop()
            try:
                step(*arguments)
            except Exception as error:  # noqa: BLE001  # the others must be tried, whatever it is
                log.warning(f"cannot undo: {error}")

    def keep(self) -> None:
        """Forget all steps."""
        self._steps.clear()
