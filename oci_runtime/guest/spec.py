"""What the guest makes of a container's config.json before crun sees it: pure, a plan with its warnings.

The host has already turned rootfs and bind sources into paths of the guest. Here the spec meets the guest: the pod's
network is the guest's own, paths of host namespaces mean nothing, limits are kept and at most clamped to what exists.
"""

from __future__ import annotations

from oci_runtime.errors import InvalidInput, Unsupported
from oci_runtime.guest.sysctl import namespace_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Spec = dict[str, Any]

# crun 1.8.1 refuses 1.2 and later; what was added since is either passed through or handled here.
OCI_VERSION = "1.0.2"
CGROUP_PARENT = "/vmpod"
_SHARED_MOUNT_OPTIONS = ("context=", "fscontext=", "defcontext=", "rootcontext=")


class GuestFacts:
    """What this guest has to offer, read once per container (`guest/facts.py`)."""

    __slots__ = ("block_devices", "controllers", "cpus", "files", "hugepage_sizes", "nodes", "nr_open")

    def __init__(
        self,
        *,
        cpus: frozenset[int],
        nodes: frozenset[int],
        nr_open: int,
        controllers: frozenset[str],
        files: frozenset[str],
        hugepage_sizes: frozenset[str],
        block_devices: frozenset[tuple[int, int]],
    ) -> None:
        """files: names of the control files in a cgroup below the root."""
        self.cpus = cpus
        self.nodes = nodes
        self.nr_open = nr_open
        self.controllers = controllers
        self.files = files
        self.hugepage_sizes = hugepage_sizes
        self.block_devices = block_devices


class ContainerPlan:
    """The rewritten spec, what the agent itself has to set, and what the user should know."""

    __slots__ = ("cgroup_files", "spec", "sysctls", "warnings")

    def __init__(
        self, spec: Spec, sysctls: dict[str, str], cgroup_files: list[tuple[str, str]], warnings: list[str]
    ) -> None:
        """cgroup_files: what crun would leave out of the container's cgroup, as (file, value)."""
        self.spec = spec
        self.sysctls = sysctls
        self.cgroup_files = cgroup_files
        self.warnings = warnings


def plan_container(
    source: Spec,
    container_id: str,
    facts: GuestFacts,
    *,
    pid_namespace_path: str = "",
    in_pod_ipc: bool = False,
    in_pod_uts: bool = False,
) -> ContainerPlan:
    """Rewrite `source` (left as it is) for the guest. Raises InvalidInput, Unsupported."""
    try:
        return _plan(source, container_id, facts, pid_namespace_path, in_pod_ipc, in_pod_uts)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # The host has checked the bundle, so this is no user's mistake that deserves better words.
        raise InvalidInput(f"config.json has a value of the wrong type: {error}") from error


def _plan(
    source: Spec, container_id: str, facts: GuestFacts, pid_namespace_path: str, in_pod_ipc: bool, in_pod_uts: bool
) -> ContainerPlan:
    from oci_runtime.guest.resources import plan_cgroup_files, plan_resources

    spec = _copy(source)
    warnings: list[str] = []
    spec["ociVersion"] = OCI_VERSION
    linux = _object(spec, "linux")
    process = _object(spec, "process")
    if not process.get("args"):
        raise InvalidInput("process.args is empty: there is nothing to run")
    _plan_hooks(spec)
    shared = _plan_namespaces(linux, pid_namespace_path, in_pod_ipc, in_pod_uts, warnings)
    if "uts" in shared:
        spec.pop("hostname", None)
        spec.pop("domainname", None)
    if "ipc" in shared and any(entry["type"] == "user" for entry in linux["namespaces"]):
        _bind_message_queues(spec)
    sysctls = _plan_sysctls(linux, shared)
    linux["cgroupsPath"] = f"{CGROUP_PARENT}/{container_id}"
    plan_resources(linux, facts, warnings)
    cpu = (linux.get("resources") or {}).get("cpu") or {}
    late = {key: cpu.pop(key) for key in ("burst", "idle") if cpu.get(key) is not None}
    plan_process(process, facts, warnings)
    _plan_labels(spec, linux, warnings)
    for key in ("intelRdt", "memoryPolicy"):
        if linux.pop(key, None):
            warnings.append(f"linux.{key} is not available in the guest and was left out")
    return ContainerPlan(spec, sysctls, plan_cgroup_files({"cpu": late}, facts, None), warnings)


