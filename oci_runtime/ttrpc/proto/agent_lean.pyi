"""Written by scripts/proto.sh. Do not edit."""

from collections.abc import Iterable, Mapping

from oci_runtime.ttrpc.lean import Message

class Empty(Message):
    def __init__(self) -> None: ...

class HelloRequest(Message):
    version: str
    time_ns: int
    random_seed: bytes
    def __init__(self, *, version: str = ..., time_ns: int = ..., random_seed: bytes = ...) -> None: ...

class Phase(Message):
    name: str
    monotonic_ns: int
    def __init__(self, *, name: str = ..., monotonic_ns: int = ...) -> None: ...

class HelloResponse(Message):
    version: str
    kernel_release: str
    phases: list[Phase]
    def __init__(self, *, version: str = ..., kernel_release: str = ..., phases: Iterable[Phase] = ...) -> None: ...

class SetupSandboxRequest(Message):
    sandbox_id: str
    hostname: str
    domainname: str
    sysctls: dict[str, str]
    kernel_modules: list[str]
    storages: list[Storage]
    def __init__(
        self,
        *,
        sandbox_id: str = ...,
        hostname: str = ...,
        domainname: str = ...,
        sysctls: Mapping[str, str] = ...,
        kernel_modules: Iterable[str] = ...,
        storages: Iterable[Storage] = ...,
    ) -> None: ...

class SetClockRequest(Message):
    time_ns: int
    def __init__(self, *, time_ns: int = ...) -> None: ...

class ReseedRequest(Message):
    data: bytes
    def __init__(self, *, data: bytes = ...) -> None: ...

class GuestDetailsResponse(Message):
    kernel_release: str
    memory_total_bytes: int
    vcpus: int
    crun_version: str
    agent_version: str
    image_packages: list[str]
    features: list[str]
    def __init__(
        self,
        *,
        kernel_release: str = ...,
        memory_total_bytes: int = ...,
        vcpus: int = ...,
        crun_version: str = ...,
        agent_version: str = ...,
        image_packages: Iterable[str] = ...,
        features: Iterable[str] = ...,
    ) -> None: ...

class DiagnosticsResponse(Message):
    text: str
    def __init__(self, *, text: str = ...) -> None: ...

class NextEventRequest(Message):
    after: int
    timeout_ms: int
    def __init__(self, *, after: int = ..., timeout_ms: int = ...) -> None: ...

class Event(Message):
    sequence: int
    kind: str
    container_id: str
    time_ns: int
    def __init__(
        self, *, sequence: int = ..., kind: str = ..., container_id: str = ..., time_ns: int = ...
    ) -> None: ...

class Storage(Message):
    driver: str
    source: str
    target: str
    fstype: str
    options: list[str]
    fs_group: int
    fs_group_on_mismatch: bool
    def __init__(
        self,
        *,
        driver: str = ...,
        source: str = ...,
        target: str = ...,
        fstype: str = ...,
        options: Iterable[str] = ...,
        fs_group: int = ...,
        fs_group_on_mismatch: bool = ...,
    ) -> None: ...

class VolumeRequest(Message):
    target: str
    disk_bytes: int
    def __init__(self, *, target: str = ..., disk_bytes: int = ...) -> None: ...

class VolumeStats(Message):
    total_bytes: int
    available_bytes: int
    used_bytes: int
    total_inodes: int
    available_inodes: int
    used_inodes: int
    def __init__(
        self,
        *,
        total_bytes: int = ...,
        available_bytes: int = ...,
        used_bytes: int = ...,
        total_inodes: int = ...,
        available_inodes: int = ...,
        used_inodes: int = ...,
    ) -> None: ...

class RemoveStorageRequest(Message):
    target: str
    def __init__(self, *, target: str = ...) -> None: ...

class TreeEntry(Message):
    path: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    inode: int
    data: bytes
    def __init__(
        self,
        *,
        path: str = ...,
        mode: int = ...,
        uid: int = ...,
        gid: int = ...,
        mtime_ns: int = ...,
        inode: int = ...,
        data: bytes = ...,
    ) -> None: ...

