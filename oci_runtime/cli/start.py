"""`vmpod start`: run the process of created containers."""

from __future__ import annotations

from oci_runtime.bundle.ids import validate_id
from oci_runtime.cli import context as lookup
from oci_runtime.cli import texts
from oci_runtime.cli.options import UsageError
from oci_runtime.errors import WrongState
from oci_runtime.state.records import PAUSED, RUNNING, STOPPED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Option, Parsed

SUMMARY = "run the process of created containers"
USAGE = "ID..."
OPTIONS: tuple[Option, ...] = ()


def run(context: Context, parsed: Parsed) -> int:
    """Start each container; the first failure ends the command."""
    if not parsed.rest:
        raise UsageError("requires a container id")
    for container_id in [validate_id(word) for word in parsed.rest]:
        start_container(context, container_id)
    return 0


def start_container(context: Context, container_id: str) -> None:
    """Start one container and run its poststart hooks. Raises WrongState unless it is created."""
    record = lookup.load(context, container_id)
    status = record.actual_status()
    if status in (RUNNING, PAUSED):
        raise WrongState(f"{texts.ALREADY_RUNNING}: {container_id}")
    if status == STOPPED:
        raise WrongState(f"{texts.HAS_STOPPED}: {container_id}")
    with lookup.connect(context, record) as client:
        # Poststart hooks come after the program's execution, and so after what is run inside before it.
        client.call("start", id=container_id, executed=bool(record.hooks.get("poststart")))
    if record.hooks.get("poststart"):
        from oci_runtime.cli.hooks import run_tolerantly

        run_tolerantly("poststart", record.hooks["poststart"], record.oci_state(RUNNING), record.bundle)
