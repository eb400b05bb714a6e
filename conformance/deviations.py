"""Expected deviations: which runtime may fail which check, and why.

A TOML file of `[[deviation]]` tables with `runtime` (glob on the runtime's name), `check` (glob or list of globs on
ids), `reason`, and optionally `version` (glob on the runtime's version line), `message` (glob on what the failure says:
any other failure is not expected) and `flaky = true` for outcomes that depend on the host's timing, which may then pass
as well.
"""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_KEYS = {"runtime", "check", "reason", "version", "message", "flaky"}


@dataclass(frozen=True)
class Deviation:
    """One expectation; `checks` are globs."""

    runtime: str
    checks: tuple[str, ...]
    reason: str
    version: str = "*"
    message: str = "*"
    flaky: bool = False

    def covers(self, runtime: str, version: str, check_id: str) -> bool:
        """True when this expectation speaks about that check of that runtime."""
        return (
            fnmatch.fnmatchcase(runtime, self.runtime)
            and fnmatch.fnmatchcase(version, self.version)
            and any(fnmatch.fnmatchcase(check_id, pattern) for pattern in self.checks)
        )

    def expects(self, message: str) -> bool:
        """True when a failure that says `message` is the expected one."""
        return fnmatch.fnmatchcase(message, self.message)


def load_deviations(paths: Iterable[Path]) -> tuple[Deviation, ...]:
    """Read deviation files in order. Raises ValueError that names file, table and key."""
    found = []
    for path in paths:
        tables = tomllib.loads(path.read_text()).get("deviation", [])
        for number, table in enumerate(tables, 1):
            where = f"{path}: deviation {number}"
            if unknown := set(table) - _KEYS:
                raise ValueError(f"{where}: unknown key {sorted(unknown)[0]!r}")
            for key in ("runtime", "check", "reason"):
                if not table.get(key):
                    raise ValueError(f"{where}: no {key!r}")
            checks = table["check"] if isinstance(table["check"], list) else [table["check"]]
            found.append(
                Deviation(
                    table["runtime"],
                    tuple(checks),
                    table["reason"],
                    table.get("version", "*"),
                    table.get("message", "*"),
                    bool(table.get("flaky", False)),
                )
            )
    return tuple(found)


def find_deviation(deviations: Iterable[Deviation], runtime: str, version: str, check_id: str) -> Deviation | None:
    """Return the first expectation for a check, None when it has to pass."""
    for deviation in deviations:
        if deviation.covers(runtime, version, check_id):
            return deviation
    return None
