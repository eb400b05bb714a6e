"""The drivers joined: QEMU, virtiofsd, the guest agent, the share and the network of one pod.

`VirtualMachine` knows the order in which they come up and go down; `Sandbox` knows containers. Everything that is made
on the host is recorded before it is made, and undone here in reverse; a step of the undo that fails never keeps the
others from being tried.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from oci_runtime import __version__
from oci_runtime.agent.client import AgentClient
from oci_runtime.errors import InvalidInput, NotFound, OciRuntimeError, Unavailable, Unsupported
from oci_runtime.log import get_logger
from oci_runtime.sandbox.disks import PodDisks
from oci_runtime.sandbox.launch import Launched
from oci_runtime.sandbox.network import PodNetwork, find_network_path
from oci_runtime.sandbox.pod_files import PodFiles
from oci_runtime.sandbox.process import Container
from oci_runtime.sandbox.request import CreateRequest
from oci_runtime.sandbox.root_overlay import RootOverlays
from oci_runtime.sandbox.steps import Step, try_all
from oci_runtime.sandbox.vfio import PodVfio
from oci_runtime.storage import share
from oci_runtime.storage.rewrite import guest_storages, rewrite_spec
from oci_runtime.storage.rewrite_devices import rewrite_devices
from oci_runtime.vm.machine import Machine

if TYPE_CHECKING:
    from oci_runtime.storage.virtiofsd import VirtiofsdLaunch

log = get_logger(__name__)
_T = TypeVar("_T")

_GUEST_SHUTDOWN_S = 3.0
# With disks that it writes to: longer than the guest waits for their file systems to be free.
_DISK_SHUTDOWN_S = 15.0
_CLOSE_S = 10.0
# From the end of the guest's link to that of its machine.
_LOSS_S = 1.0


@dataclass
class _Sources:
    """What a container has of the host, as (description, descriptor) pairs by what becomes of them.

    rootfs, paths: places in the guest of what is in the share, by index of the spec's mount. devices: disks that it
    sees as such. mounted: disks whose file systems it has. functions: PCI devices.
    """

    rootfs: str = ""
    paths: dict[int, str] = field(default_factory=dict)
    devices: list[tuple[dict[str, Any], int]] = field(default_factory=list)
    mounted: list[tuple[dict[str, Any], int]] = field(default_factory=list)
    functions: list[tuple[dict[str, Any], int]] = field(default_factory=list)


class VirtualMachine:
    """One machine, from the launched processes to their end."""

    def __init__(self, launched: Launched) -> None:
        self.launched = launched
        self.config = launched.config
        self.sandbox_id = launched.sandbox_id
        self.timeline = launched.timeline
        self.failure = ""
        self._machine: Machine | None = None
        self._client: AgentClient | None = None
        loop = asyncio.get_running_loop()
        self._connected: asyncio.Future[Machine] = loop.create_future()
        self._greeted: asyncio.Future[AgentClient] = loop.create_future()
        self._ready: asyncio.Future[AgentClient] = loop.create_future()
        self._lost: asyncio.Future[str] = loop.create_future()
        self._booting: asyncio.Task[Any] | None = None
        self._network: PodNetwork | None = None
        self._network_ready: asyncio.Task[None] | None = None
        self._disks = PodDisks(self, launched.config.storage)
        self._vfio = PodVfio()
        self._overlays = RootOverlays(self, self._disks, launched.config.storage)
        self._sandbox_set_up = False
        self._storages: set[str] = set()
        self._files = PodFiles(launched.share)
        self._set_up_lock = asyncio.Lock()
        self._watchers: list[asyncio.Task[None]] = []

    # Beginning

    async def bring_up(self) -> None:
        """Connect to QEMU and wait for the agent's first answer; share and console are there afterwards.

        Raises the first cause, with the tail of the guest's console. Whoever waits in `agent` gets the same error.
        Cancelled by `close`, which must not be called by the same task meanwhile.
        """
        self._booting = asyncio.current_task()
        try:
            await self._bring_up()
        except Exception as cause:  # noqa: BLE001 - whatever it is, those who wait must learn of it
            error = cause if isinstance(cause, OciRuntimeError) else OciRuntimeError(f"boot failed: {cause!r}")
            self.failure = error.message
            if not error.detail:
                error.detail = self.console_tail()
            for future in (self._connected, self._greeted, self._ready):
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # it is nobody's fault if no one waits
            if error is cause:
                raise
            raise error from cause
        finally:
            self._booting = None

    async def _bring_up(self) -> None:
        begin_ns = time.monotonic_ns()
        self.launched.undo_qemu.pop_all()
        kept_bytes = self.config.log.max_console_kib << 10
        machine = await Machine.connect(self.launched.qemu, Path(self.launched.console_log), console_bytes=kept_bytes)
        self._machine = machine
        self._watch(machine)
        self._connected.set_result(machine)
        self.timeline.add("qemu monitor", begin_ns)
        begin_ns = time.monotonic_ns()
        virtiofsd = self.launched.virtiofsd
        if virtiofsd is not None:
            await self._unless_lost(machine.plug_share(virtiofsd.socket, share.TAG))
            self.timeline.add("share plugged", begin_ns)
        begin_ns = time.monotonic_ns()
        boot_timeout_s = self.config.vm.boot_timeout_s
        client = await AgentClient.connect(await self._unless_lost(machine.connect_agent(boot_timeout_s)))
        self._client = client
        try:
            hello = await asyncio.wait_for(self._unless_lost(client.hello(__version__, os.urandom(64))), boot_timeout_s)
        except TimeoutError as error:
            console = self.console_tail()
            silence = "" if console else "; its console is empty, try vmpod check --guest, or another vm.accel"
            raise Unavailable(
                f"guest did not answer within {boot_timeout_s:g} s (setting vm.boot_timeout_s){silence}", detail=console
            ) from error
        phases = [(phase.name, phase.monotonic_ns) for phase in hello.phases]
        if phases:
            self.timeline.add_guest(phases, time.monotonic_ns(), phases[-1][1])
        self.timeline.add("agent answers", begin_ns)
        self._greeted.set_result(client)
        begin_ns = time.monotonic_ns()
        # The greeting carried the time at which it was sent, which is when the boot began.
        clock = client.set_clock(time.time_ns())
        served, storage = self.launched.share is not None, self.config.storage
        files = virtiofsd.files if virtiofsd is not None else 0
        plan = share.plan_guest_mount(storage.shared_fs, storage.msize_9p, files)
        mount = (client.add_storage(*plan),) if served else ()
        await self._unless_lost(asyncio.gather(clock, *mount))
        if served:
            self.timeline.add("share mounted", begin_ns)
        self._watchers.append(asyncio.create_task(self._watch_link(client)))
        self._ready.set_result(client)

    def _watch(self, machine: Machine) -> None:
        async def watch_qemu() -> None:
            ended = await asyncio.shield(machine.exited)
            self._lose(f"virtual machine ended: {ended.reason}" + (f": {ended.detail}" if ended.detail else ""))

        async def watch_virtiofsd(daemon: VirtiofsdLaunch) -> None:
            self._lose(f"virtiofsd ended, the guest cannot reach its files any more: {await daemon.end()}")

        self._watchers.append(asyncio.create_task(watch_qemu()))
        if self.launched.virtiofsd is not None:
            self._watchers.append(asyncio.create_task(watch_virtiofsd(self.launched.virtiofsd)))

    async def _watch_link(self, client: AgentClient) -> None:
        await client.closed()
        # QEMU's own end is the better reason, and follows within moments.
        await asyncio.sleep(0.2)
        self._lose("lost the connection to the guest's agent")

    def _lose(self, reason: str) -> None:
        if not self._lost.done():
            self.failure = self.failure or reason
            self._lost.set_result(reason)

    async def _unless_lost(self, work: Awaitable[_T]) -> _T:
        """Await `work`, but give up with the reason as soon as the machine is lost."""
        task = asyncio.ensure_future(work)
        awaited: set[asyncio.Future[Any]] = {task, self._lost}
        try:
            await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            # A guest that does not answer any more may be gone with its machine, which says more.
            if task.done() and not (isinstance(task.exception(), Unavailable) and await self.is_lost(_LOSS_S)):
                return task.result()
        finally:
            await _cancel(task)
        raise Unavailable(self._lost.result(), detail=self.console_tail())

    async def lost(self) -> str:
        """Wait until the machine cannot go on; return why."""
        return await asyncio.shield(self._lost)

    async def is_lost(self, wait_s: float) -> bool:
        """Whether the machine is lost, or turns out to be within `wait_s`."""
        await asyncio.wait([self._lost], timeout=wait_s)
        return self._lost.done()

    async def greeted_agent(self) -> AgentClient:
        """The client of the guest from its first answer on: the share may not be mounted yet."""
        return await asyncio.shield(self._greeted)

    async def agent(self) -> AgentClient:
        """The client of the guest, once it has answered. Raises why it never will."""
        return await asyncio.shield(self._ready)

    # Containers

    async def create_container(
        self, request: CreateRequest, container: Container, undo: contextlib.AsyncExitStack, owner_id: str
    ) -> tuple[str, ...]:
        """Attach the container's sources to share and machine, and create it in the guest; undo on the stack."""
        begin_ns = time.monotonic_ns()
        undo.callback(self._files.detach, container.id)
        undo.push_async_callback(self._disks.detach, container.id)
        undo.push_async_callback(self._forget_watched, container.id)
        undo.push_async_callback(self._overlays.remove, container.id)
        sources = await self._attach_sources(request)
        await self._disks.check(sources.mounted)
        if sources.functions:
            if self.config.storage.shared_fs == "virtio-9p":
                raise Unsupported(
                    "PCI devices of the host: with storage.shared_fs = 'virtio-9p' QEMU sees none of them"
                )
            machine = await self.machine()
            undo.push_async_callback(self._vfio.detach, machine, container.id)
            await self._vfio.attach(machine, container.id, sources.functions)
        table = await self._disks.attach(container.id, sources.devices)
        self.timeline.add(f"sources of {container.id[:12]}", begin_ns)
        client = await self._agent_and_network(request)
        await self._mount_guest_storages(client, request)
        await self._files.mount(client, container.id)
        rootfs = await self._mount_disks(request, sources)
        spec = rewrite_spec(request.spec, rootfs, sources.paths, request.guest_mounts)
        spec = rewrite_devices(spec, [description for description, _ in sources.devices], request.guest_mounts)
        begin_ns = time.monotonic_ns()
        in_pod = container.id == owner_id
        response = await client.create_container(
            container.id,
            json.dumps(spec).encode(),
            stdin=request.stdin,
            pid_namespace_of=request.pid_namespace_of,
            in_pod_ipc=in_pod,
            in_pod_uts=in_pod,
            disks=table,
        )
        self.timeline.add(f"container {container.id[:12]}", begin_ns)
        self.timeline.save(self.launched.directory)
        container.init.guest_pid = response.pid
        return tuple(response.warnings)

    async def _attach_sources(self, request: CreateRequest) -> _Sources:
        """Put into the share what is shared, and sort the rest."""
        sources = _Sources()
        for description, fd in request.descriptors:
            kind = description.get("kind")
            if kind == "rootfs":
                sources.rootfs = self._files.attach_root(request.container_id, fd)
            elif kind == "mount":
                index = int(description["index"])
                mount = request.spec["mounts"][index]
                sources.paths[index] = await self._files.attach_mount(request.container_id, description, fd, mount)
            elif kind == "netns":
                self._attach_network(fd, request)
            elif kind == "disk":
                sources.devices.append((description, fd))
            elif kind in ("root-disk", "volume"):
                sources.mounted.append((description, fd))
            elif kind in ("iommu", "vfio"):
                sources.functions.append((description, fd))
            else:
                raise InvalidInput(f"descriptor of unknown kind {kind!r}")
        return sources

    async def _mount_disks(self, request: CreateRequest, sources: _Sources) -> str:
        """Mount the root file system and the volumes that are disks; return the root's path in the guest."""
        rootfs, readonly_disk = sources.rootfs, False
        for description, fd in sources.mounted:
            path = await self._disks.mount(request.container_id, description, fd)
            if description["kind"] == "volume":
                sources.paths[int(description["mount"])] = path
            else:
                rootfs, readonly_disk = path, bool(description["readonly"])
        if not rootfs:
            raise InvalidInput(f"create of {request.container_id} carries no rootfs descriptor")
        readonly_root = bool((request.spec.get("root") or {}).get("readonly"))
        overlay = self._overlays.kind(readonly_root=readonly_root, readonly_disk=readonly_disk)
        return rootfs if overlay == "none" else await self._overlays.make(request.container_id, rootfs, overlay)

    async def _set_up_sandbox(self, request: CreateRequest) -> None:
        """Tell the guest what holds for the whole pod; the first container of the pod knows it."""
        async with self._set_up_lock:
            if self._sandbox_set_up:
                return
            client = await self.greeted_agent()
            await client.setup_sandbox(
                self.launched.sandbox_id,
                # Without one of its own a container has the host's name, as under runc with the host's uts namespace.
                hostname=str(request.spec.get("hostname") or os.uname().nodename),
                domainname=str(request.spec.get("domainname") or ""),
                sysctls={},
                kernel_modules=self.config.agent.kernel_modules,
            )
            self._sandbox_set_up = True

    async def _mount_guest_storages(self, client: AgentClient, request: CreateRequest) -> None:
        """Mount what the guest serves from its own, such as the pod's shared memory: once for all its containers."""
        for storage in guest_storages(request.guest_mounts):
            async with self._set_up_lock:
                if storage.target in self._storages:
                    continue
                await client.add_storage(
                    storage.driver, storage.source, storage.target, storage.fstype, storage.options
                )
                self._storages.add(storage.target)

    async def remove_container(self, container: Container) -> None:
        """Remove a container from the guest and from the share; each step is tried. Raises the first failure.

        May be repeated: what is gone already is no failure.
        """
        name = container.id
        failure = await try_all(
            (
                ("container in the guest", lambda: self._remove_from_guest(name)),
                ("watched trees", lambda: self._forget_watched(name)),
                ("root overlay", lambda: self._overlays.remove(name)),
                ("disks", lambda: self._disks.detach(name)),
                ("PCI devices", lambda: self._detach_functions(name)),
                ("share", lambda: asyncio.to_thread(self._files.detach, name)),
            )
        )
        if failure is not None:
            raise failure

    async def _remove_from_guest(self, container_id: str) -> None:
        with contextlib.suppress(NotFound):
            await (await self.agent()).remove_container(container_id)

    async def _detach_functions(self, container_id: str) -> None:
        await self._vfio.detach(await self.machine(), container_id)

    async def _forget_watched(self, container_id: str) -> None:
        """Let go of the trees that a container has copies of; in the guest too, while it answers."""
        answers = self._ready.done() and not self._lost.done() and self._ready.exception() is None
        await self._files.forget_copies(container_id, self._ready.result() if answers else None)

    @staticmethod
    def release(descriptors: list[tuple[dict[str, Any], int]]) -> None:
        """Close what came with a request."""
        for _description, fd in descriptors:
            with contextlib.suppress(OSError):
                os.close(fd)

    # Network

    async def _agent_and_network(self, request: CreateRequest) -> AgentClient:
        """The agent, once share, network and pod are set up; whichever fails first ends the wait."""
        set_up = asyncio.create_task(self._set_up_sandbox(request))
        try:
            if self._network_ready is None:
                client = await self.agent()
            else:
                client, _ = await asyncio.gather(self.agent(), self._attached(self._network_ready))
            await set_up  # last: of a lost machine the others know more
        finally:
            set_up.cancel()
            await asyncio.gather(set_up, return_exceptions=True)
        return client

    def _attach_network(self, netns_fd: int, request: CreateRequest) -> None:
        """Begin to bring the namespace's interfaces into the guest; the first container's namespace is the pod's."""
        if self._network is not None:
            return
        path = find_network_path(request.spec)
        self._network = PodNetwork(self, self.config.network)
        self._network_ready = asyncio.create_task(self._network.attach(os.dup(netns_fd), request.pid, path))

    async def _attached(self, attachment: asyncio.Task[None]) -> None:
        """Wait for the network; one whose attachment was given up is no cancellation of who waits for it."""
        await asyncio.wait([attachment])
        if attachment.cancelled():
            raise Unavailable(self.failure or "the pod has ended")
        attachment.result()

    async def machine(self) -> Machine:
        """QEMU's monitor, once it is connected."""
        return await asyncio.shield(self._connected)

    async def network_operation(self, request: dict[str, Any]) -> dict[str, Any]:
        """Op `network` of the control socket."""
        return await self._require_network().operate(request)

    async def volume_operation(self, request: dict[str, Any]) -> dict[str, Any]:
        """Op `volume` of the control socket."""
        return await self._disks.operate(request)

    async def iptables_operation(self, request: dict[str, Any]) -> dict[str, Any]:
        """Op `iptables` of the control socket."""
        return await self._require_network().operate_firewall(request)

    def _require_network(self) -> PodNetwork:
        if self._network is None:
            raise Unsupported("this pod has no network namespace")
        return self._network

    # What it looks like

    @property
    def writes_disks(self) -> bool:
        """Whether the guest has disks of the host that it may write to."""
        return self._disks.any_written

    def console_tail(self) -> str:
        """The last lines of the guest's console, empty when there is none."""
        return self._machine.console_tail() if self._machine is not None else ""

    async def describe(self) -> dict[str, Any]:
        """The machine as `vmpod list` and `env` show it."""
        settings, virtiofsd = self.launched.qemu.settings, self.launched.virtiofsd
        return {
            "sandbox_id": self.launched.sandbox_id,
            "qemu_pid": self.launched.qemu.pid,
            "virtiofsd_pid": virtiofsd.pid if virtiofsd is not None else 0,
            "machine": settings.machine,
            "accel": settings.accel,
            "vcpus": settings.vcpus,
            "memory_mib": settings.memory_mib,
            "kernel": settings.kernel,
            "image": settings.image,
            "disks": self._disks.describe(),
        }

    # End

    async def quiesce(self) -> None:
        """Let a guest that still answers unmount its disks; never fails, and takes no longer than it says above."""
        if self._lost.done() or not self._ready.done() or self._ready.exception() is not None:
            return
        try:
            await self._ready.result().shutdown(_DISK_SHUTDOWN_S if self.writes_disks else _GUEST_SHUTDOWN_S)
        except OciRuntimeError as error:
            log.warning("the guest was not shut down in order", reason=error.message)

    async def close(self) -> None:
        """End QEMU and virtiofsd and undo everything on the host. Idempotent; continues after failures."""
        for watcher in self._watchers:
            watcher.cancel()
        stop_s = float(self.config.vm.stop_timeout_s)
        beginnings: list[Step] = [
            ("boot", lambda: _cancel(self._booting)),
            ("network set-up", lambda: _cancel(self._network_ready)),
        ]
        await try_all(beginnings, stop_s + _CLOSE_S)
        steps: list[Step] = [("volumes", self._disks.close)]
        if self._client is not None:
            steps.append(("agent link", self._client.close))
        # What it has in flight to the guest has failed by now.
        steps.append(("watched trees", self._files.close))
        if self._machine is not None:
            machine = self._machine
            steps.append(("QEMU", lambda: machine.stop(stop_s)))
        if self._network is not None:
            steps.append(("network", self._network.close))
        steps.append(("launch", lambda: asyncio.to_thread(self.launched.close)))
        steps.append(("claims on disks", self._disks.let_go))
        await try_all(steps, stop_s + _CLOSE_S)
        for future in (self._connected, self._greeted, self._ready):
            if not future.done():
                future.set_exception(Unavailable(self.failure or "the pod has ended"))
                future.exception()


async def _cancel(task: asyncio.Future[Any] | None) -> None:
    """End a task that is still at work, if there is one; it has undone its own when this returns."""
    if task is not None and not task.done():
        task.cancel()
        await asyncio.wait([task])
