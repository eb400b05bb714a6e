"""One self-contained HTML page: matrix of runtimes and checks, durations, logs and guest consoles."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from conformance import results
from conformance.results import STATUSES, Result, RunRecord, load_record

ASSETS = Path(__file__).parent
LABELS = {
    "pass": "✓",
    "fail": "FAIL",
    "error": "ERROR",
    "deviation": "deviation",
    "surprise": "SURPRISE",
    "skip": "skip",
}
LOG_CHARACTERS = 40_000


@dataclass(frozen=True)
class Column:
    """All that is known of one runtime: the results of its newest runs, one per check."""

    runtime: str
    version: str
    started: str
    seconds: float
    results: dict[str, Result]

    def count(self, status: str) -> int:
        """Return how many checks ended that way."""
        return sum(result.status == status for result in self.results.values())


def render_directory(directory: Path) -> Path:
    """Write index.html from all run records of a directory and return its path."""
    records = [load_record(path) for path in sorted(directory.glob("*.json"))]
    page = directory / "index.html"
    page.write_text(render(records))
    return page


def merge(records: Iterable[RunRecord]) -> tuple[Column, ...]:
    """Return one column per runtime; of two results of one check the newer run's counts."""
    columns: dict[str, Column] = {}
    for record in sorted(records, key=lambda record: record.started):
        found = {result.id: result for result in record.results}
        old = columns.get(record.runtime)
        columns[record.runtime] = Column(
            record.runtime,
            record.version,
            record.started,
            round(record.seconds + (old.seconds if old else 0.0), 1),
            (old.results if old else {}) | found,
        )
    order = {"runc": 0, "crun": 1}
    return tuple(sorted(columns.values(), key=lambda column: (order.get(column.runtime, 2), column.runtime)))


def render(records: Iterable[RunRecord]) -> str:
    """Return the page."""
    columns = merge(records)
    checks: dict[str, Result] = {}
    for column in columns:
        checks |= {key: result for key, result in column.results.items() if key not in checks}
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in checks.values():
        groups.setdefault((result.engine, result.suite), []).append(result)
    body = "".join(_group(engine, suite, members, columns) for (engine, suite), members in groups.items())
    total = {status: sum(column.count(status) for column in columns) for status in STATUSES}
    buttons = "".join(
        f'<button class="chip {status}" data-status="{status}">{status} <b>{total[status]}</b></button>'
        for status in STATUSES
        if total[status]
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><title>OCI runtime conformance</title>'
        f"<style>{(ASSETS / 'page.css').read_text()}</style></head><body>"
        f"<header><h1>OCI runtime conformance</h1><p>{len(checks)} checks of {len(groups)} suites, "
        f"{len(columns)} runtimes</p></header>"
        f'<section class="cards">{"".join(_card(column) for column in columns)}</section>'
        f"{_overview(groups, columns)}"
        f'<nav><input id="filter" type="search" placeholder="filter checks" aria-label="filter checks">{buttons}</nav>'
        f"<main>{body}</main><script>{(ASSETS / 'page.js').read_text()}</script></body></html>\n"
    )


