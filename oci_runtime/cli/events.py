"""`vmpod events`: figures and out-of-memory events of a container, one JSON object per line, as runc prints them."""

from __future__ import annotations

import json
import select
import sys
import time

from oci_runtime.cli import context as lookup
from oci_runtime.cli import texts
from oci_runtime.cli.options import Option, UsageError
from oci_runtime.errors import NotFound, Unavailable, WrongState
from oci_runtime.state.records import CREATING, STOPPED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Parsed
    from oci_runtime.control.client import Client

SUMMARY = "show the figures and events of a container"
USAGE = "[--interval TIME | --stats] ID"
OPTIONS = (
    Option("interval", "TIME", "time between figures, such as 5s (default) or 1m30s"),
    Option("stats", "", "print the figures once"),
)
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def run(context: Context, parsed: Parsed) -> int:
    """Print figures at each interval and events as they happen, until the container ends."""
    container_id = lookup.one_id(parsed)
    interval_s = parse_duration(parsed.get("interval", "5s"))
    record = lookup.load(context, container_id)
    if record.actual_status() in (STOPPED, CREATING):
        raise WrongState(f"{texts.NOT_RUNNING}: {container_id}")
    with lookup.connect(context, record) as client:
        if parsed.has("stats"):
            _print_stats(client, container_id)
            return 0
        with lookup.connect(context, record, None) as events:
            _follow(client, events, container_id, interval_s)
    return 0


def parse_duration(text: str) -> float:
    """Return the seconds of a Go duration: numbers with units, such as 1m30s or 1.5s. Raises UsageError."""
    import re

    parts = re.findall(r"(\d+(?:\.\d*)?)(ns|us|µs|ms|s|m|h)", text)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in parts)
    if "".join(number + unit for number, unit in parts) != text or seconds <= 0:
        raise UsageError(f"invalid value {text!r} for --interval: a time such as 5s or 1m30s, greater than 0")
    return seconds


def _print_stats(client: Client, container_id: str) -> None:
    stats = client.call("stats", id=container_id).get("stats") or {}
    _print({"type": "stats", "id": container_id, "data": stats})


def _print(event: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(event, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def _follow(client: Client, events: Client, container_id: str, interval_s: float) -> None:
    events.call("events", id=container_id)
    poll = select.poll()
    poll.register(events.fileno(), select.POLLIN)
    due = time.monotonic()
    try:
        while True:
            left_s = due - time.monotonic()
            if left_s <= 0:
                _print_stats(client, container_id)
                due = time.monotonic() + interval_s
            elif poll.poll(left_s * 1000) and _handle(events.receive(), container_id):
                return
    except (Unavailable, NotFound, WrongState):
        # The container has ended between two figures, and perhaps its machine with it.
        return


def _handle(event: dict[str, Any], container_id: str) -> bool:
    """Print what runc would print; True when the container has ended."""
    kind = event.get("kind")
    if kind == "oom":
        _print({"type": "oom", "id": container_id})
    return kind in ("exit", "deleted") and not event.get("exec_id")
