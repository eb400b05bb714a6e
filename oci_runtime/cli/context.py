"""What the global options say, and how a verb finds a container and its sandbox."""

from __future__ import annotations

import os

from oci_runtime.bundle.ids import validate_id
from oci_runtime.cli import texts
from oci_runtime.cli.options import UsageError
from oci_runtime.errors import HostError, WrongState
from oci_runtime.log import get_logger
from oci_runtime.state import records
from oci_runtime.state.layout import DEFAULT_ROOT, Layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, NoReturn

    from oci_runtime.cli.options import Parsed
    from oci_runtime.control.client import Client
    from oci_runtime.state.delegated import Delegated

# A verb that the guest answers at once; the sandbox process has shorter deadlines of its own for each step.
CALL_TIMEOUT_S = 90.0


class Context:
    """The circumstances of one command.

    verb_words: the verb and what follows, for a namespace runtime that takes over. lasting_options: the global options
    that say where containers are, in the words of runc and crun; a container keeps those of its `create`.
    passing_options: those that concern this command alone.
    config: --config, "" for the default search. started_ns: CLOCK_MONOTONIC at the start of the command.
    """

    def __init__(self, options: Parsed, words: list[str], started_ns: int) -> None:
        self.layout = Layout(options.get("root") or DEFAULT_ROOT)
        self.config = options.get("config")
        self.debug = options.has("debug")
        self.systemd_cgroup = options.has("systemd-cgroup") or options.get("cgroup-manager") == "systemd"
        self.verb_words = words[len(words) - len(options.rest) :]
        self.lasting_options = (
            *(("--root", self.layout.root) if options.given("root") else ()),
            *_given(options, "rootless", "criu"),
            *(("--systemd-cgroup",) if self.systemd_cgroup else ()),
        )
        self.passing_options = (*_given(options, "log", "log-format"), *(("--debug",) if self.debug else ()))
        self.started_ns = started_ns

    def become(self, record: Delegated, container_id: str) -> NoReturn:
        """Replace this process by the namespace runtime that has a container. Raises HostError."""
        words = [record.runtime, *record.options, *self.passing_options, *self.verb_words]
        try:
            os.execv(record.runtime, words)
        except OSError as error:
            hint = f"it has container {container_id}"
            raise HostError.from_oserror(error, "run", record.runtime, hint=hint) from error


def _given(options: Parsed, *names: str) -> tuple[str, ...]:
    return tuple(word for name in names if options.given(name) for word in (f"--{name}", options.get(name)))


def warn(message: str) -> None:
    """Tell the user about something that does not stop the command: a line on standard error, and one in the log."""
    get_logger(__name__).warning(message)
    try:
        os.write(2, f"vmpod: warning: {message}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        return


def one_id(parsed: Parsed) -> str:
    """Return the only positional word, a container id. Raises UsageError, InvalidInput."""
    if len(parsed.rest) != 1:
        raise UsageError(f"requires exactly 1 argument, a container id, not {len(parsed.rest)}")
    return validate_id(parsed.rest[0])


def hand_over(context: Context, container_id: str) -> None:
    """Replace this process by the namespace runtime that has the container, if one has it; else return.

    Raises HostError, InvalidInput (damaged record).
    """
    if not os.path.lexists(context.layout.delegated(container_id)):
        return
    from oci_runtime.state.delegated import load as load_delegated

    record = load_delegated(context.layout, container_id)
    if record is not None:
        context.become(record, container_id)


def load(context: Context, container_id: str) -> records.ContainerRecord:
    """Return the record of a container of ours. Raises NotFound and others; does not return for a delegated one."""
    hand_over(context, container_id)
    return records.load(context.layout, container_id)


def connect(context: Context, record: records.ContainerRecord, timeout_s: float | None = CALL_TIMEOUT_S) -> Client:
    """Connect to the sandbox process of a container. Raises Absent or ConnectionLost when it is gone."""
    from oci_runtime.control.client import Absent, Client

    directory = context.layout.sandbox(record.sandbox_id)
    try:
        return Client.connect(directory, timeout_s)
    except Absent as error:
        raise Absent(f"sandbox {record.sandbox_id} of container {record.id} does not exist any more") from error


def call(context: Context, container_id: str, op: str, **arguments: Any) -> dict[str, Any]:
    """Perform an operation on a container that must have a live process. Raises WrongState otherwise."""
    record = load(context, container_id)
    if record.actual_status() in (records.STOPPED, records.CREATING):
        raise WrongState(f"{texts.NOT_RUNNING}: {container_id}")
    with connect(context, record) as client:
        return client.call(op, id=container_id, **arguments)
