"""Devices whose frames a machine's NIC sends and receives: taps, macvtaps, and vhost-net's descriptors.

Taps are bound to their descriptors (not persistent): they vanish with the last one, so a QEMU that dies leaves none.
Every function runs in a thread that lives in the pod's namespace. Source: the kernel's linux/if_tun.h.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct

from oci_runtime.errors import AlreadyExists, HostError
from oci_runtime.host import syscalls
from oci_runtime.netlink.codec import nested, text, u32
from oci_runtime.netlink.connection import Connection

_TUN = "/dev/net/tun"
_VHOST = "/dev/vhost-net"
_TUNSETIFF = 0x400454CA
_IFF_TAP = 0x0002
_IFF_MULTI_QUEUE = 0x0100
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_IFF_TUN_EXCL = 0x8000
_IFREQ = struct.Struct("=16sH22x")
_RTM_NEWLINK = 16
_MACVLAN_MODE_PASSTHRU = 8


def open_tap(name: str, interface: str, queues: int, *, create: bool) -> tuple[int, ...]:
    """Open a tap device, one descriptor (close-on-exec, caller's) per queue.

    create: make the device (AlreadyExists when there is one of that name); otherwise attach to it. interface: of the
    pod, for the error. Raises HostError; after a failure no descriptor and no new device is left.
    """
    flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if queues > 1 else 0)
    fds: list[int] = []
    try:
        for queue in range(queues):
            fds.append(_open(_TUN, f"interface {interface} needs a tap device: is the kernel's module tun there?"))
            exclusive = _IFF_TUN_EXCL if create and queue == 0 else 0
            fcntl.ioctl(fds[-1], _TUNSETIFF, _IFREQ.pack(name.encode(), flags | exclusive))
    except OSError as error:
        close_all(fds)
        if error.errno == errno.EBUSY and create:
            raise AlreadyExists(
                f"interface {interface} is busy: its namespace already has a device {name}; another machine uses it"
            ) from error
        hint = f"tap device {name} for interface {interface}"
        raise HostError.from_oserror(error, "ioctl(TUNSETIFF)", _TUN, hint=hint) from error
    except BaseException:
        close_all(fds)
        raise
    return tuple(fds)


def open_macvtap(connection: Connection, name: str, interface: str, parent: int, queues: int) -> tuple[int, ...]:
    """Make a macvtap over the device number `parent` and open its character device, one descriptor per queue.

    In passthru mode it takes every frame of its parent and has the parent's address, so nothing of the parent changes.
    The device outlives its descriptors: the caller deletes it. Raises HostError.
    """
    mode = nested(2, u32(1, _MACVLAN_MODE_PASSTHRU))
    body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + u32(5, parent) + text(3, name) + nested(18, text(1, "macvtap"), mode)
    try:
        connection.request(_RTM_NEWLINK, body, flags=0x600)
    except OSError as error:
        hint = f"macvtap over interface {interface}: {error.strerror}"
        raise HostError.from_oserror(error, "RTM_NEWLINK", name, hint=hint) from error
    node = _macvtap_node(name, interface)
    fds: list[int] = []
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR | (_IFF_MULTI_QUEUE if queues > 1 else 0)
        for _ in range(queues):
            fds.append(os.open(f"/proc/self/fd/{node}", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
            fcntl.ioctl(fds[-1], _TUNSETIFF, _IFREQ.pack(b"", flags))
    except OSError as error:
        close_all(fds)
        hint = f"macvtap {name} for interface {interface}"
        raise HostError.from_oserror(error, "open", "macvtap", hint=hint) from error
    finally:
        os.close(node)
    return tuple(fds)


def _macvtap_node(name: str, interface: str) -> int:
    """An O_PATH descriptor of a device node for the macvtap `name`.

    The node that udev or devtmpfs makes is named by the device's index, which other namespaces use as well: so the
    number is read from a sysfs of this namespace, in a mount namespace of its own that ends with the helper thread.
    """
    import threading

    outcome: list[int | BaseException] = []

    def make() -> None:
        try:
            syscalls.unshare(syscalls.CLONE_NEWNS)
            syscalls.mount("none", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
            syscalls.mount("sysfs", "/sys", "sysfs")
            directory = f"/sys/class/net/{name}/macvtap"
            (tap,) = os.listdir(directory)
            with open(f"{directory}/{tap}/dev") as file:
                major, minor = map(int, file.read().split(":"))
            syscalls.mount("tmpfs", "/sys", "tmpfs")
            os.mknod("/sys/tap", stat.S_IFCHR | 0o600, os.makedev(major, minor))
            outcome.append(os.open("/sys/tap", os.O_PATH | os.O_CLOEXEC))
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            outcome.append(error)

    thread = threading.Thread(target=make, name="macvtap")
    thread.start()
    thread.join()
    found = outcome[0]
    if isinstance(found, int):
        return found
    if isinstance(found, OSError):
        raise HostError.from_oserror(found, "find device node", f"macvtap {name} of interface {interface}") from found
    raise found


def open_vhost(interface: str, queues: int) -> tuple[int, ...]:
    """Descriptors of vhost-net, one per queue. Raises HostError."""
    fds: list[int] = []
    try:
        for _ in range(queues):
            fds.append(_open(_VHOST, f"interface {interface}; set network.disable_vhost_net to do without"))
    except BaseException:
        close_all(fds)
        raise
    return tuple(fds)


def has_vhost() -> bool:
    """Whether the host's kernel can move a NIC's packets."""
    return os.access(_VHOST, os.R_OK | os.W_OK)


def close_all(fds: list[int] | tuple[int, ...]) -> None:
    """Close descriptors."""
    for fd in fds:
        os.close(fd)


def _open(path: str, hint: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise HostError.from_oserror(error, "open", path, hint=hint) from error
