"""`delete`: clean up after a shim that is gone. The engine runs it after every delete, so the usual case is "nothing".

Answers with a DeleteResponse on standard output. Idempotent; continues after failures, which become warnings.
"""

from __future__ import annotations

import os
import sys
import time

from oci_runtime.annotations.route import identify
from oci_runtime.bundle.ids import validate_id
from oci_runtime.bundle.load import read_json_object
from oci_runtime.errors import NotFound, OciRuntimeError
from oci_runtime.shim.location import layout_for
from oci_runtime.state import records
from oci_runtime.state.locks import try_lock
from oci_runtime.ttrpc.lean import Message, build

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.shim.arguments import Arguments
    from oci_runtime.state.layout import Layout
    from oci_runtime.state.records import ContainerRecord

KILLED = 137
# The engine gives a `delete` five seconds.
_WAIT_S = 4.0
_CALL_S = 3.0
_POLL_S = 0.02


def _no_message(name: str) -> type[Message]:
    raise KeyError(name)


Timestamp = build("Timestamp", ((1, "seconds", "i", ""), (2, "nanos", "i", "")), _no_message)
DeleteResponse = build(
    "DeleteResponse",
    ((1, "pid", "u", ""), (2, "exit_status", "u", ""), (3, "exited_at", "m", "Timestamp")),
    lambda _name: Timestamp,
)


def delete(arguments: Arguments) -> int:
    """Remove what is left of a container, and of its pod when the shim is dead. Raises: InvalidInput."""
    validate_id(arguments.id)
    bundle = arguments.bundle or os.getcwd()
    layout = layout_for(arguments.namespace, arguments.address)
    warnings: list[str] = []
    record = _find_record(layout, arguments.id, warnings)
    try:
        sandbox_id = record.sandbox_id if record is not None else _sandbox_of(bundle, arguments.id)
        _end(layout, sandbox_id, arguments.id, known=record is not None)
    except OciRuntimeError as error:
        warnings.append(error.message)
    if record is not None:
        _forget(layout, record, warnings)
    _unmount(bundle, warnings)
    layout.discard()
    for warning in warnings:
        sys.stderr.write(f'level=warning msg="{warning}" id={arguments.id}\n')
    os.write(1, _response(record))
    return 0


def _find_record(layout: Layout, container_id: str, warnings: list[str]) -> ContainerRecord | None:
    try:
        return records.load(layout, container_id)
    except NotFound:
        return None
    except OciRuntimeError as error:
        warnings.append(error.message)
        return None


def _sandbox_of(bundle: str, container_id: str) -> str:
    """The sandbox that the bundle's annotations name; without a bundle, the container itself."""
    try:
        annotations = read_json_object(os.path.join(bundle, "config.json")).get("annotations")
        return identify(annotations if isinstance(annotations, dict) else {}, container_id)[1]
    except OciRuntimeError:
        return container_id


def _end(layout: Layout, sandbox_id: str, container_id: str, *, known: bool) -> None:
    """Undo a dead sandbox; ask a living one to drop the container that it still has."""
    directory = layout.sandbox(sandbox_id)
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            lock = try_lock(directory)
        except FileNotFoundError:
            return
        if lock is not None:
            from oci_runtime.cli.cleanup import undo_leftovers

            try:
                undo_leftovers(directory)
            finally:
                os.close(lock)
            return
        if not known or _ask(directory, container_id):
            return
        if time.monotonic() > deadline:
            raise OciRuntimeError(f"sandbox {sandbox_id} neither answers nor ends")
        time.sleep(_POLL_S)


def _ask(directory: str, container_id: str) -> bool:
    """Have the sandbox process delete the container; False when nobody answers, because it is about to end."""
    from oci_runtime.control.client import Absent, Client
    from oci_runtime.errors import Unavailable

    try:
        with Client.connect(directory, _CALL_S) as client:
            client.call("delete", id=container_id, force=True)
    except (Unavailable, Absent):
        return False
    except NotFound:
        return True
    return True


def _forget(layout: Layout, record: ContainerRecord, warnings: list[str]) -> None:
    from oci_runtime.cli.cleanup import remove_container
    from oci_runtime.host.processes import end_process

    if not end_process(record.pid, record.pid_start, 1):
        warnings.append(f"process {record.pid} does not end after SIGKILL")
    if record.cgroups:
        from oci_runtime.cli.host_cgroup import remove_all

        remove_all(record.cgroups)
    if record.hooks.get("poststop"):
        from oci_runtime.cli.hooks import run_tolerantly

        run_tolerantly("poststop", record.hooks["poststop"], record.oci_state(records.STOPPED), record.bundle)
    try:
        remove_container(layout, record.id)
    except OciRuntimeError as error:
        warnings.append(error.message)


def _unmount(bundle: str, warnings: list[str]) -> None:
    from oci_runtime.shim.root_place import unmount_leftovers

    try:
        unmount_leftovers(bundle)
    except OciRuntimeError as error:
        warnings.append(error.message)


def _response(record: ContainerRecord | None) -> bytes:
    """The pid and, where it is known, the code that the container had ended with before its shim died."""
    seconds, nanos = divmod(time.time_ns(), 10**9)
    code = KILLED
    if record is not None and record.status == records.STOPPED and record.exit_code is not None:
        code = record.exit_code
    return DeleteResponse(
        pid=record.pid if record is not None else 0,
        exit_status=code,
        exited_at=Timestamp(seconds=seconds, nanos=nanos),
    ).SerializeToString()
