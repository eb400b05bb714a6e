"""Open what a container's spec takes from the host, in the caller's mount namespace: rootfs and bind sources.

Runs in the command line (or the shim), which the engine started: a path of the bundle means what it means there. Each
source becomes a detached copy of its mount tree; the descriptor travels to the sandbox process. mount_kinds.py says
what becomes of which mount. Imports little: every `create` comes through here.
"""

from __future__ import annotations

import os
import stat

from oci_runtime.errors import InvalidInput, Unsupported
from oci_runtime.host import syscalls
from oci_runtime.storage.disks import describe, open_devices, open_disk, open_root, open_volume
from oci_runtime.storage.mount_kinds import (
    GUEST_TYPES,
    KERNEL_TYPES,
    OVERLAY,
    WATCHED,
    is_bind,
    options_of,
    propagation_of,
    readonly_of,
)
from oci_runtime.storage.mount_table import MountTable
from oci_runtime.storage.own_mounts import find_own
from oci_runtime.storage.tree import SourceTree
from oci_runtime.storage.volumes import find as find_volume

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from oci_runtime.storage.idmap import IdMap

# A frame of the control socket carries 200 descriptors; the namespaces need some.
MAX_SOURCES = 190
_UNKNOWN_TO_CRUN = frozenset(("nosymfollow", "rnosymfollow"))


class Sources:
    """What `open_sources` found. Owns its descriptors: call `close` when they have been sent.

    descriptors: (description, descriptor) pairs; the descriptions travel as `fds` of op `create`: {"kind": "rootfs"}
    and {"kind": "mount", "index", "readonly", "propagation", "pool"} (as Share.attach has them; with "watch" a copy in
    the guest may take its place, see trees.py), and disks (see disks.describe) with the "mount" or "device" that they
    are for. guest_mounts, likewise: "index" and what own_mounts.py says of binds that the guest serves from its own, or
    "no-device" for an entry of linux.devices that it does not get. warnings: for the user.
    view_root, view: what those who look at the container's files on the host are shown: the rootfs (-1 when not asked
    for), and for each mount its type, destination, and tree (-1 where the content is the guest's).
    """

    __slots__ = ("descriptors", "guest_mounts", "propagation", "table", "view", "view_root", "volumes", "warnings")

    def __init__(self, propagation: str = "", volumes: str = "") -> None:
        """propagation: of the container's root, linux.rootfsPropagation. volumes: where direct ones are registered."""
        self.propagation = propagation
        self.volumes = volumes
        self.table = MountTable()
        self.descriptors: list[tuple[dict[str, Any], int]] = []
        self.guest_mounts: list[dict[str, Any]] = []
        self.warnings: list[str] = []
        self.view_root = -1
        self.view: list[tuple[str, str, int]] = []

    def add(self, description: dict[str, Any], descriptor: int) -> None:
        """Take over a descriptor."""
        self.descriptors.append((description, descriptor))

    def require_room(self, what: str) -> None:
        """Raise Unsupported when the container has as much from the host as one message carries."""
        if len(self.descriptors) >= MAX_SOURCES:
            raise Unsupported(f"{what}: more than {MAX_SOURCES} bind mounts and disks in one container")

    def close(self) -> None:
        """Close the descriptors; idempotent. Trees that nobody attached vanish."""
        while self.descriptors:
            os.close(self.descriptors.pop()[1])
        for fd in (self.view_root, *(fd for _, _, fd in self.view)):
            if fd >= 0:
                os.close(fd)
        self.view_root = -1
        self.view.clear()


