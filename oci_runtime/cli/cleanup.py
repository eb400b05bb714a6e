"""Undo what a dead sandbox or an interrupted `create` left behind: shared by `delete --force`, `create` and `gc`."""

from __future__ import annotations

import os
import time

from oci_runtime.cli.proxies import find_proxies
from oci_runtime.cli.stopping import CANCEL
from oci_runtime.control.client import Client
from oci_runtime.control.frames import ConnectionLost, Silent
from oci_runtime.errors import HostError, NotFound, OciRuntimeError, Unavailable
from oci_runtime.host.files import remove_flat
from oci_runtime.host.processes import end_process, find_lock_holders, signal_process, wait_process
from oci_runtime.log import get_logger
from oci_runtime.state import records
from oci_runtime.state.layout import LOCK_FILE
from oci_runtime.state.locks import try_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from oci_runtime.host.processes import ProcessId
    from oci_runtime.state.layout import Layout
    from oci_runtime.state.records import ContainerRecord
    from oci_runtime.state.recovery import Resource, Undoer

log = get_logger(__name__)
_POLL_S = 0.02
# A `create` that was asked to stop undoes its steps; the longest is the end of a machine that it booted.
_CREATOR_S = 20.0
# Ending a machine takes a second or two.
_SANDBOX_END_S = 20.0
# A pod that has ended waits for those who read its output, but not once it is deleted.
_READERS_S = 3.0
_PROXY_S = 2.0
_KILLED_S = 5.0


def ask_to_leave(
    layout: Layout, sandbox_id: str, container_id: str, *, force: bool, timeout_s: float, unfinished: bool = False
) -> bool:
    """Have a sandbox process delete a container; True when the sandbox is at its end, or dead: `end_sandbox` follows.

    force: also a container that runs; a sandbox that has nobody else in it and gives no answer is killed then.
    timeout_s: for each answer of the sandbox process. unfinished: its creation may be under way; a machine that is
    booted for it alone ends at once then, rather than when its guest has answered.
    Raises WrongState; Unavailable when the pod of other containers gives no answer: its machine is not ours to end.
    """
    directory = layout.sandbox(sandbox_id)
    try:
        with Client.connect(directory, timeout_s) as client:
            alone = unfinished and not _others(layout, sandbox_id, container_id) and _boots_for(client, container_id)
            at_end = None if alone else _delete_in_sandbox(client, container_id, force=force)
            if at_end is None:
                at_end = not _others(layout, sandbox_id, container_id)
                if at_end:
                    client.call("shutdown", reason=f"the creation of {container_id} has failed")
            return at_end
    except (NotFound, Unavailable) as error:
        lives = isinstance(error, Unavailable) and (isinstance(error, Silent) or not isinstance(error, ConnectionLost))
        ours = sandbox_id == container_id or not _others(layout, sandbox_id, container_id)
        if lives and not (force and ours):
            raise
        log.info("the sandbox process cannot delete the container", container=container_id, reason=error.message)
        if isinstance(error, Silent):
            _kill_sandbox_process(directory)
        elif lives:
            _shut_down(directory, timeout_s, error.message)
        # Without a connection: it is dead, or another container's command is booting it anew.
        return ours


def _shut_down(directory: str, timeout_s: float, reason: str) -> None:
    """Ask a sandbox process to end; one that cannot be asked ends already."""
    try:
        with Client.connect(directory, timeout_s) as client:
            client.call("shutdown", reason=reason)
    except (NotFound, Unavailable) as error:
        log.debug("the sandbox process does not answer", reason=error.message)


def end_sandbox(layout: Layout, sandbox_id: str, *, kill: bool) -> None:
    """Wait for the end of a sandbox process that is at its end, and undo what it left.

    Proxies whose output nobody reads keep it; after a moment they are ended, because the pod is being deleted.
    kill: SIGKILL it when it does not end. Raises OciRuntimeError when something cannot be undone, or it does not end.
    """
    directory = layout.sandbox(sandbox_id)
    if not end_sandbox_directory(directory, _READERS_S):
        for container_id in _members(layout, sandbox_id):
            end_processes(find_proxies(layout, container_id), 0.0)
        if not end_sandbox_directory(directory, _SANDBOX_END_S, kill=kill):
            raise OciRuntimeError(f"sandbox process of {directory} does not end")


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


def _boots_for(client: Client, container_id: str) -> bool:
    """Whether nobody but a container that is still being created is in a sandbox."""
    inside = client.call("info").get("containers") or ()
    return all(
        container.get("id") == container_id and container.get("status") == records.CREATING for container in inside
    )


def end_abandoned(layout: Layout, directory: str) -> bool:
    """End a live sandbox that has no container on record, nor one that is being created; True when it was one."""
    from oci_runtime.state.sandboxes import SandboxRecord

    record = SandboxRecord.load(directory)
    if record is None or _others(layout, record.id, ""):
        return False
    try:
        with Client.connect(directory, _SANDBOX_END_S) as client:
            inside = client.call("info").get("containers") or ()
            if any(os.path.lexists(layout.container(str(container.get("id")))) for container in inside):
                return False
            client.call("shutdown", reason="no container of it is on record")
    except (NotFound, Unavailable):
        # It is ending by itself, or it hangs: `delete --force` of a container is the way to kill it.
        return False
    return end_sandbox_directory(directory, _SANDBOX_END_S)


