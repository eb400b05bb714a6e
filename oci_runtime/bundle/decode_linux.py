"""Decoders of the `linux` object. Source: OCI runtime specification 1.2, config-linux.md."""

from __future__ import annotations

from oci_runtime.bundle import linux
from oci_runtime.bundle.values import (
    Bad,
    absolute_path,
    array,
    flag,
    int64,
    integer,
    made_of,
    mapping,
    one_of,
    record,
    show,
    text,
    uint16,
    uint32,
    uint64,
    word,
    wrong,
)
from oci_runtime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"
_STRINGS = array(text)
_PATHS = array(absolute_path)

NAMESPACES = ("cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts")
SECCOMP_ACTIONS = (
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_PROCESS",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_LOG",
    "SCMP_ACT_NOTIFY",
    "SCMP_ACT_TRACE",
    "SCMP_ACT_TRAP",
)
SECCOMP_OPERATORS = (
    "SCMP_CMP_EQ",
    "SCMP_CMP_GE",
    "SCMP_CMP_GT",
    "SCMP_CMP_LE",
    "SCMP_CMP_LT",
    "SCMP_CMP_MASKED_EQ",
    "SCMP_CMP_NE",
)
PROPAGATIONS = ("", "shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable")


def _access(value: object) -> str:
    result = text(value)
    if result.strip("rwm"):
        raise wrong("made of r, w and m", value)
    return result


_PAGE_SIZES = frozenset(f"{1 << bits}{unit}" for unit in ("KB", "MB", "GB") for bits in range(10))


def _page_size(value: object) -> str:
    """A power of two below 1024 and KB, MB or GB, as in the cgroup file names: no kernel has pages of another size."""
    result = text(value)
    if result not in _PAGE_SIZES:
        raise wrong("a page size such as 2MB", value)
    return result


def _weight(value: object) -> int:
    """A weight of block I/O; 0, as engines write it, is none."""
    result = uint16(value)
    if result and not 10 <= result <= 1000:
        raise wrong("from 10 to 1000, or 0 for none", value)
    return result


def _join_path(value: object) -> str:
    """The namespace to join; some callers write "" where they mean a new one."""
    return absolute_path(value) if value != "" else ""


def _file_name(key: str) -> None:
    if "/" in key:
        raise Bad("must be the name of a file in the cgroup, without a slash")


def _known_clock(key: str) -> None:
    if key not in ("boottime", "monotonic"):
        raise Bad('must be "boottime" or "monotonic"')


def _clos_id(value: object) -> str:
    result = word(value)
    if result in (".", "..") or "/" in result:
        raise wrong("a directory name", value)
    return result


def _check_unique(types: Iterable[str], name: str) -> None:
    seen: set[str] = set()
    for index, type_ in enumerate(types):
        if type_ in seen:
            error = Bad(f"must not repeat the type {show(type_)}")
            error.path += [index, name]
            raise error
        seen.add(type_)


def _check_linux(value: linux.Linux) -> None:
    _check_unique((namespace.type for namespace in value.namespaces), "namespaces")


def _check_device(device: linux.Device) -> None:
    for name in ("major", "minor"):
        if device.type != "p" and name not in vars(device):
            raise Bad(f"misses the property {name}")


ID_MAPPINGS = array(
    record(
        linux.IdMapping,
        ("containerID", "container_id", uint32),
        ("hostID", "host_id", uint32),
        ("size", "size", uint32),
    )
)
_NAMESPACE = record(linux.Namespace, ("type", "type", one_of(*NAMESPACES)), ("path", "path", _join_path))
_DEVICE = record(
    linux.Device,
    ("path", "path", absolute_path),
    ("type", "type", one_of("b", "c", "p", "u")),
    ("major", "major", int64),
    ("minor", "minor", int64),
    ("fileMode", "file_mode", uint32),
    ("uid", "uid", uint32),
    ("gid", "gid", uint32),
    check=_check_device,
)
_DEVICE_RULE = record(
    linux.DeviceRule,
    ("allow", "allow", flag),
    ("type", "type", one_of("", "a", "b", "c")),
    ("major", "major", int64),
    ("minor", "minor", int64),
    ("access", "access", _access),
)
_MEMORY = record(
    linux.Memory,
    ("limit", "limit", int64),
    ("reservation", "reservation", int64),
    ("swap", "swap", int64),
    ("kernel", "kernel", int64),
    ("kernelTCP", "kernel_tcp", int64),
    ("swappiness", "swappiness", uint64),
    ("disableOOMKiller", "disable_oom_killer", flag),
    ("useHierarchy", "use_hierarchy", flag),
    ("checkBeforeUpdate", "check_before_update", flag),
)
_CPU_LIST = made_of("0123456789, -\n", "a list such as 0-3,7", empty=True)
_CPU = record(
    linux.Cpu,
    ("shares", "shares", uint64),
    ("quota", "quota", int64),
    ("burst", "burst", uint64),
    ("period", "period", uint64),
    ("realtimeRuntime", "realtime_runtime", int64),
    ("realtimePeriod", "realtime_period", uint64),
    ("cpus", "cpus", _CPU_LIST),
    ("mems", "mems", _CPU_LIST),
    ("idle", "idle", int64),
)
_WEIGHTS = array(
    record(
        linux.WeightDevice,
        ("major", "major", int64),
        ("minor", "minor", int64),
        ("weight", "weight", _weight),
        ("leafWeight", "leaf_weight", _weight),
    )
)
_THROTTLES = array(
    record(linux.ThrottleDevice, ("major", "major", int64), ("minor", "minor", int64), ("rate", "rate", uint64))
)
_BLOCK_IO = record(
    linux.BlockIo,
    ("weight", "weight", _weight),
    ("leafWeight", "leaf_weight", _weight),
    ("weightDevice", "weight_device", _WEIGHTS),
    ("throttleReadBpsDevice", "throttle_read_bps_device", _THROTTLES),
    ("throttleWriteBpsDevice", "throttle_write_bps_device", _THROTTLES),
    ("throttleReadIOPSDevice", "throttle_read_iops_device", _THROTTLES),
    ("throttleWriteIOPSDevice", "throttle_write_iops_device", _THROTTLES),
)
_NETWORK = record(
    linux.NetworkResources,
    ("classID", "class_id", uint32),
    (
        "priorities",
        "priorities",
        array(record(linux.InterfacePriority, ("name", "name", word), ("priority", "priority", uint32))),
    ),
)


