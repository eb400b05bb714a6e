"""What a QEMU that serves files itself (9p) may do and see: rights over files of every owner, and few files.

Without 9p QEMU has no capability at all, needs no file of the host, and keeps the host's root directory.
"""

from __future__ import annotations

import os

from oci_runtime.errors import Unsupported
from oci_runtime.host.private_root import HARMLESS, Place, PrivateRoot
from oci_runtime.host.syscalls import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUTS, MOUNT_ATTR_NOSUID
from oci_runtime.host.syscalls import MOUNT_ATTR_RDONLY as READ_ONLY

# linux/capability.h: CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETFCAP. Not MKNOD: where the host mounts something into the
# share later, nothing would keep QEMU from opening the disk that it has made a node of.
CAPABILITIES = (0, 1, 3, 4, 31)
# Its sockets and taps are descriptors.
NAMESPACES = CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS
SHARE_PLACE = "/share"
_PROGRAMS = ("/usr/", "/bin/", "/sbin/")
_SYSTEM = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_FILES = ("/etc/ld.so.cache", "/etc/alternatives")
_DEVICES = ("/dev/null", "/dev/urandom", "/dev/kvm")


def plan_root(program: str, share: str, stage: str) -> PrivateRoot:
    """The root directory of a QEMU that serves `share`: the system's programs and libraries, three devices, the share.

    program: of QEMU. stage: see PrivateRoot. Reads only what this host has. Raises: Unsupported (a program elsewhere).
    """
    if not all(path.startswith(_PROGRAMS) for path in (program, os.path.realpath(program))):
        raise Unsupported(
            f"vm.qemu = {program!r}: with storage.shared_fs = 'virtio-9p' QEMU sees no programs but /usr's"
        )
    links = [(path, os.readlink(path)) for path in _SYSTEM if os.path.islink(path)]
    real_directories = [path for path in _SYSTEM if os.path.isdir(path) and not os.path.islink(path)]
    system = ["/usr", *real_directories, *(path for path in _FILES if os.path.exists(path))]
    places = [Place(source=path, target=path, attributes=HARMLESS | READ_ONLY) for path in system]
    devices = [path for path in _DEVICES if os.path.exists(path)]
    places += [Place(source=path, target=path, attributes=MOUNT_ATTR_NOSUID) for path in devices]
    places.append(Place(source=share, target=SHARE_PLACE, follows=True))
    return PrivateRoot(stage=stage, places=tuple(places), links=tuple(links))
