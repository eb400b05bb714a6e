"""A JSON Schema (2020-12) of the OCI runtime specification 1.2 for Linux, of our own making.

Written from config.md and config-linux.md, not from the decoder: a differential test compares the two. It accepts null
for an absent property, as Go programs do, and ignores unknown properties, as the specification demands.
`description` is what an error message says about a pattern.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    Schema = dict[str, Any]


def _string(pattern: str, description: str) -> Schema:
    return {"type": "string", "pattern": f"^(?:{pattern})$", "description": description}


def _number(minimum: int, maximum: int) -> Schema:
    return {"type": "integer", "minimum": minimum, "maximum": maximum}


def _enum(names: str) -> Schema:
    return {"enum": names.split()}


def _list(items: Schema, **keywords: Any) -> Schema:
    return {"type": "array", "items": items, **keywords}


def _or_null(schema: Schema) -> Schema:
    """The same, or null: what an optional property may be."""
    result = dict(schema)
    if "type" in result:
        result["type"] = [result["type"], "null"]
    if "enum" in result:
        result["enum"] = [*result["enum"], None]
    return result


def _object(required: str = "", **properties: Schema) -> Schema:
    """An object; the names in `required` must be there and not null. A property called `class` is written class_."""
    needed = required.split()
    named = {name.rstrip("_"): schema for name, schema in properties.items()}
    return {
        "type": "object",
        "required": needed,
        "properties": {name: schema if name in needed else _or_null(schema) for name, schema in named.items()},
    }


def _map(values: Schema, keys: Schema | None = None) -> Schema:
    return {"type": "object", "propertyNames": keys or NAME, "additionalProperties": values}


def _once(name: str, values: Iterable[str]) -> Schema:
    """No two items of an array have the same value in the property `name`."""
    return {
        "allOf": [
            {
                "contains": {"type": "object", "required": [name], "properties": {name: {"const": value}}},
                "minContains": 0,
                "maxContains": 1,
                "description": f"must not repeat the {name} {value}",
            }
            for value in values
        ]
    }


TEXT = _string(r"[^\u0000]*", "a string without NUL")
NAME = _string(r"[^\u0000]+", "a string that is not empty and has no NUL")
ABSOLUTE = _string(r"/[^\u0000]*", "an absolute path")
FLAG: Schema = {"type": "boolean"}
INT32 = _number(-(2**31), 2**31 - 1)
INT64 = _number(-(2**63), 2**63 - 1)
UINT16 = _number(0, 2**16 - 1)
UINT32 = _number(0, 2**32 - 1)
UINT64 = _number(0, 2**64 - 1)
_NUMBER: Schema = {"type": "integer"}
TEXTS = _list(TEXT)
ID_MAPPINGS = _list(_object("containerID hostID size", containerID=UINT32, hostID=UINT32, size=UINT32))

_RLIMITS = "AS CORE CPU DATA FSIZE LOCKS MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO RTTIME SIGPENDING STACK".split()
_RLIMIT_TYPES = [f"RLIMIT_{name}" for name in _RLIMITS]
_CPUS = _string(r"[0-9, -]*", "a list of CPUs such as 0-3,7")

PROCESS = _object(
    "args cwd",
    args=_list(TEXT, minItems=1),
    cwd=ABSOLUTE,
    user=_object("uid gid", uid=UINT32, gid=UINT32, umask=UINT32, additionalGids=_list(UINT32)),
    env=TEXTS,
    terminal=FLAG,
    consoleSize=_object("height width", height=UINT64, width=UINT64),
    capabilities=_object(bounding=TEXTS, effective=TEXTS, inheritable=TEXTS, permitted=TEXTS, ambient=TEXTS),
    rlimits=_list(
        _object("type hard soft", type={"enum": _RLIMIT_TYPES}, hard=UINT64, soft=UINT64),
        **_once("type", _RLIMIT_TYPES),
    ),
    noNewPrivileges=FLAG,
    apparmorProfile=TEXT,
    selinuxLabel=TEXT,
    oomScoreAdj=_number(-1000, 1000),
    ioPriority=_object(
        "class priority",
        class_=_enum("IOPRIO_CLASS_RT IOPRIO_CLASS_BE IOPRIO_CLASS_IDLE"),
        priority=_number(0, 7),
    ),
    scheduler=_object(
        "policy",
        policy=_enum("SCHED_OTHER SCHED_FIFO SCHED_RR SCHED_BATCH SCHED_ISO SCHED_IDLE SCHED_DEADLINE"),
        nice=INT32,
        priority=INT32,
        flags=_list(_string("SCHED_FLAG_[A-Z_]+", "a SCHED_FLAG_ name")),
        runtime=UINT64,
        deadline=UINT64,
        period=UINT64,
    ),
    execCPUAffinity=_object(initial=_CPUS, final=_CPUS),
)

MOUNT = _object(
    "destination",
    destination=NAME,
    type=TEXT,
    source=TEXT,
    options=TEXTS,
    uidMappings=ID_MAPPINGS,
    gidMappings=ID_MAPPINGS,
)

_HOOK_LIST = _list(_object("path", path=ABSOLUTE, args=TEXTS, env=TEXTS, timeout=_number(1, 2**63 - 1)))
HOOKS = _object(
    prestart=_HOOK_LIST,
    createRuntime=_HOOK_LIST,
    createContainer=_HOOK_LIST,
    startContainer=_HOOK_LIST,
    poststart=_HOOK_LIST,
    poststop=_HOOK_LIST,
)

_LIST_OF_NUMBERS = _string(r"[0-9, \n-]*", "a list such as 0-3,7")
_WEIGHT = {**_number(0, 1000), "not": _number(1, 9), "description": "from 10 to 1000, or 0 for none"}
_WEIGHTS = _list(_object("major minor", major=INT64, minor=INT64, weight=_WEIGHT, leafWeight=_WEIGHT))
_THROTTLES = _list(_object("major minor rate", major=INT64, minor=INT64, rate=UINT64))
RESOURCES = _object(
    devices=_list(
        _object(
            "allow",
            allow=FLAG,
            type={"enum": ["", "a", "b", "c"]},
            major=INT64,
            minor=INT64,
            access=_string("[rwm]*", "made of r, w and m"),
        )
    ),
    memory=_object(
        limit=INT64,
        reservation=INT64,
        swap=INT64,
        kernel=INT64,
        kernelTCP=INT64,
        swappiness=UINT64,
        disableOOMKiller=FLAG,
        useHierarchy=FLAG,
        checkBeforeUpdate=FLAG,
    ),
    cpu=_object(
        shares=UINT64,
        quota=INT64,
        burst=UINT64,
        period=UINT64,
        realtimeRuntime=INT64,
        realtimePeriod=UINT64,
        cpus=_LIST_OF_NUMBERS,
        mems=_LIST_OF_NUMBERS,
        idle=INT64,
    ),
    pids=_object(limit=INT64),
    blockIO=_object(
        weight=_WEIGHT,
        leafWeight=_WEIGHT,
        weightDevice=_WEIGHTS,
        throttleReadBpsDevice=_THROTTLES,
        throttleWriteBpsDevice=_THROTTLES,
        throttleReadIOPSDevice=_THROTTLES,
        throttleWriteIOPSDevice=_THROTTLES,
    ),
    hugepageLimits=_list(
        _object(
            "pageSize limit",
            pageSize=_string("(1|2|4|8|16|32|64|128|256|512)[KMG]B", "a page size such as 2MB"),
            limit=UINT64,
        )
    ),
    network=_object(classID=UINT32, priorities=_list(_object("name priority", name=NAME, priority=UINT32))),
    rdma=_map(_object(hcaHandles=UINT32, hcaObjects=UINT32)),
    unified=_map(TEXT, _string(r"[^/\u0000]+", "the name of a file in the cgroup, without a slash")),
)

_ACTIONS = {"enum": [f"SCMP_ACT_{name}" for name in
            "ALLOW ERRNO KILL KILL_PROCESS KILL_THREAD LOG NOTIFY TRACE TRAP".split()]}  # fmt: skip
SECCOMP = _object(
    "defaultAction",
    defaultAction=_ACTIONS,
    defaultErrnoRet=UINT32,
    architectures=_list(_string("SCMP_ARCH_[A-Z0-9_]+", "a SCMP_ARCH_ name")),
    flags=_list(_string("SECCOMP_FILTER_FLAG_[A-Z0-9_]+", "a SECCOMP_FILTER_FLAG_ name")),
    listenerPath=TEXT,
    listenerMetadata=TEXT,
    syscalls=_list(
        _object(
            "names action",
            names=_list(NAME, minItems=1),
            action=_ACTIONS,
            errnoRet=UINT32,
            args=_list(
                _object(
                    "index value op",
                    index=_number(0, 5),
                    value=UINT64,
                    valueTwo=UINT64,
                    op={"enum": [f"SCMP_CMP_{name}" for name in "EQ GE GT LE LT MASKED_EQ NE".split()]},
                )
            ),
        )
    ),
)

_NAMESPACE_TYPES = "cgroup ipc mount network pid time user uts".split()
DEVICE = {
    **_object(
        "path type",
        path=ABSOLUTE,
        type=_enum("b c p u"),
        major=INT64,
        minor=INT64,
        fileMode=UINT32,
        uid=UINT32,
        gid=UINT32,
    ),
    # Only a named pipe has no numbers.
    "if": {"properties": {"type": {"enum": ["b", "c", "u"]}}},
    "then": {"required": ["major", "minor"], "properties": {"major": _NUMBER, "minor": _NUMBER}},
}
LINUX = _object(
    namespaces=_list(
        _object("type", type={"enum": _NAMESPACE_TYPES}, path=_string(r"(?:/[^\u0000]*)?", "an absolute path")),
        **_once("type", _NAMESPACE_TYPES),
    ),
    uidMappings=ID_MAPPINGS,
    gidMappings=ID_MAPPINGS,
    devices=_list(DEVICE),
    netDevices=_map({}),
    cgroupsPath=TEXT,
    resources=RESOURCES,
    rootfsPropagation={"enum": ["", *"shared slave private unbindable rshared rslave rprivate runbindable".split()]},
    seccomp=SECCOMP,
    sysctl=_map(TEXT),
    maskedPaths=_list(ABSOLUTE),
    readonlyPaths=_list(ABSOLUTE),
    mountLabel=TEXT,
    intelRdt=_object(
        closID=_string(r"(?!\.{1,2}$)[^/\u0000]+", "a directory name"),
        l3CacheSchema=TEXT,
        memBwSchema=TEXT,
        enableCMT=FLAG,
        enableMBM=FLAG,
    ),
    personality=_object("domain", domain=_enum("LINUX LINUX32"), flags=TEXTS),
    timeOffsets=_map(_object(secs=INT64, nanosecs=UINT32), {"enum": ["boottime", "monotonic"]}),
)

CONFIG: Schema = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "OCI runtime configuration for Linux, as vmpod reads it",
    **_object(
        "ociVersion root",
        ociVersion=_string(
            r"1\.[0-3]\.(?:0|[1-9][0-9]*)(?:[-+][0-9A-Za-z.+-]+)?", "a supported version, 1.0.0 to 1.3.0"
        ),
        root=_object("path", path=NAME, readonly=FLAG),
        process=PROCESS,
        hostname=TEXT,
        domainname=TEXT,
        mounts=_list(MOUNT),
        hooks=HOOKS,
        annotations=_map(TEXT),
        linux=LINUX,
    ),
}
