"""`vmpod list`: the containers of a state directory."""

from __future__ import annotations

from oci_runtime import json_text
from oci_runtime.cli import context as lookup
from oci_runtime.cli.options import Option, UsageError
from oci_runtime.errors import OciRuntimeError
from oci_runtime.state import records

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Parsed

SUMMARY = "list the containers of the state directory"
USAGE = "[--format table|json] [--quiet]"
OPTIONS = (
    Option("format f", "FORMAT", "table (default) or json"),
    Option("quiet q", "", "ids only"),
)
_COLUMNS = ("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")
_MIN_WIDTH, _PADDING = 12, 3


def run(context: Context, parsed: Parsed) -> int:
    """Print one line for each container; a damaged record is a warning, not a failure."""
    if parsed.rest:
        raise UsageError(f"takes no arguments, not {parsed.rest[0]!r}")
    if parsed.has("quiet"):
        print("".join(f"{container_id}\n" for container_id in records.list_ids(context.layout)), end="")
        return 0
    states = _states(context)
    form = parsed.get("format", "table")
    if form == "json":
        # Like runc, which prints Go's empty slice.
        print(json_text.dumps(states or None))
    elif form == "table":
        print(format_table([_COLUMNS, *(_row(state) for state in states)]), end="")
    else:
        raise UsageError(f"invalid format option {form!r}: table or json")
    return 0


def _states(context: Context) -> list[dict[str, Any]]:
    states = []
    for container_id in records.list_ids(context.layout):
        try:
            states.append(records.load(context.layout, container_id).oci_state())
        except OciRuntimeError as error:
            lookup.warn(error.message)
    return states


def _row(state: dict[str, Any]) -> tuple[str, ...]:
    keys = ("id", "pid", "status", "bundle", "created", "owner")
    return tuple(str(state[key]) for key in keys)


def format_table(rows: list[tuple[str, ...]]) -> str:
    """Align columns as runc does: at least 12 characters wide, 3 spaces apart."""
    widths = [max(_MIN_WIDTH, *(len(row[index]) + _PADDING for row in rows)) for index in range(len(rows[0]) - 1)]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        lines.append("".join(cells) + row[-1] + "\n")
    return "".join(lines)