def _others(layout: Layout, sandbox_id: str, container_id: str) -> bool:
    """True when another container of the sandbox lives or is being created."""
    return any(
        record.id != container_id and record.actual_status() != records.STOPPED
        for record in _records(layout, sandbox_id)
    )


def _members(layout: Layout, sandbox_id: str) -> list[str]:
    return [record.id for record in _records(layout, sandbox_id)]


def _records(layout: Layout, sandbox_id: str) -> list[ContainerRecord]:
    """The records of a sandbox's containers, as far as they can be read."""
    found = []
    for container_id in records.list_ids(layout):
        try:
            record = records.load(layout, container_id)
        except OciRuntimeError:
            continue
        if record.sandbox_id == sandbox_id:
            found.append(record)
    return found


def end_sandbox_directory(directory: str, deadline_s: float, *, kill: bool = False) -> bool:
    """Wait until the sandbox process has let go of its lock, then undo what it left; True when that is done.

    kill: SIGKILL the sandbox process when it still holds the lock at the deadline. Another sandbox that appears under
    the same name meanwhile is left alone. Raises OciRuntimeError when something cannot be undone.
    """
    deadline = time.monotonic() + deadline_s
    identity = _identity(directory)
    while identity is not None and _identity(directory) == identity:
        try:
            lock = try_lock(directory)
        except FileNotFoundError:
            break
        if lock is not None:
            try:
                undo_leftovers(directory)
            finally:
                os.close(lock)
            break
        if time.monotonic() > deadline:
            if not kill or not _kill_sandbox_process(directory):
                return False
            kill = False
        time.sleep(_POLL_S)
    return True


def _identity(directory: str) -> tuple[int, int] | None:
    """What tells one sandbox from the next of the same name: its lock file, which is made once and never written."""
    try:
        status = os.stat(os.path.join(directory, LOCK_FILE))
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_ctime_ns


def undo_leftovers(directory: str) -> None:
    """Undo what a dead sandbox left and remove its directory; the caller holds its lock. Raises OciRuntimeError."""
    from oci_runtime.state.recovery import recover

    problems = recover(directory, undoers())
    if problems:
        raise OciRuntimeError(f"cannot undo all of {directory}: {'; '.join(problems)}")


def _kill_sandbox_process(directory: str) -> bool:
    """SIGKILL the sandbox process behind a lock that is held; QEMU and virtiofsd follow. False: there is none.

    It is the one on record; without a record whoever holds the lock. Commands that wait for the lock, or hold it while
    they undo what a dead sandbox left, are somebody else's.
    """
    holders = find_lock_holders(os.path.join(directory, LOCK_FILE))
    recorded = _recorded_process(directory)
    if recorded is not None:
        holders = [holder for holder in holders if holder == recorded]
    return bool(holders) and all([end_process(pid, start, _KILLED_S) for pid, start in holders])


def _recorded_process(directory: str) -> ProcessId | None:
    """The sandbox process that the record names, alive or not; None where it says nothing."""
    from oci_runtime.state.sandboxes import SandboxRecord

    try:
        record = SandboxRecord.load(directory)
    except OciRuntimeError:
        return None
    if record is None or not record.values.get("pid"):
        return None
    return int(record.values["pid"]), int(record.values.get("pid_start") or 0)


def undoers() -> Mapping[str, Undoer]:
    """Return the undo functions of all kinds of resources."""
    from oci_runtime.state.recovery import UNDOERS

    return {**UNDOERS, "network": _undo_network}


def _undo_network(resource: Resource) -> None:
    from oci_runtime.network.leftovers import undo_network

    undo_network(resource)


def cancel_creator(record: ContainerRecord) -> None:
    """End the `create` that is still at work on a container, and wait until it has undone its steps."""
    signal_process(record.creator, record.creator_start, CANCEL)
    if not wait_process(record.creator, record.creator_start, _CREATOR_S):
        end_process(record.creator, record.creator_start, _KILLED_S)


def end_proxies(layout: Layout, record: ContainerRecord) -> None:
    """Wait for the proxies of a container that has ended, and kill those that linger: nobody reads their output.

    The first process of a pid namespace only disappears once the parents of all others have reaped them: that is the
    engines' business, and no reason to keep the container.
    """
    found = find_proxies(layout, record.id, record.cgroups)
    own = [(record.pid, record.pid_start)] if record.pid else []
    end_processes([*own, *(proxy for proxy in found if proxy not in own)], _PROXY_S)


def end_processes(processes: Sequence[ProcessId], grace_s: float) -> None:
    """Wait for processes, at most `grace_s` for all of them, then kill the rest; one that stays is logged."""
    deadline = time.monotonic() + grace_s
    for pid, start in processes:
        if wait_process(pid, start, deadline - time.monotonic()):
            continue
        if not end_process(pid, start, _KILLED_S):
            log.warning(f"process {pid} is killed but not gone yet")


def remove_container(layout: Layout, container_id: str) -> None:
    """Remove the directory of a container. Raises HostError."""
    try:
        remove_flat(layout.container(container_id), keep="state.json")
    except HostError as error:
        raise OciRuntimeError(f"cannot remove container {container_id}: {error.message}") from error
