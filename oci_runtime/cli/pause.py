"""`vmpod pause`: stop all processes of a container until resume."""

from __future__ import annotations

from oci_runtime.cli import context as lookup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Option, Parsed

SUMMARY = "stop all processes of a container until resume"
USAGE = "ID"
OPTIONS: tuple[Option, ...] = ()


def run(context: Context, parsed: Parsed) -> int:
    """Freeze the container in the guest; the virtual machine goes on."""
    lookup.call(context, lookup.one_id(parsed), "pause")
    return 0
