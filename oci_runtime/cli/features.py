"""`vmpod features`: what this runtime can do, as the runtime specification's features structure."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Option, Parsed

SUMMARY = "print what this runtime can do"
USAGE = ""
OPTIONS: tuple[Option, ...] = ()


def run(_context: Context, _parsed: Parsed) -> int:
    """Print the structure as indented JSON."""
    from oci_runtime.bundle.features import features

    print(json.dumps(features(), indent=4))
    return 0
