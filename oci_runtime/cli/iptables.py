"""`vmpod iptables`: read or set the firewall rules of a pod, in the format of iptables-save."""

from __future__ import annotations

import sys

from oci_runtime.cli import podops
from oci_runtime.cli.options import Option, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Parsed

SUMMARY = "read or set the firewall rules of a pod"
USAGE = "[--v6] get ID | set ID [FILE|-]"
OPTIONS = (Option("v6", "", "the rules for IPv6"),)


def run(context: Context, parsed: Parsed) -> int:
    """Print the rules of the pod, or replace the tables that the given rules name."""
    if len(parsed.rest) < 2:
        raise UsageError("requires a verb and a container id")
    verb, container_id, *words = parsed.rest
    arguments: dict[str, object] = {"ipv6": parsed.has("v6")}
    if verb == "set" and len(words) <= 1:
        arguments["rules"] = podops.read_input(words[0] if words else "-", "rules")
    elif verb != "get" or words:
        raise UsageError(f"{verb} with {len(words)} more arguments is not known")
    answer = podops.send(context, container_id, "iptables", verb, arguments)
    sys.stdout.write(str(answer.get("rules", "")))
    return 0
