"""youki's contest: each of its test groups becomes a check.

`--external contest=PROGRAM --external runtimetest=PROGRAM`; the groups are those that `contest list` prints.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from functools import partial

from conformance.case import Case
from conformance.external.validation import wrapper
from conformance.registry import Suite

suite = Suite("contest", "contest")


def register(external: Mapping[str, str]) -> None:
    """Register a check for every group. Raises ValueError when the programs are not given or do not answer."""
    if not {"contest", "runtimetest"} <= external.keys():
        raise ValueError("engine 'contest' needs --external contest=PROGRAM and --external runtimetest=PROGRAM")
    try:
        answer = subprocess.run([external["contest"], "list"], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise ValueError(f"engine 'contest': {error}") from error
    for group in answer.stdout.split():
        title = f"contest: no test of the group {group} fails"
        suite.add(group, "youki contest", title, partial(_run, external["contest"], external["runtimetest"], group))


def failed_tests(output: str) -> list[str]:
    """Return the lines `N / M : name : not ok` of contest's report."""
    return [line.strip() for line in output.splitlines() if re.search(r":\s*not ok\b", line)]


def _run(program: str, runtimetest: str, group: str, case: Case) -> None:
    argv = [program, "run", "--runtime", str(case.shared(wrapper)), "--runtimetest", runtimetest, "--tests", group]
    outcome = case.runtime.command(argv, deadline_s=case.runtime.deadline(600))
    case.equal(failed_tests(outcome.out + outcome.err), [], "failed tests")
    case.expect(outcome.ok, str(outcome))
