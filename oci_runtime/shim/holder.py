"""The process that stands for a container on the host: engines want a pid, and namespaces behind it.

It lives in the pod's network, ipc and uts namespaces, does nothing, and dies with the shim. Its pid and mount
namespaces are the host's: what belongs into them is in the guest.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping

from oci_runtime.errors import InvalidInput
from oci_runtime.host import namespaces
from oci_runtime.host.spawn import Child, SpawnPlan, spawn
from oci_runtime.host.syscalls import NAMESPACE_FLAGS

KINDS = ("network", "ipc", "uts")
_SLEEP = ("sleep", "infinity")


def start_holder(wanted: Mapping[str, str]) -> Child:
    """Start one. wanted: namespace types of a spec to their paths, "" for a new one.

    Raises: InvalidInput (a path that is no such namespace), HostError. The child dies with the calling thread.
    """
    with contextlib.ExitStack() as opened:
        join: list[tuple[int, int]] = []
        unshare = 0
        for kind in KINDS:
            path = wanted.get(kind)
            if path is None:
                continue
            if path:
                fd = namespaces.open_namespace(kind, path)
                opened.callback(os.close, fd)
                join.append((fd, NAMESPACE_FLAGS[kind]))
            else:
                unshare |= NAMESPACE_FLAGS[kind]
        return spawn(SpawnPlan(argv=_SLEEP, join=join, unshare=unshare, hint="install coreutils"))


def start_member_holder(pod_pid: int) -> Child:
    """Start one in the namespaces of another holder: a pod's members have no others. Raises as `start_holder`."""
    return start_holder({kind: f"/proc/{pod_pid}/ns/{namespaces.proc_name(kind)}" for kind in KINDS})


def open_network(pid: int) -> int:
    """The descriptor of a holder's network namespace. Raises: InvalidInput when the holder is gone."""
    return namespaces.open_namespace("network", f"/proc/{pid}/ns/net")


def pid_namespace_path(pid: int) -> str:
    """By which an engine names the pid namespace of the container that a holder stands for."""
    return f"/proc/{pid}/ns/pid"


def find_pid_namespace_owner(path: str, holders: Mapping[int, str]) -> str:
    """The container whose pid namespace a spec's path means; "" for a namespace of the container's own.

    holders: pid of each holder of the pod to its container. Raises: InvalidInput for a namespace outside of the pod.
    """
    if not path:
        return ""
    for pid, container_id in holders.items():
        if path == pid_namespace_path(pid):
            return container_id
    raise InvalidInput(f"pid namespace {path} belongs to no container of this pod: a virtual machine cannot join it")
