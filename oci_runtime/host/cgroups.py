"""Cgroups of the host: where they are mounted, and making, joining, freezing and removing those of a container.

A container has one directory in each hierarchy (cgroup v1 and hybrid hosts have many, v2 has one). The proxy that
stands for the container joins all of them. The machine (QEMU, virtiofsd, sandbox process) joins only those that engines
read usage from; container limits never go there, since they hold in the guest, and a limit of 64 MiB would kill QEMU.

Nothing here kills a process that it was not told to, or moves one that lives. Directories are removed only while they
are empty.
Sources: the kernel's cgroup-v1 and cgroup-v2 documentation, proc(5), cgroups(7).
"""

from __future__ import annotations

import errno
import os
import time

from oci_runtime.errors import HostError, InvalidInput
from oci_runtime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Hierarchies with one of these show what a container uses; systemd tracks units by its own one.
_MACHINE_CONTROLLERS = frozenset(("cpuacct", "memory", "blkio", "name=systemd"))
_MAX_PATH_BYTES = 4000
_FIRST_PAUSE_S = 0.002
_LONGEST_PAUSE_S = 0.1
# In /proc/PID/task/TID/stat behind the command's name: flags of the task, and signals that wait for it.
_FLAGS, _PF_EXITING = 6, 0x4
_PENDING, _SIGKILL_BIT = 28, 1 << 8


class Hierarchy(Record):
    """One mounted hierarchy. controllers: e.g. memory; name=systemd for a named one. version: 1 or 2.

    mount: where it is mounted. own: the caller's cgroup in it, as a path below the mount, "/" for the mount itself.
    """

    mount: str
    controllers: tuple[str, ...]
    version: int
    own: str = "/"


class Layout(Record):
    """All hierarchies of the host, in the order in which they are mounted."""

    hierarchies: tuple[Hierarchy, ...] = ()

    @property
    def mode(self) -> str:
        """v1, hybrid or v2; none where no cgroup file system is mounted."""
        versions = {hierarchy.version for hierarchy in self.hierarchies}
        if not versions:
            return "none"
        return "hybrid" if len(versions) == 2 else f"v{versions.pop()}"


class Leaf(Record):
    """A group's directory in one hierarchy."""

    hierarchy: Hierarchy
    directory: str

    @property
    def is_root(self) -> bool:
        """True for the root of the hierarchy, which nobody limits or removes."""
        return self.directory == self.hierarchy.mount

    @property
    def counts_machine(self) -> bool:
        """Whether a machine joins here, so that engines see its use; no container limit may be set here then."""
        return self.hierarchy.version == 2 or not _MACHINE_CONTROLLERS.isdisjoint(self.hierarchy.controllers)


class Group(Record):
    """A container's cgroup in all hierarchies. parents: directories above that do not exist yet, deepest first."""

    leaves: tuple[Leaf, ...] = ()
    parents: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """What remove() must be given: every directory that the group makes, deepest first."""
        return (*(leaf.directory for leaf in self.leaves if not leaf.is_root), *self.parents)

    @property
    def procs_files(self) -> tuple[str, ...]:
        """The cgroup.procs files that the proxy joins."""
        return tuple(os.path.join(leaf.directory, "cgroup.procs") for leaf in self.leaves)

    @property
    def machine_procs_files(self) -> tuple[str, ...]:
        """The cgroup.procs files that the processes of a machine join."""
        return tuple(os.path.join(leaf.directory, "cgroup.procs") for leaf in self.leaves if leaf.counts_machine)


def read_layout(mountinfo: str = "/proc/self/mountinfo", own: str = "/proc/self/cgroup") -> Layout:
    """Find the hierarchies that are mounted. The files are parameters for tests. Raises: HostError."""
    mounts: dict[tuple[str, ...], tuple[str, str, int]] = {}
    for line in _read(mountinfo).splitlines():
        fields, _, rest = line.partition(" - ")
        words, (kind, _, *options) = fields.split(" "), rest.split(" ")
        if kind not in ("cgroup", "cgroup2"):
            continue
        root, mount = _unescape(words[3]), _unescape(words[4])
        names = _v1_controllers(options[0]) if kind == "cgroup" else ("",)
        # A hierarchy that is mounted twice: the place that shows most of it, the first one of these.
        if names not in mounts or len(root) < len(mounts[names][0]):
            mounts[names] = (root, mount, 2 if kind == "cgroup2" else 1)
    mine = _own_cgroups(_read(own))
    found = []
    for names, (root, mount, version) in mounts.items():
        controllers = names if version == 1 else tuple(_read_if_any(os.path.join(mount, "cgroup.controllers")).split())
        found.append(
            Hierarchy(mount=mount, controllers=controllers, version=version, own=_below(root, mine.get(names, "/")))
        )
    return Layout(hierarchies=tuple(found))


