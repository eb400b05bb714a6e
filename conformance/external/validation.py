"""OCI runtime-tools: each program of its validation directory becomes a check (`--external validation=DIRECTORY`).

DIRECTORY is a built checkout: programs `validation/*/*.t`, and beside them `runtimetest` and the archive of a root file
system. A program is told the runtime by the environment variable RUNTIME; the command line has no place for a root.
A program answers with TAP; those about hooks number no test at all, and say by a diagnostic block with a member `error`
that something was wrong.
"""

from __future__ import annotations

import os
import re
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
    directory = Path(external.get("validation", "")).absolute()
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


def judge(output: str) -> str:
    """Return what a TAP document complains of, "" when nothing failed: the number of tests and the lines that failed.

    Tests that are expected to fail or skipped count for nothing. Where no test is numbered, a block with an error does.
    """
    tests = [line for line in output.splitlines() if re.match(r"(not )?ok\b", line)]
    counted = [line for line in tests if not re.search(r"#\s*(skip|todo)", line, re.IGNORECASE)]
    failed = [line for line in counted if line.startswith("not ok")]
    if failed:
        return f"{len(failed)} of {len(counted)} tests failed: " + "; ".join(failed)
    if tests:
        return ""
    error = re.search(r'^\s+"?error"?: *(.*)$', output, re.MULTILINE)
    return f"no test is numbered, but an error reported: {error[1]}" if error else ""


def _run(directory: Path, program: Path, case: Case) -> None:
    environment = CLEAN_ENVIRONMENT | {"RUNTIME": str(case.shared(wrapper))}
    outcome = case.runtime.command(
        [str(program)], deadline_s=case.runtime.deadline(300), environment=environment, cwd=directory
    )
    complaint = judge(outcome.out)
    case.expect(not complaint, complaint)
    case.expect(outcome.ok, f"{os.path.basename(program)}: {outcome}")
