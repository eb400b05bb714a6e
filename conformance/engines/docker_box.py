"""What the Docker suites share: a detached container, one that counts for many checks, and a run to its end."""

from __future__ import annotations

import time
import urllib.request

from conformance import host
from conformance.case import Case
from conformance.engines.daemons import Client, docker
from conformance.engines.image import NAME
from conformance.registry import Suite
from conformance.runtime import Outcome
from conformance.session import Session

suite = Suite("docker", "docker")

DOCKER = "callers: Docker"
COUNT = (
    "trap 'echo got-term; exit 7' TERM; trap 'echo got-usr1' USR1; echo up; "
    "i=0; while :; do i=$((i+1)); echo $i >/count; sleep 0.1; done"
)
SERVE = "echo page >/tmp/index.html; httpd -f -p 80 -h /tmp"
TERMINAL = "tty; while ! read -t 1 line; do stty size; done; echo got-$line; exit 6"
MEMORY_LIMIT = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null; true"


class Box:
    """A detached container under Docker."""

    def __init__(self, session: Session, *command: str, flags: tuple[str, ...] = ()) -> None:
        self.session = session
        self.client: Client = session.shared(docker)
        self.name = session.new_name("d")
        session.count_create(False)
        self.client.must("run", "--detach", "--name", self.name, *flags, NAME, *command, deadline_s=120)

    def do(self, verb: str, *arguments: str, flags: tuple[str, ...] = (), stdin: bytes = b"") -> Outcome:
        """Run `docker VERB FLAGS NAME ARGUMENTS`."""
        return self.client.run(verb, *flags, self.name, *arguments, stdin=stdin, deadline_s=90)

    def inside(self, script: str) -> str:
        """Return what a shell script prints inside."""
        return self.client.must("exec", self.name, "sh", "-c", script)

    def inspect(self, template: str) -> str:
        """Return one value of `docker inspect`."""
        return self.client.must("inspect", "--format", template, self.name).strip()

    def wait_log(self, marker: str) -> str:
        """Wait until the marker is in the log, and return the log."""
        host.poll_until(lambda: marker in self.do("logs").out, self.session.runtime.deadline(20), 0.2)
        return self.do("logs").out

    def remove(self) -> None:
        """Remove it by force."""
        self.client.run("rm", "--force", self.name, deadline_s=90)


def counting(session: Session) -> Box:
    """A container without network that counts and answers signals."""
    session.shared(docker).must("volume", "create", "shared-volume")
    flags = ("--network", "none", "--hostname", "box", "--env", "COLOUR=blue", "--volume", "shared-volume:/data")
    made = Box(session, "sh", "-c", COUNT, flags=(*flags, "--memory", "128m"))
    session.defer(made.remove)
    return made


def serving(session: Session) -> Box:
    """A container on the default bridge that serves a page at a published port."""
    made = Box(session, "sh", "-c", SERVE, flags=("--publish", "127.0.0.1:18081:80"))
    session.defer(made.remove)
    return made


def run_once(case: Case, *command: str, flags: tuple[str, ...] = (), stdin: bytes = b"") -> Outcome:
    case.session.count_create(False)
    client = case.shared(docker)
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
