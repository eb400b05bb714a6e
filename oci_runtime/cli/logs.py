"""`vmpod logs`: the guest's console, or the log of the sandbox process."""

from __future__ import annotations

import os
import sys

from oci_runtime.cli import context as lookup
from oci_runtime.cli.options import Option
from oci_runtime.cli.remains import find_directory, warn_of_end
from oci_runtime.host.files import read_tail
from oci_runtime.state.layout import CONSOLE_LOG, SANDBOX_LOG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Parsed

SUMMARY = "print the console of a pod's virtual machine"
USAGE = "[--sandbox] [--tail BYTES] ID"
OPTIONS = (
    Option("sandbox", "", "the log of the sandbox process instead"),
    Option("tail", "BYTES", "so much of the end (default: 1048576)"),
)
_SILENT_PROCESS = "the sandbox process has logged nothing yet, at level log.level of the configuration"
_SILENT_CONSOLE = "the console is empty: a guest without trouble prints nothing, unless vm.debug is set"


def run(context: Context, parsed: Parsed) -> int:
    """Print the end of the log, and on standard error why a machine that is gone has ended. ID: container or sandbox.

    On a terminal, bytes that would steer it are escaped.
    """
    name = lookup.one_id(parsed)
    directory = find_directory(context, name)
    limit_bytes = parsed.get_int("tail") or 1 << 20
    of_process = parsed.has("sandbox")
    text = read_tail(os.path.join(directory, SANDBOX_LOG if of_process else CONSOLE_LOG), limit_bytes)
    sys.stdout.write(_harmless(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
    if not text:
        lookup.warn(_SILENT_PROCESS if of_process else _SILENT_CONSOLE)
    warn_of_end(directory, name)
    return 0


def _harmless(text: str) -> str:
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text.replace("\r\n", "\n"))
