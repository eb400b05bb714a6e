"""`vmpod network`: look at and change the interfaces and routes of a pod."""

from __future__ import annotations

import json

from oci_runtime.cli import podops
from oci_runtime.cli.options import UsageError
from oci_runtime.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Option, Parsed

SUMMARY = "look at and change the interfaces and routes of a pod"
USAGE = (
    "list-ifaces ID | add-iface ID [FILE|JSON|-] | del-iface ID NAME | list-routes ID | update-routes ID [FILE|JSON|-]"
)
OPTIONS: tuple[Option, ...] = ()

_LISTS = {"list-ifaces": "interfaces", "list-routes": "routes"}
# verb: (argument of the request, what the answer shows)
_CHANGES = {"add-iface": ("interface", "interfaces"), "update-routes": ("routes", "routes")}


def run(context: Context, parsed: Parsed) -> int:
    """Pass the request to the sandbox process and print the interfaces or routes that the guest has then, as JSON."""
    if len(parsed.rest) < 2:
        raise UsageError("requires a verb and a container id")
    verb, container_id, *words = parsed.rest
    if verb in _LISTS and not words:
        shown, arguments = _LISTS[verb], {}
    elif verb in _CHANGES and len(words) <= 1:
        name, shown = _CHANGES[verb]
        arguments = {name: _parse(podops.read_input(words[0] if words else "-", name))}
    elif verb == "del-iface" and len(words) == 1:
        shown, arguments = "interfaces", {"name": words[0]}
    else:
        raise UsageError(f"{verb} with {len(words)} more arguments is not known")
    print(json.dumps(podops.send(context, container_id, "network", verb, arguments)[shown], indent=2))
    return 0


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"argument is not JSON: {error}") from error
