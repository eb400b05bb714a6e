"""`vmpod restore`: known to engines, and refused with a reason."""

from __future__ import annotations

from oci_runtime.cli.checkpoint import OPTIONS, SUMMARY, USAGE
from oci_runtime.errors import Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Parsed

__all__ = ["OPTIONS", "SUMMARY", "USAGE", "run"]  # engines give both verbs the same options


def run(_context: Context, _parsed: Parsed) -> int:
    """Raise Unsupported."""
    raise Unsupported("restore is not supported: CRIU on the host cannot see the processes of a virtual machine")
