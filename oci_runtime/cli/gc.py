"""`vmpod gc`: undo what dead sandboxes left, and forget containers of an earlier boot and interrupted creations."""

from __future__ import annotations

import os

from oci_runtime.cli import context as lookup
from oci_runtime.cli.cleanup import end_abandoned, remove_container, undo_leftovers
from oci_runtime.cli.delete import delete_container
from oci_runtime.cli.options import UsageError
from oci_runtime.errors import InvalidInput, NotFound, OciRuntimeError
from oci_runtime.host.processes import boot_id
from oci_runtime.state import records
from oci_runtime.state.locks import try_lock
from oci_runtime.state.sandboxes import SandboxRecord, sandbox_directories

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Option, Parsed
    from oci_runtime.state.layout import Layout

SUMMARY = "undo what dead virtual machines left on the host"
USAGE = ""
OPTIONS: tuple[Option, ...] = ()


def run(context: Context, parsed: Parsed) -> int:
    """Clean up what is dead, and machines that a killed command left without a container.

    Stopped containers of this boot stay, because their exit codes may still be asked for. So do delegated ones: a
    runtime that does not know a container may have been asked with another --root, or too early.
    """
    if parsed.rest:
        raise UsageError(f"takes no arguments, not {parsed.rest[0]!r}")
    problems = []
    for directory in sandbox_directories(context.layout):
        problems += _collect(f"sandbox {os.path.basename(directory)}", _collect_sandbox, context.layout, directory)
    for container_id in records.list_ids(context.layout):
        problems += _collect(f"container {container_id}", _collect_container, context, container_id)
    if problems:
        raise problems[0]
    return 0


def _collect(what: str, collect: object, *arguments: object) -> list[OciRuntimeError]:
    try:
        if collect(*arguments):  # type: ignore[operator]
            print(f"removed {what}")
    except OciRuntimeError as error:
        return [error]
    return []


def _collect_sandbox(layout: Layout, directory: str) -> bool:
    try:
        lock = try_lock(directory)
    except FileNotFoundError:
        return False
    if lock is None:
        return end_abandoned(layout, directory)
    try:
        try:
            SandboxRecord.load(directory)
        except InvalidInput as error:
            lookup.warn(f"{error.message}: something it listed may be left")
        undo_leftovers(directory)
    finally:
        os.close(lock)
    return True


def _collect_container(context: Context, container_id: str) -> bool:
    try:
        record = records.load(context.layout, container_id)
    except NotFound:
        return False
    except InvalidInput:
        # Damaged: `delete --force` is the way, once somebody has looked at it.
        raise
    interrupted = record.status == records.CREATING and record.actual_status() == records.STOPPED
    if record.boot_id != boot_id():
        remove_container(context.layout, container_id)
        return True
    if interrupted:
        delete_container(context, container_id, force=True)  # its machine may be booting still
    return interrupted