class _Pids(Record):
    """`pids` holds nothing but a limit: it is flattened into Resources."""

    limit: int | None = None


_PIDS_OBJECT = record(_Pids, ("limit", "limit", int64))


def _pids(value: object) -> int | None:
    return _PIDS_OBJECT(value).limit


RESOURCES = record(
    linux.Resources,
    ("devices", "devices", array(_DEVICE_RULE)),
    ("memory", "memory", _MEMORY),
    ("cpu", "cpu", _CPU),
    ("pids", "pids_limit", _pids),
    ("blockIO", "block_io", _BLOCK_IO),
    (
        "hugepageLimits",
        "hugepage_limits",
        array(record(linux.HugepageLimit, ("pageSize", "page_size", _page_size), ("limit", "limit", uint64))),
    ),
    ("network", "network", _NETWORK),
    (
        "rdma",
        "rdma",
        mapping(record(linux.Rdma, ("hcaHandles", "hca_handles", uint32), ("hcaObjects", "hca_objects", uint32))),
    ),
    ("unified", "unified", mapping(text, _file_name)),
)
_ARG = record(
    linux.SeccompArg,
    ("index", "index", integer((0, 5))),
    ("value", "value", uint64),
    ("op", "op", one_of(*SECCOMP_OPERATORS)),
    ("valueTwo", "value_two", uint64),
)
_SYSCALL = record(
    linux.SeccompSyscall,
    ("names", "names", array(word, least=1)),
    ("action", "action", one_of(*SECCOMP_ACTIONS)),
    ("errnoRet", "errno_ret", uint32),
    ("args", "args", array(_ARG)),
)
_SECCOMP = record(
    linux.Seccomp,
    ("defaultAction", "default_action", one_of(*SECCOMP_ACTIONS)),
    ("defaultErrnoRet", "default_errno_ret", uint32),
    ("architectures", "architectures", array(made_of(_UPPER, "a SCMP_ARCH_ name", prefix="SCMP_ARCH_"))),
    ("flags", "flags", array(made_of(_UPPER, "a SECCOMP_FILTER_FLAG_ name", prefix="SECCOMP_FILTER_FLAG_"))),
    ("listenerPath", "listener_path", text),
    ("listenerMetadata", "listener_metadata", text),
    ("syscalls", "syscalls", array(_SYSCALL)),
)
_INTEL_RDT = record(
    linux.IntelRdt,
    ("closID", "clos_id", _clos_id),
    ("l3CacheSchema", "l3_cache_schema", text),
    ("memBwSchema", "mem_bw_schema", text),
    ("enableCMT", "enable_cmt", flag),
    ("enableMBM", "enable_mbm", flag),
)


def _net_devices(value: object) -> tuple[str, ...]:
    """Specification 1.3: host interfaces to move into the container; the names are enough to refuse them."""
    return tuple(mapping(_ignored)(value))


def _ignored(_: object) -> None:
    """Any value."""


LINUX = record(
    linux.Linux,
    ("namespaces", "namespaces", array(_NAMESPACE)),
    ("uidMappings", "uid_mappings", ID_MAPPINGS),
    ("gidMappings", "gid_mappings", ID_MAPPINGS),
    ("devices", "devices", array(_DEVICE)),
    ("netDevices", "net_devices", _net_devices),
    ("cgroupsPath", "cgroups_path", text),
    ("resources", "resources", RESOURCES),
    ("rootfsPropagation", "rootfs_propagation", one_of(*PROPAGATIONS)),
    ("seccomp", "seccomp", _SECCOMP),
    ("sysctl", "sysctl", mapping(text)),
    ("maskedPaths", "masked_paths", _PATHS),
    ("readonlyPaths", "readonly_paths", _PATHS),
    ("mountLabel", "mount_label", text),
    ("intelRdt", "intel_rdt", _INTEL_RDT),
    (
        "personality",
        "personality",
        record(linux.Personality, ("domain", "domain", one_of("LINUX", "LINUX32")), ("flags", "flags", _STRINGS)),
    ),
    (
        "timeOffsets",
        "time_offsets",
        mapping(record(linux.TimeOffset, ("secs", "secs", int64), ("nanosecs", "nanosecs", uint32)), _known_clock),
    ),
    check=_check_linux,
)
