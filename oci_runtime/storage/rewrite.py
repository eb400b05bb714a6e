"""Turn the host's spec into the guest's: rootfs and bind sources become paths of the guest. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from oci_runtime.errors import InvalidInput
from oci_runtime.storage.mount_kinds import (
    HUGEPAGES_GUEST_ROOT,
    MEMORY_GUEST_ROOT,
    OVERLAY,
    SHM_GUEST_ROOT,
    SUB_PATH_GUEST_ROOT,
    superblock_options,
)

_ROOTS = {"shm": SHM_GUEST_ROOT, "memory": MEMORY_GUEST_ROOT, "hugepages": HUGEPAGES_GUEST_ROOT}
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
    served = [entry for entry in guest_mounts if entry.get("kind") != "no-device"]
    replaced = dict(paths) | {int(entry["index"]): _guest_source(entry) for entry in served}
    for index, source in replaced.items():
        if not 0 <= index < len(mounts):
            raise InvalidInput(f"mounts[{index}]: described, but the spec has {len(mounts)} mounts")
        mounts[index] |= {"source": source, "type": "bind"}
        options = [str(option) for option in mounts[index].get("options") or ()]
        if spec["mounts"][index].get("type") == OVERLAY:
            options = [option for option in options if option not in superblock_options(options)]
        # Mapped on the host: crun would try it again, on a file system that cannot.
        for name in ("uidMappings", "gidMappings"):
            mounts[index].pop(name, None)
        options = [option for option in options if option not in ("idmap", "ridmap")]
        if "bind" not in options and "rbind" not in options:
            options = ["bind", *options]
        mounts[index]["options"] = options
    return {**spec, "root": {**spec.get("root", {}), "path": rootfs}, "mounts": mounts}


def guest_storages(guest_mounts: Iterable[Mapping[str, Any]]) -> tuple[GuestStorage, ...]:
    """Return what the guest must mount for the described mounts, in this order: one file system for each key."""
    storages = []
    for entry in guest_mounts:
        kind = entry.get("kind")
        if kind not in _ROOTS:
            continue
        if kind == "hugepages":
            options = [f"pagesize={int(entry['page_bytes'])}", *_owner(entry["owner"])]
        elif kind == "memory":
            options = [*_owner(entry["owner"]), *_size(entry)]
        else:
            options = ["nosuid", "nodev", "noexec", "mode=1777", *_size(entry)]
        driver = "hugetlbfs" if kind == "hugepages" else "tmpfs"
        storages.append(GuestStorage(driver, kind, _volume(entry), driver, tuple(options)))
        if entry.get("below"):
            options = [f"below={entry['below']}", *_owner(entry["below_owner"])]
            storages.append(GuestStorage("subpath", _volume(entry), _guest_source(entry), "", tuple(options)))
    return tuple(storages)


def _size(entry: Mapping[str, Any]) -> list[str]:
    size_bytes = int(entry["size_bytes"])
    return [f"size={size_bytes}"] if size_bytes > 0 else []


def _owner(owner: Sequence[int]) -> list[str]:
    mode, uid, gid = owner
    return [f"mode={mode:o}", f"uid={uid:d}", f"gid={gid:d}"]


def _volume(entry: Mapping[str, Any]) -> str:
    """Where the guest mounts the file system of an entry."""
    if not _KEY.fullmatch(str(entry.get("key"))):
        raise InvalidInput(f"guest mount of unknown kind: {dict(entry)!r:.200}")
    return f"{_ROOTS[str(entry['kind'])]}/{entry['key']}"


def _guest_source(entry: Mapping[str, Any]) -> str:
    """The bind's source in the guest."""
    kind = entry.get("kind")
    if kind in _ROOTS:
        if not entry.get("below"):
            return _volume(entry)
        digest = hashlib.sha256(str(entry["below"]).encode("utf-8", "surrogateescape")).hexdigest()
        return f"{SUB_PATH_GUEST_ROOT}/{_volume(entry).rpartition('/')[2]}-{digest[:16]}"
    if kind == "guest" and str(entry.get("source", "")).startswith("/"):
        return str(entry["source"])
    raise InvalidInput(f"guest mount of unknown kind: {dict(entry)!r:.200}")
