"""`vmpod restore`: known to engines, and refused with a reason."""

from __future__ import annotations

from oci_runtime.cli.options import Option
from oci_runtime.errors import Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Parsed

SUMMARY = "not supported"
USAGE = "ID"
_SWITCHES = (
    "leave-running tcp-established ext-unix-sk shell-job lazy-pages file-locks pre-dump auto-dedup auto-ext-unix-sk"
    " detach d no-subreaper no-pivot"
)
_VALUES = (
    "image-path work-path parent-path status-fd page-server manage-cgroups-mode empty-ns console-socket pid-file"
    " bundle b lsm-profile lsm-mount-context"
)
OPTIONS = (
    *(Option(name) for name in _SWITCHES.split()),
    *(Option(name, "VALUE") for name in _VALUES.split()),
)


def run(_context: Context, _parsed: Parsed) -> int:
    """Raise Unsupported."""
    raise Unsupported("restore is not supported: CRIU on the host cannot see the processes of a virtual machine")
