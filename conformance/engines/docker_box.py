"""What the Docker suites share: a detached container, one that counts for many checks, and a run to its end."""

from __future__ import annotations

from conformance.case import Case
from conformance.engines import box
from conformance.engines.daemons import docker
from conformance.registry import Suite
from conformance.runtime import Outcome
from conformance.session import Session

suite = Suite("docker", "docker")

DOCKER = "callers: Docker"
TERMINAL = "tty; while ! read -t 1 line; do stty size; done; echo got-$line; exit 6"
MEMORY_LIMIT = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true"


class Box(box.Box):
    """A detached container under Docker."""

    def __init__(self, session: Session, *command: str, flags: tuple[str, ...] = ()) -> None:
        super().__init__(session.shared(docker), "d", command, flags)


def counting(session: Session) -> Box:
    """A container without network that counts and answers signals."""
    session.shared(docker).must("volume", "create", "shared-volume")
    made = Box(session, "sh", "-c", box.COUNT, flags=box.COUNTING)
    session.defer(made.remove)
    return made


def serving(session: Session) -> Box:
    """A container on the default bridge that serves a page at a published port."""
    made = Box(session, "sh", "-c", box.SERVE, flags=("--publish", "127.0.0.1:18081:80"))
    session.defer(made.remove)
    return made


def run_once(case: Case, *command: str, flags: tuple[str, ...] = (), stdin: bytes = b"") -> Outcome:
    return box.run_to_end(case.shared(docker), command, flags, stdin)
