"""podman, asked for what not every runtime can give."""

from __future__ import annotations

from conformance.case import Case
from conformance.engines.daemons import podman
from conformance.engines.image import NAME
from conformance.engines.podman_box import PODMAN, counting, suite
from conformance.engines.refusals import add_refusals, expect_one_line
from conformance.runtime import Outcome


def _run(case: Case, *command: str, flags: tuple[str, ...]) -> Outcome:
    case.session.count_create(False)
    return case.shared(podman).run("run", "--rm", *flags, NAME, *command, deadline_s=120)


add_refusals(suite, PODMAN, _run)


@suite.check("checkpoint", PODMAN, "checkpoint, for which no CRIU is installed, is refused in one line")
def checkpoint(case: Case) -> None:
    box = case.shared(counting)
    expect_one_line(case, box.client.run("container", "checkpoint", box.name), "checkpoint|CRIU")
    case.equal(box.inspect("{{.State.Status}}"), "running", "status")
