"""Give a container's proxy the container's files as its root: whoever enters its mount namespace sees these, no host.

Engines enter the mount namespace of the pid that they know (`podman cp`, `podman top`) and take what they find there
for the container. The proxy itself, waiting for its stream, need not take part: pivot_root moves every process of a
mount namespace from the old root to the new one. So a child of the command does the work, and the proxy stays small.

The guest can write to these files at any time. Destinations are therefore resolved inside the root; devices and set-id
bits do not count there; and what is mounted by name can be taken away by the guest, so nobody may run a program found
here, /proc/self/exe included.
"""

from __future__ import annotations

import os
import stat

from oci_runtime.errors import HostError, OciRuntimeError
from oci_runtime.host import syscalls

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TREE = "tree"
PROC = "proc"
GUEST = "guest"
_MAX_REPORT_BYTES = 4096
_OPTIONS = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
# A destination that the guest has not made, or has changed into something else, is left out.
_MISSING = frozenset({2, 20, 40})  # ENOENT, ENOTDIR, ELOOP


class ViewMount:
    """One mount of a view: a TREE (a detached mount tree behind `fd`, borrowed), the PROC of the proxy's pid namespace,
    or a place whose content only the GUEST has, which is shown empty and read-only."""

    __slots__ = ("destination", "fd", "kind")

    def __init__(self, destination: str, kind: str, fd: int = -1) -> None:
        self.destination = destination
        self.kind = kind
        self.fd = fd


def enter_view(pid: int, root_fd: int, mounts: Sequence[ViewMount]) -> None:
    """Make the detached tree behind `root_fd` the root of the proxy `pid`, which has a mount namespace of its own.

    mounts: in their order. Raises HostError; the namespace is then in disorder, and the proxy to be abandoned.
    """
    try:
        fds = [os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC) for name in ("mnt", "pid")]
    except OSError as error:
        raise HostError.from_oserror(error, "open", f"/proc/{pid}/ns") from error
    try:
        _run_in_pid_namespace(fds[1], lambda: _build(fds[0], root_fd, mounts))
    finally:
        for fd in fds:
            os.close(fd)


def _run_in_pid_namespace(namespace: int, work: Callable[[], None]) -> None:
    """Run `work` in a child that lives in a pid namespace: only from there its /proc can be mounted."""
    back = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        syscalls.setns(namespace, syscalls.CLONE_NEWPID)
        try:
            child = os.fork()
            if child == 0:
                _report(work, writing)
        finally:
            syscalls.setns(back, syscalls.CLONE_NEWPID)
        os.close(writing)
        writing = -1
        report = os.read(reading, _MAX_REPORT_BYTES)
        status = os.waitpid(child, 0)[1]
    finally:
        for fd in (back, reading, writing):
            if fd >= 0:
                os.close(fd)
    if status:
        raise OciRuntimeError(report.decode("utf-8", "replace") or "the proxy's root: the child that makes it died")


def _report(work: Callable[[], None], writing: int) -> None:
    """In the child: do the work and end; the parent hears of a failure."""
    code = 1
    try:
        work()
        code = 0
    except BaseException as error:  # noqa: BLE001  # whatever it is, the other side must hear of it
        text = error.message if isinstance(error, OciRuntimeError) else str(error)
        os.write(writing, f"the proxy's root: {text}".encode("utf-8", "replace")[:_MAX_REPORT_BYTES])
    finally:
        os._exit(code)


def _build(namespace: int, root_fd: int, mounts: Sequence[ViewMount]) -> None:
    syscalls.setns(namespace, syscalls.CLONE_NEWNS)
    syscalls.move_mount(root_fd, "/")
    for mount in mounts:
        _add(root_fd, mount)
    os.fchdir(root_fd)
    syscalls.pivot_root(".", ".")
    # The old root lies upon the new one now, with copies of all mounts of the host below it.
    syscalls.umount(".", syscalls.MNT_DETACH)


def _add(root_fd: int, mount: ViewMount) -> None:
    try:
        flags = os.O_PATH | os.O_CLOEXEC
        resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
        target = syscalls.openat2(mount.destination, flags, dir_fd=root_fd, resolve=resolve)
    except HostError as error:
        if error.errno in _MISSING:
            return
        raise
    try:
        is_directory = stat.S_ISDIR(os.fstat(target).st_mode)
        if mount.kind == TREE:
            if is_directory == stat.S_ISDIR(os.fstat(mount.fd).st_mode):
                syscalls.move_mount(mount.fd, "", target_fd=target)
        elif is_directory:
            path = f"/proc/self/fd/{target}"
            if mount.kind == PROC:
                syscalls.mount("proc", path, "proc", _OPTIONS)
            else:
                syscalls.mount("tmpfs", path, "tmpfs", _OPTIONS, "size=4k,nr_inodes=2,mode=555")
    finally:
        os.close(target)
