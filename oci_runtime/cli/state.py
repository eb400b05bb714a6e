"""`vmpod state`: the state document of a container."""

from __future__ import annotations

import sys

from oci_runtime import json_text
from oci_runtime.cli import context as lookup

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Option, Parsed

SUMMARY = "print the state of a container"
USAGE = "ID"
OPTIONS: tuple[Option, ...] = ()


def run(context: Context, parsed: Parsed) -> int:
    """Print the state as indented JSON."""
    record = lookup.load(context, lookup.one_id(parsed))
    sys.stdout.write(json_text.pretty(record.oci_state()) + "\n")
    return 0