def _v1_controllers(super_options: str) -> tuple[str, ...]:
    """The controllers among the options of the super block; named hierarchies have name=… there."""
    no_controllers = ("rw", "ro", "xattr", "clone_children", "noprefix", "cpuset_v2_mode", "none")
    options = (option for option in super_options.split(",") if "=" not in option or option.startswith("name="))
    return tuple(sorted(option for option in options if option not in no_controllers))


def _own_cgroups(text: str) -> dict[tuple[str, ...], str]:
    """/proc/PID/cgroup: `number:controllers:path` lines; the v2 line has number 0 and no controllers."""
    found = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        found[tuple(sorted(controllers.split(",")))] = path
    return found


def _below(root: str, path: str) -> str:
    """A path of the hierarchy as seen below a mount that shows it from `root` on."""
    if root == "/":
        return path
    if path == root or path.startswith(root + "/"):
        return path[len(root) :] or "/"
    return "/"


def _unescape(word: str) -> str:
    for code, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        word = word.replace(code, character)
    return word


def plan_group(layout: Layout, cgroups_path: str, container_id: str) -> Group:
    """Where a container's directories go, and which of them have to be made. Nothing is changed.

    cgroups_path: linux.cgroupsPath. An absolute one counts from each mount, a relative one from the caller's own cgroup
    (on v2 from its parent: a cgroup with processes cannot pass controllers on); "" stands for the container id.
    Raises: InvalidInput for a path that cannot be one.
    """
    path = cgroups_path or container_id
    if "\0" in path or "\n" in path or len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise InvalidInput(f"cgroupsPath {path[:80]!r} cannot be a cgroup's path")
    leaves = []
    parents: list[str] = []
    for hierarchy in layout.hierarchies:
        base = "/"
        if not path.startswith("/"):
            base = hierarchy.own if hierarchy.version == 1 else os.path.dirname(hierarchy.own)
        relative = os.path.normpath("/" + path).strip("/")
        inner = os.path.normpath(f"/{base.strip('/')}/{relative}").strip("/")
        directory = os.path.join(hierarchy.mount, inner) if inner else hierarchy.mount
        leaves.append(Leaf(hierarchy=hierarchy, directory=directory))
        parent = os.path.dirname(directory)
        while parent.startswith(hierarchy.mount + "/") and not os.path.isdir(parent):
            parents.append(parent)
            parent = os.path.dirname(parent)
    parents.sort(key=lambda path: -path.count("/"))
    return Group(leaves=tuple(leaves), parents=tuple(parents))


def sibling_path(cgroups_path: str, name: str) -> str:
    """The cgroupsPath of a machine without a container of its own: beside the first member, in the pod's cgroup."""
    return os.path.join(os.path.dirname(cgroups_path.rstrip("/")), name)


def make_group(group: Group) -> tuple[Group, tuple[str, ...]]:
    """Make the directories. Returns the group as far as it exists, and warnings for hierarchies that refused.

    Raises: HostError when there are hierarchies but none of them took it. What was made stays then: record the paths of
    the *planned* group before, and give those to remove().
    """
    made: list[Leaf] = []
    failures: list[HostError] = []
    for leaf in group.leaves:
        try:
            _make_directories(leaf)
        except OSError as error:
            failures.append(HostError.from_oserror(error, "mkdir", leaf.directory))
        else:
            made.append(leaf)
    if failures and not made:
        raise failures[0]
    return group.replace(leaves=tuple(made)), tuple(failure.message for failure in failures)


def _make_directories(leaf: Leaf) -> None:
    mount = leaf.hierarchy.mount
    names = leaf.directory[len(mount) :].strip("/")
    for attempt in range(10):
        directory = mount
        try:
            for name in names.split("/") if names else ():
                _pass_controllers_on(leaf.hierarchy, directory)
                parent, directory = directory, os.path.join(directory, name)
                if not os.path.isdir(directory):
                    os.mkdir(directory, 0o755)
                if "cpuset" in leaf.hierarchy.controllers and leaf.hierarchy.version == 1:
                    _inherit_cpuset(parent, directory)
            return
        except FileExistsError:
            continue  # somebody else made it meanwhile
        except FileNotFoundError:
            if attempt == 9:
                raise  # otherwise: a parent was removed with its last child just now


def _pass_controllers_on(hierarchy: Hierarchy, directory: str) -> None:
    """v2: children of a cgroup have only the controllers that it hands down. Best effort, one by one."""
    if hierarchy.version != 2:
        return
    control = os.path.join(directory, "cgroup.subtree_control")
    missing = set(hierarchy.controllers) - set(_read_if_any(control).split())
    for controller in sorted(missing):
        _try_write(control, f"+{controller}")