def plan_process(process: Spec, facts: GuestFacts, warnings: list[str]) -> None:
    """Adjust an OCI process object in place: limits that the kernel would refuse, labels unknown to the guest."""
    args = process.get("args")
    if not isinstance(args, list) or not args or not all(isinstance(word, str) for word in args):
        raise InvalidInput("process.args is not a list of strings with at least one entry")
    for limit in process.get("rlimits") or ():
        if limit.get("type") != "RLIMIT_NOFILE":
            continue
        for which in ("soft", "hard"):
            if limit.get(which, 0) > facts.nr_open:
                warnings.append(
                    f"process.rlimits: RLIMIT_NOFILE {which} {limit[which]} is more than the guest's kernel allows and"
                    f" was set to {facts.nr_open}"
                )
                limit[which] = facts.nr_open
    for key in ("apparmorProfile", "selinuxLabel"):
        label = process.pop(key, None)
        if label and label != "unconfined":
            warnings.append(f"process.{key} {label!r} is unknown to the guest and was left out")


def _copy(value: Any) -> Any:
    """A JSON value of its own; the module `copy` would take longer to import than all of them take to copy."""
    if isinstance(value, dict):
        return {key: _copy(entry) for key, entry in value.items()}
    return [_copy(entry) for entry in value] if isinstance(value, list) else value


def _object(parent: Spec, key: str) -> Spec:
    value = parent.get(key)
    if value is None:
        value = parent[key] = {}
    if not isinstance(value, dict):
        raise InvalidInput(f"{key} is not an object")
    return value


def _plan_hooks(spec: Spec) -> None:
    """Only startContainer runs in the container; the other hooks are the host's."""
    hooks = spec.pop("hooks", None) or {}
    if hooks.get("startContainer"):
        spec["hooks"] = {"startContainer": hooks["startContainer"]}


def _plan_namespaces(
    linux: Spec, pid_namespace_path: str, in_pod_ipc: bool, in_pod_uts: bool, warnings: list[str]
) -> set[str]:
    """Replace linux.namespaces; return the kinds that the container shares with the guest."""
    wanted: dict[str, str] = {}
    for entry in linux.get("namespaces") or ():
        if not isinstance(entry, dict) or not isinstance(entry.get("type"), str):
            raise InvalidInput("linux.namespaces has an entry without a type")
        wanted[entry["type"]] = entry.get("path") or ""
    if wanted.get("user") and not linux.get("uidMappings"):
        raise Unsupported(f"user namespace {wanted['user']}: a container in a VM cannot join a namespace of the host")
    # Engines on a cgroup v1 host ask for no cgroup namespace; on v2 the container would see all cgroups of the pod.
    result: list[dict[str, str]] = [{"type": "mount"}, {"type": "cgroup"}]
    if pid_namespace_path:
        result.append({"type": "pid", "path": pid_namespace_path})
    else:
        result.append({"type": "pid"})
        if "pid" not in wanted:
            warnings.append(
                "the spec asks for the host's pid namespace: in the guest the container gets one of its own"
            )
    for kind, in_pod in (("ipc", in_pod_ipc), ("uts", in_pod_uts)):
        if kind in wanted and not wanted[kind] and not in_pod:
            result.append({"type": kind})
    if "user" in wanted:
        result.append({"type": "user"})
    if "time" in wanted or linux.pop("timeOffsets", None):
        warnings.append("linux.namespaces: a time namespace is not available in the guest and was left out")
    linux.pop("timeOffsets", None)
    linux["namespaces"] = result
    return {"network", "ipc", "uts"} - {entry["type"] for entry in result}


def _bind_message_queues(spec: Spec) -> None:
    """Root of a user namespace may not mount the message queues of an IPC namespace that is not its own: bind them."""
    for mount in spec.get("mounts") or ():
        if mount.get("type") == "mqueue":
            mount |= {"type": "bind", "source": "/dev/mqueue", "options": ["bind", *(mount.get("options") or ())]}


def _plan_sysctls(linux: Spec, shared: set[str]) -> dict[str, str]:
    """Take out the parameters of shared namespaces, which crun would refuse: the agent sets them in the guest."""
    values = linux.get("sysctl") or {}
    if not isinstance(values, dict):
        raise InvalidInput("linux.sysctl is not an object")
    ours = {str(name): str(value) for name, value in values.items() if namespace_of(str(name)) in shared}
    linux["sysctl"] = {name: value for name, value in values.items() if name not in ours}
    return ours


def _plan_labels(spec: Spec, linux: Spec, warnings: list[str]) -> None:
    """The guest has no SELinux policy: labels of mounts and files go."""
    if linux.pop("mountLabel", None):
        warnings.append("linux.mountLabel is unknown to the guest and was left out")
    for mount in spec.get("mounts") or ():
        if not isinstance(mount, dict):
            raise InvalidInput("mounts has an entry that is not an object")
        options = mount.get("options")
        if isinstance(options, list):
            mount["options"] = [text for text in options if not str(text).startswith(_SHARED_MOUNT_OPTIONS)]