def open_sources(
    spec: Mapping[str, Any],
    bundle: str,
    *,
    with_view: bool = False,
    volumes: str = "",
    root_disk: Mapping[str, Any] | None = None,
) -> Sources:
    """Open rootfs and bind sources of a spec; relative paths start at `bundle`. with_view: open the view as well.

    volumes: where direct volumes are registered. root_disk: {"source", "fstype", "options"} of a disk that takes the
    place of root.path. Raises: NotFound (a missing source), InvalidInput (a rootfs that is neither directory nor disk),
    Unsupported (a source or type that a virtual machine cannot have), HostError. Messages name the mount's index and
    destination. After a failure nothing is open.
    """
    sources = Sources(str((spec.get("linux") or {}).get("rootfsPropagation") or ""), volumes)
    try:
        _open_root(sources, spec["root"], bundle, root_disk, with_view=with_view)
        for index, mount in enumerate(spec.get("mounts") or ()):
            _open_mount(sources, index, mount, bundle, with_view=with_view)
        open_devices(sources, spec)
    except BaseException:
        sources.close()
        raise
    return sources


def _open_root(
    sources: Sources, root: Mapping[str, Any], bundle: str, disk: Mapping[str, Any] | None, *, with_view: bool
) -> None:
    """Open the root file system: a directory, or a disk, which the host does not look into."""
    readonly = bool(root.get("readonly"))
    rootfs = os.path.join(bundle, str(root["path"]))
    if disk is not None:
        open_root(sources, disk["source"], readonly=readonly, fstype=disk["fstype"], options=disk["options"])
    else:
        with SourceTree(rootfs, "root.path") as source:
            mode = source.mode
            if stat.S_ISDIR(mode):
                sources.add({"kind": "rootfs"}, source.clone(recursive=True))
                if with_view:
                    sources.view_root = source.clone_for_view(recursive=True, readonly="top" if readonly else "")
                return
            if not (stat.S_ISBLK(mode) or stat.S_ISREG(mode)):
                raise InvalidInput(f"root.path {rootfs}: neither a directory nor a disk")
        open_root(sources, rootfs, readonly=readonly)
    if with_view:
        sources.view_root = syscalls.detached_tmpfs()


def _open_mount(sources: Sources, index: int, mount: dict[str, Any], bundle: str, *, with_view: bool) -> None:
    destination = str(mount.get("destination", ""))
    what = f"mounts[{index}] {destination}"
    options = options_of(mount)
    kind = str(mount.get("type") or "none")
    _refuse_what_crun_ignores(what, mount, options)
    if kind == OVERLAY and not is_bind(mount):
        _open_overlay(sources, index, mount, with_view=with_view)
        return
    if not is_bind(mount):
        if kind not in GUEST_TYPES:
            raise Unsupported(
                f"{what}: a virtual machine cannot mount type {kind!r} (mount it on the host and bind it)"
            )
        sources.view.append((kind, destination, -1))
        return
    path = str(mount.get("source") or "")
    if not path:
        raise InvalidInput(f"{what}: a bind mount without a source")
    path = os.path.join(bundle, path)
    sources.require_room(what)
    volume = find_volume(sources.volumes, path)
    if volume is not None:
        if _is_mapped(mount):
            raise Unsupported(f"{what}: a direct volume cannot have id mappings")
        open_volume(sources, index, what, volume, readonly=bool(readonly_of(options)))
        sources.view.append((kind, destination, -1))
        return
    idmap = None
    if _is_mapped(mount):
        from oci_runtime.storage.idmap import IdMap

        idmap = IdMap(mount, what)
    try:
        _open_source(sources, index, mount, path, idmap, with_view=with_view)
    finally:
        if idmap is not None:
            idmap.close()


