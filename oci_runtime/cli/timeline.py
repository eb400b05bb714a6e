"""`vmpod timeline`: where the time of a pod's start-up went."""

from __future__ import annotations

import json
import os

from oci_runtime.cli import context as lookup
from oci_runtime.cli.options import Option, UsageError
from oci_runtime.cli.remains import find_directory, warn_of_end
from oci_runtime.errors import NotFound
from oci_runtime.host.files import read_limited
from oci_runtime.state.endings import explain_end
from oci_runtime.state.layout import TIMELINE_FILE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Parsed

SUMMARY = "show where the time of a pod's start-up went"
USAGE = "[--format waterfall|json] ID"
OPTIONS = (Option("format f", "FORMAT", "waterfall (default) or json"),)
_BAR_WIDTH = 50
_MAX_BYTES = 1 << 20
_MAX_MS = 1e12


def run(context: Context, parsed: Parsed) -> int:
    """Print the phases of the pod that a container is in. ID: a container or a sandbox."""
    name = lookup.one_id(parsed)
    form = parsed.get("format", "waterfall")
    if form not in ("waterfall", "json"):
        raise UsageError(f"invalid format option {form!r}: waterfall or json")
    directory = find_directory(context, name)
    phases = read_phases(directory, name)
    text = json.dumps({"phases": phases}, indent=2) + "\n" if form == "json" else draw_waterfall(phases)
    print(text, end="", flush=True)
    warn_of_end(directory, name)
    return 0


def read_phases(directory: str, name: str) -> list[dict[str, Any]]:
    """Return the phases that the sandbox process has written down. Raises NotFound."""
    path = os.path.join(directory, TIMELINE_FILE)
    try:
        document = json.loads(read_limited(path, _MAX_BYTES))
        return [phase for phase in document["phases"] if _is_phase(phase)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        end = explain_end(directory)
        why = f"the machine has ended before its first container was created: {end}" if end else "it is still starting"
        raise NotFound(f"timeline of {name}: {why}") from error


def _is_phase(phase: object) -> bool:
    """Whether a row of the file can be drawn; one that somebody has damaged is left out."""
    if not isinstance(phase, dict) or not isinstance(phase.get("name"), str) or not phase["name"].isprintable():
        return False
    times = [phase.get(key) for key in ("start_ms", "duration_ms")]
    return all(isinstance(time, (int, float)) and 0 <= time < _MAX_MS for time in times)


def draw_waterfall(phases: list[dict[str, Any]]) -> str:
    """Return one line per phase: start and duration in milliseconds, and a bar in proportion to the whole.

    Phases overlap where things happen side by side; the guest's own are indented below the one that waits for them.
    """
    end_ms = max((phase["start_ms"] + phase["duration_ms"] for phase in phases), default=0.0) or 1.0
    names = [str(phase["name"]) for phase in phases]
    names = [f"  {name}" if name.startswith("guest ") else name for name in names]
    width = max((len(name) for name in names), default=0)
    lines = [f"{'phase':<{width}}  {'start':>9}  {'took':>9}\n"]
    for name, phase in zip(names, phases, strict=True):
        left = int(_BAR_WIDTH * phase["start_ms"] / end_ms)
        size = max(1, round(_BAR_WIDTH * phase["duration_ms"] / end_ms))
        bar = " " * min(left, _BAR_WIDTH - 1) + "#" * size
        numbers = f"{phase['start_ms']:>6.0f} ms  {phase['duration_ms']:>6.1f} ms"
        lines.append(f"{name:<{width}}  {numbers}  |{bar[:_BAR_WIDTH]:<{_BAR_WIDTH}}|\n")
    return "".join(lines)
