"""Test Anything Protocol, version 13: expected deviations are TODO tests, as its specification says."""

from __future__ import annotations

from conformance import results
from conformance.results import Result, RunRecord


def render(record: RunRecord) -> str:
    """Return the TAP document of a run."""
    lines = ["TAP version 13", f"# runtime: {record.runtime} ({record.version})", f"1..{len(record.results)}"]
    for number, result in enumerate(record.results, 1):
        lines += _lines(number, result)
    return "\n".join(lines) + "\n"


def _lines(number: int, result: Result) -> list[str]:
    ok = result.status in (results.PASS, results.SKIP)
    title = f"{result.id} - {result.title}".replace("#", "")
    line = f"{'ok' if ok else 'not ok'} {number} - {title}"
    if result.status == results.DEVIATION:
        line += f" # TODO {_flat(result.reason)}"
    elif result.status == results.SKIP:
        line += f" # SKIP {_flat(result.reason)}"
    lines = [line]
    if result.status != results.PASS:
        lines += ["  ---", f"  status: {result.status}", f"  clause: '{result.clause}'"]
        lines += [f"  message: '{_flat(result.message or result.reason)}'", "  ..."]
    return lines


def _flat(text: str) -> str:
    return " ".join(text.replace("'", '"').replace("#", "").split())
