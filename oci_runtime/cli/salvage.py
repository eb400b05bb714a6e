"""`delete --force` of a container whose record is missing or damaged: what can be found of it without one."""

from __future__ import annotations

import os

from oci_runtime.cli.cleanup import ask_to_leave, end_processes, end_sandbox, end_sandbox_directory, remove_container
from oci_runtime.cli.host_cgroup import find_cgroups, remove_all
from oci_runtime.cli.proxies import find_proxies
from oci_runtime.control.client import Client
from oci_runtime.errors import NotFound, OciRuntimeError, Unavailable
from oci_runtime.log import get_logger
from oci_runtime.state import records
from oci_runtime.state.sandboxes import sandbox_directories

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.state.layout import Layout

log = get_logger(__name__)
_PROXY_S = 2.0


def remove_unrecorded(layout: Layout, container_id: str, timeout_s: float) -> None:
    """Remove a container with all that can be found of it; nothing happens when it has no directory.

    Its proxies carry a mark, and their cgroups the container's name. Its sandbox has its name, or says that it has the
    container, or is one that no container has. timeout_s: for each answer of a sandbox process.
    Raises the first OciRuntimeError, after all was tried.
    """
    if not os.path.isdir(layout.container(container_id)):
        return
    proxies = find_proxies(layout, container_id)
    groups = find_cgroups([pid for pid, _ in proxies], container_id)
    problems = []
    for directory in sandbox_directories(layout):
        try:
            _leave(layout, directory, container_id, timeout_s)
        except OciRuntimeError as error:
            problems.append(error)
    end_processes(proxies, _PROXY_S)
    remove_all(groups)
    if problems:
        raise problems[0]
    remove_container(layout, container_id)


def _leave(layout: Layout, directory: str, container_id: str, timeout_s: float) -> None:
    """Take the container out of a sandbox, if that may have it."""
    sandbox_id = container_id if directory == layout.sandbox(container_id) else ""
    try:
        with Client.connect(directory, timeout_s) as client:
            answer = client.call("info")
    except (NotFound, Unavailable) as error:
        if not sandbox_id:
            log.debug("nothing to ask", directory=directory, reason=error.message)
            if not _is_wanted(layout, directory):
                end_sandbox_directory(directory, 0.0)
            return
    else:
        inside = [container.get("id") for container in answer.get("containers") or ()]
        if not sandbox_id and inside and container_id not in inside:
            return
        sandbox_id = str((answer.get("info") or {}).get("sandbox_id") or sandbox_id)
    if ask_to_leave(layout, sandbox_id, container_id, force=True, timeout_s=timeout_s):
        end_processes(find_proxies(layout, container_id), _PROXY_S)
        end_sandbox(layout, sandbox_id, kill=True)


def _is_wanted(layout: Layout, directory: str) -> bool:
    """True when the record of some container names the sandbox."""
    for container_id in records.list_ids(layout):
        try:
            if layout.sandbox(records.load(layout, container_id).sandbox_id) == directory:
                return True
        except OciRuntimeError:
            continue
    return False
