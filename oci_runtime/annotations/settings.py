"""Per-pod settings in annotations: which ones a pod carries, under our names or the reference's.

Whether a pod may set them is decided in config/override.py.
"""

from __future__ import annotations

from oci_runtime.annotations.keys import OWN_SETTING_PREFIX, REFERENCE_SETTING_PREFIX
from oci_runtime.bundle.values import show_path
from oci_runtime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# The reference's name (after its prefix) and ours. Where the values differ, _TRANSLATIONS turns theirs into ours.
ALIASES = {
    "agent.kernel_modules": "agent.kernel_modules",
    "hypervisor.block_device_driver": "storage.block_driver",
    "hypervisor.default_max_vcpus": "vm.max_vcpus",
    "hypervisor.default_maxmemory": "vm.max_memory_mib",
    "hypervisor.default_memory": "vm.default_memory_mib",
    "hypervisor.default_vcpus": "vm.default_vcpus",
    "hypervisor.disable_vhost_net": "network.disable_vhost_net",
    "hypervisor.enable_debug": "vm.debug",
    "hypervisor.kernel_params": "vm.kernel_parameters",
    "hypervisor.machine_type": "vm.machine",
    "hypervisor.msize_9p": "storage.msize_9p",
    "hypervisor.path": "vm.qemu",
    "hypervisor.pcie_root_port": "vm.root_ports",
    "hypervisor.rx_rate_limiter_max_rate": "network.rx_rate_limiter_max_rate",
    "hypervisor.shared_fs": "storage.shared_fs",
    "hypervisor.tx_rate_limiter_max_rate": "network.tx_rate_limiter_max_rate",
    "hypervisor.use_vsock": "vm.transport",
    "hypervisor.virtio_fs_cache": "storage.virtio_fs_cache",
    "hypervisor.virtio_fs_daemon": "storage.virtiofsd",
    "hypervisor.virtio_fs_extra_args": "storage.virtio_fs_extra_args",
    "runtime.create_container_timeout": "vm.boot_timeout_s",
    "runtime.internetworking_model": "network.model",
}
_TRANSLATIONS = {"hypervisor.use_vsock": {"true": "vsock", "false": "serial"}}


class SettingRequest(Record):
    """One setting that a pod asks for. key: the annotation, fit for messages. name: `section.key`."""

    key: str
    name: str
    value: str


def find_requests(annotations: Mapping[str, str]) -> tuple[tuple[SettingRequest, ...], tuple[str, ...]]:
    """The settings that a pod asks for, and a warning for each of the reference's that vmpod has no equivalent of.

    Sorted by annotation; ours come after the reference's, so that they win where both are present.
    """
    requests: list[SettingRequest] = []
    warnings: list[str] = []
    for key in sorted(annotations):
        if key.startswith(REFERENCE_SETTING_PREFIX):
            theirs = key.removeprefix(REFERENCE_SETTING_PREFIX)
            name = ALIASES.get(theirs)
            if name is None:
                warnings.append(f"annotation {show_path(key)} has no equivalent in vmpod and no effect")
                continue
            value = annotations[key]
            requests.append(
                SettingRequest(key=show_path(key), name=name, value=_TRANSLATIONS.get(theirs, {}).get(value, value))
            )
        elif key.startswith(OWN_SETTING_PREFIX):
            name = show_path(key.removeprefix(OWN_SETTING_PREFIX))
            requests.append(SettingRequest(key=show_path(key), name=name, value=annotations[key]))
    return tuple(requests), tuple(warnings)
