"""What a booted guest says about its kernel, against what containers ask for. Pure."""

from __future__ import annotations

from oci_runtime.check.item import OK, Item, absent
from oci_runtime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# By kind: what containers cannot do without, and what some of them want.
_NEEDED = {
    "namespace": ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts"),
    "controller": ("cpu", "cpuset", "io", "memory", "pids"),
    "filesystem": ("cgroup2", "overlay", "proc", "sysfs", "tmpfs", "virtiofs"),
    "seccomp": ("allow", "errno", "kill_process", "log"),
}
_WANTED = {
    "namespace": ("time",),
    "controller": ("hugetlb",),
    "filesystem": ("9p", "btrfs", "erofs", "ext4", "fuse", "xfs"),
    "module": ("nf_tables", "tun", "virtio_blk", "virtio_scsi", "wireguard"),
    "seccomp": ("trap", "user_notif"),
}
_LABELS = {
    "namespace": "guest namespaces",
    "controller": "guest cgroups",
    "filesystem": "guest file systems",
    "seccomp": "guest seccomp",
    "module": "guest modules",
}


class GuestFacts(Record):
    """features: words `kind:name`, as the agent reports them. The text is the guest's: not to be trusted."""

    kernel_release: str
    agent_version: str
    crun_version: str
    vcpus: int
    memory_mib: int
    boot_ms: int
    features: frozenset[str]


def check_guest(facts: GuestFacts) -> list[Item]:
    """One item for the machine, one for crun, one for each kind of feature."""
    found = f"kernel {facts.kernel_release}, agent {facts.agent_version}, {facts.vcpus} vcpu, {facts.memory_mib} MiB"
    items = [Item(name="guest", status=OK, found=f"{found}, answered after {facts.boot_ms} ms")]
    if facts.crun_version:
        items.append(Item(name="guest crun", status=OK, found=facts.crun_version))
    else:
        items.append(absent("guest crun", "does not run", "vmpod image build --force", needed=True))
    for kind in (*_NEEDED, "module"):
        items += _check_kind(kind, names_of(facts.features, kind))
    return items


def names_of(features: Iterable[str], kind: str) -> list[str]:
    """The names of one kind, in order."""
    return sorted(word.partition(":")[2] for word in features if word.startswith(f"{kind}:"))


def _check_kind(kind: str, names: list[str]) -> list[Item]:
    items = []
    for table, needed in ((_NEEDED, True), (_WANTED, False)):
        remedy = "vmpod image build --force" if needed else ""
        for name in table.get(kind, ()):
            if name not in names:
                items.append(absent(f"guest {kind} {name}", "the guest's kernel lacks it", remedy, needed=needed))
    wanted = [name for name in (*_NEEDED.get(kind, ()), *_WANTED.get(kind, ())) if name in names]
    return [Item(name=_LABELS[kind], status=OK, found=" ".join(wanted)), *items]
