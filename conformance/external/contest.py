"""youki's contest: each of its test groups becomes a check.

`--external contest=PROGRAM --external runtimetest=PROGRAM`; the groups are those that `contest list` prints. contest
unpacks `bundle.tar.gz` of its working directory for each test: it has to be beside the program.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from functools import partial
from pathlib import Path

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
    archive = Path(external["contest"]).absolute().with_name("bundle.tar.gz")
    if not archive.exists():
        raise ValueError(f"engine 'contest' needs {archive} (in youki's checkout, or made by its scripts)")
    for group in answer.stdout.split():
        title = f"contest: no test of the group {group} fails"
        suite.add(group, "youki contest", title, partial(_run, external["contest"], external["runtimetest"], group))


def failed_tests(output: str) -> list[str]:
    """Return the lines `N / M : name : not ok` of contest's report."""
    return [line.strip() for line in output.splitlines() if re.search(r":\s*not ok\b", line)]


def _run(program: str, runtimetest: str, group: str, case: Case) -> None:
    argv = [str(Path(program).absolute()), "run", "--runtime", str(case.shared(wrapper))]
    argv += ["--runtimetest", str(Path(runtimetest).absolute()), "--tests", group]
    directory = Path(program).absolute().parent
    outcome = case.runtime.command(argv, deadline_s=case.runtime.deadline(600), cwd=directory)
    # It ends with 0 whatever its tests say.
    case.equal(failed_tests(outcome.out + outcome.err), [], "failed tests")
    case.expect(outcome.ok and ": ok" in outcome.out + outcome.err, f"no test has passed: {outcome}")
