"""`vmpod create`: boot or join a virtual machine and create a container in it."""

from __future__ import annotations

from oci_runtime.cli import context as lookup
from oci_runtime.cli.options import Option
from oci_runtime.cli.stopping import stop_on_signals

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.creation import CreateOptions
    from oci_runtime.cli.options import Parsed

SUMMARY = "create a container"
USAGE = "[OPTIONS] ID"
OPTIONS = (
    Option("bundle b", "DIR", "directory of the bundle (default: the current one)"),
    Option("console-socket", "PATH", "socket that receives the terminal's master"),
    Option("pid-file", "FILE", "where to write the id of the process that stands for the container"),
    Option("no-pivot", "", "accepted; the guest decides how to enter the root file system"),
    Option("no-new-keyring", "", "accepted; the guest has keyrings of its own"),
    Option("preserve-fds", "N", "accepted; descriptors cannot enter a virtual machine"),
    Option("console", "PATH", ""),
    Option("config f", "FILE", ""),
)


def run(context: Context, parsed: Parsed) -> int:
    """Create the container; on SIGTERM, SIGINT or SIGHUP everything done so far is undone."""
    container_id = lookup.one_id(parsed)
    stop_on_signals(f"create of {container_id}")
    from oci_runtime.cli.creation import Creation

    Creation(context, read_options(parsed, container_id, detach=True)).run()
    return 0


def read_options(parsed: Parsed, container_id: str, *, detach: bool) -> CreateOptions:
    """Return what `create` and `run` have in common. Raises UsageError."""
    from oci_runtime.cli.creation import CreateOptions

    parsed.get_int("preserve-fds")
    socket, pid_file = parsed.get("console-socket"), parsed.get("pid-file")
    return CreateOptions(container_id, parsed.get("bundle", "."), socket, pid_file, detach=detach)
