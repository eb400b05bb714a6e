"""`vmpod ps`: what runs in a container.

As JSON: the processes of the host that stand for the container and its execs, for callers that filter the host's ps by
them (Docker's `top`). As a table: the processes of the guest.
"""

from __future__ import annotations

import json
import time

from oci_runtime.bundle.ids import validate_id
from oci_runtime.cli import context as lookup
from oci_runtime.cli import texts
from oci_runtime.cli.options import Option, UsageError
from oci_runtime.errors import Unsupported, WrongState
from oci_runtime.state.records import CREATING, STOPPED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Parsed

SUMMARY = "show the processes in a container"
USAGE = "[--format table|json] ID [-ef]"
OPTIONS = (Option("format f", "FORMAT", "table (default): the guest's processes; json: their stand-ins on the host"),)
# What runc runs when no options are given, and other ways to write it.
_DEFAULT_OPTIONS = ("-ef", "-fe", "-e -f", "-f -e")


def run(context: Context, parsed: Parsed) -> int:
    """Print the processes. Of options for ps only the default is taken: the host's ps cannot look into the guest."""
    if not parsed.rest:
        raise UsageError("requires a container id")
    form = parsed.get("format", "table")
    if form not in ("table", "json"):
        raise UsageError(f"invalid format option {form!r}: table or json")
    container_id, *words = parsed.rest
    record = lookup.load(context, validate_id(container_id))
    if words and form == "table" and " ".join(words) not in _DEFAULT_OPTIONS:
        raise Unsupported(
            f"ps options {' '.join(words)!r} are not supported, the table is that of ps -ef: for others run ps in the"
            f" container, vmpod exec {container_id} ps …"
        )
    if record.actual_status() in (STOPPED, CREATING):
        raise WrongState(f"{texts.NOT_RUNNING}: {record.id}")
    if form == "json":
        from oci_runtime.cli.proxies import find_proxies

        pids = [pid for pid, _ in find_proxies(context.layout, record.id)]
        print(json.dumps(pids, separators=(",", ":")))
        return 0
    with lookup.connect(context, record) as client:
        rows = client.call("ps", id=record.id).get("processes") or []
    print("UID          PID    PPID  C STIME TTY          TIME CMD")
    for row in rows:
        print(format_row(row, time.time()))
    return 0


def format_row(row: dict[str, Any], now_s: float) -> str:
    """Return one line in the columns of `ps -ef`. row: as op `ps` answers (sandbox/stats.py)."""
    started_s = int(row.get("started_at_ns") or 0) / 1e9
    cpu_s = int(row.get("cpu_time_ms") or 0) / 1000
    share = min(99, int(100 * cpu_s / max(now_s - started_s, 1))) if started_s else 0
    clock = time.strftime("%H:%M" if now_s - started_s < 86400 else "%b%d", time.localtime(started_s))
    spent = f"{int(cpu_s) // 3600:02}:{int(cpu_s) // 60 % 60:02}:{int(cpu_s) % 60:02}"
    user, pid, parent = str(row.get("user", "?"))[:8], row.get("pid", 0), row.get("ppid", 0)
    command = _printable(str(row.get("command", "")))
    return f"{user:<8} {pid:>7} {parent:>7} {share:>2} {clock:>5} {str(row.get('tty', '?')):<8} {spent} {command}"


def _printable(text: str) -> str:
    """The guest chose these bytes; the reader's terminal must not obey them."""
    return "".join(character if character.isprintable() else "?" for character in text)
