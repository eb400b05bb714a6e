"""The configuration as frozen values, one class per section. What each setting means is said in settings.py."""

from __future__ import annotations

from oci_runtime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class VmConfig(Record):
    """[vm]"""

    machine: str
    accel: str
    transport: str
    qemu: str
    firmware: str
    cpu: str
    image_device: str
    default_vcpus: int
    max_vcpus: int
    default_memory_mib: int
    max_memory_mib: int
    tb_size_mib: int
    root_ports: int
    kernel_parameters: str
    boot_timeout_s: int
    stop_timeout_s: int
    uid_base: int
    uid_count: int
    debug: bool


class ImageConfig(Record):
    """[image]"""

    store: str
    name: str


class StorageConfig(Record):
    """[storage]"""

    shared_fs: str
    virtiofsd: str
    virtio_fs_cache: str
    virtio_fs_extra_args: tuple[str, ...]
    msize_9p: int
    block_driver: str
    direct_volumes: str
    rootfs_overlay: str
    scratch_size_mib: int
    scratch_directory: str


class NetworkConfig(Record):
    """[network]"""

    model: str
    disable_vhost_net: bool
    rx_rate_limiter_max_rate: int
    tx_rate_limiter_max_rate: int


class RuntimeConfig(Record):
    """[runtime]"""

    vm: str
    namespace_runtime: str
    host_network: str
    host_pid: str
    host_ipc: str
    enable_annotations: tuple[str, ...]
    valid_qemu_paths: tuple[str, ...]
    valid_firmware_paths: tuple[str, ...]
    valid_virtiofsd_paths: tuple[str, ...]
    hook_timeout_s: int
    kill_timeout_s: int
    stop_timeout_s: int


class AgentConfig(Record):
    """[agent]"""

    kernel_modules: tuple[str, ...]


class LogConfig(Record):
    """[log]"""

    level: str
    max_console_kib: int


class Config(Record):
    """Everything. origins: setting name to the file or annotation it came from, for what is not a default.
    files: what was read, in order."""

    vm: VmConfig
    image: ImageConfig
    storage: StorageConfig
    network: NetworkConfig
    runtime: RuntimeConfig
    agent: AgentConfig
    log: LogConfig
    origins: Mapping[str, str] = {}
    files: tuple[str, ...] = ()
