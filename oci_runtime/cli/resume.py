"""`vmpod resume`: let a paused container go on."""

from __future__ import annotations

from oci_runtime.cli import context as lookup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Option, Parsed

SUMMARY = "let a paused container go on"
USAGE = "ID"
OPTIONS: tuple[Option, ...] = ()


def run(context: Context, parsed: Parsed) -> int:
    """Thaw the container."""
    lookup.call(context, lookup.one_id(parsed), "resume")
    return 0
