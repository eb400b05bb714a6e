"""Start a pod: the first container's stand-in, the cgroup of the machine, the machine. Import-light and synchronous.

The machine is counted in the cgroup of the container that it exists for, which gets none of its limits: they hold in
the guest. The shim itself joins as well, so that what it costs is counted with the pod.
"""

from __future__ import annotations

import contextlib
import os

from oci_runtime.cli.host_cgroup import HostCgroup, remove_all
from oci_runtime.errors import HostError, OciRuntimeError
from oci_runtime.host import cgroup_systemd, cgroups
from oci_runtime.host.spawn import Child, kill_and_reap
from oci_runtime.log import get_logger
from oci_runtime.sandbox.launch import Launched, launch
from oci_runtime.shim.boot import plan_boot
from oci_runtime.shim.holder import start_holder
from oci_runtime.state.sandboxes import SandboxRecord

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oci_runtime.shim.bootstrap import Handover

log = get_logger(__name__)
_SYSTEMD = "/run/systemd/system"


class StartedPod:
    """What exists once the machine boots. container_id: of the first container. holds_machine: its cgroup does."""

    def __init__(self, container_id: str, holder: Child, *, holds_machine: bool) -> None:
        self.container_id = container_id
        self.holder = holder
        self.holds_machine = holds_machine
        self.cgroup_paths: tuple[str, ...] = ()
        self.launched: Launched

    def leave_cgroup(self) -> None:
        """Move this process out of the pod's cgroup, so that it can be removed. Failures are logged."""
        if self.cgroup_paths:
            leave_cgroups()

    def remove_cgroup(self) -> None:
        """Remove the pod's cgroup and the parents that were made for it, as far as they are empty. Idempotent."""
        paths, self.cgroup_paths = self.cgroup_paths, ()
        remove_all(paths)


def start_pod(handover: Handover, config_path: str, began_ns: int) -> StartedPod:
    """Check, then start. Raises: OciRuntimeError; nothing is left then but the sandbox's directory."""
    bundle, request = plan_boot(handover, config_path)
    record = SandboxRecord.load(handover.directory)
    with contextlib.ExitStack() as undo:
        holder = start_holder(bundle.spec.namespaces)
        pod = StartedPod(handover.arguments.id, holder, holds_machine=handover.owner)
        # A cgroup goes only when it is empty: the holder and this process leave before.
        undo.callback(pod.remove_cgroup)
        undo.callback(_end, holder)
        undo.callback(pod.leave_cgroup)
        procs = _make_cgroup(pod, handover, bundle.raw.get("linux") or {}, record)
        try:
            cgroups.join(procs, os.getpid())
        except HostError as error:
            log.warning("the shim cannot join the pod's cgroup", reason=error.message)
        pod.launched = launch(request.replace(cgroup_procs=procs), began_ns)
        undo.pop_all()
    return pod


def _make_cgroup(
    pod: StartedPod, handover: Handover, linux: dict[str, Any], record: SandboxRecord | None
) -> tuple[str, ...]:
    """Make the machine's cgroup; return its cgroup.procs files. On record before it is made."""
    group = plan_cgroup(str(linux.get("cgroupsPath") or ""), pod.container_id, holds_machine=pod.holds_machine)

    def note(resource: dict[str, Any]) -> None:
        pod.cgroup_paths = (str(resource["path"]), *pod.cgroup_paths)
        if record is not None:
            record.add(resource)

    if pod.holds_machine:
        # Parents are noted by no more than their path: they may come to hold somebody else's.
        pod.cgroup_paths = group.group.parents
        for leaf in group.group.leaves:
            if not leaf.is_root:
                note({"kind": "cgroup", "path": leaf.directory})
        group.make(pod.holder.pid, linux.get("resources") or {})
    return group.make_machine(handover.sandbox_id, note)


def plan_cgroup(cgroups_path: str, container_id: str, *, holds_machine: bool) -> HostCgroup:
    """The cgroup of a container. A path of the form slice:prefix:name is systemd's, where systemd runs.

    Raises: InvalidInput.
    """
    systemd = cgroups_path.count(":") == 2 and not cgroups_path.startswith("/")
    if systemd and not os.path.isdir(_SYSTEMD):
        cgroups_path = cgroup_systemd.parse_path(cgroups_path, container_id).cgroup
        systemd = False
    return HostCgroup(cgroups_path, container_id, systemd=systemd, holds_machine=holds_machine)


def leave_cgroups() -> None:
    """Move this process to the roots of all hierarchies. A hierarchy that refuses is logged."""
    for hierarchy in cgroups.read_layout().hierarchies:
        try:
            cgroups.join([os.path.join(hierarchy.mount, "cgroup.procs")], os.getpid())
        except OciRuntimeError as error:
            log.debug("stays in its cgroup", reason=error.message)


def _end(holder: Child) -> None:
    kill_and_reap(holder)
    os.close(holder.pidfd)
