"""What the suites of Docker and podman share: a detached container, programs to run in it, a page to fetch."""

from __future__ import annotations

import time
import urllib.request

from conformance import host
from conformance.case import Case
from conformance.engines.daemons import Client
from conformance.engines.image import NAME
from conformance.runtime import Outcome

SERVE = "echo page >/tmp/index.html; httpd -f -p 80 -h /tmp"
COUNT = (
    "trap 'echo got-term; exit 7' TERM; trap 'echo got-usr1' USR1; echo up; "
    "i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.1; done"
)
# For a container that counts, has no network, but a hostname, an environment, a volume that exists, and a limit.
COUNTING = (
    *("--network", "none", "--hostname", "box", "--env", "COLOUR=blue"),
    *("--volume", "shared-volume:/data", "--memory", "128m"),
)


class Box:
    """A detached container of an engine that takes Docker's command line.

    letter: begins its name. remove_flags: for `rm --force`, where the engine would wait otherwise.
    """

    def __init__(
        self,
        client: Client,
        letter: str,
        command: tuple[str, ...],
        flags: tuple[str, ...],
        remove_flags: tuple[str, ...] = (),
    ) -> None:
        self.session = client.session
        self.client = client
        self.name = self.session.new_name(letter)
        self._remove_flags = remove_flags
        self.session.count_create("--pod" in flags)
        client.must("run", "--detach", "--name", self.name, *flags, NAME, *command, deadline_s=120)

    def do(self, verb: str, *arguments: str, flags: tuple[str, ...] = (), stdin: bytes = b"") -> Outcome:
        """Run `ENGINE VERB FLAGS NAME ARGUMENTS`."""
        return self.client.run(verb, *flags, self.name, *arguments, stdin=stdin, deadline_s=90)

    def inside(self, script: str) -> str:
        """Return what a shell script prints inside."""
        return self.client.must("exec", self.name, "sh", "-c", script)

    def inspect(self, template: str) -> str:
        """Return one value of `inspect`."""
        return self.client.must("inspect", "--format", template, self.name).strip()

    def wait_log(self, marker: str) -> str:
        """Wait until the marker is in the log, but not for ever, and return the log."""
        seen = ""

        def look() -> bool:
            nonlocal seen
            seen = self.do("logs").out
            return marker in seen

        host.poll_until(look, self.session.runtime.deadline(20), 0.2)
        return seen

    def remove(self) -> None:
        """Remove it by force."""
        self.client.run("rm", "--force", *self._remove_flags, self.name, deadline_s=90)


def run_to_end(client: Client, command: tuple[str, ...], flags: tuple[str, ...], stdin: bytes) -> Outcome:
    """Run a container without network to its end, and remove it."""
    client.session.count_create(False)
    return client.run("run", "--rm", "--network", "none", *flags, NAME, *command, stdin=stdin, deadline_s=120)


def wait_fetch(case: Case, url: str) -> str:
    """Fetch a page, again until it is there."""
    end = time.monotonic() + case.runtime.deadline(20)
    while True:
        try:
            with urllib.request.urlopen(url, timeout=3) as answer:
                text: str = answer.read().decode()
                return text
        except OSError as error:
            if time.monotonic() > end:
                case.fail(f"{url}: {error}")
            time.sleep(0.3)
