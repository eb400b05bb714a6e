"""What other parts need of the configuration, in their own terms."""

from __future__ import annotations

import os

from oci_runtime.annotations.route import Policy
from oci_runtime.annotations.sizing import SizeLimits

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.config.model import Config


def route_policy(config: Config) -> Policy:
    """For annotations.route.route."""
    runtime = config.runtime
    return Policy(
        vm=runtime.vm,
        namespace_runtime=runtime.namespace_runtime,
        host_network=runtime.host_network,
        host_pid=runtime.host_pid,
        host_ipc=runtime.host_ipc,
    )


def size_limits(config: Config, host_cpus: int = 0, host_memory_mib: int = 0) -> SizeLimits:
    """For annotations.sizing.plan_size. host_*: 0 means those of this machine."""
    return SizeLimits(
        default_vcpus=config.vm.default_vcpus,
        default_memory_mib=config.vm.default_memory_mib,
        max_vcpus=config.vm.max_vcpus,
        max_memory_mib=config.vm.max_memory_mib,
        host_cpus=host_cpus or os.cpu_count() or 1,
        host_memory_mib=host_memory_mib or (os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) >> 20,
    )
