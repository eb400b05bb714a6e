"""The `linux` object of config.json. Source: OCI runtime specification 1.2, config-linux.md."""

from __future__ import annotations

from oci_runtime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class IdMapping(Record):
    """`size` ids from container_id on are host_id and up on the host."""

    container_id: int
    host_id: int
    size: int


class Namespace(Record):
    """type: pid, network, mount, ipc, uts, user, cgroup or time. path: the namespace to join, "" for a new one."""

    type: str
    path: str = ""


class Device(Record):
    """A device node to make in the container; file_mode holds permission bits (and maybe the type's)."""

    path: str
    type: str
    major: int = 0
    minor: int = 0
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class DeviceRule(Record):
    """One line of the device allow-list; None means every major or minor, type "" or a means all kinds."""

    allow: bool
    type: str = ""
    major: int | None = None
    minor: int | None = None
    access: str = ""


class Memory(Record):
    """Limits in bytes, -1 for none."""

    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    kernel: int | None = None
    kernel_tcp: int | None = None
    swappiness: int | None = None
    disable_oom_killer: bool | None = None
    use_hierarchy: bool | None = None
    check_before_update: bool | None = None


class Cpu(Record):
    """quota, burst, period, realtime_*: microseconds. cpus and mems: lists like 0-3,7."""

    shares: int | None = None
    quota: int | None = None
    burst: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str = ""
    mems: str = ""
    idle: int | None = None


class WeightDevice(Record):
    """Weights of one block device."""

    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


class ThrottleDevice(Record):
    """Rate (bytes or operations a second) of one block device."""

    major: int
    minor: int
    rate: int


class BlockIo(Record):
    """Block I/O weights (10 to 1000; 0 means unset) and throttles."""

    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: tuple[WeightDevice, ...] = ()
    throttle_read_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_read_iops_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_iops_device: tuple[ThrottleDevice, ...] = ()


class HugepageLimit(Record):
    """Limit in bytes for one page size, such as 2MB."""

    page_size: str
    limit: int


class InterfacePriority(Record):
    """Priority of traffic that leaves through one interface."""

    name: str
    priority: int


class NetworkResources(Record):
    """net_cls and net_prio of cgroup v1."""

    class_id: int | None = None
    priorities: tuple[InterfacePriority, ...] = ()


class Rdma(Record):
    """Handles and objects of one RDMA device."""

    hca_handles: int | None = None
    hca_objects: int | None = None


class Resources(Record):
    """All limits of a container; `update` reads the same object. pids_limit: 0 or less means none."""

    devices: tuple[DeviceRule, ...] = ()
    memory: Memory = Memory()
    cpu: Cpu = Cpu()
    pids_limit: int | None = None
    block_io: BlockIo = BlockIo()
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    network: NetworkResources = NetworkResources()
    rdma: Mapping[str, Rdma] = {}
    unified: Mapping[str, str] = {}


class SeccompArg(Record):
    """Condition on one argument of a system call."""

    index: int
    value: int
    op: str
    value_two: int = 0


class SeccompSyscall(Record):
    """What happens to some system calls."""

    names: tuple[str, ...]
    action: str
    errno_ret: int | None = None
    args: tuple[SeccompArg, ...] = ()


class Seccomp(Record):
    """The filter of the container's processes."""

    default_action: str
    default_errno_ret: int | None = None
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    listener_path: str = ""
    listener_metadata: str = ""
    syscalls: tuple[SeccompSyscall, ...] = ()


class IntelRdt(Record):
    """Cache and memory-bandwidth allocation."""

    clos_id: str = ""
    l3_cache_schema: str = ""
    mem_bw_schema: str = ""
    enable_cmt: bool = False
    enable_mbm: bool = False


class Personality(Record):
    """Execution domain: LINUX or LINUX32."""

    domain: str
    flags: tuple[str, ...] = ()


class TimeOffset(Record):
    """Offset of one clock of a new time namespace."""

    secs: int = 0
    nanosecs: int = 0


class Linux(Record):
    """Everything below `linux`."""

    namespaces: tuple[Namespace, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    devices: tuple[Device, ...] = ()
    net_devices: tuple[str, ...] = ()
    cgroups_path: str = ""
    resources: Resources = Resources()
    rootfs_propagation: str = ""
    seccomp: Seccomp | None = None
    sysctl: Mapping[str, str] = {}
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    mount_label: str = ""
    intel_rdt: IntelRdt | None = None
    personality: Personality | None = None
    time_offsets: Mapping[str, TimeOffset] = {}
