"""Changing the limits of a container that exists: OCI linux.resources to files of its cgroup."""

from __future__ import annotations

from oci_runtime.errors import InvalidInput, OciRuntimeError
from oci_runtime.guest.cgroups import read_keys
from oci_runtime.guest.disks import translate_resources
from oci_runtime.guest.facts import read_facts
from oci_runtime.guest.processes import parse_object
from oci_runtime.guest.resources import plan_cgroup_files, plan_resources
from oci_runtime.guest.stats import NO_LIMIT, read_number
from oci_runtime.ttrpc.proto import agent_lean as pb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oci_runtime.guest.agent import Agent


def update_container(agent: Agent, request: pb.UpdateContainerRequest) -> pb.UpdateContainerResponse:
    """Apply what is given, leave the rest. Raises InvalidInput, WrongState; OciRuntimeError naming the refused file.

    The files are written in order; after a refusal the earlier ones hold, as with the kernel's own interface.
    """
    container = agent.container(request.container_id)
    linux = {"resources": parse_object(request.resources_json, "resources")}
    warnings: list[str] = []
    facts = read_facts()
    try:
        translate_resources(linux["resources"], container.disks, warnings)
        checked = bool((linux["resources"].get("memory") or {}).get("checkBeforeUpdate"))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"resources have a value of the wrong type: {error}") from error
    plan_resources(linux, facts, warnings)
    with container.lock:
        container.require_running()
        require_room(container.cgroup, linux["resources"].get("memory") or {}, checked=checked)
        if linux["resources"].pop("devices", None):
            warnings.append("linux.resources.devices of a container that exists cannot be changed")
        limit = read_number(f"{container.cgroup}/memory.max", NO_LIMIT)
        current = None if limit == NO_LIMIT else limit
        for name, value in plan_cgroup_files(linux["resources"], facts, current):
            _write(f"{container.cgroup}/{name}", name, value)
    return pb.UpdateContainerResponse(warnings=warnings)


def require_room(cgroup: str, memory: dict[str, Any], *, checked: bool) -> None:
    """Refuse a memory limit that would be the container's end: below what nothing but a kill can free.

    checked: also one below all that it uses, caches included (memory.checkBeforeUpdate). Raises InvalidInput.
    """
    limit = memory.get("limit")
    if not isinstance(limit, int) or limit <= 0:
        return
    usage = read_number(f"{cgroup}/memory.current")
    stat = read_keys(f"{cgroup}/memory.stat")
    held = stat.get("anon", 0) + stat.get("shmem", 0) + stat.get("kernel", 0) - stat.get("slab_reclaimable", 0)
    needed = usage if checked else min(held, usage)
    if limit < needed:
        raise InvalidInput(f"cannot set the memory limit to {limit} bytes: the container needs {needed} now")


def _write(path: str, name: str, value: str) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(value)
    except OSError as error:
        raise OciRuntimeError(f"cannot set {name} to {value!r} in the guest: {error.strerror}") from error
