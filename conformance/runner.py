"""Executes checks one after another and turns what happens into results."""

from __future__ import annotations

import glob
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

from conformance import results
from conformance.case import Case, Skipped
from conformance.deviations import Deviation, find_deviation
from conformance.registry import Check
from conformance.results import Result
from conformance.runtime import CheckFailed
from conformance.session import Session

CONSOLE_BYTES = 64 * 1024


def run_checks(
    checks: Iterable[Check],
    session: Session,
    deviations: tuple[Deviation, ...],
    version: str,
    report: Callable[[Result], None],
    *,
    fail_fast: bool = False,
) -> list[Result]:
    """Run the checks and return their results; each is also given to `report` at once."""
    found = []
    for check in checks:
        result = _run_check(check, session, find_deviation(deviations, session.runtime.name, version, check.id))
        found.append(result)
        report(result)
        if fail_fast and result.status in results.BAD:
            break
    return found


def _run_check(check: Check, session: Session, expected: Deviation | None) -> Result:
    session.log = []
    case = Case(session, check.id)
    begin = time.monotonic()
    status, message, console = results.PASS, "", ""
    try:
        check.run(case)
    except Skipped as skipped:
        status, message = results.SKIP, str(skipped)
    except CheckFailed as failure:
        status, message = results.FAIL, str(failure)
    except Exception as error:  # noqa: BLE001 - an unexpected exception is the result "error", never the end of the run
        status, message = results.ERROR, f"{type(error).__name__}: {error}"
        session.trace(traceback.format_exc())
    if status in (results.FAIL, results.ERROR):
        console = read_consoles(session)
    try:
        case.close()
    except Exception as error:  # noqa: BLE001 - the verdict stands; the next checks show what the leftover does
        session.trace(f"clean-up: {type(error).__name__}: {error}")
    status, reason = _judge(status, message, expected)
    return Result(
        id=check.id,
        suite=check.suite,
        engine=check.engine,
        clause=check.clause,
        url=check.url,
        title=check.title,
        status=status,
        seconds=round(time.monotonic() - begin, 3),
        message=message,
        reason=reason,
        log="\n".join(session.log),
        console=console,
    )


def _judge(status: str, message: str, expected: Deviation | None) -> tuple[str, str]:
    """Compare with the expectation; an error is never expected."""
    if status == results.SKIP:
        return status, message
    if expected is None or status == results.ERROR:
        return status, ""
    if status == results.FAIL and not expected.expects(message):
        return status, f"another failure is expected: {expected.reason}"
    if status == results.FAIL:
        return results.DEVIATION, expected.reason
    if expected.flaky:
        return results.PASS, expected.reason
    return results.SURPRISE, f"expected to fail: {expected.reason}"


def read_consoles(session: Session) -> str:
    """Return the tails of the guest consoles that the caller's pattern finds."""
    if not session.options.console_glob:
        return ""
    pattern = session.options.console_glob.replace("{root}", str(session.runtime.root))
    parts = []
    for name in sorted(
        glob.glob(pattern, recursive=True, include_hidden=True), key=lambda name: Path(name).stat().st_mtime
    ):
        try:
            data = Path(name).read_bytes()[-CONSOLE_BYTES:]
        except OSError:
            continue
        parts.append(f"── {name}\n{data.decode(errors='replace')}")
    return "\n".join(parts)[-2 * CONSOLE_BYTES :]