class SyncTreeRequest(Message):
    target: str
    entries: list[TreeEntry]
    def __init__(self, *, target: str = ..., entries: Iterable[TreeEntry] = ...) -> None: ...

class ContainerRequest(Message):
    container_id: str
    def __init__(self, *, container_id: str = ...) -> None: ...

class ProcessRequest(Message):
    container_id: str
    exec_id: str
    def __init__(self, *, container_id: str = ..., exec_id: str = ...) -> None: ...

class ProcessResponse(Message):
    pid: int
    warnings: list[str]
    def __init__(self, *, pid: int = ..., warnings: Iterable[str] = ...) -> None: ...

class CreateContainerRequest(Message):
    container_id: str
    spec_json: bytes
    stdin: bool
    pid_namespace_of: str
    in_pod_ipc: bool
    in_pod_uts: bool
    disks: list[Disk]
    def __init__(
        self,
        *,
        container_id: str = ...,
        spec_json: bytes = ...,
        stdin: bool = ...,
        pid_namespace_of: str = ...,
        in_pod_ipc: bool = ...,
        in_pod_uts: bool = ...,
        disks: Iterable[Disk] = ...,
    ) -> None: ...

class Disk(Message):
    pci_path: str
    host_major: int
    host_minor: int
    def __init__(self, *, pci_path: str = ..., host_major: int = ..., host_minor: int = ...) -> None: ...

class ExecProcessRequest(Message):
    container_id: str
    exec_id: str
    process_json: bytes
    stdin: bool
    def __init__(
        self, *, container_id: str = ..., exec_id: str = ..., process_json: bytes = ..., stdin: bool = ...
    ) -> None: ...

class SignalProcessRequest(Message):
    container_id: str
    exec_id: str
    signal: int
    all: bool
    def __init__(self, *, container_id: str = ..., exec_id: str = ..., signal: int = ..., all: bool = ...) -> None: ...

class WaitProcessResponse(Message):
    exit_code: int
    exited_at_ns: int
    oom_killed: bool
    def __init__(self, *, exit_code: int = ..., exited_at_ns: int = ..., oom_killed: bool = ...) -> None: ...

class ProcessInfo(Message):
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
    def __init__(
        self,
        *,
        pid: int = ...,
        ppid: int = ...,
        uid: int = ...,
        user: str = ...,
        started_at_ns: int = ...,
        tty: str = ...,
        cpu_time_ms: int = ...,
        command: str = ...,
        container_pid: int = ...,
        exec_id: str = ...,
    ) -> None: ...

class ListProcessesResponse(Message):
    processes: list[ProcessInfo]
    def __init__(self, *, processes: Iterable[ProcessInfo] = ...) -> None: ...

class UpdateContainerRequest(Message):
    container_id: str
    resources_json: bytes
    def __init__(self, *, container_id: str = ..., resources_json: bytes = ...) -> None: ...

class UpdateContainerResponse(Message):
    warnings: list[str]
    def __init__(self, *, warnings: Iterable[str] = ...) -> None: ...

class IoStat(Message):
    major: int
    minor: int
    rbytes: int
    wbytes: int
    rios: int
    wios: int
    def __init__(
        self,
        *,
        major: int = ...,
        minor: int = ...,
        rbytes: int = ...,
        wbytes: int = ...,
        rios: int = ...,
        wios: int = ...,
    ) -> None: ...

class HugetlbStat(Message):
    page_size: str
    usage: int
    failcnt: int
    max: int
    def __init__(self, *, page_size: str = ..., usage: int = ..., failcnt: int = ..., max: int = ...) -> None: ...

