"""What a check function gets: assertions that log, containers that are removed afterwards, and the shared session."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

from conformance.container import Container
from conformance.runtime import CheckFailed, Outcome, Runtime
from conformance.session import Session

T = TypeVar("T")


class Skipped(Exception):
    """The host lacks what the check needs; the text says what."""


class Case:
    """One execution of one check."""

    def __init__(self, session: Session, check_id: str) -> None:
        self.session = session
        self.check_id = check_id
        self._undo: list[Callable[[], object]] = []

    @property
    def runtime(self) -> Runtime:
        """The binary under test."""
        return self.session.runtime

    @property
    def scratch(self) -> Path:
        """A directory that lives as long as the run."""
        return self.session.scratch

    def log(self, text: str) -> None:
        """Write into the log of this check."""
        self.session.trace(text)

    def defer(self, undo: Callable[[], object]) -> None:
        """Run `undo` when this check is over, in reverse order of registration."""
        self._undo.append(undo)

    def shared(self, factory: Callable[[Session], T]) -> T:
        """See Session.shared."""
        return self.session.shared(factory)

    def container(self, *args: str, own: bool = False, name: str = "") -> Container:
        """Return a new container for this check, in the shared pod unless it shall be its `own`."""
        made = Container(self.session, name or self.session.new_name("c"), args, member=not own)
        self.defer(made.cleanup)
        return made

    def directory(self, name: str) -> Path:
        """Return a new directory on the host."""
        path = self.scratch / self.session.new_name(name)
        path.mkdir()
        return path

    def close(self) -> None:
        """Undo what the check deferred."""
        while self._undo:
            self._undo.pop()()

    def skip(self, reason: str) -> None:
        """End the check: this host lacks what it needs."""
        raise Skipped(reason)

    def fail(self, message: str) -> None:
        """End the check with a failure."""
        raise CheckFailed(message)

    def expect(self, condition: object, message: str) -> None:
        """Fail with the message unless the condition holds."""
        if not condition:
            raise CheckFailed(message)

    def equal(self, actual: object, expected: object, what: str) -> None:
        """Fail unless both are equal; the message shows both."""
        if actual != expected:
            raise CheckFailed(f"{what}: got {_short(actual)}, expected {_short(expected)}")

    def contains(self, whole: Collection[object] | str, part: object, what: str) -> None:
        """Fail unless the part is in the whole."""
        if isinstance(whole, str):
            found = str(part) in whole
        else:
            found = part in whole
        if not found:
            raise CheckFailed(f"{what}: {_short(part)} is not in {_short(whole)}")

    def matches(self, text: str, pattern: str, what: str) -> None:
        """Fail unless the regular expression is found, without regard to case."""
        if not re.search(pattern, text, re.IGNORECASE | re.MULTILINE):
            raise CheckFailed(f"{what}: {_short(text)} does not match {pattern!r}")

    def succeeded(self, outcome: Outcome) -> Outcome:
        """Fail unless the call exited 0; return it."""
        if not outcome.ok:
            raise CheckFailed(str(outcome))
        return outcome

    def refused(self, outcome: Outcome, pattern: str = "") -> Outcome:
        """Fail unless the call exited with an error and said why in words that match the pattern; return it."""
        if outcome.ok:
            raise CheckFailed(f"`{outcome.verb}` succeeded, but has to fail")
        self.expect(outcome.err.strip(), f"`{outcome.verb}` failed without a word on stderr")
        if pattern:
            self.matches(outcome.err, pattern, f"error text of `{outcome.verb}`")
        return outcome


def sections(text: str) -> dict[str, str]:
    """Split the output of a probe script at its `@@ name` lines."""
    found: dict[str, str] = {}
    name = ""
    for line in text.splitlines(keepends=True):
        if line.startswith("@@ "):
            name = line[3:].strip()
            found[name] = ""
        elif name:
            found[name] += line
    return {key: value.rstrip("\n") for key, value in found.items()}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 700 else text[:350] + " … " + text[-350:]
