"""Loop devices, for snapshotters that keep a file system in a file (mount option `loop`).

Source: the kernel's linux/loop.h (LOOP_CONFIGURE, since 5.8).
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

from oci_runtime.errors import HostError

_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A
_READ_ONLY = 1
_AUTOCLEAR = 4
# struct loop_config: fd, block size, struct loop_info64 (232 bytes, its flags at 52), eight reserved words.
_INFO_BYTES = 232
_FLAGS_OFFSET = 52
_ATTEMPTS = 16


def attach_loop(path: str, *, readonly: bool) -> tuple[int, str]:
    """Attach a file to a free loop device; return (descriptor of the device, its path).

    The device frees itself when its last user is gone: keep the descriptor until it is mounted. Raises: HostError.
    """
    try:
        backing = os.open(path, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC)
    except OSError as error:
        raise HostError.from_oserror(error, "open", path) from error
    try:
        for _ in range(_ATTEMPTS):
            device = f"/dev/loop{_free_number()}"
            fd = _configure(device, backing, readonly)
            if fd >= 0:
                return fd, device
    finally:
        os.close(backing)
    raise HostError("attach loop device", path, errno.EBUSY)


def _free_number() -> int:
    try:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
        try:
            return fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
        finally:
            os.close(control)
    except OSError as error:
        raise HostError.from_oserror(error, "find a free loop device", "/dev/loop-control") from error


def _configure(device: str, backing: int, readonly: bool) -> int:
    """The descriptor of the configured device, -1 when somebody else took it first."""
    try:
        fd = os.open(device, (os.O_RDONLY if readonly else os.O_RDWR) | os.O_CLOEXEC)
    except OSError as error:
        raise HostError.from_oserror(error, "open", device) from error
    info = bytearray(_INFO_BYTES)
    struct.pack_into("=I", info, _FLAGS_OFFSET, _AUTOCLEAR | (_READ_ONLY if readonly else 0))
    try:
        fcntl.ioctl(fd, _LOOP_CONFIGURE, struct.pack("=II", backing, 0) + bytes(info) + bytes(64))
    except OSError as error:
        os.close(fd)
        if error.errno == errno.EBUSY:
            return -1
        raise HostError.from_oserror(error, "attach loop device", device) from error
    return fd
