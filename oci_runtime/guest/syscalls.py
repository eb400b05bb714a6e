"""System calls that the agent needs and Python 3.11 does not offer.

They go through `_ctypes`, the extension module below ctypes: importing the package takes a tenth of the agent's start.
"""

from __future__ import annotations

import os

from oci_runtime.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MS_SHARED = 1 << 20
MS_RELATIME = 1 << 21
MS_STRICTATIME = 1 << 24
MS_SYNCHRONOUS = 16
MS_DIRSYNC = 128
MNT_DETACH = 2

# linux/random.h
RNDADDENTROPY = 0x40085203
RNDRESEEDCRNG = 0x5207
# linux/reboot.h
_REBOOT_POWER_OFF = 0x4321FEDC

# _ctypes: the C calling convention, and errno kept for get_errno.
_FLAGS = 1 | 8

_functions: dict[str, Callable[..., int]] = {}


def _find(name: str) -> Callable[..., int]:
    """A function of the C library that returns an int and sets errno."""
    if name not in _functions:
        import _ctypes

        integer = type("integer", (_ctypes._SimpleCData,), {"_type_": "i"})
        prototype = type("prototype", (_ctypes.CFuncPtr,), {"_flags_": _FLAGS, "_restype_": integer})
        _functions[name] = prototype(_ctypes.dlsym(_ctypes.dlopen(None, 0), name))  # type: ignore[arg-type]
    return _functions[name]


def _call(name: str, path: str, *arguments: bytes | int | None) -> None:
    if _find(name)(*arguments) < 0:
        import _ctypes

        raise HostError(name, path, _ctypes.get_errno())


def mount(source: str, target: str, fstype: str = "", flags: int = 0, data: str = "") -> None:
    """mount(2). Raises HostError with the number that the kernel gave."""
    texts = [os.fsencode(text) if text else None for text in (source, target, fstype)]
    _call("mount", target, *texts, flags, os.fsencode(data) if data else None)


def umount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _call("umount2", target, os.fsencode(target), flags)


def syncfs(fd: int) -> None:
    """Write everything back that belongs to the file system of `fd`."""
    _call("syncfs", f"fd {fd}", fd)


# Numbers of system calls that the C library does not wrap, by machine.
_NUMBERS = {
    "x86_64": {"sched_setattr": 314, "ioprio_set": 251, "finit_module": 313},
    "aarch64": {"sched_setattr": 274, "ioprio_set": 30, "finit_module": 273},
}


def system_call(name: str, *arguments: int | bytes) -> int:
    """Call by number; return the error's number, 0 for success."""
    number = _NUMBERS[os.uname().machine][name]
    if _find("syscall")(number, *arguments) >= 0:
        return 0
    import _ctypes

    return _ctypes.get_errno()


def power_off() -> None:
    """Turn the virtual machine off."""
    _call("reboot", "", _REBOOT_POWER_OFF)
