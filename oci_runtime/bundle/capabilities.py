"""The kernel's capabilities by name. Source: Linux, include/uapi/linux/capability.h."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

NAMES = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE "
        "NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT "
        "SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL "
        "SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE"
    ).split()
)


def warn_of_unknown(process: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a warning when a process (of config.json) is to have capabilities that no kernel knows, else nothing.

    As with runc and crun they are no error: the container does not get them.
    """
    sets: Iterable[Iterable[str]] = filter(None, (process.get("capabilities") or {}).values())
    unknown = sorted({name for names in sets for name in names if name.upper() not in NAMES})
    return (f"process.capabilities: unknown and left out: {', '.join(unknown)}",) if unknown else ()
