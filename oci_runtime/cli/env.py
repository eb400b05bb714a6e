"""`vmpod env`: versions, places, settings and host in one document, to be attached to a report."""

from __future__ import annotations

from oci_runtime.cli.options import Option, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Parsed

SUMMARY = "print versions, places, changed settings and what the host is"
USAGE = "[--json]"
OPTIONS = (Option("json", "", "print JSON"),)


def run(context: Context, parsed: Parsed) -> int:
    """Print the document; what cannot be found out is said in its place."""
    if parsed.rest:
        raise UsageError(f"takes no arguments, not {parsed.rest[0]!r}")
    from oci_runtime.check.environment import collect, render
    from oci_runtime.cli.version import find_commit
    from oci_runtime.config.load import load_config

    document = collect(load_config(context.config), context.layout, find_commit())
    if parsed.has("json"):
        import json

        print(json.dumps(document, indent=2))
    else:
        print(render(document), end="")
    return 0
