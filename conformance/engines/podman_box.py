"""What the podman suites share: a detached container, one that counts for many checks, and a run to its end."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable

from conformance import host
from conformance.case import Case
from conformance.engines.daemons import Client, podman
from conformance.engines.image import NAME
from conformance.registry import Suite
from conformance.runtime import Outcome
from conformance.session import Session

suite = Suite("podman", "podman")

PODMAN = "callers: podman"
SERVE = "echo page >/tmp/index.html; httpd -f -p 80 -h /tmp"
COUNT = (
    "trap 'echo got-term; exit 7' TERM; trap 'echo got-usr1' USR1; echo up; "
    "i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.1; done"
)


class Box:
    """A detached container under podman."""

    def __init__(
        self,
        session: Session,
        *command: str,
        flags: tuple[str, ...] = (),
        engine: Callable[[Session], Client] = podman,
    ) -> None:
        self.session = session
        self.client = session.shared(engine)
        self.name = session.new_name("p")
        session.count_create("--pod" in flags)
        self.client.must("run", "--detach", "--name", self.name, *flags, NAME, *command, deadline_s=120)

    def do(self, verb: str, *arguments: str, flags: tuple[str, ...] = (), stdin: bytes = b"") -> Outcome:
        """Run `podman VERB FLAGS NAME ARGUMENTS`."""
        return self.client.run(verb, *flags, self.name, *arguments, stdin=stdin, deadline_s=90)

    def inside(self, script: str) -> str:
        """Return what a shell script prints inside."""
        return self.client.must("exec", self.name, "sh", "-c", script)

    def inspect(self, template: str) -> str:
        """Return one value of `podman inspect`."""
        return self.client.must("inspect", "--format", template, self.name).strip()

    def wait_log(self, marker: str) -> str:
        """Wait until the marker is in the log."""
        seen = ""

        def look() -> bool:
            nonlocal seen
            outcome = self.do("logs")
            seen = outcome.out
            return marker in seen

        host.poll_until(look, self.session.runtime.deadline(20), 0.2)
        return seen

    def remove(self) -> None:
        """Remove it by force."""
        self.client.run("rm", "--force", "--time", "0", self.name, deadline_s=90)


def counting(session: Session) -> Box:
    """A container with a hostname, an environment and a volume, that counts and answers signals."""
    session.shared(podman).must("volume", "create", "shared-volume")
    flags = ("--network", "none", "--hostname", "box", "--env", "COLOUR=blue", "--volume", "shared-volume:/data")
    made = Box(session, "sh", "-c", COUNT, flags=(*flags, "--memory", "128m"))
    session.defer(made.remove)
    return made


def run_once(case: Case, *command: str, flags: tuple[str, ...] = (), stdin: bytes = b"") -> Outcome:
    case.session.count_create(False)
    client = case.shared(podman)
    return client.run("run", "--rm", "--network", "none", *flags, NAME, *command, stdin=stdin, deadline_s=120)


def _fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=3) as answer:
        text: str = answer.read().decode()
        return text


def wait_fetch(case: Case, url: str) -> str:
    """Fetch a page, again until it is there."""
    end = time.monotonic() + case.runtime.deadline(20)
    while True:
        try:
            return _fetch(url)
        except OSError as error:
            if time.monotonic() > end:
                case.fail(f"{url}: {error}")
            time.sleep(0.3)
