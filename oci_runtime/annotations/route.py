"""Where a container goes: a virtual machine of its own, that of its pod, or the namespace runtime.

Pure: the same spec, id and policy always give the same route. Sources: CRI-O's and containerd's annotation names, the
former dockershim's, and the way podman marks the members of a pod.
"""

from __future__ import annotations

from oci_runtime.annotations.keys import (
    CRI_SANDBOX_ID,
    CRI_TYPE,
    CRI_UNTRUSTED,
    CRIO_HOST_NETWORK,
    CRIO_SANDBOX_ID,
    CRIO_TRUSTED,
    CRIO_TYPE,
    DOCKERSHIM_SANDBOX_ID,
    DOCKERSHIM_TYPE,
)
from oci_runtime.bundle.ids import validate_id
from oci_runtime.bundle.values import show
from oci_runtime.errors import InvalidInput, Unsupported
from oci_runtime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from oci_runtime.bundle.model import Spec

SINGLE = "single"
SANDBOX = "sandbox"
MEMBER = "member"

_TYPE_KEYS = (
    (CRI_TYPE, {"sandbox": SANDBOX, "container": MEMBER}),
    (CRIO_TYPE, {"sandbox": SANDBOX, "container": MEMBER}),
    (DOCKERSHIM_TYPE, {"podsandbox": SANDBOX, "container": MEMBER}),
)
_SANDBOX_ID_KEYS = (CRI_SANDBOX_ID, CRIO_SANDBOX_ID, DOCKERSHIM_SANDBOX_ID)
SHAREABLE = ("network", "pid", "ipc")


class Policy(Record):
    """The part of the configuration that decides routes.

    vm: always or untrusted. namespace_runtime: absolute path of crun or runc. host_network, host_pid, host_ipc: what
    happens to a container that wants the host's: refuse, namespace (hand it to the namespace runtime), and for pid and
    ipc also vm (it gets the virtual machine's).
    """

    vm: str = "always"
    namespace_runtime: str = "/usr/bin/crun"
    host_network: str = "refuse"
    host_pid: str = "refuse"
    host_ipc: str = "refuse"


class Route(Record):
    """The decision for one container.

    kind: single (own VM, named after the container; pod members may join it later), sandbox (own VM, named after the
    container), member (join the VM named sandbox_id; boot it when no VM has that name yet).
    runtime: "" for a VM, else the absolute path of the namespace runtime that takes the same arguments.
    untrusted: the engine marked the pod as untrusted. reason: one clause for logs.
    """

    kind: str
    sandbox_id: str
    runtime: str = ""
    untrusted: bool = False
    reason: str = ""

    @property
    def delegated(self) -> bool:
        """True when the namespace runtime is in charge."""
        return bool(self.runtime)


def route(spec: Spec, container_id: str, policy: Policy, sandbox_runtime: str | None = None) -> Route:
    """Decide where a container goes.

    sandbox_runtime: what the state directory knows about the sandbox that a member names: None for nothing, "" for a
    VM, else the path of the namespace runtime that has it; members follow their sandbox. It is ignored for others.
    Raises: InvalidInput for annotations that are wrong or contradict each other, and for an untrusted pod that wants
    namespaces of the host; Unsupported for namespaces of the host that the policy refuses, and for its interfaces.
    """
    kind, sandbox_id = identify(spec.annotations, container_id)
    untrusted = is_untrusted(spec.annotations)
    shared = find_host_namespaces(spec)
    if untrusted and shared:
        raise InvalidInput(
            f"container {container_id} is marked untrusted, yet asks for the host's {_list(shared)}: "
            "an untrusted pod cannot have namespaces of the host"
        )
    here = Route(kind=kind, sandbox_id=sandbox_id, untrusted=untrusted)
    if kind == MEMBER and sandbox_runtime:
        return here.replace(runtime=sandbox_runtime, reason="its sandbox belongs to the namespace runtime")
    follows_vm = kind == MEMBER and sandbox_runtime is not None
    if policy.vm == "untrusted" and not untrusted and not follows_vm:
        return _delegate(here, policy, 'the policy vm = "untrusted" gives machines to untrusted pods only')
    decisions = {name: policy_for(name, policy) for name in shared}
    if "namespace" in decisions.values() and not follows_vm:
        return _delegate(here, policy, f"it asks for the host's {_list(shared)}")
    for name, decision in decisions.items():
        if decision != "vm":
            raise Unsupported(host_refusal(container_id, name))
    if spec.linux and spec.linux.net_devices:
        raise Unsupported(
            f"container {container_id} asks for the host's interface {show(spec.linux.net_devices[0])} "
            "(linux.netDevices), which a virtual machine cannot take: put it into the pod's network namespace before"
        )
    return here.replace(reason=_REASONS[kind])


