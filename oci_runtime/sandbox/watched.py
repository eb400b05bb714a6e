"""Copies in the guest that follow small trees and files of the host, such as ConfigMaps: each is one for the pod."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import stat

from oci_runtime.agent.client import AgentClient
from oci_runtime.errors import OciRuntimeError, Unavailable
from oci_runtime.log import get_logger
from oci_runtime.sandbox.threads import in_thread
from oci_runtime.storage.trees import FILE, GUEST_BYTES, TreeEntry, TreeWatch, UnfitTree
from oci_runtime.ttrpc.proto import agent_pb2 as pb

log = get_logger(__name__)

_ROOT = "/run/vmpod/watched"


class _Copy:
    """One tree: the host's directory or file, where it is in the guest, what the guest has of it, and who uses it."""

    def __init__(self, source: int, target: str, entries: tuple[TreeEntry, ...]) -> None:
        self.source = source
        self.target = target
        self.entries = entries
        self.mounted = False
        self.users: set[str] = set()

    @property
    def path(self) -> str:
        """What is bound in the guest."""
        return self.target if stat.S_ISDIR(os.fstat(self.source).st_mode) else f"{self.target}/{FILE}"

    def options(self) -> tuple[str, ...]:
        """Of the tmpfs that holds the copy: it is the directory, or a place for the file."""
        status = os.fstat(self.source)
        if not stat.S_ISDIR(status.st_mode):
            return (f"size={GUEST_BYTES}", "mode=755", "nosuid", "nodev")
        owner = (f"mode={status.st_mode & 0o7777:o}", f"uid={status.st_uid}", f"gid={status.st_gid}")
        return (f"size={GUEST_BYTES}", *owner, "nosuid", "nodev")


class WatchedTrees:
    """All copies of a pod. Any change makes all trees be read again: they are few and small."""

    def __init__(self) -> None:
        self._copies: dict[str, _Copy] = {}
        self._numbers = itertools.count(1)
        self._watch: TreeWatch | None = None
        self._changed = asyncio.Event()
        self._lock = asyncio.Lock()  # of reading, and of the guest's copies
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    async def open(self, container_id: str, source_fd: int, pool: str) -> str:
        """Read a directory or file of the host; return the copy's path in the guest, where it is after `mount`.

        source_fd: borrowed. pool: the same for the same source (sources.py), "" if it has mounts inside, which are not
        copied. Raises: UnfitTree (it cannot be a copy), HostError, Unavailable (after `close`).
        """
        async with self._lock:
            if self._closed:
                raise Unavailable("the pod has ended")
            copy = self._copies.get(pool) or await self._read_new(source_fd, pool)
            copy.users.add(container_id)
            return copy.path

    async def _read_new(self, source_fd: int, pool: str) -> _Copy:
        if not pool:
            raise UnfitTree("something is mounted inside")
        if self._watch is None:
            self._watch = TreeWatch()
            asyncio.get_running_loop().add_reader(self._watch.fileno(), self._note_change)
        entries = await in_thread(self._watch.read, source_fd)
        self._changed.set()  # the reading may have taken events of other trees
        copy = _Copy(os.dup(source_fd), f"{_ROOT}/{next(self._numbers)}", entries)
        self._copies[pool] = copy
        return copy

    def _note_change(self) -> None:
        """Take the events at once: until then the loop would call again and again, however long the guest takes."""
        if self._watch is not None:
            self._watch.drain()
        self._changed.set()

    async def mount(self, client: AgentClient, container_id: str) -> None:
        """Bring a container's copies into the guest, and begin to follow the host."""
        async with self._lock:
            for copy in self._copies.values():
                if container_id not in copy.users or copy.mounted:
                    continue
                await client.add_storage("tmpfs", "watched", copy.target, "tmpfs", copy.options())
                copy.mounted = True
                await client.sync_tree(copy.target, _messages(copy.entries))
            if self._copies and self._task is None:
                self._task = asyncio.create_task(self._follow(client))

    async def remove(self, container_id: str, client: AgentClient | None) -> None:
        """Forget a container's copies unless others use them; with a client, take them out of the guest. Idempotent."""
        async with self._lock:
            for pool, copy in list(self._copies.items()):
                copy.users.discard(container_id)
                if copy.users:
                    continue
                del self._copies[pool]
                os.close(copy.source)
                if copy.mounted and client is not None:
                    with contextlib.suppress(OciRuntimeError):
                        await client.remove_storage(copy.target)

    async def close(self) -> None:
        """Stop following the host and forget all, once nobody reads a tree any more. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        async with self._lock:
            self._closed = True
            if self._watch is not None:
                asyncio.get_running_loop().remove_reader(self._watch.fileno())
                self._watch.close()
                self._watch = None
            for copy in self._copies.values():
                os.close(copy.source)
            self._copies.clear()

    async def _follow(self, client: AgentClient) -> None:
        """Send what has changed, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            async with self._lock:
                assert self._watch is not None, "made before the first copy"
                self._watch.drain()
                before = self._watch.changes
                for copy in self._copies.values():
                    try:
                        await self._update(client, copy)
                    except OciRuntimeError as error:
                        log.warning("the copy in the guest stays as it was", target=copy.target, reason=str(error))
                # Reading one tree takes the events of all: another one may have changed after its turn.
                if self._watch.changes != before:
                    self._changed.set()

    async def _update(self, client: AgentClient, copy: _Copy) -> None:
        assert self._watch is not None, "made before the first copy"
        entries = await in_thread(self._watch.read, copy.source)
        if entries == copy.entries:
            return
        if copy.mounted:
            await client.sync_tree(copy.target, _messages(entries))
        copy.entries = entries


def _messages(entries: tuple[TreeEntry, ...]) -> list[pb.TreeEntry]:
    return [
        pb.TreeEntry(
            path=entry.path,
            mode=entry.mode,
            uid=entry.uid,
            gid=entry.gid,
            mtime_ns=entry.mtime_ns,
            inode=entry.inode,
            data=entry.data,
        )
        for entry in entries
    ]
