"""Undo what a dead sandbox left on the host. The caller holds the sandbox's lock.

Each kind of resource has one undo function; `undoers` maps kinds to them, so that drivers above this package can add
theirs. Undoing goes from the newest to the oldest, continues after failures and is idempotent: it can be repeated.
"""

from __future__ import annotations

import errno
import os
import time

from oci_runtime.errors import HostError, InvalidInput, OciRuntimeError
from oci_runtime.host.files import remove_flat
from oci_runtime.host.processes import end_process
from oci_runtime.log import get_logger
from oci_runtime.state.layout import LOCK_FILE
from oci_runtime.state.sandboxes import SandboxRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    Resource = dict[str, Any]
    Undoer = Callable[[Resource], None]

log = get_logger(__name__)
_PROCESS_END_S = 10.0
_CGROUP_END_S = 10.0
_CGROUP_PAUSE_S = 0.2


def undo_process(resource: Resource) -> None:
    """{"pid","pid_start"}: kill exactly that process and wait for its end."""
    if not end_process(int(resource["pid"]), int(resource["pid_start"]), _PROCESS_END_S):
        raise OciRuntimeError(f"process {resource['pid']} does not end after SIGKILL")


def undo_mount(resource: Resource) -> None:
    """{"path"}: detach whatever is mounted there, and what is mounted on top of it."""
    from oci_runtime.host import syscalls

    path = str(resource["path"])
    for _ in range(64):
        try:
            syscalls.umount(path, syscalls.MNT_DETACH | syscalls.UMOUNT_NOFOLLOW)
        except HostError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):
                return
            raise


def undo_file(resource: Resource) -> None:
    """{"path"}: remove a file or an empty directory."""
    path = str(resource["path"])
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        os.rmdir(path)


def undo_netns(resource: Resource) -> None:
    """{"path"}: a network namespace that was pinned by a bind mount on a file of ours."""
    undo_mount(resource)
    undo_file(resource)


def undo_cgroup(resource: Resource) -> None:
    """{"path"}: a cgroup that held the machine alone. Processes in it are killed; what others put below it is not ours.

    Raises OciRuntimeError when it is still there in the end.
    """
    from oci_runtime.host import cgroups

    path = str(resource["path"])
    deadline = time.monotonic() + _CGROUP_END_S
    while True:
        cgroups.kill(path)
        problems = cgroups.remove([path], _CGROUP_PAUSE_S)
        if not problems:
            return
        if time.monotonic() > deadline or cgroups.has_children(path):
            raise OciRuntimeError(problems[0])


def undo_cgroup_parent(resource: Resource) -> None:
    """{"path"}: a directory above such a cgroup. Nothing in it is killed; it goes when nobody uses it."""
    try:
        os.rmdir(str(resource["path"]))
    except OSError:
        return  # whoever uses it removes it


UNDOERS: dict[str, Undoer] = {
    "process": undo_process,
    "mount": undo_mount,
    "file": undo_file,
    "netns": undo_netns,
    "cgroup": undo_cgroup,
    "cgroup-parent": undo_cgroup_parent,
}
# After a reboot these are gone with the kernel that held them; paths may by now belong to somebody else.
_GONE_WITH_BOOT = frozenset({"process", "mount", "netns", "cgroup", "cgroup-parent", "network"})


def recover(directory: str, undoers: Mapping[str, Undoer]) -> list[str]:
    """Undo the resources of a dead sandbox and remove its directory; return the problems met, one line each.

    The directory (with the lock file, last) is only removed when everything could be undone. What a damaged record does
    not tell is logged and no problem: nobody will ever know more. QEMU and virtiofsd died with the sandbox process.
    """
    problems: list[str] = []
    try:
        record = SandboxRecord.load(directory)
    except InvalidInput as error:
        log.warning(error.message)
        record = None
    if record is not None:
        for resource in reversed(_all_resources(record)):
            problems += _undo(resource, undoers, of_this_boot=record.is_of_this_boot)
    _detach_share(directory, problems)
    if problems:
        return problems
    try:
        remove_flat(directory, keep=LOCK_FILE)
    except OciRuntimeError as error:
        problems.append(error.message)
    return problems


def _all_resources(record: SandboxRecord) -> list[Resource]:
    """The listed resources, behind the processes that the record names outside of the list."""
    resources = list(record.resources)
    for key in ("virtiofsd", "qemu"):
        named = record.values.get(key)
        if isinstance(named, dict) and named.get("pid"):
            resources.append({"kind": "process", "pid": named["pid"], "pid_start": named.get("pid_start", 0)})
    return resources


def _undo(resource: Resource, undoers: Mapping[str, Undoer], *, of_this_boot: bool) -> list[str]:
    kind = str(resource.get("kind"))
    if not of_this_boot and kind in _GONE_WITH_BOOT:
        return []
    undoer = undoers.get(kind)
    if undoer is None:
        return [f"resource of unknown kind {kind!r}: {resource}"]
    try:
        undoer(resource)
    except OciRuntimeError as error:
        return [error.message]
    except OSError as error:
        return [f"{kind} {resource}: {error}"]
    except (KeyError, ValueError, TypeError) as error:
        log.warning(f"cannot undo a malformed resource of kind {kind}: {resource}: {error!r}")
    return []


def _detach_share(directory: str, problems: list[str]) -> None:
    """Detach mounts that are still below the sandbox directory, recorded or not, so that removal stays harmless."""
    prefix = os.path.realpath(directory) + "/"
    for path in reversed(_mount_points_below(prefix)):
        try:
            undo_mount({"path": path})
        except OciRuntimeError as error:
            problems.append(error.message)


def _mount_points_below(prefix: str) -> list[str]:
    found = []
    with open("/proc/self/mountinfo", "rb") as file:
        for line in file:
            raw = line.split(b" ", 5)[4]
            if b"\\" in raw:
                raw = raw.decode("unicode_escape").encode("latin-1")
            path = os.fsdecode(raw)
            if path.startswith(prefix):
                found.append(path)
    return found
