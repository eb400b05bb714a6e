"""Undo what a dead sandbox or an interrupted `create` left behind: shared by `delete --force`, `create` and `gc`."""

from __future__ import annotations

import os
import time

from oci_runtime.control.client import Client
from oci_runtime.errors import HostError, NotFound, OciRuntimeError, Unavailable
from oci_runtime.host.files import remove_flat
from oci_runtime.host.processes import end_process, signal_process, wait_process
from oci_runtime.log import get_logger
from oci_runtime.state import records
from oci_runtime.state.layout import LOCK_FILE
from oci_runtime.state.locks import try_lock
from oci_runtime.state.recovery import UNDOERS, recover
from oci_runtime.state.sandboxes import SandboxRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from oci_runtime.state.layout import Layout
    from oci_runtime.state.records import ContainerRecord
    from oci_runtime.state.recovery import Resource, Undoer

log = get_logger(__name__)
_SIGTERM = 15
_POLL_S = 0.02
# A `create` that was asked to stop undoes its steps; the longest is the end of a machine that it booted.
_CREATOR_S = 20.0
# Ending a machine takes a second or two.
_SANDBOX_END_S = 20.0
_PROXY_S = 2.0
_KILLED_S = 5.0


def leave_sandbox(layout: Layout, sandbox_id: str, container_id: str, *, force: bool, timeout_s: float) -> None:
    """Take a container out of its sandbox, dead or alive, and end a sandbox that has nobody left in it.

    force: also a container that runs. timeout_s: for each answer of the sandbox process.
    Raises WrongState, and OciRuntimeError when something cannot be undone.
    """
    directory = layout.sandbox(sandbox_id)
    try:
        with Client.connect(directory, timeout_s) as client:
            at_end = _delete_in_sandbox(client, container_id, force=force)
            if at_end is None:
                at_end = not _others(layout, sandbox_id, container_id)
                if at_end:
                    client.call("shutdown", reason=f"the creation of {container_id} has failed")
    except (NotFound, Unavailable) as error:
        log.debug("the sandbox process does not answer", reason=error.message)
        at_end = True
    if at_end:
        end_sandbox_directory(directory, _SANDBOX_END_S, kill=force)


def _delete_in_sandbox(client: Client, container_id: str, *, force: bool) -> bool | None:
    """Delete a container; True when the sandbox is at its end, None when nobody is in it and nobody has ever been."""
    while True:
        try:
            return bool(client.call("delete", id=container_id, force=force).get("last"))
        except NotFound:
            # Its creation failed half-way, or was never asked for. Or the request was still on its way: look again.
            inside = [container.get("id") for container in client.call("info").get("containers") or ()]
            if container_id not in inside:
                return False if inside else None


def end_abandoned(layout: Layout, directory: str) -> bool:
    """End a live sandbox that has no container and that nobody is creating one in; True when it was one."""
    record = SandboxRecord.load(directory)
    if record is None or _others(layout, record.id, ""):
        return False
    try:
        with Client.connect(directory, _SANDBOX_END_S) as client:
            if client.call("info").get("containers"):
                return False
            client.call("shutdown", reason="no container is in it")
    except (NotFound, Unavailable):
        # It is ending by itself, or it hangs: `delete --force` of a container is the way to kill it.
        return False
    end_sandbox_directory(directory, _SANDBOX_END_S)
    return True


def _others(layout: Layout, sandbox_id: str, container_id: str) -> bool:
    """True when another container of the sandbox lives or is being created."""
    for other in records.list_ids(layout):
        try:
            record = records.load(layout, other)
        except OciRuntimeError:
            continue
        if other != container_id and record.sandbox_id == sandbox_id and record.actual_status() != records.STOPPED:
            return True
    return False


def end_sandbox_directory(directory: str, deadline_s: float, *, kill: bool = False) -> None:
    """Wait until the sandbox process has let go of its lock, then undo what it left.

    kill: SIGKILL the sandbox process when it still holds the lock at the deadline. Another sandbox that appears under
    the same name meanwhile is left alone. Raises OciRuntimeError when something cannot be undone, or the lock is still
    held at the end.
    """
    deadline = time.monotonic() + deadline_s
    identity = _identity(directory)
    while identity is not None and _identity(directory) == identity:
        try:
            lock = try_lock(directory)
        except FileNotFoundError:
            return
        if lock is not None:
            try:
                undo_leftovers(directory)
            finally:
                os.close(lock)
            return
        if time.monotonic() > deadline:
            if not kill or not _kill_sandbox_process(directory):
                raise OciRuntimeError(f"sandbox process of {directory} does not end")
            kill = False
        time.sleep(_POLL_S)


def _identity(directory: str) -> tuple[int, int] | None:
    """What tells one sandbox from the next of the same name: its lock file, which is made once and never written."""
    try:
        status = os.stat(os.path.join(directory, LOCK_FILE))
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_ctime_ns


def undo_leftovers(directory: str) -> None:
    """Undo what a dead sandbox left and remove its directory; the caller holds its lock. Raises OciRuntimeError."""
    problems = recover(directory, undoers())
    if problems:
        raise OciRuntimeError(f"cannot undo all of {directory}: {'; '.join(problems)}")


def _kill_sandbox_process(directory: str) -> bool:
    """SIGKILL the process that the sandbox's record names; QEMU and virtiofsd follow it. False when unknown."""
    record = SandboxRecord.load(directory)
    if record is None:
        return False
    pid, start = record.values.get("pid"), record.values.get("pid_start")
    if type(pid) is not int or type(start) is not int or not record.is_of_this_boot:
        return False
    return end_process(pid, start, _KILLED_S)


def undoers() -> Mapping[str, Undoer]:
    """Return the undo functions of all kinds of resources."""
    return {**UNDOERS, "network": _undo_network}


def _undo_network(resource: Resource) -> None:
    from oci_runtime.network.leftovers import undo_network

    undo_network(resource)


def cancel_creator(record: ContainerRecord) -> None:
    """End the `create` that is still at work on a container, and wait until it has undone its steps."""
    signal_process(record.creator, record.creator_start, _SIGTERM)
    if not wait_process(record.creator, record.creator_start, _CREATOR_S):
        end_process(record.creator, record.creator_start, _KILLED_S)


def end_proxy(record: ContainerRecord, grace_s: float = _PROXY_S) -> None:
    """Wait for the proxy of a container that has ended; kill it when it lingers.

    The first process of a pid namespace only disappears once the parents of all others have reaped them: that is the
    engines' business, and no reason to keep the container.
    """
    if wait_process(record.pid, record.pid_start, grace_s):
        return
    if not end_process(record.pid, record.pid_start, _KILLED_S):
        log.warning(f"proxy {record.pid} of container {record.id} is killed but not gone yet")


def remove_container(layout: Layout, container_id: str) -> None:
    """Remove the directory of a container. Raises HostError."""
    try:
        remove_flat(layout.container(container_id), keep="state.json")
    except HostError as error:
        raise OciRuntimeError(f"cannot remove container {container_id}: {error.message}") from error