class NetworkStat(Message):
    name: str
    rx_bytes: int
    rx_packets: int
    rx_errors: int
    rx_dropped: int
    tx_bytes: int
    tx_packets: int
    tx_errors: int
    tx_dropped: int
    def __init__(
        self,
        *,
        name: str = ...,
        rx_bytes: int = ...,
        rx_packets: int = ...,
        rx_errors: int = ...,
        rx_dropped: int = ...,
        tx_bytes: int = ...,
        tx_packets: int = ...,
        tx_errors: int = ...,
        tx_dropped: int = ...,
    ) -> None: ...

class StatsContainerResponse(Message):
    cpu: dict[str, int]
    memory_usage: int
    memory_limit: int
    memory_peak: int
    swap_usage: int
    swap_limit: int
    memory: dict[str, int]
    memory_events: dict[str, int]
    pids_current: int
    pids_limit: int
    io: list[IoStat]
    hugetlb: list[HugetlbStat]
    network: list[NetworkStat]
    def __init__(
        self,
        *,
        cpu: Mapping[str, int] = ...,
        memory_usage: int = ...,
        memory_limit: int = ...,
        memory_peak: int = ...,
        swap_usage: int = ...,
        swap_limit: int = ...,
        memory: Mapping[str, int] = ...,
        memory_events: Mapping[str, int] = ...,
        pids_current: int = ...,
        pids_limit: int = ...,
        io: Iterable[IoStat] = ...,
        hugetlb: Iterable[HugetlbStat] = ...,
        network: Iterable[NetworkStat] = ...,
    ) -> None: ...

class WriteStdinRequest(Message):
    container_id: str
    exec_id: str
    data: bytes
    def __init__(self, *, container_id: str = ..., exec_id: str = ..., data: bytes = ...) -> None: ...

class WriteStdinResponse(Message):
    written: int
    def __init__(self, *, written: int = ...) -> None: ...

class ReadOutputRequest(Message):
    container_id: str
    exec_id: str
    stderr: bool
    max_bytes: int
    def __init__(
        self, *, container_id: str = ..., exec_id: str = ..., stderr: bool = ..., max_bytes: int = ...
    ) -> None: ...

class ReadOutputResponse(Message):
    data: bytes
    eof: bool
    def __init__(self, *, data: bytes = ..., eof: bool = ...) -> None: ...

class ResizeTtyRequest(Message):
    container_id: str
    exec_id: str
    rows: int
    columns: int
    def __init__(self, *, container_id: str = ..., exec_id: str = ..., rows: int = ..., columns: int = ...) -> None: ...

class IpAddress(Message):
    address: str
    prefix_length: int
    scope: str
    broadcast: str
    peer: str
    flags: int
    label: str
    metric: int
    def __init__(
        self,
        *,
        address: str = ...,
        prefix_length: int = ...,
        scope: str = ...,
        broadcast: str = ...,
        peer: str = ...,
        flags: int = ...,
        label: str = ...,
        metric: int = ...,
    ) -> None: ...

class Interface(Message):
    name: str
    mac: str
    mtu: int
    addresses: list[IpAddress]
    up: bool
    noarp: bool
    multicast: bool
    tx_queue_length: int
    match_mac: str
    promiscuous: bool
    all_multicast: bool
    def __init__(
        self,
        *,
        name: str = ...,
        mac: str = ...,
        mtu: int = ...,
        addresses: Iterable[IpAddress] = ...,
        up: bool = ...,
        noarp: bool = ...,
        multicast: bool = ...,
        tx_queue_length: int = ...,
        match_mac: str = ...,
        promiscuous: bool = ...,
        all_multicast: bool = ...,
    ) -> None: ...

class NextHop(Message):
    gateway: str
    device: str
    weight: int
    onlink: bool
    def __init__(self, *, gateway: str = ..., device: str = ..., weight: int = ..., onlink: bool = ...) -> None: ...

