"""`vmpod volume`: inspect or resize the volumes of a pod."""

from __future__ import annotations

from oci_runtime.cli import podops

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Option, Parsed

SUMMARY = "inspect or resize the volumes of a pod"
USAGE = podops.USAGE
OPTIONS: tuple[Option, ...] = ()


def run(context: Context, parsed: Parsed) -> int:
    """Pass the request to the sandbox process and print its answer as JSON."""
    return podops.run(context, parsed, "volume")
