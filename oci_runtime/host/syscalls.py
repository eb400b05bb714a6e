"""Thin wrappers for the system calls that Python 3.11 does not offer: each raises HostError naming the call and path.

Only this module uses ctypes. ctypes is imported on first use: most verbs of the command line never get here.
Source: the kernel's UAPI headers (linux/mount.h, linux/openat2.h, linux/sched.h, linux/prctl.h), x86-64 and arm64.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import struct

from oci_runtime.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# One number on both architectures: they are younger than the unified table.
_SYS_OPEN_TREE = 428
_SYS_MOVE_MOUNT = 429
_SYS_MOUNT_SETATTR = 442
_SYS_OPENAT2 = 437
_SYS_FSOPEN = 430
_SYS_FSCONFIG = 431
_SYS_FSMOUNT = 432

CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
NAMESPACE_FLAGS = {
    "mount": CLONE_NEWNS,
    "cgroup": CLONE_NEWCGROUP,
    "uts": CLONE_NEWUTS,
    "ipc": CLONE_NEWIPC,
    "user": CLONE_NEWUSER,
    "pid": CLONE_NEWPID,
    "network": CLONE_NEWNET,
}

OPEN_TREE_CLONE = 1
AT_RECURSIVE = 0x8000
AT_EMPTY_PATH = 0x1000
MOVE_MOUNT_F_EMPTY_PATH = 0x00000004
MOVE_MOUNT_T_EMPTY_PATH = 0x00000040

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

_FSOPEN_CLOEXEC = 1
_FSCONFIG_CMD_CREATE = 6
_FSMOUNT_CLOEXEC = 1
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_IDMAP = 0x00100000

RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_SET_SECUREBITS = 28
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
SECBIT_NO_SETUID_FIXUP = 1 << 2
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _check(result: int, call: str, path: str) -> int:
    if result < 0:
        raise HostError(call, path, ctypes.get_errno())
    return result


def setns(fd: int, flags: int = 0) -> None:
    """Move the calling thread into the namespace behind `fd` (pid: its future children)."""
    _check(_libc().setns(fd, flags), "setns", f"fd {fd}")


def unshare(flags: int) -> None:
    """Give the calling thread new namespaces (CLONE_NEW*)."""
    _check(_libc().unshare(flags), "unshare", hex(flags))


def prctl(option: int, argument: int) -> None:
    """Call prctl with one argument."""
    _check(_libc().prctl(option, ctypes.c_ulong(argument), 0, 0, 0), "prctl", str(option))


def keep_capabilities(numbers: Sequence[int]) -> None:
    """Make these, which it must have, the calling thread's only capabilities, and have an exec keep them (ambient)."""
    bits = sum(1 << number for number in numbers)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    low, high = bits & 0xFFFFFFFF, bits >> 32
    _check(_libc().capset(header, struct.pack("=6I", low, low, low, high, high, high)), "capset", hex(bits))
    for number in numbers:
        arguments = [ctypes.c_ulong(value) for value in (_PR_CAP_AMBIENT_RAISE, number, 0, 0)]
        _check(_libc().prctl(_PR_CAP_AMBIENT, *arguments), "raise capability", str(number))


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2)."""
    arguments = [os.fsencode(text) if text else None for text in (source, target, fstype)]
    options = os.fsencode(data) if data else None
    _check(_libc().mount(*arguments, ctypes.c_ulong(flags), options), "mount", target)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc().umount2(os.fsencode(target), flags), "umount", target)


def open_tree(path: str, flags: int = OPEN_TREE_CLONE | AT_RECURSIVE, dir_fd: int = -100) -> int:
    """Clone the mount tree at `path` as the caller's mount namespace sees it; return its descriptor (close-on-exec).

    The clone is detached: it vanishes with the descriptor unless `move_mount` attaches it.
    """
    call = _libc().syscall
    result = call(_SYS_OPEN_TREE, dir_fd, os.fsencode(path), ctypes.c_uint(flags | os.O_CLOEXEC))
    return _check(result, "open_tree", path)


def move_mount(tree_fd: int, target: str, *, target_fd: int = -100) -> None:
    """Attach the detached tree behind `tree_fd` at `target` (a directory for a directory, a file for a file).

    target_fd: where a relative `target` starts; it is the target itself when `target` is empty.
    """
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if target else MOVE_MOUNT_T_EMPTY_PATH)
    call = _libc().syscall
    result = call(_SYS_MOVE_MOUNT, tree_fd, b"", target_fd, os.fsencode(target), ctypes.c_uint(flags))
    _check(result, "move_mount", target or f"fd {target_fd}")


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2): also every process of the mount namespace whose root was the old one has the new one then."""
    _check(_libc().pivot_root(os.fsencode(new_root), os.fsencode(put_old)), "pivot_root", new_root)


def detached_tmpfs() -> int:
    """Return an empty, read-only tmpfs that is mounted nowhere."""
    call = _libc().syscall
    context = _check(call(_SYS_FSOPEN, b"tmpfs", _FSOPEN_CLOEXEC), "fsopen", "tmpfs")
    try:
        _check(call(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0), "fsconfig", "tmpfs")
        attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV
        return _check(call(_SYS_FSMOUNT, context, _FSMOUNT_CLOEXEC, attributes), "fsmount", "tmpfs")
    finally:
        os.close(context)


def mount_setattr(
    path: str,
    set_attributes: int,
    *,
    propagation: int = 0,
    recursive: bool = True,
    fd: int = -100,
    user_namespace: int = 0,
) -> None:
    """Set MOUNT_ATTR_* and the propagation type (MS_PRIVATE, MS_SLAVE, MS_SHARED) of a mount tree.

    user_namespace: a descriptor, for MOUNT_ATTR_IDMAP.
    """
    flags = (AT_RECURSIVE if recursive else 0) | (AT_EMPTY_PATH if not path else 0)
    attributes = struct.pack("=QQQQ", set_attributes, 0, propagation, user_namespace)
    result = _libc().syscall(
        _SYS_MOUNT_SETATTR, fd, os.fsencode(path), ctypes.c_uint(flags), attributes, len(attributes)
    )
    _check(result, "mount_setattr", path or f"fd {fd}")


_OPENAT2_TRIES = 100


def openat2(path: str, flags: int, *, dir_fd: int, resolve: int) -> int:
    """Open what is at `path` below `dir_fd` under the RESOLVE_* rules; return a close-on-exec descriptor."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    for _ in range(_OPENAT2_TRIES):
        result = _libc().syscall(_SYS_OPENAT2, dir_fd, os.fsencode(path), how, len(how))
        # EAGAIN: something was renamed or mounted on the host while a `..` was looked up.
        if result >= 0 or ctypes.get_errno() != errno.EAGAIN:
            break
    return _check(result, "openat2", path)


def inotify_init() -> int:
    """Return a close-on-exec, non-blocking inotify descriptor."""
    return _check(_libc().inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK), "inotify_init1", "")


def inotify_add_watch(fd: int, path: str, mask: int) -> int:
    """Watch `path` for the IN_* events of `mask`; return the watch's number."""
    return _check(_libc().inotify_add_watch(fd, os.fsencode(path), ctypes.c_uint(mask)), "inotify_add_watch", path)


def filesystem_type(fd: int) -> int:
    """Return f_type of fstatfs: the magic number of the file system that `fd` is on."""
    buffer = ctypes.create_string_buffer(256)
    _check(_libc().fstatfs(fd, buffer), "fstatfs", f"fd {fd}")
    return ctypes.c_long.from_buffer(buffer).value & 0xFFFFFFFF
