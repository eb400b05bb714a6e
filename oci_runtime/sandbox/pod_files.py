"""Files of the host that containers get: in the share, or, where there is none or changes must be told, as copies."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Any

from oci_runtime.agent.client import AgentClient
from oci_runtime.errors import HostError, Unsupported
from oci_runtime.log import get_logger
from oci_runtime.sandbox.watched import WatchedTrees
from oci_runtime.storage.share import Share
from oci_runtime.storage.trees import UnfitTree

log = get_logger(__name__)
_WITHOUT = "storage.shared_fs = 'none'"


class PodFiles:
    """The files of one pod. share: None if the pod has none."""

    def __init__(self, share: Share | None) -> None:
        self._share = share
        self._copies = WatchedTrees()

    def attach_root(self, container_id: str, fd: int) -> str:
        """Put a root file system into the share; return its path in the guest. Raises: Unsupported, as Share.attach."""
        if self._share is None:
            raise Unsupported(
                f"root.path of {container_id} is a directory of the host, which needs a share, and {_WITHOUT}: use a"
                " block device or an image file, or virtio-fs"
            )
        return self._share.attach(fd, container_id, "rootfs")

    async def attach_mount(
        self, container_id: str, description: Mapping[str, Any], fd: int, mount: Mapping[str, Any]
    ) -> str:
        """Put a bind's source into the share, or have it copied; return its path in the guest.

        mount: of the spec. A copy is there after `mount`. Raises: Unsupported (without a share, what cannot be
        copied), as Share.attach.
        """
        what = f"mounts[{int(description['index'])}] {mount.get('destination')}"
        pool, readonly = str(description.get("pool", "")), str(description.get("readonly", ""))
        if self._share is None:
            return await self._copy(container_id, fd, pool, what, readonly=bool(readonly))
        if description.get("watch"):
            try:
                return await self._copies.open(container_id, fd, pool)
            except (UnfitTree, HostError) as error:
                log.warning("changes will not be announced in the guest", mount=what, reason=str(error))
        return self._share.attach(
            fd,
            container_id,
            f"m{int(description['index'])}",
            readonly=readonly,
            propagation=str(description.get("propagation", "private")),
            pool=pool,
            source=str(mount.get("source") or "/"),
        )

    async def _copy(self, container_id: str, fd: int, pool: str, what: str, *, readonly: bool) -> str:
        """A file may be changed in the guest, as /etc/hosts is; changes in directories are not lost without a word."""
        try:
            if stat.S_ISDIR(os.fstat(fd).st_mode) and not readonly:
                raise UnfitTree("it is a directory that may be written, and the host would never see it")
            return await self._copies.open(container_id, fd, pool)
        except (UnfitTree, HostError) as error:
            raise Unsupported(f"{what} can be no copy in the guest ({error}), and {_WITHOUT}: use virtio-fs") from error

    async def mount(self, client: AgentClient, container_id: str) -> None:
        """Bring a container's copies into the guest, and begin to follow the host."""
        await self._copies.mount(client, container_id)

    async def forget_copies(self, container_id: str, client: AgentClient | None) -> None:
        """Let go of a container's copies; in the guest too, with a client. Idempotent."""
        await self._copies.remove(container_id, client)

    def detach(self, container_id: str) -> None:
        """Take a container out of the share. Idempotent. Raises: HostError."""
        if self._share is not None:
            self._share.detach_container(container_id)

    async def close(self) -> None:
        """Stop following the host; the share is taken away by who made it."""
        await self._copies.close()