def _card(column: Column) -> str:
    total = len(column.results) or 1
    bar = "".join(
        f'<i class="{status}" style="width:{100 * column.count(status) / total:.2f}%" '
        f'title="{column.count(status)} {status}"></i>'
        for status in STATUSES
        if column.count(status)
    )
    numbers = " · ".join(f"<b>{column.count(status)}</b> {status}" for status in STATUSES if column.count(status))
    bad = sum(column.count(status) for status in results.BAD)
    verdict = '<span class="verdict good">as expected</span>' if not bad else f'<span class="verdict bad">{bad}</span>'
    return (
        f'<article class="card"><h2>{_text(column.runtime)} {verdict}</h2><p class="dim">{_text(column.version)}</p>'
        f'<div class="bar">{bar}</div><p>{numbers}</p>'
        f'<p class="dim">{_duration(column.seconds)} · {_text(column.started[:16].replace("T", " "))} UTC</p></article>'
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds // 60:.0f} min {seconds % 60:.0f} s"


def _overview(groups: dict[tuple[str, str], list[Result]], columns: tuple[Column, ...]) -> str:
    """A row for each suite, a small square for each check and runtime."""
    rows = []
    for (engine, suite), members in groups.items():
        cells = []
        for column in columns:
            mine = [column.results.get(member.id) for member in members]
            squares = "".join(
                f'<i class="{result.status}" title="{_text(result.id)}: {result.status}"></i>' if result else "<i></i>"
                for result in mine
            )
            cells.append(f'<td><div class="squares">{squares}</div></td>')
        rows.append(
            f'<tr><th><a href="#{_anchor(engine, suite)}">{_label(engine, suite)}</a></th>{"".join(cells)}</tr>'
        )
    heads = "".join(f"<th>{_text(column.runtime)}</th>" for column in columns)
    return f'<table class="overview"><thead><tr><th></th>{heads}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _label(engine: str, suite: str) -> str:
    return _text(suite if engine in ("oci", suite) else f"{engine} · {suite}")


def _anchor(engine: str, suite: str) -> str:
    return _text(f"{engine}-{suite}")


def _group(engine: str, suite: str, members: list[Result], columns: tuple[Column, ...]) -> str:
    heads = "".join(f"<th class=run>{_text(column.runtime)}</th>" for column in columns)
    rows = "".join(_row(member, columns) for member in members)
    sums = []
    for column in columns:
        mine = [column.results[member.id] for member in members if member.id in column.results]
        good = sum(result.status not in results.BAD for result in mine)
        sums.append(f"{_text(column.runtime)} {good}/{len(mine)}" if mine else f"{_text(column.runtime)} –")
    title = f'<h3>{_label(engine, suite)}</h3><span class="dim">{" · ".join(sums)}</span>'
    return (
        f'<details class="suite" id="{_anchor(engine, suite)}" open><summary>{title}</summary>'
        f"<table><thead><tr><th>check</th>{heads}</tr></thead><tbody>{rows}</tbody></table></details>"
    )


def _row(check: Result, columns: tuple[Column, ...]) -> str:
    cells, details, statuses = [], [], set()
    for column in columns:
        result = column.results.get(check.id)
        if result is None:
            cells.append('<td class="run"><span class="none">–</span></td>')
            continue
        statuses.add(result.status)
        note = _text(result.reason or result.message)
        cells.append(
            f'<td class="run"><span class="chip {result.status}" title="{note}">{LABELS[result.status]}</span>'
            f'<span class="time">{_seconds(result.seconds)}</span></td>'
        )
        if result.status != results.PASS:
            details.append(_detail(column.runtime, result))
    clause = f'<a href="{_text(check.url)}">{_text(check.clause)}</a>' if check.url else _text(check.clause)
    hint = ' class="has-more"' if details else ""
    row = (
        f'<tr data-status="{" ".join(sorted(statuses))}"{hint}><td><div class="title">{_prose(check.title)}</div>'
        f'<div class="dim"><code>{_text(check.id)}</code> · {clause}</div></td>{"".join(cells)}</tr>'
    )
    if details:
        row += f'<tr class="more" hidden><td colspan="{len(columns) + 1}">{"".join(details)}</td></tr>'
    return row


def _detail(runtime: str, result: Result) -> str:
    parts = [f'<h4><span class="chip {result.status}">{LABELS[result.status]}</span> {_text(runtime)}</h4>']
    if result.reason:
        parts.append(f"<p>{_prose(result.reason)}</p>")
    if result.message:
        parts.append(f"<pre>{_text(result.message)}</pre>")
    if result.status in results.BAD and result.log:
        log = _text(result.log[-LOG_CHARACTERS:])
        parts.append(f"<details><summary>what was run</summary><pre>{log}</pre></details>")
    if result.console:
        console = _text(result.console[-LOG_CHARACTERS:])
        parts.append(f"<details><summary>guest console</summary><pre>{console}</pre></details>")
    return f'<div class="detail">{"".join(parts)}</div>'


def _seconds(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 0.005 else ""


def _prose(value: str) -> str:
    """Text in which words between backquotes are code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", _text(value))


def _text(value: str) -> str:
    return html.escape(value, quote=True)
