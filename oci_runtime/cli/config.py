"""`vmpod config`: the effective configuration and where each value came from."""

from __future__ import annotations

import json

from oci_runtime.cli.options import Option, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Parsed

SUMMARY = "show the configuration"
USAGE = "show [--format toml|json]"
OPTIONS = (Option("format f", "FORMAT", "toml (default) or json"),)


def run(context: Context, parsed: Parsed) -> int:
    """Print every setting, with the file that set it."""
    form = parsed.get("format", "toml")
    if parsed.rest != ["show"] or form not in ("toml", "json"):
        raise UsageError("requires the word show, and format toml or json")
    from oci_runtime.config.load import load_config
    from oci_runtime.config.show import render_text, to_json

    config = load_config(context.config)
    print(json.dumps(to_json(config), indent=2) if form == "json" else render_text(config), end="")
    return 0
