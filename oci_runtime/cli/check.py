"""`vmpod check`: can pods run on this host, and what is missing if not."""

from __future__ import annotations

from oci_runtime.cli.options import Option, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.check.guest import GuestFacts
    from oci_runtime.check.item import Item
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Parsed
    from oci_runtime.config.model import Config

SUMMARY = "say what this host lacks for running pods"
USAGE = "[--guest] [--json]"
OPTIONS = (
    Option("guest", "", "also boot a machine, and look at its kernel"),
    Option("json", "", "print JSON"),
)


def run(context: Context, parsed: Parsed) -> int:
    """Print one line for each thing that a pod needs; 1 when one of them is missing."""
    if parsed.rest:
        raise UsageError(f"takes no arguments, not {parsed.rest[0]!r}")
    from oci_runtime.check.host import check_host
    from oci_runtime.check.item import MISSING, render
    from oci_runtime.config.load import load_config

    config = load_config(context.config)
    items = check_host(config)
    if parsed.has("guest"):
        items += _check_guest(config)
    missing = [item.name for item in items if item.status == MISSING]
    if parsed.has("json"):
        import json

        print(json.dumps({"ok": not missing, "items": [dict(item.as_mapping()) for item in items]}, indent=2))
    else:
        print(render(items), end="")
        print(f"missing: {', '.join(missing)}" if missing else "pods can run here")
    return 1 if missing else 0


def _check_guest(config: Config) -> list[Item]:
    """A guest that does not boot is an item as well: what is missing on the host is the more useful answer."""
    from oci_runtime.check.guest import check_guest
    from oci_runtime.check.item import absent
    from oci_runtime.errors import OciRuntimeError

    try:
        facts = _boot(config)
    except OciRuntimeError as error:
        console = error.detail.strip().splitlines()
        text = error.message + (f"; its console ends with: {console[-1]}" if console else "")
        return [absent("guest", text, "see what is missing above; vmpod --debug check --guest", needed=True)]
    return check_guest(facts)


def _boot(config: Config) -> GuestFacts:
    import asyncio

    from oci_runtime.check.guest import GuestFacts
    from oci_runtime.sandbox.probe import probe_guest

    details, boot_ms = asyncio.run(probe_guest(config))
    return GuestFacts(
        kernel_release=details.kernel_release,
        agent_version=details.agent_version,
        crun_version=details.crun_version,
        vcpus=details.vcpus,
        memory_mib=details.memory_total_bytes >> 20,
        boot_ms=boot_ms,
        features=frozenset(details.features),
    )
