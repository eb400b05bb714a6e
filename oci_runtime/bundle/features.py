"""What `vmpod features` prints. Source: OCI runtime specification 1.3, features.md and features-linux.md.

The container itself is run by crun in the guest, so this says what that crun and the guest's kernel do, for what
vmpod hands on to them.
"""

from __future__ import annotations

from oci_runtime import __version__
from oci_runtime.bundle import capabilities
from oci_runtime.bundle.decode import OCI_VERSION_MAX, OCI_VERSION_MIN
from oci_runtime.bundle.decode_linux import NAMESPACES, SECCOMP_ACTIONS, SECCOMP_OPERATORS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_MOUNT_OPTIONS = (
    "acl async atime bind defaults dev diratime dirsync exec idmap iversion lazytime loud mand noacl noatime nodev "
    "nodiratime noexec noiversion nolazytime nomand norelatime nostrictatime nosuid private ratime rbind "
    "relatime remount ridmap rnoatime rnodev rnodiratime rnoexec rnorelatime rnostrictatime rnosuid ro rprivate "
    "rrelatime rro rrw rshared rslave rstrictatime rsuid rsymfollow runbindable rw shared silent slave strictatime "
    "suid symfollow sync tmpcopyup unbindable"
)
_ARCHITECTURES = ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM", "SCMP_ARCH_X32", "SCMP_ARCH_X86", "SCMP_ARCH_X86_64")
_FILTER_FLAGS = ("SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_TSYNC")


def features() -> dict[str, Any]:
    """The features structure as an object."""
    return {
        "ociVersionMin": OCI_VERSION_MIN,
        "ociVersionMax": OCI_VERSION_MAX,
        "hooks": list(HOOKS),
        "mountOptions": _MOUNT_OPTIONS.split(),
        "linux": {
            "namespaces": [name for name in NAMESPACES if name != "time"],
            "capabilities": list(capabilities.NAMES),
            "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": False, "rdma": False},
            "seccomp": {
                "enabled": True,
                "actions": list(SECCOMP_ACTIONS),
                "operators": list(SECCOMP_OPERATORS),
                "archs": list(_ARCHITECTURES),
                "knownFlags": list(_FILTER_FLAGS),
                "supportedFlags": list(_FILTER_FLAGS),
            },
            "apparmor": {"enabled": False},
            "selinux": {"enabled": False},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
            "netDevices": {"enabled": False},
        },
        "annotations": {"io.vmpod.version": __version__, "io.vmpod.isolation": "vm"},
        "potentiallyUnsafeConfigAnnotations": ["io.vmpod.config.", "io.katacontainers.config."],
    }
