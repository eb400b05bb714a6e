"""`vmpod logs`: the guest's console, or the log of the sandbox process."""

from __future__ import annotations

import os
import sys

from oci_runtime.cli import context as lookup
from oci_runtime.cli.options import Option
from oci_runtime.errors import NotFound
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
    """Print the end of the log. ID: a container or a sandbox. Bytes that would steer a terminal are escaped on one."""
    name = lookup.one_id(parsed)
    try:
        sandbox_id = lookup.load(context, name).sandbox_id
    except NotFound:
        sandbox_id = name
    directory = context.layout.sandbox(sandbox_id)
    if not os.path.isdir(directory):
        raise NotFound(f"virtual machine of {name} does not exist")
    limit_bytes = parsed.get_int("tail") or 1 << 20
    of_process = parsed.has("sandbox")
    text = read_tail(os.path.join(directory, SANDBOX_LOG if of_process else CONSOLE_LOG), limit_bytes)
    if not text:
        lookup.warn(_SILENT_PROCESS if of_process else _SILENT_CONSOLE)
    sys.stdout.write(_harmless(text) if sys.stdout.isatty() else text)
    return 0


def _harmless(text: str) -> str:
    return "".join(char if char.isprintable() or char in "\n\t" else "?" for char in text.replace("\r\n", "\n"))
