"""`vmpod kill`: send a signal to a container."""

from __future__ import annotations

from oci_runtime.bundle.ids import validate_id
from oci_runtime.cli import context as lookup
from oci_runtime.cli import texts
from oci_runtime.cli.options import Option, UsageError
from oci_runtime.cli.signals import parse_signal
from oci_runtime.control.client import Absent
from oci_runtime.control.frames import ConnectionLost, Silent
from oci_runtime.errors import WrongState
from oci_runtime.state.records import CREATING, STOPPED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Parsed

SUMMARY = "send a signal (default: TERM) to the first process of a container"
USAGE = "[--all] ID [SIGNAL]"
OPTIONS = (Option("all a", "", "to every process in the container"),)


def run(context: Context, parsed: Parsed) -> int:
    """Deliver the signal. With --all a stopped container is no error, as for runc: engines clean up that way."""
    if not 1 <= len(parsed.rest) <= 2:
        raise UsageError(f"requires a container id and at most one signal, not {len(parsed.rest)} arguments")
    container_id = validate_id(parsed.rest[0])
    everything = parsed.has("all")
    record = lookup.load(context, container_id)
    number = parse_signal(parsed.rest[1] if len(parsed.rest) == 2 else "TERM")
    try:
        if record.actual_status() in (STOPPED, CREATING):
            raise WrongState(f"{texts.NOT_RUNNING}: {container_id}")
        try:
            with lookup.connect(context, record) as client:
                client.call("kill", id=container_id, signal=number, all=everything)
        except Silent:
            raise
        except (Absent, ConnectionLost) as error:
            # A pod that is gone although the proxy still stands: the container is just ending.
            raise WrongState(f"{texts.NOT_RUNNING}: {container_id}, its virtual machine is gone") from error
    except WrongState:
        if not everything:
            raise
    return 0
