"""`vmpod kill`: send a signal to a container."""

from __future__ import annotations

from oci_runtime.bundle.ids import validate_id
from oci_runtime.cli import context as lookup
from oci_runtime.cli import texts
from oci_runtime.cli.options import Option, UsageError
from oci_runtime.cli.signals import parse_signal
from oci_runtime.errors import NotFound, Unavailable, WrongState
from oci_runtime.state.records import CREATING, STOPPED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Parsed
    from oci_runtime.control.client import Client
    from oci_runtime.state.records import ContainerRecord

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
        with _connect(context, record) as client:
            client.call("kill", id=container_id, signal=number, all=everything)
    except WrongState:
        if not everything:
            raise
    return 0


def _connect(context: Context, record: ContainerRecord) -> Client:
    """Connect; a pod that is gone although the proxy still stands means that the container is just ending."""
    try:
        return lookup.connect(context, record)
    except (NotFound, Unavailable) as error:
        raise WrongState(f"{texts.NOT_RUNNING}: {record.id}, its virtual machine is gone") from error
