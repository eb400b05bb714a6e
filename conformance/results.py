"""What a run found: one result per check, one record per run, stored as JSON next to the other reports."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

PASS, FAIL, ERROR, DEVIATION, SURPRISE, SKIP = "pass", "fail", "error", "deviation", "surprise", "skip"
STATUSES = (PASS, FAIL, ERROR, DEVIATION, SURPRISE, SKIP)
BAD = frozenset({FAIL, ERROR, SURPRISE})


@dataclass(frozen=True)
class Result:
    """The verdict on one check.

    status: pass; fail (the runtime is wrong); error (the check could not be carried out); deviation (fails as
    expected, `reason` says why); surprise (passes although a deviation says that it fails); skip (`reason`).
    """

    id: str
    suite: str
    engine: str
    clause: str
    url: str
    title: str
    status: str
    seconds: float
    message: str = ""
    reason: str = ""
    log: str = ""
    console: str = ""


@dataclass
class RunRecord:
    """One runtime driven through one or more engines."""

    runtime: str
    version: str
    path: str
    engines: list[str]
    started: str
    seconds: float = 0.0
    creates: int = 0
    standalone: int = 0
    results: list[Result] = field(default_factory=list)

    def counts(self) -> Counter[str]:
        """Return how often each status occurs."""
        return Counter(result.status for result in self.results)

    def is_green(self) -> bool:
        """True when nothing unexpected happened."""
        return not any(result.status in BAD for result in self.results)

    def save(self, path: Path) -> None:
        """Write the record as JSON, replacing an older one atomically."""
        temporary = path.with_name(path.name + ".new")
        temporary.write_text(json.dumps(asdict(self), indent=1))
        temporary.rename(path)


def load_record(path: Path) -> RunRecord:
    """Read what `RunRecord.save` wrote."""
    data = json.loads(path.read_text())
    results = [Result(**entry) for entry in data.pop("results")]
    return RunRecord(**data, results=results)
