"""Root file systems that the guest changes in a layer of its own: an overlay in its memory, or on a scratch disk."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from oci_runtime.config.model import StorageConfig
from oci_runtime.errors import OciRuntimeError
from oci_runtime.log import get_logger
from oci_runtime.sandbox.disks import PodDisks
from oci_runtime.sandbox.threads import in_thread
from oci_runtime.storage.scratch import make_scratch

if TYPE_CHECKING:
    from oci_runtime.sandbox.virtual_machine import VirtualMachine

log = get_logger(__name__)
_GUEST_ROOT = "/run/vmpod/overlay"


class RootOverlays:
    """The overlays of a pod's containers."""

    def __init__(self, machine: VirtualMachine, disks: PodDisks, storage: StorageConfig) -> None:
        self._machine = machine
        self._disks = disks
        self._storage = storage
        self._made: dict[str, list[str]] = {}

    def kind(self, *, readonly_root: bool, readonly_disk: bool) -> str:
        """none, memory or disk. readonly_root: the spec's. readonly_disk: the root's disk takes no writes.

        A root that is read-only for its container gets its mount points all the same, where a directory would get them.
        """
        wanted = self._storage.rootfs_overlay
        if wanted != "none" and (readonly_root or wanted == "auto"):
            return "memory" if readonly_disk else "none"
        return wanted

    async def make(self, container_id: str, lower: str, kind: str) -> str:
        """Put a layer for changes on the guest's directory `lower`; return the path of both.

        Raises: HostError (no scratch disk), OciRuntimeError. After a failure the caller calls `remove`.
        """
        agent = await self._machine.agent()
        made = self._made.setdefault(container_id, [])
        if kind == "disk":
            directory, size_mib = self._storage.scratch_directory, self._storage.scratch_size_mib
            scratch = await in_thread(make_scratch, directory, size_mib, discard=os.close)
            try:
                description = {"what": "scratch disk", "fstype": "ext4", "options": ["noatime"], "readonly": False}
                upper = await self._disks.mount(container_id, description, scratch)
            finally:
                os.close(scratch)
        else:
            upper = f"{_GUEST_ROOT}/{container_id}/upper"
            options = [f"size={self._storage.scratch_size_mib}m", "mode=755"]
            await agent.add_storage("tmpfs", "vmpod-root", upper, "tmpfs", options)
            made.append(upper)
        root = f"{_GUEST_ROOT}/{container_id}/root"
        options = [f"lowerdir={lower}", f"upperdir={upper}/upper", f"workdir={upper}/work"]
        await agent.add_storage("overlay", "overlay", root, "overlay", options)
        made.append(root)
        return root

    async def remove(self, container_id: str) -> None:
        """Take a container's overlay away; its scratch disk is the disks' affair. Idempotent; failures are logged."""
        made = self._made.pop(container_id, [])
        for target in reversed(made):
            try:
                await (await self._machine.agent()).remove_storage(target)
            except OciRuntimeError as error:
                log.warning("an overlay stays in the guest", target=target, reason=error.message)
