"""`vmpod run`: create and start a container; in the foreground, wait for its end and delete it."""

from __future__ import annotations

from oci_runtime.cli import context as lookup
from oci_runtime.cli import create
from oci_runtime.cli.options import Option
from oci_runtime.cli.stopping import stop_on_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Parsed
    from oci_runtime.proxy.launch import Proxy

SUMMARY = "create and start a container"
USAGE = "[OPTIONS] ID"
OPTIONS = (
    *create.OPTIONS,
    Option("detach d", "", "leave the container in the background"),
    Option("keep", "", "do not delete the container after its end"),
    Option("no-subreaper", "", ""),
)


def run(context: Context, parsed: Parsed) -> int:
    """Run the container; in the foreground the exit code is that of its process."""
    container_id = lookup.one_id(parsed)
    detach = parsed.has("detach")
    stop_on_signals(f"run of {container_id}")
    from oci_runtime.cli.creation import Creation
    from oci_runtime.cli.start import start_container

    creation = Creation(context, create.read_options(parsed, container_id, detach=detach))
    proxy = creation.run()
    finished = False
    try:
        if detach:
            start_container(context, container_id)
            finished = True
            return 0
        code = _run_here(context, container_id, proxy, terminal=creation.record.terminal)
        finished = parsed.has("keep")
        return code
    finally:
        if not finished:
            _delete(context, container_id)


def _run_here(context: Context, container_id: str, proxy: Proxy, *, terminal: bool) -> int:
    from oci_runtime.cli.foreground import ForegroundWait, RawTerminal
    from oci_runtime.cli.start import start_container

    with RawTerminal(wanted=terminal):
        wait = ForegroundWait()
        start_container(context, container_id)
        return wait.wait(proxy.pid)


def _delete(context: Context, container_id: str) -> None:
    """Forget the container; what stands in the way must not hide the exit code or the first error."""
    from oci_runtime.cli.delete import delete_container
    from oci_runtime.cli.stopping import shield
    from oci_runtime.errors import OciRuntimeError
    from oci_runtime.log import get_logger

    shield()
    try:
        delete_container(context, container_id, force=True)
    except OciRuntimeError as error:
        get_logger(__name__).error(f"cannot delete {container_id}: {error.message}")