class Route(Message):
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
    next_hops: list[NextHop]
    via_family: str
    tos: int
    preference: int
    metrics: dict[str, int]
    def __init__(
        self,
        *,
        family: str = ...,
        destination: str = ...,
        gateway: str = ...,
        device: str = ...,
        source: str = ...,
        scope: str = ...,
        metric: int = ...,
        table: int = ...,
        protocol: str = ...,
        type: str = ...,
        onlink: bool = ...,
        next_hops: Iterable[NextHop] = ...,
        via_family: str = ...,
        tos: int = ...,
        preference: int = ...,
        metrics: Mapping[str, int] = ...,
    ) -> None: ...

class Rule(Message):
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
    def __init__(
        self,
        *,
        family: str = ...,
        priority: int = ...,
        source: str = ...,
        destination: str = ...,
        table: int = ...,
        input_interface: str = ...,
        output_interface: str = ...,
        mark: int = ...,
        mask: int = ...,
        action: str = ...,
        tos: int = ...,
        invert: bool = ...,
        ip_protocol: int = ...,
        source_ports: str = ...,
        destination_ports: str = ...,
        goto: int = ...,
        suppress_prefix_length: int = ...,
        uid_range: str = ...,
        protocol: str = ...,
    ) -> None: ...

class Neighbour(Message):
    address: str
    device: str
    mac: str
    state: int
    flags: int
    def __init__(
        self, *, address: str = ..., device: str = ..., mac: str = ..., state: int = ..., flags: int = ...
    ) -> None: ...

class UpdateNetworkRequest(Message):
    interfaces: list[Interface]
    remove_interfaces: list[str]
    replace_routes: bool
    routes: list[Route]
    neighbours: list[Neighbour]
    rules: list[Rule]
    wait_device_ms: int
    sysctls: dict[str, str]
    def __init__(
        self,
        *,
        interfaces: Iterable[Interface] = ...,
        remove_interfaces: Iterable[str] = ...,
        replace_routes: bool = ...,
        routes: Iterable[Route] = ...,
        neighbours: Iterable[Neighbour] = ...,
        rules: Iterable[Rule] = ...,
        wait_device_ms: int = ...,
        sysctls: Mapping[str, str] = ...,
    ) -> None: ...

class ListNetworkResponse(Message):
    interfaces: list[Interface]
    routes: list[Route]
    neighbours: list[Neighbour]
    rules: list[Rule]
    def __init__(
        self,
        *,
        interfaces: Iterable[Interface] = ...,
        routes: Iterable[Route] = ...,
        neighbours: Iterable[Neighbour] = ...,
        rules: Iterable[Rule] = ...,
    ) -> None: ...

class FirewallRequest(Message):
    ipv6: bool
    def __init__(self, *, ipv6: bool = ...) -> None: ...

class FirewallResponse(Message):
    rules: bytes
    def __init__(self, *, rules: bytes = ...) -> None: ...

class SetFirewallRequest(Message):
    ipv6: bool
    rules: bytes
    def __init__(self, *, ipv6: bool = ..., rules: bytes = ...) -> None: ...

class DialRequest(Message):
    address: str
    port: int
    timeout_ms: int
    def __init__(self, *, address: str = ..., port: int = ..., timeout_ms: int = ...) -> None: ...

class DialResponse(Message):
    connection: int
    def __init__(self, *, connection: int = ...) -> None: ...

class ConnReadRequest(Message):
    connection: int
    max_bytes: int
    def __init__(self, *, connection: int = ..., max_bytes: int = ...) -> None: ...

class ConnWriteRequest(Message):
    connection: int
    data: bytes
    eof: bool
    def __init__(self, *, connection: int = ..., data: bytes = ..., eof: bool = ...) -> None: ...

class ConnCloseRequest(Message):
    connection: int
    def __init__(self, *, connection: int = ...) -> None: ...

class ServeResolverRequest(Message):
    address: str
    port: int
    def __init__(self, *, address: str = ..., port: int = ...) -> None: ...

class Query(Message):
    id: int
    data: bytes
    tcp: bool
    def __init__(self, *, id: int = ..., data: bytes = ..., tcp: bool = ...) -> None: ...
