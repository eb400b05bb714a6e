"""What the podman suites share: a detached container, one that counts for many checks, and a run to its end."""

from __future__ import annotations

from collections.abc import Callable

from conformance.case import Case
from conformance.engines import box
from conformance.engines.daemons import Client, podman
from conformance.registry import Suite
from conformance.runtime import Outcome
from conformance.session import Session

suite = Suite("podman", "podman")

PODMAN = "callers: podman"


class Box(box.Box):
    """A detached container under podman."""

    def __init__(
        self,
        session: Session,
        *command: str,
        flags: tuple[str, ...] = (),
        engine: Callable[[Session], Client] = podman,
    ) -> None:
        super().__init__(session.shared(engine), "p", command, flags, ("--time", "0"))


def counting(session: Session) -> Box:
    """A container without network that counts and answers signals."""
    session.shared(podman).must("volume", "create", "shared-volume")
    made = Box(session, "sh", "-c", box.COUNT, flags=box.COUNTING)
    session.defer(made.remove)
    return made


def run_once(case: Case, *command: str, flags: tuple[str, ...] = (), stdin: bytes = b"") -> Outcome:
    return box.run_to_end(case.shared(podman), command, flags, stdin)
