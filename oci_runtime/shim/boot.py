"""What the pod's machine will be: from the bundle that it begins with, the configuration and the engine's options.

Import-light: this comes before QEMU is started.
"""

from __future__ import annotations

from oci_runtime.annotations.route import SHAREABLE, host_refusal, policy_for, route
from oci_runtime.annotations.sizing import plan_size
from oci_runtime.bundle.load import load_bundle
from oci_runtime.config.derive import route_policy, size_limits
from oci_runtime.config.load import load_config
from oci_runtime.config.override import apply_annotations
from oci_runtime.errors import InvalidInput, Unsupported
from oci_runtime.host import namespaces
from oci_runtime.log import get_logger
from oci_runtime.sandbox.launch import BootRequest
from oci_runtime.ttrpc.lean import DecodeError, build

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    from oci_runtime.bundle.load import Bundle
    from oci_runtime.bundle.model import Spec
    from oci_runtime.config.model import Config
    from oci_runtime.shim.bootstrap import Handover

log = get_logger(__name__)

OPTIONS_TYPE = "runtimeoptions.v1.Options"


def _nothing(name: str) -> Any:
    raise KeyError(name)


_Any = build("Any", ((1, "type_url", "s", ""), (2, "value", "b", "")), _nothing)
_Options = build("Options", ((1, "type_url", "s", ""), (2, "config_path", "s", "")), _nothing)


def options_path(data: bytes) -> str:
    """The configuration file that the engine's options name, "" without one.

    data: a serialized Any. One of a foreign type (those of runc's shim, say) is no error: it is not meant for us.
    Raises: InvalidInput.
    """
    if not data:
        return ""
    try:
        outer = _Any.FromString(data)
    except DecodeError as error:
        raise InvalidInput(f"the engine's options are not an Any: {error}") from error
    return decode_options(outer.type_url, outer.value)  # type: ignore[attr-defined]


def decode_options(type_url: str, value: bytes) -> str:
    """The same for an Any that was taken apart already."""
    if not type_url:
        return ""
    if type_url.rpartition("/")[2] != OPTIONS_TYPE:
        log.warning("options of this type have no effect", type=type_url)
        return ""
    try:
        options = _Options.FromString(value)
    except DecodeError as error:
        raise InvalidInput(f"the engine's options are not a {OPTIONS_TYPE}: {error}") from error
    return str(options.config_path)  # type: ignore[attr-defined]


def plan_boot(handover: Handover, config_path: str) -> tuple[Bundle, BootRequest]:
    """Read and check everything that can be known before the machine starts; return the first container's bundle, too.

    Raises: InvalidInput, Unsupported (a pod that may not have a machine), NotFound, HostError.
    """
    bundle = load_bundle(handover.bundle, check_rootfs=False)
    config, warnings = apply_annotations(load_config(config_path), bundle.spec.annotations)
    for warning in warnings:
        log.warning(warning)
    check_route(bundle.spec, handover.arguments.id, config)
    size = plan_size(bundle.spec, size_limits(config))
    return bundle, BootRequest(
        sandbox_id=handover.sandbox_id,
        owner_id=handover.arguments.id if handover.owner else "",
        root=handover.root,
        directory=handover.directory,
        config=config,
        vcpus=size.vcpus,
        memory_mib=size.memory_mib,
        origin_ns=handover.origin_ns,
    )


def check_route(
    spec: Spec,
    container_id: str,
    config: Config,
    sandbox_runtime: str | None = None,
    of_pod: Collection[str] = (),
) -> None:
    """Refuse what does not belong into a machine: the engine chose this runtime, so there is nobody to hand it to.

    sandbox_runtime: "" for a container whose pod has its machine already. of_pod: paths that mean a namespace of the
    pod, whatever is there on the host. Raises: Unsupported, InvalidInput, HostError.
    """
    decision = route(spec, container_id, route_policy(config), sandbox_runtime)
    if decision.delegated:
        raise Unsupported(
            f"container {container_id} belongs to the namespace runtime ({decision.reason}):"
            " give its pod a runtime handler of runc in the engine's configuration"
        )
    for kind in SHAREABLE:
        path = spec.namespaces.get(kind)
        if path and path not in of_pod and policy_for(kind, route_policy(config)) != "vm":
            _refuse_of_host(container_id, kind, path)


def _refuse_of_host(container_id: str, kind: str, path: str) -> None:
    import os

    fd = namespaces.open_namespace(kind, path)
    try:
        if namespaces.is_host_namespace(fd, kind):
            raise Unsupported(host_refusal(container_id, kind))
    finally:
        os.close(fd)
