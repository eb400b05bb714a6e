"""The parts of config.json that do not depend on Linux: process, root, mounts, hooks, and the spec as a whole.

Source: OCI runtime specification 1.2, config.md. Names are those of the specification in Python's spelling; an absent
value is None, an absent list or map is empty. `None` in the file means absent, as it does for Go programs.
"""

from __future__ import annotations

from oci_runtime.bundle.linux import IdMapping, Linux, Resources
from oci_runtime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


class User(Record):
    """Identity of the process inside the container. umask: None means the runtime's own default."""

    uid: int
    gid: int
    umask: int | None = None
    additional_gids: tuple[int, ...] = ()


class ConsoleSize(Record):
    """Size of the terminal in characters."""

    height: int
    width: int


class Capabilities(Record):
    """The five sets, as names like CAP_KILL; a name that no kernel knows is kept (runtimes warn and drop it)."""

    bounding: tuple[str, ...] = ()
    effective: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class Rlimit(Record):
    """One resource limit; hard and soft up to 2^64-1 (no limit)."""

    type: str
    hard: int
    soft: int


class IoPriority(Record):
    """I/O scheduling class and level 0 (high) to 7."""

    priority_class: str
    priority: int


class Scheduler(Record):
    """Scheduling policy; runtime, deadline and period in nanoseconds, for SCHED_DEADLINE."""

    policy: str
    nice: int = 0
    priority: int = 0
    flags: tuple[str, ...] = ()
    runtime: int = 0
    deadline: int = 0
    period: int = 0


class ExecCpuAffinity(Record):
    """CPU lists for exec: before joining the container's cgroup, and after."""

    initial: str = ""
    final: str = ""


class Process(Record):
    """What runs in the container; also the whole of what `exec --process` reads."""

    args: tuple[str, ...]
    cwd: str
    user: User = User(uid=0, gid=0)
    env: tuple[str, ...] = ()
    terminal: bool = False
    console_size: ConsoleSize | None = None
    capabilities: Capabilities | None = None
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    apparmor_profile: str = ""
    selinux_label: str = ""
    oom_score_adj: int | None = None
    io_priority: IoPriority | None = None
    scheduler: Scheduler | None = None
    exec_cpu_affinity: ExecCpuAffinity | None = None


class Root(Record):
    """The root file system; path as written, relative to the bundle or absolute."""

    path: str
    readonly: bool = False


class Mount(Record):
    """One mount. destination is absolute (a relative one of old configurations gets its slash)."""

    destination: str
    type: str = ""
    source: str = ""
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()

    @property
    def is_bind(self) -> bool:
        """True when the source is a path of the host: type bind, or an option that says so."""
        return self.type == "bind" or "bind" in self.options or "rbind" in self.options

    @property
    def readonly(self) -> bool:
        """The last of ro/rw (and their recursive forms rro/rrw) wins; without either, writable."""
        for option in reversed(self.options):
            if option in ("ro", "rro"):
                return True
            if option in ("rw", "rrw"):
                return False
        return False


class Hook(Record):
    """One hook; timeout in seconds, None for none."""

    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class Hooks(Record):
    """The six kinds, in the order in which a container meets them."""

    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()


class Spec(Record):
    """A decoded config.json."""

    oci_version: str
    root: Root
    process: Process | None = None
    hostname: str = ""
    domainname: str = ""
    mounts: tuple[Mount, ...] = ()
    hooks: Hooks = Hooks()
    annotations: Mapping[str, str] = {}
    linux: Linux = Linux()

    @property
    def namespaces(self) -> Mapping[str, str]:
        """Namespace type to the path to join, "" for a new one; a type that is absent is shared with the caller."""
        return {namespace.type: namespace.path for namespace in self.linux.namespaces}

    @property
    def resources(self) -> Resources:
        """The container's limits; all absent where the file has none."""
        return self.linux.resources
