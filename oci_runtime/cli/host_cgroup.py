"""The cgroups of the host that stand for a container: where its proxy goes, and where its machine is counted.

design: a container's limits hold in the guest. On the host they are mirrored on a member's own cgroup, which holds only
its proxy; a cgroup that holds QEMU never gets a container's limits. A single container's machine, and a pod's, are
counted in the cgroup of the container that the machine exists for, or beside the first member where the engine runs no
such container.
"""

from __future__ import annotations

import os

from oci_runtime.errors import HostError, OciRuntimeError, Unavailable
from oci_runtime.host import cgroup_limits, cgroup_systemd, cgroups
from oci_runtime.log import get_logger
from oci_runtime.state.layout import short_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

log = get_logger(__name__)
_BUSCTL_HINT = "--systemd-cgroup needs a running systemd and busctl"
_BUSCTL_S = 10.0


class HostCgroup:
    """The cgroup of one container. holds_machine: its machine will be counted in it, so it gets no limits.

    Raises InvalidInput for a cgroupsPath that cannot be one. Nothing is changed before `make`.
    """

    def __init__(self, cgroups_path: str, container_id: str, *, systemd: bool, holds_machine: bool) -> None:
        self._layout = cgroups.read_layout()
        self._path = cgroups_path
        self._systemd = systemd
        self._holds_machine = holds_machine
        self._scope: cgroup_systemd.Scope | None = None
        if systemd:
            self._scope = cgroup_systemd.parse_path(cgroups_path, container_id)
            cgroups_path = self._scope.cgroup
        self.group = cgroups.plan_group(self._layout, cgroups_path, container_id)
        if systemd:
            self.group = self.group.replace(parents=())  # slices are systemd's own to remove

    def make(self, pid: int, resources: dict[str, Any]) -> None:
        """Make the cgroup with the proxy `pid` in it. Raises HostError; what was made is removed by `remove_all`."""
        if self._scope is not None:
            version = 2 if self._layout.mode == "v2" else 1
            limits = {} if self._holds_machine else resources
            for command in cgroup_systemd.plan_start(self._scope, [pid], limits, version):
                _run_busctl(command, needed="StartTransientUnit" in command)
            if not cgroups.wait_joined(pid, self._scope.cgroup, _BUSCTL_S):
                raise Unavailable(f"systemd did not start {self._scope.unit} within {_BUSCTL_S:g} s")
        self.group, warnings = cgroups.make_group(self.group)
        cgroups.join(self.group.procs_files, pid)
        warnings += cgroup_limits.apply_limits(self.group, resources, holds_machine=self._holds_machine)
        for warning in warnings:
            log.debug(warning)

    def make_machine(self, sandbox_id: str, note: Callable[[dict[str, Any]], None]) -> tuple[str, ...]:
        """Make the cgroup that the machine joins; return its cgroup.procs files.

        For a container that holds the machine it is the container's own; otherwise one beside it.
        note: told of each directory as a resource (state/recovery.py) before any is made.
        """
        if self._holds_machine:
            return self.group.machine_procs_files
        name = f"vmpod-{short_id(sandbox_id)}"
        if self._systemd:
            path = cgroup_systemd.parse_path(cgroup_systemd.machine_path(self._path, name), name).cgroup
        else:
            path = cgroups.sibling_path(self._path, name)
        group = cgroups.plan_group(self._layout, path, name)
        leaves = tuple(leaf for leaf in group.leaves if leaf.counts_machine)
        group = group.replace(leaves=leaves)
        # Undone from the newest to the oldest: the deepest directory must be the newest.
        for parent in reversed(group.parents):
            note({"kind": "cgroup-parent", "path": parent})
        for leaf in leaves:
            note({"kind": "cgroup", "path": leaf.directory})
        group, _warnings = cgroups.make_group(group)
        return group.procs_files


def remove_all(paths: Sequence[str]) -> None:
    """Remove the directories that a record lists; what is still in use is logged and left."""
    for problem in cgroups.remove(paths):
        log.warning(problem)


def find_cgroups(pids: Sequence[int], container_id: str) -> list[str]:
    """The cgroups of processes that are named after a container: without its record nothing else shows that."""
    found: dict[str, None] = {}
    for pid in pids:
        try:
            layout = cgroups.read_layout(own=f"/proc/{pid}/cgroup")
        except HostError:
            continue  # it has just ended
        for hierarchy in layout.hierarchies:
            if container_id in os.path.basename(hierarchy.own):
                found[os.path.join(hierarchy.mount, hierarchy.own.strip("/"))] = None
    return list(found)


def mirror_limits(paths: Sequence[str], resources: dict[str, Any]) -> None:
    """Bring the limits of a member's cgroup, known by its directories, up to date."""
    unit = os.path.basename(paths[0]) if paths else ""
    if unit.endswith(".scope"):
        # systemd would reset what was only written to the files.
        version = 2 if cgroups.read_layout().mode == "v2" else 1
        for command in cgroup_systemd.plan_update(cgroup_systemd.Scope(slice="", unit=unit), resources, version):
            _run_busctl(command, needed=False)
    for warning in cgroup_limits.apply_limits(_find_group(paths), resources, holds_machine=False):
        log.debug(warning)


def join(paths: Sequence[str], pid: int) -> None:
    """Put another process, an exec's proxy, into a container's cgroup; a refusal is logged."""
    try:
        cgroups.join(_find_group(paths).procs_files, pid)
    except HostError as error:
        log.warning(error.message)


def _find_group(paths: Sequence[str]) -> cgroups.Group:
    """The group that a record's directories make up: in each hierarchy the deepest of them."""
    leaves = []
    for hierarchy in cgroups.read_layout().hierarchies:
        found = [path for path in paths if path.startswith(hierarchy.mount + "/")]
        if found:
            leaves.append(cgroups.Leaf(hierarchy=hierarchy, directory=max(found, key=len)))
    return cgroups.Group(leaves=tuple(leaves))


def _run_busctl(command: Sequence[str], *, needed: bool) -> None:
    import subprocess

    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_BUSCTL_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostError("run", command[0], getattr(error, "errno", 0) or 0, hint=_BUSCTL_HINT) from error
    if done.returncode and needed:
        reason = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
        raise OciRuntimeError(f"{os.path.basename(command[0])}: {reason[0]} ({_BUSCTL_HINT})")
