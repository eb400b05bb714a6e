"""What becomes of each mount of a spec: who makes it, and from what. Pure tables and predicates; imports nothing.

- Type proc, sysfs, tmpfs, devpts, mqueue, cgroup and the like: the guest's own, with the options as they are.
- A bind of a directory or file: the share. Opened on the host, where `ro` and propagation are applied; the guest
  applies them again, and all other options.
- A bind of a host tmpfs at /dev/shm: a tmpfs of the guest with the host mount's size, one for all containers that bind
  the same one.
- A read-only bind of the kubelet's ConfigMap, Secret, projected or downward-API directory: a copy in the guest that is
  kept in step, so that inotify works there; shared like any other if it is large.
- A bind of the kubelet's emptyDir in memory, or of a part of it (subPath): a tmpfs of the guest with the size, owner
  and mode of the host's, one for all containers of the pod. What the host has in it does not come along.
- A bind of a hugetlbfs: one of the guest with the same page size; the guest allocates pages as they are mapped.
- A bind from /dev, /proc, /sys or another file system of the kernel: the same path of the guest's own; refused if the
  guest has no such path. Below a recursive bind of something else they are left out.
- A bind of a block device: a disk is plugged into the machine, and its node appears at the destination.
- An overlay: mounted by the host's kernel, shared like a bind.
- Any other type: refused, such file systems are mounted on the host and bound.
"""

from __future__ import annotations

# Made by the guest's kernel out of nothing; everything else has content that lives on the host.
GUEST_TYPES = frozenset(
    "proc sysfs tmpfs ramfs devpts devtmpfs mqueue cgroup cgroup2 hugetlbfs bpf debugfs tracefs securityfs fusectl "
    "configfs efivarfs binfmt_misc".split()
)

# Mounted by the host: their options name directories of the host.
OVERLAY = "overlay"
# Options without a value that are the file system's own; all others of these are flags of the mount.
_OVERLAY_FLAGS = frozenset(("userxattr", "volatile"))

# f_type of file systems whose content is the kernel's: serving the host's to a guest makes no sense or is dangerous.
# Source: linux/magic.h and the file systems' own sources.
KERNEL_MAGIC = frozenset(
    (
        0x9FA0,  # proc
        0x62656572,  # sysfs
        0x0027E0EB,  # cgroup
        0x63677270,  # cgroup2
        0x1CD1,  # devpts
        0x19800202,  # mqueue
        0x64626720,  # debugfs
        0x74726163,  # tracefs
        0x73636673,  # securityfs
        0xCAFE4A11,  # bpf
        0x62656570,  # configfs
        0x6165676C,  # pstore
        0xDE5E81E4,  # efivarfs
        0x6E736673,  # nsfs
        0xF97CFF8C,  # selinuxfs
        0x42494E4D,  # binfmt_misc
    )
)
TMPFS_MAGIC = 0x01021994
HUGETLBFS_MAGIC = 0x958458F6
# The same by name, as mountinfo has it: what is taken out of a recursive bind of the host.
KERNEL_TYPES = frozenset(
    "proc sysfs cgroup cgroup2 devtmpfs devpts mqueue hugetlbfs debugfs tracefs securityfs bpf configfs pstore "
    "efivarfs nsfs selinuxfs binfmt_misc".split()
)

SHM = "/dev/shm"
SHM_GUEST_ROOT = "/run/vmpod/shm"
MEMORY_GUEST_ROOT = "/run/vmpod/memory"
HUGEPAGES_GUEST_ROOT = "/run/vmpod/hugepages"
SUB_PATH_GUEST_ROOT = "/run/vmpod/subpath"

# How the kubelet's paths tell what a volume is.
EMPTY_DIR = "/kubernetes.io~empty-dir/"
WATCHED = tuple(f"/kubernetes.io~{kind}/" for kind in ("configmap", "secret", "projected", "downward-api"))
SUB_PATHS = "/volume-subpaths/"


def is_bind(mount: dict[str, object]) -> bool:
    """Whether a mount of a spec is a bind mount: by type or by option, as runc has it."""
    return mount.get("type") == "bind" or not {"bind", "rbind"}.isdisjoint(options_of(mount))


def options_of(mount: dict[str, object]) -> list[str]:
    """The options of a mount as strings; none if there are none."""
    options = mount.get("options")
    return [str(option) for option in options] if isinstance(options, list) else []


def superblock_options(options: list[str]) -> list[str]:
    """Those of an overlay's options that the file system itself reads: its directories and what has a value."""
    return [option for option in options if "=" in option or option in _OVERLAY_FLAGS]


def readonly_of(options: list[str]) -> str:
    """Which mounts of a bind are read-only: "" for none, "top" for the topmost, "tree" for all of them.

    The last of ro and rw counts for the topmost mount, the last of rro and rrw for all.
    """
    top = tree = False
    for option in options:
        if option in ("ro", "rw"):
            top = option == "ro"
        elif option in ("rro", "rrw"):
            top = tree = option == "rro"
    return "tree" if tree else "top" if top else ""


def propagation_of(options: list[str], rootfs_propagation: str = "") -> str:
    """private, slave or shared; the last one named counts.

    Without any the container's root decides (linux.rootfsPropagation), which follows the host if nothing else is said.
    """
    wanted = "private" if rootfs_propagation.removeprefix("r") in ("private", "unbindable") else "slave"
    for option in options:
        if option.removeprefix("r") in ("private", "slave", "shared"):
            wanted = option.removeprefix("r")
    return wanted
