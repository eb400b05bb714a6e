"""Turn the host's spec into the guest's: rootfs and bind sources become paths of the guest. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from oci_runtime.errors import InvalidInput
from oci_runtime.storage.mount_kinds import SHM_GUEST_ROOT

_KEY = re.compile(r"[0-9a-f]{1,16}-[0-9a-f]{1,16}")


@dataclass(frozen=True)
class GuestStorage:
    """A file system that the guest has to mount before the container: the fields of the agent's Storage message."""

    driver: str
    source: str
    target: str
    fstype: str
    options: tuple[str, ...]


def rewrite_spec(
    spec: Mapping[str, Any], rootfs: str, paths: Mapping[int, str], guest_mounts: Iterable[Mapping[str, Any]] = ()
) -> dict[str, Any]:
    """Return the guest's spec; `spec` stays as it is.

    rootfs: the root's path in the guest. paths: mount index → path in the guest, for shared binds. guest_mounts: as
    Sources gives them. Raises: InvalidInput for an index that has no mount, or an unknown description.
    """
    mounts = [dict(mount) for mount in spec.get("mounts") or ()]
    replaced = dict(paths) | {int(entry["index"]): _guest_source(entry) for entry in guest_mounts}
    for index, source in replaced.items():
        if not 0 <= index < len(mounts):
            raise InvalidInput(f"mounts[{index}]: described, but the spec has {len(mounts)} mounts")
        mounts[index] |= {"source": source, "type": "bind"}
        options = [str(option) for option in mounts[index].get("options") or ()]
        if "bind" not in options and "rbind" not in options:
            options = ["bind", *options]
        mounts[index]["options"] = options
    return {**spec, "root": {**spec.get("root", {}), "path": rootfs}, "mounts": mounts}


def guest_storages(guest_mounts: Iterable[Mapping[str, Any]]) -> tuple[GuestStorage, ...]:
    """Return what the guest must mount for the described mounts: one tmpfs per shared-memory directory of the host."""
    storages = []
    for entry in guest_mounts:
        if entry.get("kind") == "shm":
            size = int(entry["size_bytes"])
            options = ("nosuid", "nodev", "noexec", "mode=1777", *((f"size={size}",) if size > 0 else ()))
            storages.append(GuestStorage("tmpfs", "shm", _guest_source(entry), "tmpfs", options))
    return tuple(storages)


def _guest_source(entry: Mapping[str, Any]) -> str:
    kind = entry.get("kind")
    if kind == "shm" and _KEY.fullmatch(str(entry.get("key"))):
        return f"{SHM_GUEST_ROOT}/{entry['key']}"
    if kind == "guest" and str(entry.get("source", "")).startswith("/"):
        return str(entry["source"])
    raise InvalidInput(f"guest mount of unknown kind: {dict(entry)!r:.200}")
