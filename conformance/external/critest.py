"""critest of cri-tools against a CRI endpoint: `--external critest=PROGRAM --external endpoint=unix:///SOCKET`.

Optional: `--external handler=NAME` chooses the runtime handler. Each area of critest becomes a check; its JUnit report
names what failed.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from conformance.case import Case
from conformance.registry import Suite

suite = Suite("critest", "critest")

AREAS = (
    "Runtime info",
    "Container",
    "PodSandbox",
    "Networking",
    "Security Context",
    "Streaming",
    "Multiple Containers",
)


def register(external: Mapping[str, str]) -> None:
    """Register a check for every area. Raises ValueError when program or endpoint are not given."""
    if not {"critest", "endpoint"} <= external.keys():
        raise ValueError("engine 'critest' needs --external critest=PROGRAM and --external endpoint=unix:///SOCKET")
    for area in AREAS:
        name = area.lower().replace(" ", "-")
        suite.add(name, "critest", f"critest: nothing fails in {area}", partial(_run, dict(external), area))


def failed_tests(report: Path) -> list[str]:
    """Return the names of the failed test cases of a JUnit report."""
    cases = ElementTree.parse(report).iter("testcase")
    return [case.get("name", "?") for case in cases if case.find("failure") is not None]


def _run(external: Mapping[str, str], area: str, case: Case) -> None:
    report = case.directory("critest") / "junit.xml"
    argv = [external["critest"], "--runtime-endpoint", external["endpoint"], f"--ginkgo.focus={area}"]
    argv.append(f"--ginkgo.junit-report={report}")
    if "handler" in external:
        argv += ["--runtime-handler", external["handler"]]
    outcome = case.runtime.command(argv, deadline_s=case.runtime.deadline(900))
    case.expect(report.exists(), f"critest wrote no report: {outcome}")
    case.equal(failed_tests(report), [], "failed tests")
    case.expect(outcome.ok, str(outcome))