def _open_source(
    sources: Sources, index: int, mount: dict[str, Any], path: str, idmap: IdMap | None, *, with_view: bool
) -> None:
    """A bind mount of what is at `path`: a disk, the guest's own, or a tree."""
    destination, options = str(mount.get("destination", "")), options_of(mount)
    what, kind = f"mounts[{index}] {destination}", str(mount.get("type") or "none")
    recursive, readonly = "rbind" in options, readonly_of(options)
    with SourceTree(path, f"{what}: source") as source:
        if stat.S_ISBLK(source.mode):
            _open_disk(sources, index, what, path, source.fd, readonly=bool(readonly))
            sources.view.append((kind, destination, -1))
            return
        own = find_own(sources.table, destination, path, source.fd)
        if own is not None:
            if idmap is not None:
                own |= {name: idmap.owner(own[name]) for name in ("owner", "below_owner") if name in own}
            sources.guest_mounts.append({"index": index, **own})
            sources.view.append((kind, destination, -1))
            return
        _check_node(sources, what, path, source.mode)
        propagation = propagation_of(options, sources.propagation)
        pool = "" if recursive and _has_mounts(sources, what, path) else source.key(propagation)
        if pool and idmap is not None:
            pool += f"-{idmap.key}"
        description = {"kind": "mount", "index": index, "readonly": readonly, "propagation": propagation, "pool": pool}
        if readonly and any(marker in path for marker in WATCHED) and stat.S_ISDIR(source.mode):
            description["watch"] = True
        tree = source.clone(recursive=recursive)
        sources.add(description, tree if idmap is None else idmap.apply(tree))
        if with_view:
            view = source.clone_for_view(recursive=recursive, readonly=readonly)
            sources.view.append((kind, destination, view if idmap is None else idmap.apply(view)))


def _refuse_what_crun_ignores(what: str, mount: dict[str, Any], options: list[str]) -> None:
    """The guest's crun would leave out options that protect."""
    for option in _UNKNOWN_TO_CRUN.intersection(options):
        raise Unsupported(f"{what}: option {option!r} is not known to the guest's crun (leave it out)")
    if _is_mapped(mount) and not is_bind(mount):
        raise Unsupported(f"{what}: only a bind mount can have id mappings of its own")


def _is_mapped(mount: dict[str, Any]) -> bool:
    return bool(
        mount.get("uidMappings") or mount.get("gidMappings") or {"idmap", "ridmap"}.intersection(options_of(mount))
    )


def _open_overlay(sources: Sources, index: int, mount: dict[str, Any], *, with_view: bool) -> None:
    """An overlay of the spec: a tree like a bind's, of this container alone."""
    from oci_runtime.storage.overlay import open_overlay

    destination, options = str(mount.get("destination", "")), options_of(mount)
    what = f"mounts[{index}] {destination}"
    sources.require_room(what)
    tree, view = open_overlay(options, what, with_view=with_view)
    description = {"kind": "mount", "index": index, "readonly": readonly_of(options), "propagation": "private"}
    sources.add({**description, "pool": ""}, tree)
    if with_view:
        sources.view.append((OVERLAY, destination, view))


def _has_mounts(sources: Sources, what: str, path: str) -> bool:
    """Whether something is mounted below a source; says so if it is the kernel's and will be left out."""
    below = sources.table.below(os.path.realpath(path))
    kernel = sorted(mount.point for mount in below if mount.kind in KERNEL_TYPES)
    if kernel:
        sources.warnings.append(
            f"{what}: {', '.join(kernel[:3])}{' and more' if kernel[3:] else ''} of the host's kernel below {path}"
            " are left out: a virtual machine has its own"
        )
    return bool(below)


def _open_disk(sources: Sources, index: int, what: str, path: str, node: int, *, readonly: bool) -> None:
    """Open the block device behind a bind mount anew: the node's descriptor is good for nothing but its place."""
    descriptor, readonly = open_disk(f"/proc/self/fd/{node}", f"{what}: source {path}", readonly=readonly)
    sources.add(describe(descriptor, readonly) | {"mount": index}, descriptor)


def _check_node(sources: Sources, what: str, path: str, mode: int) -> None:
    if stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode):
        kind = "socket" if stat.S_ISSOCK(mode) else "pipe"
        sources.warnings.append(f"{what}: {kind} {path} of the host is visible in the guest, but leads nowhere there")
