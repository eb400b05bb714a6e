"""OCI runtime-tools: each program of its validation directory becomes a check (`--external validation=DIRECTORY`).

DIRECTORY is a built checkout: programs `validation/*/*.t`, and beside them `runtimetest` and the archive of a root file
system. A program is told the runtime by the environment variable RUNTIME; the command line has no place for a root.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from conformance.case import Case
from conformance.engines.daemons import write_wrapper
from conformance.registry import Suite
from conformance.runtime import CLEAN_ENVIRONMENT
from conformance.session import Session

suite = Suite("validation", "validation")


def register(external: Mapping[str, str]) -> None:
    """Register a check for every program. Raises ValueError when the directory is not given or holds none."""
    directory = Path(external.get("validation", ""))
    programs = sorted(directory.glob("validation/*/*.t")) if "validation" in external else []
    if not programs:
        raise ValueError("engine 'validation' needs --external validation=DIRECTORY of a built runtime-tools checkout")
    for program in programs:
        title = f"runtime-tools: {program.stem} reports no failed test"
        suite.add(program.stem, "runtime-tools validation", title, partial(_run, directory, program))


def wrapper(session: Session) -> Path:
    """The runtime with its arguments and a root of its own."""
    runtime = session.runtime
    return write_wrapper(session.scratch / "runtime", runtime.path, *runtime.arguments, "--root", str(runtime.root))


def failed_tests(output: str) -> list[str]:
    """Return the lines of a TAP document that report a failure which is neither expected nor skipped."""
    lines = [line.strip() for line in output.splitlines()]
    return [
        line
        for line in lines
        if line.startswith("not ok") and "# skip" not in line.lower() and "# todo" not in line.lower()
    ]


def _run(directory: Path, program: Path, case: Case) -> None:
    environment = CLEAN_ENVIRONMENT | {"RUNTIME": str(case.shared(wrapper))}
    outcome = case.runtime.command(
        [str(program)], deadline_s=case.runtime.deadline(300), environment=environment, cwd=directory
    )
    case.equal(failed_tests(outcome.out), [], "failed tests")
    case.expect(outcome.ok, f"{os.path.basename(program)}: {outcome}")
