from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Empty(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class HelloRequest(_message.Message):
    __slots__ = ("version", "time_ns", "random_seed")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    RANDOM_SEED_FIELD_NUMBER: _ClassVar[int]
    version: str
    time_ns: int
    random_seed: bytes
    def __init__(self, version: _Optional[str] = ..., time_ns: _Optional[int] = ..., random_seed: _Optional[bytes] = ...) -> None: ...

class Phase(_message.Message):
    __slots__ = ("name", "monotonic_ns")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MONOTONIC_NS_FIELD_NUMBER: _ClassVar[int]
    name: str
    monotonic_ns: int
    def __init__(self, name: _Optional[str] = ..., monotonic_ns: _Optional[int] = ...) -> None: ...

class HelloResponse(_message.Message):
    __slots__ = ("version", "kernel_release", "phases")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    KERNEL_RELEASE_FIELD_NUMBER: _ClassVar[int]
    PHASES_FIELD_NUMBER: _ClassVar[int]
    version: str
    kernel_release: str
    phases: _containers.RepeatedCompositeFieldContainer[Phase]
    def __init__(self, version: _Optional[str] = ..., kernel_release: _Optional[str] = ..., phases: _Optional[_Iterable[_Union[Phase, _Mapping]]] = ...) -> None: ...

class SetupSandboxRequest(_message.Message):
    __slots__ = ("sandbox_id", "hostname", "domainname", "sysctls", "kernel_modules", "storages")
    class SysctlsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    SANDBOX_ID_FIELD_NUMBER: _ClassVar[int]
    HOSTNAME_FIELD_NUMBER: _ClassVar[int]
    DOMAINNAME_FIELD_NUMBER: _ClassVar[int]
    SYSCTLS_FIELD_NUMBER: _ClassVar[int]
    KERNEL_MODULES_FIELD_NUMBER: _ClassVar[int]
    STORAGES_FIELD_NUMBER: _ClassVar[int]
    sandbox_id: str
    hostname: str
    domainname: str
    sysctls: _containers.ScalarMap[str, str]
    kernel_modules: _containers.RepeatedScalarFieldContainer[str]
    storages: _containers.RepeatedCompositeFieldContainer[Storage]
    def __init__(self, sandbox_id: _Optional[str] = ..., hostname: _Optional[str] = ..., domainname: _Optional[str] = ..., sysctls: _Optional[_Mapping[str, str]] = ..., kernel_modules: _Optional[_Iterable[str]] = ..., storages: _Optional[_Iterable[_Union[Storage, _Mapping]]] = ...) -> None: ...

class SetClockRequest(_message.Message):
    __slots__ = ("time_ns",)
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    time_ns: int
    def __init__(self, time_ns: _Optional[int] = ...) -> None: ...

class ReseedRequest(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class GuestDetailsResponse(_message.Message):
    __slots__ = ("kernel_release", "memory_total_bytes", "vcpus", "crun_version", "agent_version", "image_packages", "features")
    KERNEL_RELEASE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    VCPUS_FIELD_NUMBER: _ClassVar[int]
    CRUN_VERSION_FIELD_NUMBER: _ClassVar[int]
    AGENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    IMAGE_PACKAGES_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    kernel_release: str
    memory_total_bytes: int
    vcpus: int
    crun_version: str
    agent_version: str
    image_packages: _containers.RepeatedScalarFieldContainer[str]
    features: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, kernel_release: _Optional[str] = ..., memory_total_bytes: _Optional[int] = ..., vcpus: _Optional[int] = ..., crun_version: _Optional[str] = ..., agent_version: _Optional[str] = ..., image_packages: _Optional[_Iterable[str]] = ..., features: _Optional[_Iterable[str]] = ...) -> None: ...

class DiagnosticsResponse(_message.Message):
    __slots__ = ("text",)
    TEXT_FIELD_NUMBER: _ClassVar[int]
    text: str
    def __init__(self, text: _Optional[str] = ...) -> None: ...

class NextEventRequest(_message.Message):
    __slots__ = ("after", "timeout_ms")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    after: int
    timeout_ms: int
    def __init__(self, after: _Optional[int] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("sequence", "kind", "container_id", "time_ns")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    TIME_NS_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    kind: str
    container_id: str
    time_ns: int
    def __init__(self, sequence: _Optional[int] = ..., kind: _Optional[str] = ..., container_id: _Optional[str] = ..., time_ns: _Optional[int] = ...) -> None: ...

class Storage(_message.Message):
    __slots__ = ("driver", "source", "target", "fstype", "options", "fs_group", "fs_group_on_mismatch")
    DRIVER_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    FSTYPE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    FS_GROUP_FIELD_NUMBER: _ClassVar[int]
    FS_GROUP_ON_MISMATCH_FIELD_NUMBER: _ClassVar[int]
    driver: str
    source: str
    target: str
    fstype: str
    options: _containers.RepeatedScalarFieldContainer[str]
    fs_group: int
    fs_group_on_mismatch: bool
    def __init__(self, driver: _Optional[str] = ..., source: _Optional[str] = ..., target: _Optional[str] = ..., fstype: _Optional[str] = ..., options: _Optional[_Iterable[str]] = ..., fs_group: _Optional[int] = ..., fs_group_on_mismatch: _Optional[bool] = ...) -> None: ...

class VolumeRequest(_message.Message):
    __slots__ = ("target", "disk_bytes")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    DISK_BYTES_FIELD_NUMBER: _ClassVar[int]
    target: str
    disk_bytes: int
    def __init__(self, target: _Optional[str] = ..., disk_bytes: _Optional[int] = ...) -> None: ...

class VolumeStats(_message.Message):
    __slots__ = ("total_bytes", "available_bytes", "used_bytes", "total_inodes", "available_inodes", "used_inodes")
    TOTAL_BYTES_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    USED_BYTES_FIELD_NUMBER: _ClassVar[int]
    TOTAL_INODES_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_INODES_FIELD_NUMBER: _ClassVar[int]
    USED_INODES_FIELD_NUMBER: _ClassVar[int]
    total_bytes: int
    available_bytes: int
    used_bytes: int
    total_inodes: int
    available_inodes: int
    used_inodes: int
    def __init__(self, total_bytes: _Optional[int] = ..., available_bytes: _Optional[int] = ..., used_bytes: _Optional[int] = ..., total_inodes: _Optional[int] = ..., available_inodes: _Optional[int] = ..., used_inodes: _Optional[int] = ...) -> None: ...

class RemoveStorageRequest(_message.Message):
    __slots__ = ("target",)
    TARGET_FIELD_NUMBER: _ClassVar[int]
    target: str
    def __init__(self, target: _Optional[str] = ...) -> None: ...

class TreeEntry(_message.Message):
    __slots__ = ("path", "mode", "uid", "gid", "mtime_ns", "inode", "data")
    PATH_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    MTIME_NS_FIELD_NUMBER: _ClassVar[int]
    INODE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    path: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    inode: int
    data: bytes
    def __init__(self, path: _Optional[str] = ..., mode: _Optional[int] = ..., uid: _Optional[int] = ..., gid: _Optional[int] = ..., mtime_ns: _Optional[int] = ..., inode: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class SyncTreeRequest(_message.Message):
    __slots__ = ("target", "entries")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    target: str
    entries: _containers.RepeatedCompositeFieldContainer[TreeEntry]
    def __init__(self, target: _Optional[str] = ..., entries: _Optional[_Iterable[_Union[TreeEntry, _Mapping]]] = ...) -> None: ...

class ContainerRequest(_message.Message):
    __slots__ = ("container_id",)
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    def __init__(self, container_id: _Optional[str] = ...) -> None: ...

class ProcessRequest(_message.Message):
    __slots__ = ("container_id", "exec_id")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    exec_id: str
    def __init__(self, container_id: _Optional[str] = ..., exec_id: _Optional[str] = ...) -> None: ...

class ProcessResponse(_message.Message):
    __slots__ = ("pid", "warnings")
    PID_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    pid: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, pid: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class CreateContainerRequest(_message.Message):
    __slots__ = ("container_id", "spec_json", "stdin", "pid_namespace_of", "in_pod_ipc", "in_pod_uts", "disks")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_JSON_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    PID_NAMESPACE_OF_FIELD_NUMBER: _ClassVar[int]
    IN_POD_IPC_FIELD_NUMBER: _ClassVar[int]
    IN_POD_UTS_FIELD_NUMBER: _ClassVar[int]
    DISKS_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    spec_json: bytes
    stdin: bool
    pid_namespace_of: str
    in_pod_ipc: bool
    in_pod_uts: bool
    disks: _containers.RepeatedCompositeFieldContainer[Disk]
    def __init__(self, container_id: _Optional[str] = ..., spec_json: _Optional[bytes] = ..., stdin: _Optional[bool] = ..., pid_namespace_of: _Optional[str] = ..., in_pod_ipc: _Optional[bool] = ..., in_pod_uts: _Optional[bool] = ..., disks: _Optional[_Iterable[_Union[Disk, _Mapping]]] = ...) -> None: ...

class Disk(_message.Message):
    __slots__ = ("pci_path", "host_major", "host_minor")
    PCI_PATH_FIELD_NUMBER: _ClassVar[int]
    HOST_MAJOR_FIELD_NUMBER: _ClassVar[int]
    HOST_MINOR_FIELD_NUMBER: _ClassVar[int]
    pci_path: str
    host_major: int
    host_minor: int
    def __init__(self, pci_path: _Optional[str] = ..., host_major: _Optional[int] = ..., host_minor: _Optional[int] = ...) -> None: ...

class ExecProcessRequest(_message.Message):
    __slots__ = ("container_id", "exec_id", "process_json", "stdin")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    PROCESS_JSON_FIELD_NUMBER: _ClassVar[int]
    STDIN_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    exec_id: str
    process_json: bytes
    stdin: bool
    def __init__(self, container_id: _Optional[str] = ..., exec_id: _Optional[str] = ..., process_json: _Optional[bytes] = ..., stdin: _Optional[bool] = ...) -> None: ...

class SignalProcessRequest(_message.Message):
    __slots__ = ("container_id", "exec_id", "signal", "all")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    exec_id: str
    signal: int
    all: bool
    def __init__(self, container_id: _Optional[str] = ..., exec_id: _Optional[str] = ..., signal: _Optional[int] = ..., all: _Optional[bool] = ...) -> None: ...

class WaitProcessResponse(_message.Message):
    __slots__ = ("exit_code", "exited_at_ns", "oom_killed")
    EXIT_CODE_FIELD_NUMBER: _ClassVar[int]
    EXITED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    OOM_KILLED_FIELD_NUMBER: _ClassVar[int]
    exit_code: int
    exited_at_ns: int
    oom_killed: bool
    def __init__(self, exit_code: _Optional[int] = ..., exited_at_ns: _Optional[int] = ..., oom_killed: _Optional[bool] = ...) -> None: ...

class ProcessInfo(_message.Message):
    __slots__ = ("pid", "ppid", "uid", "user", "started_at_ns", "tty", "cpu_time_ms", "command", "container_pid", "exec_id")
    PID_FIELD_NUMBER: _ClassVar[int]
    PPID_FIELD_NUMBER: _ClassVar[int]
    UID_FIELD_NUMBER: _ClassVar[int]
    USER_FIELD_NUMBER: _ClassVar[int]
    STARTED_AT_NS_FIELD_NUMBER: _ClassVar[int]
    TTY_FIELD_NUMBER: _ClassVar[int]
    CPU_TIME_MS_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    CONTAINER_PID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    pid: int
    ppid: int
    uid: int
    user: str
    started_at_ns: int
    tty: str
    cpu_time_ms: int
    command: str
    container_pid: int
    exec_id: str
    def __init__(self, pid: _Optional[int] = ..., ppid: _Optional[int] = ..., uid: _Optional[int] = ..., user: _Optional[str] = ..., started_at_ns: _Optional[int] = ..., tty: _Optional[str] = ..., cpu_time_ms: _Optional[int] = ..., command: _Optional[str] = ..., container_pid: _Optional[int] = ..., exec_id: _Optional[str] = ...) -> None: ...

class ListProcessesResponse(_message.Message):
    __slots__ = ("processes",)
    PROCESSES_FIELD_NUMBER: _ClassVar[int]
    processes: _containers.RepeatedCompositeFieldContainer[ProcessInfo]
    def __init__(self, processes: _Optional[_Iterable[_Union[ProcessInfo, _Mapping]]] = ...) -> None: ...

class UpdateContainerRequest(_message.Message):
    __slots__ = ("container_id", "resources_json")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_JSON_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    resources_json: bytes
    def __init__(self, container_id: _Optional[str] = ..., resources_json: _Optional[bytes] = ...) -> None: ...

class UpdateContainerResponse(_message.Message):
    __slots__ = ("warnings",)
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class IoStat(_message.Message):
    __slots__ = ("major", "minor", "rbytes", "wbytes", "rios", "wios")
    MAJOR_FIELD_NUMBER: _ClassVar[int]
    MINOR_FIELD_NUMBER: _ClassVar[int]
    RBYTES_FIELD_NUMBER: _ClassVar[int]
    WBYTES_FIELD_NUMBER: _ClassVar[int]
    RIOS_FIELD_NUMBER: _ClassVar[int]
    WIOS_FIELD_NUMBER: _ClassVar[int]
    major: int
    minor: int
    rbytes: int
    wbytes: int
    rios: int
    wios: int
    def __init__(self, major: _Optional[int] = ..., minor: _Optional[int] = ..., rbytes: _Optional[int] = ..., wbytes: _Optional[int] = ..., rios: _Optional[int] = ..., wios: _Optional[int] = ...) -> None: ...

class HugetlbStat(_message.Message):
    __slots__ = ("page_size", "usage", "failcnt", "max")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    FAILCNT_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    page_size: str
    usage: int
    failcnt: int
    max: int
    def __init__(self, page_size: _Optional[str] = ..., usage: _Optional[int] = ..., failcnt: _Optional[int] = ..., max: _Optional[int] = ...) -> None: ...

class NetworkStat(_message.Message):
    __slots__ = ("name", "rx_bytes", "rx_packets", "rx_errors", "rx_dropped", "tx_bytes", "tx_packets", "tx_errors", "tx_dropped")
    NAME_FIELD_NUMBER: _ClassVar[int]
    RX_BYTES_FIELD_NUMBER: _ClassVar[int]
    RX_PACKETS_FIELD_NUMBER: _ClassVar[int]
    RX_ERRORS_FIELD_NUMBER: _ClassVar[int]
    RX_DROPPED_FIELD_NUMBER: _ClassVar[int]
    TX_BYTES_FIELD_NUMBER: _ClassVar[int]
    TX_PACKETS_FIELD_NUMBER: _ClassVar[int]
    TX_ERRORS_FIELD_NUMBER: _ClassVar[int]
    TX_DROPPED_FIELD_NUMBER: _ClassVar[int]
    name: str
    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int
    def __init__(self, name: _Optional[str] = ..., rx_bytes: _Optional[int] = ..., rx_packets: _Optional[int] = ..., rx_errors: _Optional[int] = ..., rx_dropped: _Optional[int] = ..., tx_bytes: _Optional[int] = ..., tx_packets: _Optional[int] = ..., tx_errors: _Optional[int] = ..., tx_dropped: _Optional[int] = ...) -> None: ...

class StatsContainerResponse(_message.Message):
    __slots__ = ("cpu", "memory_usage", "memory_limit", "memory_peak", "swap_usage", "swap_limit", "memory", "memory_events", "pids_current", "pids_limit", "io", "hugetlb", "network")
    class CpuEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class MemoryEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class MemoryEventsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    CPU_FIELD_NUMBER: _ClassVar[int]
    MEMORY_USAGE_FIELD_NUMBER: _ClassVar[int]
    MEMORY_LIMIT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_PEAK_FIELD_NUMBER: _ClassVar[int]
    SWAP_USAGE_FIELD_NUMBER: _ClassVar[int]
    SWAP_LIMIT_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    MEMORY_EVENTS_FIELD_NUMBER: _ClassVar[int]
    PIDS_CURRENT_FIELD_NUMBER: _ClassVar[int]
    PIDS_LIMIT_FIELD_NUMBER: _ClassVar[int]
    IO_FIELD_NUMBER: _ClassVar[int]
    HUGETLB_FIELD_NUMBER: _ClassVar[int]
    NETWORK_FIELD_NUMBER: _ClassVar[int]
    cpu: _containers.ScalarMap[str, int]
    memory_usage: int
    memory_limit: int
    memory_peak: int
    swap_usage: int
    swap_limit: int
    memory: _containers.ScalarMap[str, int]
    memory_events: _containers.ScalarMap[str, int]
    pids_current: int
    pids_limit: int
    io: _containers.RepeatedCompositeFieldContainer[IoStat]
    hugetlb: _containers.RepeatedCompositeFieldContainer[HugetlbStat]
    network: _containers.RepeatedCompositeFieldContainer[NetworkStat]
    def __init__(self, cpu: _Optional[_Mapping[str, int]] = ..., memory_usage: _Optional[int] = ..., memory_limit: _Optional[int] = ..., memory_peak: _Optional[int] = ..., swap_usage: _Optional[int] = ..., swap_limit: _Optional[int] = ..., memory: _Optional[_Mapping[str, int]] = ..., memory_events: _Optional[_Mapping[str, int]] = ..., pids_current: _Optional[int] = ..., pids_limit: _Optional[int] = ..., io: _Optional[_Iterable[_Union[IoStat, _Mapping]]] = ..., hugetlb: _Optional[_Iterable[_Union[HugetlbStat, _Mapping]]] = ..., network: _Optional[_Iterable[_Union[NetworkStat, _Mapping]]] = ...) -> None: ...

class WriteStdinRequest(_message.Message):
    __slots__ = ("container_id", "exec_id", "data")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    exec_id: str
    data: bytes
    def __init__(self, container_id: _Optional[str] = ..., exec_id: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class WriteStdinResponse(_message.Message):
    __slots__ = ("written",)
    WRITTEN_FIELD_NUMBER: _ClassVar[int]
    written: int
    def __init__(self, written: _Optional[int] = ...) -> None: ...

class ReadOutputRequest(_message.Message):
    __slots__ = ("container_id", "exec_id", "stderr", "max_bytes")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    exec_id: str
    stderr: bool
    max_bytes: int
    def __init__(self, container_id: _Optional[str] = ..., exec_id: _Optional[str] = ..., stderr: _Optional[bool] = ..., max_bytes: _Optional[int] = ...) -> None: ...

class ReadOutputResponse(_message.Message):
    __slots__ = ("data", "eof")
    DATA_FIELD_NUMBER: _ClassVar[int]
    EOF_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    eof: bool
    def __init__(self, data: _Optional[bytes] = ..., eof: _Optional[bool] = ...) -> None: ...

class ResizeTtyRequest(_message.Message):
    __slots__ = ("container_id", "exec_id", "rows", "columns")
    CONTAINER_ID_FIELD_NUMBER: _ClassVar[int]
    EXEC_ID_FIELD_NUMBER: _ClassVar[int]
    ROWS_FIELD_NUMBER: _ClassVar[int]
    COLUMNS_FIELD_NUMBER: _ClassVar[int]
    container_id: str
    exec_id: str
    rows: int
    columns: int
    def __init__(self, container_id: _Optional[str] = ..., exec_id: _Optional[str] = ..., rows: _Optional[int] = ..., columns: _Optional[int] = ...) -> None: ...

class IpAddress(_message.Message):
    __slots__ = ("address", "prefix_length", "scope", "broadcast", "peer", "flags", "label", "metric")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PREFIX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    BROADCAST_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    LABEL_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    address: str
    prefix_length: int
    scope: str
    broadcast: str
    peer: str
    flags: int
    label: str
    metric: int
    def __init__(self, address: _Optional[str] = ..., prefix_length: _Optional[int] = ..., scope: _Optional[str] = ..., broadcast: _Optional[str] = ..., peer: _Optional[str] = ..., flags: _Optional[int] = ..., label: _Optional[str] = ..., metric: _Optional[int] = ...) -> None: ...

class Interface(_message.Message):
    __slots__ = ("name", "mac", "mtu", "addresses", "up", "noarp", "multicast", "tx_queue_length", "match_mac", "promiscuous", "all_multicast")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    MTU_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    UP_FIELD_NUMBER: _ClassVar[int]
    NOARP_FIELD_NUMBER: _ClassVar[int]
    MULTICAST_FIELD_NUMBER: _ClassVar[int]
    TX_QUEUE_LENGTH_FIELD_NUMBER: _ClassVar[int]
    MATCH_MAC_FIELD_NUMBER: _ClassVar[int]
    PROMISCUOUS_FIELD_NUMBER: _ClassVar[int]
    ALL_MULTICAST_FIELD_NUMBER: _ClassVar[int]
    name: str
    mac: str
    mtu: int
    addresses: _containers.RepeatedCompositeFieldContainer[IpAddress]
    up: bool
    noarp: bool
    multicast: bool
    tx_queue_length: int
    match_mac: str
    promiscuous: bool
    all_multicast: bool
    def __init__(self, name: _Optional[str] = ..., mac: _Optional[str] = ..., mtu: _Optional[int] = ..., addresses: _Optional[_Iterable[_Union[IpAddress, _Mapping]]] = ..., up: _Optional[bool] = ..., noarp: _Optional[bool] = ..., multicast: _Optional[bool] = ..., tx_queue_length: _Optional[int] = ..., match_mac: _Optional[str] = ..., promiscuous: _Optional[bool] = ..., all_multicast: _Optional[bool] = ...) -> None: ...

class NextHop(_message.Message):
    __slots__ = ("gateway", "device", "weight", "onlink")
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    ONLINK_FIELD_NUMBER: _ClassVar[int]
    gateway: str
    device: str
    weight: int
    onlink: bool
    def __init__(self, gateway: _Optional[str] = ..., device: _Optional[str] = ..., weight: _Optional[int] = ..., onlink: _Optional[bool] = ...) -> None: ...

class Route(_message.Message):
    __slots__ = ("family", "destination", "gateway", "device", "source", "scope", "metric", "table", "protocol", "type", "onlink", "next_hops", "via_family", "tos", "preference", "metrics")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    METRIC_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ONLINK_FIELD_NUMBER: _ClassVar[int]
    NEXT_HOPS_FIELD_NUMBER: _ClassVar[int]
    VIA_FAMILY_FIELD_NUMBER: _ClassVar[int]
    TOS_FIELD_NUMBER: _ClassVar[int]
    PREFERENCE_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    family: str
    destination: str
    gateway: str
    device: str
    source: str
    scope: str
    metric: int
    table: int
    protocol: str
    type: str
    onlink: bool
    next_hops: _containers.RepeatedCompositeFieldContainer[NextHop]
    via_family: str
    tos: int
    preference: int
    metrics: _containers.ScalarMap[str, int]
    def __init__(self, family: _Optional[str] = ..., destination: _Optional[str] = ..., gateway: _Optional[str] = ..., device: _Optional[str] = ..., source: _Optional[str] = ..., scope: _Optional[str] = ..., metric: _Optional[int] = ..., table: _Optional[int] = ..., protocol: _Optional[str] = ..., type: _Optional[str] = ..., onlink: _Optional[bool] = ..., next_hops: _Optional[_Iterable[_Union[NextHop, _Mapping]]] = ..., via_family: _Optional[str] = ..., tos: _Optional[int] = ..., preference: _Optional[int] = ..., metrics: _Optional[_Mapping[str, int]] = ...) -> None: ...

class Rule(_message.Message):
    __slots__ = ("family", "priority", "source", "destination", "table", "input_interface", "output_interface", "mark", "mask", "action", "tos", "invert", "ip_protocol", "source_ports", "destination_ports", "goto", "suppress_prefix_length", "uid_range", "protocol")
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_FIELD_NUMBER: _ClassVar[int]
    TABLE_FIELD_NUMBER: _ClassVar[int]
    INPUT_INTERFACE_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_INTERFACE_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    MASK_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    TOS_FIELD_NUMBER: _ClassVar[int]
    INVERT_FIELD_NUMBER: _ClassVar[int]
    IP_PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    SOURCE_PORTS_FIELD_NUMBER: _ClassVar[int]
    DESTINATION_PORTS_FIELD_NUMBER: _ClassVar[int]
    GOTO_FIELD_NUMBER: _ClassVar[int]
    SUPPRESS_PREFIX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    UID_RANGE_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    family: str
    priority: int
    source: str
    destination: str
    table: int
    input_interface: str
    output_interface: str
    mark: int
    mask: int
    action: str
    tos: int
    invert: bool
    ip_protocol: int
    source_ports: str
    destination_ports: str
    goto: int
    suppress_prefix_length: int
    uid_range: str
    protocol: str
    def __init__(self, family: _Optional[str] = ..., priority: _Optional[int] = ..., source: _Optional[str] = ..., destination: _Optional[str] = ..., table: _Optional[int] = ..., input_interface: _Optional[str] = ..., output_interface: _Optional[str] = ..., mark: _Optional[int] = ..., mask: _Optional[int] = ..., action: _Optional[str] = ..., tos: _Optional[int] = ..., invert: _Optional[bool] = ..., ip_protocol: _Optional[int] = ..., source_ports: _Optional[str] = ..., destination_ports: _Optional[str] = ..., goto: _Optional[int] = ..., suppress_prefix_length: _Optional[int] = ..., uid_range: _Optional[str] = ..., protocol: _Optional[str] = ...) -> None: ...

class Neighbour(_message.Message):
    __slots__ = ("address", "device", "mac", "state", "flags")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    MAC_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    address: str
    device: str
    mac: str
    state: int
    flags: int
    def __init__(self, address: _Optional[str] = ..., device: _Optional[str] = ..., mac: _Optional[str] = ..., state: _Optional[int] = ..., flags: _Optional[int] = ...) -> None: ...

class UpdateNetworkRequest(_message.Message):
    __slots__ = ("interfaces", "remove_interfaces", "replace_routes", "routes", "neighbours", "rules", "wait_device_ms", "sysctls")
    class SysctlsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    INTERFACES_FIELD_NUMBER: _ClassVar[int]
    REMOVE_INTERFACES_FIELD_NUMBER: _ClassVar[int]
    REPLACE_ROUTES_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    WAIT_DEVICE_MS_FIELD_NUMBER: _ClassVar[int]
    SYSCTLS_FIELD_NUMBER: _ClassVar[int]
    interfaces: _containers.RepeatedCompositeFieldContainer[Interface]
    remove_interfaces: _containers.RepeatedScalarFieldContainer[str]
    replace_routes: bool
    routes: _containers.RepeatedCompositeFieldContainer[Route]
    neighbours: _containers.RepeatedCompositeFieldContainer[Neighbour]
    rules: _containers.RepeatedCompositeFieldContainer[Rule]
    wait_device_ms: int
    sysctls: _containers.ScalarMap[str, str]
    def __init__(self, interfaces: _Optional[_Iterable[_Union[Interface, _Mapping]]] = ..., remove_interfaces: _Optional[_Iterable[str]] = ..., replace_routes: _Optional[bool] = ..., routes: _Optional[_Iterable[_Union[Route, _Mapping]]] = ..., neighbours: _Optional[_Iterable[_Union[Neighbour, _Mapping]]] = ..., rules: _Optional[_Iterable[_Union[Rule, _Mapping]]] = ..., wait_device_ms: _Optional[int] = ..., sysctls: _Optional[_Mapping[str, str]] = ...) -> None: ...

class ListNetworkResponse(_message.Message):
    __slots__ = ("interfaces", "routes", "neighbours", "rules")
    INTERFACES_FIELD_NUMBER: _ClassVar[int]
    ROUTES_FIELD_NUMBER: _ClassVar[int]
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    interfaces: _containers.RepeatedCompositeFieldContainer[Interface]
    routes: _containers.RepeatedCompositeFieldContainer[Route]
    neighbours: _containers.RepeatedCompositeFieldContainer[Neighbour]
    rules: _containers.RepeatedCompositeFieldContainer[Rule]
    def __init__(self, interfaces: _Optional[_Iterable[_Union[Interface, _Mapping]]] = ..., routes: _Optional[_Iterable[_Union[Route, _Mapping]]] = ..., neighbours: _Optional[_Iterable[_Union[Neighbour, _Mapping]]] = ..., rules: _Optional[_Iterable[_Union[Rule, _Mapping]]] = ...) -> None: ...

class FirewallRequest(_message.Message):
    __slots__ = ("ipv6",)
    IPV6_FIELD_NUMBER: _ClassVar[int]
    ipv6: bool
    def __init__(self, ipv6: _Optional[bool] = ...) -> None: ...

class FirewallResponse(_message.Message):
    __slots__ = ("rules",)
    RULES_FIELD_NUMBER: _ClassVar[int]
    rules: bytes
    def __init__(self, rules: _Optional[bytes] = ...) -> None: ...

class SetFirewallRequest(_message.Message):
    __slots__ = ("ipv6", "rules")
    IPV6_FIELD_NUMBER: _ClassVar[int]
    RULES_FIELD_NUMBER: _ClassVar[int]
    ipv6: bool
    rules: bytes
    def __init__(self, ipv6: _Optional[bool] = ..., rules: _Optional[bytes] = ...) -> None: ...

class DialRequest(_message.Message):
    __slots__ = ("address", "port", "timeout_ms")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_MS_FIELD_NUMBER: _ClassVar[int]
    address: str
    port: int
    timeout_ms: int
    def __init__(self, address: _Optional[str] = ..., port: _Optional[int] = ..., timeout_ms: _Optional[int] = ...) -> None: ...

class DialResponse(_message.Message):
    __slots__ = ("connection",)
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    connection: int
    def __init__(self, connection: _Optional[int] = ...) -> None: ...

class ConnReadRequest(_message.Message):
    __slots__ = ("connection", "max_bytes")
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    MAX_BYTES_FIELD_NUMBER: _ClassVar[int]
    connection: int
    max_bytes: int
    def __init__(self, connection: _Optional[int] = ..., max_bytes: _Optional[int] = ...) -> None: ...

class ConnWriteRequest(_message.Message):
    __slots__ = ("connection", "data", "eof")
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    EOF_FIELD_NUMBER: _ClassVar[int]
    connection: int
    data: bytes
    eof: bool
    def __init__(self, connection: _Optional[int] = ..., data: _Optional[bytes] = ..., eof: _Optional[bool] = ...) -> None: ...

class ConnCloseRequest(_message.Message):
    __slots__ = ("connection",)
    CONNECTION_FIELD_NUMBER: _ClassVar[int]
    connection: int
    def __init__(self, connection: _Optional[int] = ...) -> None: ...

class ServeResolverRequest(_message.Message):
    __slots__ = ("address", "port")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    address: str
    port: int
    def __init__(self, address: _Optional[str] = ..., port: _Optional[int] = ...) -> None: ...

class Query(_message.Message):
    __slots__ = ("id", "data", "tcp")
    ID_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    TCP_FIELD_NUMBER: _ClassVar[int]
    id: int
    data: bytes
    tcp: bool
    def __init__(self, id: _Optional[int] = ..., data: _Optional[bytes] = ..., tcp: _Optional[bool] = ...) -> None: ...
