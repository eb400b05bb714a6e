"""Docker: one entry of `runtimes` in daemon.json, for `docker run --runtime vmpod`."""

from __future__ import annotations

import json
import re

from oci_runtime.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_CONFIG = "/etc/docker/daemon.json"
RUNTIME = "vmpod"
_INDENT = re.compile(r"\{\s*\n([ \t]+)")
_ENDING = f"/{RUNTIME}"


def plan_config(content: bytes | None, bin_directory: str) -> bytes:
    """The new content of daemon.json; other runtimes and settings stay, an older entry of ours is replaced.

    content: None when there is no file. Raises: InvalidInput when it is not understood, or has another such runtime.
    """
    parsed = _parse(content)
    runtimes = parsed.setdefault("runtimes", {})
    if not isinstance(runtimes, dict):
        raise InvalidInput("Docker's configuration: runtimes is no object")
    if RUNTIME in runtimes and not _is_ours(runtimes[RUNTIME]):
        raise InvalidInput(f"Docker's configuration has a runtime {RUNTIME!r} already: remove it, or edit it by hand")
    entry = {"path": bin_directory + _ENDING}
    if runtimes.get(RUNTIME) == entry and content is not None:
        return content
    runtimes[RUNTIME] = entry
    return _render(parsed, content)


def strip_entry(content: bytes) -> bytes:
    """The configuration without our entry; unchanged when it is not there. Raises: InvalidInput."""
    parsed = _parse(content)
    runtimes = parsed.get("runtimes")
    if not isinstance(runtimes, dict) or not _is_ours(runtimes.get(RUNTIME)):
        return content
    del runtimes[RUNTIME]
    if not runtimes:
        del parsed["runtimes"]
    return _render(parsed, content)


def _is_ours(entry: object) -> bool:
    return isinstance(entry, dict) and entry.keys() == {"path"} and str(entry["path"]).endswith(_ENDING)


def _parse(content: bytes | None) -> dict[str, Any]:
    try:
        parsed = json.loads(content.decode()) if content and content.strip() else {}
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"Docker's configuration is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise InvalidInput("Docker's configuration is no JSON object")
    return parsed


def _render(parsed: dict[str, Any], before: bytes | None) -> bytes:
    """JSON with the indentation of what was there."""
    found = _INDENT.match((before or b"").decode().lstrip())
    return (json.dumps(parsed, indent=found[1] if found else 4, ensure_ascii=False) + "\n").encode()
