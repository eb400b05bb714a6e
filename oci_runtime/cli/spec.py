"""`vmpod spec`: write a new config.json, or check one."""

from __future__ import annotations

import json
import os

from oci_runtime.cli.options import Option, UsageError
from oci_runtime.errors import AlreadyExists, HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Parsed

SUMMARY = "write a new config.json, or check one"
USAGE = "[--bundle DIR] | check [BUNDLE]"
OPTIONS = (
    Option("bundle b", "DIR", "where to write config.json (default: the current directory)"),
    Option("rootless", "", ""),
)


def run(context: Context, parsed: Parsed) -> int:
    """Write the file, which must not exist; or print all that is wrong with a bundle (exit code 1)."""
    if parsed.rest[:1] == ["check"] and len(parsed.rest) <= 2:
        return _check(parsed.rest[1] if len(parsed.rest) == 2 else parsed.get("bundle", "."))
    if parsed.rest:
        raise UsageError(f"takes no argument but check, not {parsed.rest[0]!r}")
    from oci_runtime.bundle.default import default_spec

    path = os.path.join(parsed.get("bundle", "."), "config.json")
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(json.dumps(default_spec(), indent="\t") + "\n")
    except FileExistsError as error:
        raise AlreadyExists(f"file {path} exists: remove it first") from error
    except OSError as error:
        raise HostError.from_oserror(error, "write", path) from error
    return 0


def _check(bundle: str) -> int:
    from oci_runtime.bundle.check import check_bundle

    problems = check_bundle(bundle)
    for problem in problems:
        print(problem)
    return 1 if problems else 0