def _inherit_cpuset(parent: str, directory: str) -> None:
    """v1: a new cpuset is empty, and no process can join it until it has CPUs and memory nodes."""
    for name in ("cpuset.cpus", "cpuset.mems"):
        if not _read_if_any(os.path.join(directory, name)).strip():
            _try_write(os.path.join(directory, name), _read_if_any(os.path.join(parent, name)).strip())


def join(procs_files: Iterable[str], pid: int) -> None:
    """Move a process. Raises: HostError naming the file; ESRCH means that the process is gone."""
    for file in procs_files:
        try:
            write_file(file, str(pid))
        except OSError as error:
            raise HostError.from_oserror(error, "write", file) from error


def wait_joined(pid: int, path: str, deadline_s: float) -> bool:
    """Wait until a process is in the cgroup `path` of some hierarchy (systemd moves it). False after deadline_s.

    Raises: HostError when the process is gone.
    """
    end = time.monotonic() + deadline_s
    while True:
        if any(line.split(":", 2)[2] == path for line in _read(f"/proc/{pid}/cgroup").splitlines()):
            return True
        if time.monotonic() >= end:
            return False
        time.sleep(_FIRST_PAUSE_S)


def remove(paths: Sequence[str], deadline_s: float = 2.0) -> tuple[str, ...]:
    """Remove directories of Group.paths, in their order; those that are gone already are fine.

    Waits up to deadline_s for processes that are ending; those that were killed and still cannot end, because a file
    system hangs that they wait for, go to the root of the hierarchy. Parents of other paths are left alone when
    somebody else uses them. Returns one line for each container directory that is still there; never raises or kills.
    """
    mounts = [hierarchy.mount for hierarchy in read_layout().hierarchies]
    end = time.monotonic() + deadline_s
    problems = []
    for path in paths:
        mount = next((mount for mount in mounts if path.startswith(mount + "/")), "")
        if not mount or ".." in path.split("/"):
            problems.append(f"cgroup {path} is not below a mounted hierarchy")
            continue
        is_parent = any(other.startswith(path + "/") for other in paths)
        problem = _remove_one(path, mount, 0.0 if is_parent else end)
        if problem and not is_parent:
            problems.append(problem)
    return tuple(problems)


def _remove_one(path: str, mount: str, end: float) -> str:
    pause = _FIRST_PAUSE_S
    while True:
        try:
            os.rmdir(path)
            return ""
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                return f"rmdir {path}: {error.strerror}"
        if has_children(path):
            return f"cgroup {path} has cgroups of somebody else in it"
        if time.monotonic() >= end and not _send_away(path, mount):
            return f"cgroup {path} still has processes: {' '.join(_pids(path)[:10]) or 'that cannot be seen'}"
        time.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_S)


def _send_away(path: str, mount: str) -> bool:
    """Move the processes of a cgroup to its hierarchy's root if all are as good as dead; False if one is not."""
    pids = _pids(path)
    if not pids or not all(map(_is_dying, pids)):
        return False
    for pid in pids:
        try:
            write_file(os.path.join(mount, "cgroup.procs"), pid)
        except ProcessLookupError:
            continue
        except OSError:
            return False
    return True


def _is_dying(pid: str) -> bool:
    """Whether each thread of a process has ended, is ending, or has SIGKILL waiting for the end of a system call."""
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            stat = _read_if_any(f"/proc/{pid}/task/{thread}/stat").rpartition(")")[2].split()
            if stat and not (int(stat[_PENDING]) & _SIGKILL_BIT or int(stat[_FLAGS]) & _PF_EXITING):
                return False
    except FileNotFoundError:
        pass
    return True


def has_children(path: str) -> bool:
    """True when there are cgroups below a cgroup; False when it is gone."""
    try:
        with os.scandir(path) as entries:
            return any(entry.is_dir(follow_symlinks=False) for entry in entries)
    except OSError:
        return False


def kill(path: str) -> None:
    """SIGKILL the processes of one cgroup, not those of the cgroups below it. One that is gone has none."""
    for pid in _read_if_any(os.path.join(path, "cgroup.procs")).split():
        try:
            os.kill(int(pid), 9)
        except ProcessLookupError:
            continue


def _pids(path: str) -> list[str]:
    return _read_if_any(os.path.join(path, "cgroup.procs")).split()


def write_file(path: str, value: str) -> None:
    """One write(2), as cgroup files want it; never creates a file. Raises: OSError with the path."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        os.write(descriptor, value.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(descriptor)


def _try_write(path: str, value: str) -> None:
    try:
        write_file(path, value)
    except OSError:
        return  # best effort by contract; joining or limiting fails with the reason where it mattered


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError as error:
        raise HostError.from_oserror(error, "read", path) from error


def _read_if_any(path: str) -> str:
    try:
        return _read(path)
    except HostError:
        return ""