_REASONS = {
    SINGLE: "no annotation names a sandbox",
    SANDBOX: "it is the sandbox of a pod",
    MEMBER: "it belongs to a sandbox",
}


def identify(annotations: Mapping[str, str], container_id: str) -> tuple[str, str]:
    """The kind of a container and the name of its virtual machine, from annotations alone. Raises: InvalidInput."""
    kind = ""
    kind_key = ""
    for key, meanings in _TYPE_KEYS:
        value = annotations.get(key)
        if value is None:
            continue
        meaning = meanings.get(value)
        if meaning is None:
            allowed = " or ".join(f'"{name}"' for name in meanings)
            raise InvalidInput(f"annotation {key} is {show(value)}: it must be {allowed}")
        if kind and meaning != kind:
            raise _contradiction(annotations, kind_key, key)
        kind, kind_key = meaning, key
    if kind != MEMBER:
        return kind or SINGLE, container_id
    return MEMBER, _find_sandbox_id(annotations, kind_key)


def _find_sandbox_id(annotations: Mapping[str, str], kind_key: str) -> str:
    found = ""
    found_key = ""
    for key in _SANDBOX_ID_KEYS:
        value = annotations.get(key)
        if not value:
            continue
        if found and value != found:
            raise _contradiction(annotations, found_key, key)
        found, found_key = value, key
    if not found:
        raise InvalidInput(
            f"annotation {kind_key} is {show(annotations[kind_key])}, but no annotation names the sandbox: "
            f"one of {', '.join(_SANDBOX_ID_KEYS)} must be set"
        )
    return validate_id(found, f"sandbox id in annotation {found_key}")


def _contradiction(annotations: Mapping[str, str], one: str, other: str) -> InvalidInput:
    first, second = (f"{key} = {show(annotations[key])}" for key in (one, other))
    return InvalidInput(f"annotations {first} and {second} contradict each other")


def is_untrusted(annotations: Mapping[str, str]) -> bool:
    """True when an engine marks the pod as untrusted. Raises: InvalidInput for a TrustedSandbox that is no truth value.

    containerd: only "true" counts. CRI-O (to 1.13): "false" for trusted; absent means trusted.
    """
    trusted = annotations.get(CRIO_TRUSTED, "true")
    if trusted not in ("true", "false"):
        raise InvalidInput(f'annotation {CRIO_TRUSTED} is {show(trusted)}: it must be "true" or "false"')
    return trusted == "false" or annotations.get(CRI_UNTRUSTED) == "true"


def find_host_namespaces(spec: Spec) -> tuple[str, ...]:
    """Which of network, pid and ipc the container would share with the host: the specification lets it inherit what the
    spec does not list, and CRI-O says so for the network of a pod.

    A path that leads to the host's namespace is not seen here: the caller compares identities (st_dev, st_ino).
    """
    shared = [name for name in SHAREABLE if name not in spec.namespaces]
    if "network" not in shared and spec.annotations.get(CRIO_HOST_NETWORK) == "true":
        shared.insert(0, "network")
    return tuple(shared)


def policy_for(name: str, policy: Policy) -> str:
    """What the policy says of the host's namespace `name`: refuse, namespace or vm."""
    return {"network": policy.host_network, "pid": policy.host_pid, "ipc": policy.host_ipc}[name]


def _delegate(here: Route, policy: Policy, reason: str) -> Route:
    if not policy.namespace_runtime:
        raise InvalidInput(
            f"{here.sandbox_id} belongs to the namespace runtime ({reason}), but none is configured: "
            "set namespace_runtime in [runtime] of the configuration"
        )
    return here.replace(runtime=policy.namespace_runtime, reason=reason)


def host_refusal(container_id: str, name: str) -> str:
    """The message for a container that asks for the host's namespace `name`, by whatever way."""
    setting = f"host_{name}"
    return (
        f"container {container_id} asks for the host's {name} namespace, which a virtual machine cannot share: "
        f'give it one of its own, or set {setting} = "namespace" in [runtime] of the configuration'
    )


def _list(names: tuple[str, ...]) -> str:
    return " and ".join(names) + (" namespaces" if len(names) > 1 else " namespace")
