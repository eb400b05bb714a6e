"""Start QEMU: sockets made here, their far ends inherited, the program under a uid of its own. Synchronous, light.

The sandbox process calls this before it loads asyncio: QEMU boots while Python imports.
"""

from __future__ import annotations

import os
import resource
import socket
from contextlib import ExitStack

from oci_runtime.errors import HostError, InvalidInput, NotFound
from oci_runtime.host.spawn import Child, SpawnPlan, find_program, spawn
from oci_runtime.record import Record
from oci_runtime.vm.accel import read_tsc_khz
from oci_runtime.vm.argv import QemuFds, VmSettings, plan_qemu_argv
from oci_runtime.vm.confinement import CAPABILITIES, NAMESPACES, plan_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

# Above every range that Debian's adduser, systemd's dynamic users and containers or a usual /etc/subuid hand out
# (systemd documents 1879048192 to 2147483647 as unused), and below 2^31, beyond which some programs see -1.
UID_BASE = 2_000_000_000
UID_SPAN = 100_000_000
FIRMWARE = ("/usr/share/qemu/qboot.rom", "/usr/share/qemu-kvm/qboot.rom")
QEMU_HINT = "apt install qemu-system-x86"
IMAGE_HINT = "vmpod image build"
_FD_LIMIT = 4096
# One descriptor per file that the guest has open, if the host lets us have them.
_FD_LIMIT_9P = 65536


class QemuLaunch(Record):
    """A QEMU process and our ends of its sockets. `agent` is None with vsock: then connect to (settings.cid, port).

    stderr: the reading end of a pipe with QEMU's messages. Whoever takes over the launch closes all of it.
    """

    child: Child
    settings: VmSettings
    qmp: socket.socket
    console: socket.socket
    agent: socket.socket | None
    stderr: int
    argv: tuple[str, ...]

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def pidfd(self) -> int:
        return self.child.pidfd

    def close(self) -> None:
        """Close our ends, all but the agent's; the process must have been reaped. Call once."""
        self.qmp.close()
        self.console.close()
        os.close(self.stderr)
        self.child.close()


def sandbox_uid(short_id: str, base: int = UID_BASE, span: int = UID_SPAN) -> int:
    """Return QEMU's uid for a sandbox, from the hexadecimal short id: machines cannot signal or trace each other.

    Two sandboxes may meet at one uid (a chance of one in `span`): they are then separated by seccomp and namespaces
    of files only, never mixed up.
    """
    return base + int(short_id[:15], 16) % span


def find_firmware() -> str:
    """Return the minimal firmware of QEMU's package, "" where there is none: QEMU then starts its default.

    It saves a quarter of a second of SeaBIOS under emulation.
    """
    return next((path for path in FIRMWARE if os.access(path, os.R_OK)), "")


def launch_qemu(settings: VmSettings, *, cgroup_procs: Sequence[str] = (), groups: Sequence[int] = ()) -> QemuLaunch:
    """Start QEMU. groups: supplementary groups, such as that of /dev/kvm.

    Raises: NotFound (QEMU, kernel, initrd or image missing, with the package or command that brings it), HostError,
    InvalidInput. After a failure no process and no descriptor is left.
    """
    tsc_khz = settings.tsc_khz or (read_tsc_khz() if settings.accel == "tcg" else 0)
    settings = settings.replace(qemu=find_program(settings.qemu, QEMU_HINT), tsc_khz=tsc_khz)
    with ExitStack() as inherited, ExitStack() as on_failure:
        ours: dict[str, socket.socket] = {}
        theirs: dict[str, int] = {}
        for name in ("qmp", "console", *(("agent",) if settings.transport == "serial" else ())):
            near, far = socket.socketpair()
            on_failure.callback(near.close)
            inherited.callback(far.close)
            ours[name], theirs[name] = near, far.fileno()
        assets = {"kernel": settings.kernel, "initrd": settings.initrd, "image": settings.image}
        firmware = settings.firmware or find_firmware()
        for name, path in (assets | ({"firmware": firmware} if firmware else {})).items():
            theirs[name] = _open_asset(name, path, settings.uid)
            inherited.callback(os.close, theirs[name])
        if settings.transport == "vsock":
            theirs["vhost_vsock"] = _open_vhost_vsock()
            inherited.callback(os.close, theirs["vhost_vsock"])
        stderr, stderr_far = os.pipe2(os.O_CLOEXEC)
        on_failure.callback(os.close, stderr)
        inherited.callback(os.close, stderr_far)
        numbers = {name: 3 + index for index, name in enumerate(theirs)}
        argv = plan_qemu_argv(settings, QemuFds(**numbers))
        fd_limit = _fd_limit(settings)
        plan = SpawnPlan(
            argv=argv,
            fds={1: stderr_far, 2: stderr_far} | {numbers[name]: fd for name, fd in theirs.items()},
            environ={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            uid=settings.uid,
            gid=settings.gid,
            groups=groups,
            **_confine(settings),
            rlimits=((resource.RLIMIT_NOFILE, fd_limit, fd_limit), (resource.RLIMIT_CORE, 0, 0)),
            cgroup_procs=cgroup_procs,
            hint=QEMU_HINT,
        )
        child = spawn(plan)
        on_failure.pop_all()
        return QemuLaunch(
            child=child,
            settings=settings,
            qmp=ours["qmp"],
            console=ours["console"],
            agent=ours.get("agent"),
            stderr=stderr,
            argv=argv,
        )


def _fd_limit(settings: VmSettings) -> int:
    if not settings.share:
        return _FD_LIMIT
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return _FD_LIMIT_9P if hard == resource.RLIM_INFINITY else min(hard, _FD_LIMIT_9P)


def _confine(settings: VmSettings) -> dict[str, Any]:
    """Of the plan: what is different for a QEMU that serves files."""
    if not settings.share:
        return {}
    root = plan_root(settings.qemu, settings.share, settings.share_stage)
    return {"root": root, "unshare": NAMESPACES, "capabilities": CAPABILITIES, "umask": 0}


def _open_asset(name: str, path: str, uid: int | None) -> int:
    """Open a file that QEMU will read through /proc/self/fd, which checks the file's own mode again."""
    hint = "setting vm.firmware" if name == "firmware" else IMAGE_HINT
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise NotFound(f"{name} {path}: no such file ({hint})") from error
    except OSError as error:
        raise HostError.from_oserror(error, f"open {name}", path, hint=hint) from error
    if uid and not os.fstat(descriptor).st_mode & 0o004:
        os.close(descriptor)
        raise InvalidInput(f"{name} {path}: QEMU runs as uid {uid} and may not read it (chmod a+r {path})")
    return descriptor


def _open_vhost_vsock() -> int:
    try:
        return os.open("/dev/vhost-vsock", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise HostError.from_oserror(error, "open", "/dev/vhost-vsock", hint="modprobe vhost_vsock") from error
