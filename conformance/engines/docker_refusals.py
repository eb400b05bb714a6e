"""Docker, asked for what not every runtime can give."""

from __future__ import annotations

from conformance.case import Case
from conformance.engines.daemons import docker
from conformance.engines.docker_box import DOCKER, counting, suite
from conformance.engines.image import NAME
from conformance.engines.refusals import add_refusals, expect_one_line
from conformance.runtime import Outcome


def _run(case: Case, *command: str, flags: tuple[str, ...]) -> Outcome:
    case.session.count_create(False)
    return case.shared(docker).run("run", "--rm", *flags, NAME, *command, deadline_s=120)


add_refusals(suite, DOCKER, _run)


@suite.check("checkpoint", DOCKER, "checkpoint, which an ordinary dockerd does not offer, is refused in one line")
def checkpoint(case: Case) -> None:
    box = case.shared(counting)
    expect_one_line(case, box.client.run("checkpoint", "create", box.name, "saved"), "checkpoint")
    case.equal(box.inspect("{{.State.Status}}"), "running", "status")
