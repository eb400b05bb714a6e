"""`vmpod exec`: run a further process in a container."""

from __future__ import annotations

from oci_runtime.bundle.ids import validate_id
from oci_runtime.cli import context as lookup
from oci_runtime.cli.options import Option, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.execution import Execution
    from oci_runtime.cli.options import Parsed

SUMMARY = "run a further process in a container"
USAGE = "[OPTIONS] ID COMMAND [ARGUMENTS]... | --process FILE ID"
OPTIONS = (
    Option("process p", "FILE", "file with the process as JSON, instead of a command"),
    Option("detach d", "", "leave the process in the background"),
    Option("tty t", "", "give it a terminal"),
    Option("console-socket", "PATH", "socket that receives the terminal's master"),
    Option("pid-file", "FILE", "where to write the id of the process that stands for it"),
    Option("cwd", "DIR", "working directory in the container"),
    Option("env e", "NAME=VALUE", "set an environment variable", many=True),
    Option("user u", "UID[:GID]", "user and group"),
    Option("additional-gids g", "GID", "a further group", many=True),
    Option("cap c", "NAME", "add a capability", many=True),
    Option("no-new-privs", "", "set no_new_privs"),
    Option("process-label", "LABEL", "SELinux label"),
    Option("apparmor", "PROFILE", "AppArmor profile"),
    Option("ignore-paused", "", "also in a paused container, where it begins at the resume"),
    Option("preserve-fds", "N", "accepted; descriptors cannot enter a virtual machine"),
    Option("cgroup", "PATH", "accepted; the process runs in the container's cgroup"),
    Option("no-subreaper", "", ""),
    Option("console", "PATH", ""),
)


def run(context: Context, parsed: Parsed) -> int:
    """Run the process in the foreground and return its exit code, or leave it to a proxy of its own."""
    if not parsed.rest:
        raise UsageError("requires a container id")
    record = lookup.load(context, validate_id(parsed.rest[0]))
    from oci_runtime.cli.execution import Execution, check_status, check_terminal, describe_process

    ignores_pause = parsed.has("ignore-paused")
    check_status(record, ignore_paused=ignores_pause)
    execution = Execution(context, record, describe_process(context, record, parsed), ignores_pause=ignores_pause)
    check_terminal(parsed, terminal=execution.terminal)
    if parsed.has("detach"):
        from oci_runtime.cli.stopping import stop_on_signals

        stop_on_signals(f"exec in {record.id}")
        execution.start_detached(parsed.get("console-socket"), parsed.get("pid-file"))
        return 0
    return _run_here(execution, parsed.get("pid-file"))


def _run_here(execution: Execution, pid_file: str) -> int:
    import os

    from oci_runtime.cli.foreground import give_size, relay_here
    from oci_runtime.host.files import write_atomic

    give_size(execution.process)
    stream = execution.start()
    if pid_file:
        write_atomic(pid_file, str(os.getpid()).encode(), 0o644, sync=False)
    return relay_here(stream, terminal=execution.terminal)
