"""`vmpod env`: versions, places, settings and facts of this host, for a report about a problem. Nothing secret.

No environment variables, no command lines, no file contents but those of the system's own descriptions; settings are
shown as far as they differ from the defaults, without the values of those that may hold anything.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys

from oci_runtime import __version__
from oci_runtime.check.host import read_available_mib
from oci_runtime.check.qemu import ask_qemu
from oci_runtime.config.show import to_json
from oci_runtime.errors import OciRuntimeError
from oci_runtime.host.cgroups import read_layout
from oci_runtime.image.store import load_image
from oci_runtime.network.tap import has_vhost
from oci_runtime.state.sandboxes import sandbox_directories
from oci_runtime.storage.virtiofsd import find_virtiofsd, is_rust
from oci_runtime.vm.accel import read_host_facts
from oci_runtime.vm.launch import QEMU_HINT, find_firmware

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

    from oci_runtime.config.model import Config
    from oci_runtime.state.layout import Layout

_PROGRAM_S = 10.0
# Whose values may hold what is nobody's business: passwords on a kernel's command line, for one.
_HIDDEN = frozenset({"vm.kernel_parameters", "storage.virtio_fs_extra_args", "agent.kernel_modules"})
_LIBRARIES = ("protobuf", "qemu.qmp")
_ENGINES = ("crio", "containerd", "podman", "dockerd", "conmon", "crun", "runc")


def collect(config: Config, layout: Layout, commit: str) -> dict[str, Any]:
    """The whole document. Never fails: what cannot be found out is told as `{"error": reason}`."""
    return {
        "vmpod": {
            "version": __version__,
            "commit": commit,
            "python": platform.python_version(),
            "libraries": _libraries(),
            "paths": _paths(layout),
        },
        "config": summarise(to_json(config)),
        "qemu": _told(lambda: _qemu(config)),
        "virtiofsd": _told(lambda: _virtiofsd(config)),
        "image": _told(lambda: _image(config)),
        "host": _host(),
        "engines": {name: version for name in _ENGINES if (version := _first_line(name))},
        "pods": _told(lambda: {"count": len(list(sandbox_directories(layout)))}),
    }


def summarise(shown: Mapping[str, Any]) -> dict[str, Any]:
    """Files that were read and settings that differ from the defaults; values that may be private are left out."""
    changed = {}
    for section, keys in shown["settings"].items():
        for key, entry in keys.items():
            if entry["origin"] == "default":
                continue
            name = f"{section}.{key}"
            changed[name] = {"value": "(not shown)", "origin": entry["origin"]} if name in _HIDDEN else dict(entry)
    return {"files": list(shown["files"]), "changed": changed}


def _told(find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return find()
    except OciRuntimeError as error:
        return {"error": error.message}


def _libraries() -> dict[str, str]:
    from importlib import metadata

    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = ""
    return versions


def _paths(layout: Layout) -> dict[str, str]:
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return {"command": os.path.abspath(sys.argv[0]), "package": package, "root": layout.root}


def _qemu(config: Config) -> dict[str, Any]:
    facts = ask_qemu(config.vm.qemu, QEMU_HINT)
    firmware = config.vm.firmware or find_firmware()
    return {"path": facts.path, "version": ".".join(map(str, facts.version)), "firmware": firmware}


def _virtiofsd(config: Config) -> dict[str, Any]:
    path = find_virtiofsd(config.storage.virtiofsd)
    return {"path": path, "kind": "rust" if is_rust(path) else "c"}


def _image(config: Config) -> dict[str, Any]:
    image, manifest = load_image(config.image.store, config.image.name)
    facts = {key: getattr(image, key) for key in ("name", "hash", "directory", "kernel_release", "agent_version")}
    return facts | {"image_bytes": image.image_bytes, "packages": manifest.get("packages", {})}


def _host() -> dict[str, Any]:
    system = os.uname()
    facts = read_host_facts()
    layout = read_layout()
    return {
        "system": _system_name(),
        "kernel": system.release,
        "architecture": system.machine,
        "processors": os.cpu_count() or 1,
        "memory_mib": (os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) >> 20,
        "memory_available_mib": read_available_mib(),
        "cgroups": layout.mode,
        "kvm": {"usable": not facts.kvm_problem, "problem": facts.kvm_problem},
        "vhost_vsock": facts.vhost_vsock,
        "vhost_net": has_vhost(),
        "uid": os.geteuid(),
    }


def _system_name() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        return ""


def _first_line(program: str) -> str:
    """What an installed program says about its version, "" when there is none."""
    try:
        done = subprocess.run(
            [program, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_PROGRAM_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = (done.stdout or done.stderr).decode("utf-8", "replace").splitlines()
    return lines[0].strip()[:200] if lines else ""


def render(document: Mapping[str, Any], indent: str = "") -> str:
    """The document for people: one `name: value` a line, indented."""
    lines = []
    for key, value in document.items():
        if isinstance(value, dict):
            lines.append(f"{indent}{key}:\n{render(value, indent + '  ')}".rstrip("\n"))
        else:
            lines.append(f"{indent}{key}: {value}")
    return "\n".join(lines) + "\n"
