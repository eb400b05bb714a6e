"""Bundles for the checks: a busybox root file system and a plain configuration, both made here."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from pathlib import Path
from typing import Any

BUSYBOX = "/usr/bin/busybox"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DIRECTORIES = ("bin", "dev", "etc", "mnt", "opt", "proc", "root", "run", "sys", "usr/bin", "var")
PASSWD = "root:x:0:0:root:/root:/bin/sh\nworker:x:1000:1000::/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
GROUP = "root:x:0:\ntty:x:5:\nworker:x:1000:\nnogroup:x:65534:\n"

# The bounding set of an ordinary container, as engines ask for it.
CAPABILITIES = (
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)

Config = dict[str, Any]


@functools.cache
def applets() -> tuple[str, ...]:
    """Return the names that this host's busybox answers to."""
    answer = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True)
    return tuple(name for name in answer.stdout.split() if name != "busybox")


def make_rootfs(directory: Path, busybox: Path = Path(BUSYBOX)) -> None:
    """Fill a new directory with busybox, a link per applet, and the usual directories and account files."""
    for name in DIRECTORIES:
        (directory / name).mkdir(parents=True)
    (directory / "tmp").mkdir()
    (directory / "tmp").chmod(0o1777)
    target = directory / "bin/busybox"
    try:
        os.link(busybox, target)
    except OSError:
        target.write_bytes(busybox.read_bytes())
        target.chmod(0o755)
    for name in applets():
        os.symlink("busybox", directory / "bin" / name)
    (directory / "etc/passwd").write_text(PASSWD)
    (directory / "etc/group").write_text(GROUP)


def default_config(oci_version: str = "1.0.2") -> Config:
    """Return a new configuration in the form that engines write: private namespaces, default mounts, root user."""
    capabilities = list(CAPABILITIES)
    return {
        "ociVersion": oci_version,
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["true"],
            "env": [PATH, "TERM=xterm"],
            "cwd": "/",
            "capabilities": {name: list(capabilities) for name in ("bounding", "effective", "permitted")},
            "noNewPrivileges": False,
        },
        "root": {"path": "rootfs", "readonly": False},
        "hostname": "conformance",
        "mounts": default_mounts(),
        "annotations": {},
        "linux": {
            "resources": {"devices": [{"allow": False, "access": "rwm"}]},
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    }


def default_mounts() -> list[Config]:
    """Return the mounts that every engine asks for."""
    safe = ["nosuid", "noexec", "nodev"]
    return [
        mount_entry("/proc", "proc", "proc"),
        mount_entry("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        mount_entry(
            "/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"
        ),
        mount_entry("/dev/shm", "tmpfs", "shm", *safe, "mode=1777", "size=65536k"),
        mount_entry("/dev/mqueue", "mqueue", "mqueue", *safe),
        mount_entry("/sys", "sysfs", "sysfs", *safe, "ro"),
        mount_entry("/sys/fs/cgroup", "cgroup", "cgroup", *safe, "relatime", "ro"),
    ]


def mount_entry(destination: str, kind: str, source: str, *options: str) -> Config:
    """Return one entry of `mounts`."""
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def bind_mount(source: Path | str, destination: str, *options: str) -> Config:
    """Return the entry for a bind mount; `rw` unless the options say `ro`."""
    return mount_entry(destination, "bind", str(source), "rbind", *(options or ("rw",)))


def namespace(config: Config, kind: str) -> Config:
    """Return the namespace entry of a kind. Raises KeyError when the configuration has none."""
    for entry in config["linux"]["namespaces"]:
        if entry["type"] == kind:
            found: Config = entry
            return found
    raise KeyError(kind)


def write_config(bundle: Path, config: Config) -> None:
    """Write config.json into the bundle."""
    (bundle / "config.json").write_text(json.dumps(config, indent=1))
