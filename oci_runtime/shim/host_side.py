"""What a container needs on the host: record, root file system, stand-in process, hooks, and what the guest is given.

Each step's undo is registered behind it; `release` runs them, newest first, and tries every one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from typing import Any

from oci_runtime.bundle.load import Bundle, load_bundle
from oci_runtime.cli.cleanup import remove_container
from oci_runtime.cli.execution import save_process
from oci_runtime.cli.hooks import bound_hooks, run_creation_hooks, run_tolerantly
from oci_runtime.cli.host_cgroup import mirror_limits, remove_all
from oci_runtime.errors import InvalidInput, OciRuntimeError
from oci_runtime.host.processes import start_time
from oci_runtime.host.spawn import Child, kill_and_reap
from oci_runtime.log import get_logger
from oci_runtime.sandbox.executed import wait_executed
from oci_runtime.sandbox.request import CreateRequest
from oci_runtime.sandbox.sandbox import Sandbox
from oci_runtime.sandbox.threads import in_thread
from oci_runtime.shim import holder
from oci_runtime.shim.boot import check_route
from oci_runtime.shim.metrics import Overhead
from oci_runtime.shim.overhead import measure
from oci_runtime.shim.pod_start import StartedPod, plan_cgroup
from oci_runtime.shim.proto.task_pb2 import CreateTaskRequest
from oci_runtime.shim.root_place import RootPlace
from oci_runtime.shim.rootfs import find_root_disk, mount_rootfs, plan_mounts
from oci_runtime.state import records
from oci_runtime.state.layout import Layout
from oci_runtime.state.records import ContainerRecord
from oci_runtime.storage.mount_points import check_mount_points
from oci_runtime.storage.sources import Sources, open_sources

log = get_logger(__name__)


class _Prepared:
    """One container on the host, and how to take it back."""

    def __init__(self) -> None:
        self.undo = contextlib.ExitStack()
        self.child: Child | None = None
        self.bundle: Bundle
        self.record: ContainerRecord

    def end_holder(self) -> None:
        """End the stand-in. Idempotent."""
        child, self.child = self.child, None
        if child is not None:
            with contextlib.suppress(ValueError):
                asyncio.get_running_loop().remove_reader(child.pidfd)
            kill_and_reap(child)
            os.close(child.pidfd)


class HostSide:
    """The host's side of all containers of one pod. on_lost: called with the id of a container whose stand-in died."""

    def __init__(self, layout: Layout, sandbox_id: str, on_lost: Callable[[str], None]) -> None:
        self._layout = layout
        self._sandbox_id = sandbox_id
        self._on_lost = on_lost
        self._containers: dict[str, _Prepared] = {}
        self._pod_pid = 0
        self._sandbox: Sandbox | None = None
        self._first: StartedPod | None = None
        self._unused_holder: Child | None = None

    def adopt(self, sandbox: Sandbox, started: StartedPod) -> None:
        """Take over what was made before the machine: the first container's stand-in and cgroup."""
        self._sandbox = sandbox
        self._first = started
        self._pod_pid = started.holder.pid
        self._unused_holder = started.holder

    async def prepare(self, request: CreateTaskRequest) -> CreateRequest:
        """Make everything; the descriptors of the result are the caller's. After a failure nothing is left."""
        prepared = _Prepared()
        self._containers[request.id] = prepared
        try:
            return await self._prepare(request, prepared)
        except BaseException:
            await self.release(request.id)
            raise

    async def _prepare(self, request: CreateTaskRequest, prepared: _Prepared) -> CreateRequest:
        container_id, undo = request.id, prepared.undo
        bundle = prepared.bundle = load_bundle(request.bundle, check_rootfs=False)
        if bundle.spec.process is None:
            raise InvalidInput(f"bundle {bundle.path}: config.json has no process")
        assert self._sandbox is not None, "adopted before the first container"
        config = self._sandbox.machine.config
        holders = {other.record.pid: id_ for id_, other in self._containers.items() if other.child is not None}
        # A stand-in has the host's pid namespace: that of its container is in the guest.
        of_pod = {holder.pid_namespace_path(pid) for pid in holders}
        check_route(bundle.spec, container_id, config, sandbox_runtime="", of_pod=of_pod)
        hooks = bound_hooks(bundle.raw.get("hooks") or {}, config.runtime.hook_timeout_s)
        prepared.record = self._record(container_id, bundle, hooks, undo)
        root_disk = find_root_disk(list(request.rootfs))
        if request.rootfs and root_disk is None:
            await self._mount(request, bundle, undo)
        if root_disk is None and (bundle.spec.root.readonly or config.storage.rootfs_overlay in ("none", "auto")):
            await in_thread(check_mount_points, bundle.rootfs, bundle.spec.mounts)
        self._start_holder(container_id, prepared)
        self._join_cgroup(container_id, prepared)
        if hooks:
            state = prepared.record.oci_state(records.CREATING)
            pid = prepared.record.pid
            await in_thread(run_creation_hooks, hooks, state, bundle.path, pid, holder.KINDS)
        volumes = config.storage.direct_volumes
        sources = await in_thread(
            open_sources, bundle.raw, bundle.path, volumes=volumes, root_disk=root_disk, discard=Sources.close
        )
        for warning in sources.warnings:
            log.warning(warning, container=container_id)
        with contextlib.ExitStack() as on_failure:
            on_failure.callback(sources.close)
            assert prepared.child is not None, "started above"
            network = holder.open_network(prepared.child.pid)
            on_failure.callback(os.close, network)
            owner = holder.find_pid_namespace_owner(bundle.spec.namespaces.get("pid", ""), holders)
            on_failure.pop_all()
        return CreateRequest(
            container_id=container_id,
            bundle=bundle.path,
            spec=bundle.raw,
            pid=prepared.child.pid,
            descriptors=(*sources.descriptors, ({"kind": "netns"}, network)),
            guest_mounts=tuple(sources.guest_mounts),
            pid_namespace_of=owner,
        )

    async def started(self, container_id: str) -> None:
        """Run the poststart hooks, once the program is executed; a failure of one is a warning."""
        prepared = self._containers[container_id]
        if prepared.record.hooks.get("poststart") and self._sandbox is not None:
            await wait_executed(self._sandbox.machine, container_id)
        await self._tolerantly(prepared, "poststart", records.RUNNING)

    async def ended(self, container_id: str) -> None:
        """End the container's stand-in."""
        prepared = self._containers.get(container_id)
        # That of the pod's own container stays while members may still look for its namespaces.
        if prepared is not None and container_id != self._sandbox_id:
            prepared.end_holder()

    async def release(self, container_id: str) -> None:
        """Undo `prepare`. Idempotent; what fails is logged."""
        prepared = self._containers.pop(container_id, None)
        if prepared is None:
            return
        prepared.end_holder()
        if hasattr(prepared, "record"):
            await self._tolerantly(prepared, "poststop", records.STOPPED)
        try:
            await in_thread(prepared.undo.close)
        except (OciRuntimeError, OSError) as error:
            log.error("cannot undo", container=container_id, reason=str(error))

    async def release_all(self) -> None:
        """Undo everything that is left."""
        for container_id in list(self._containers):
            await self.release(container_id)
        if self._unused_holder is not None:
            kill_and_reap(self._unused_holder)

    async def update(self, container_id: str, resources: dict[str, Any]) -> None:
        """Mirror new limits on the stand-in's cgroup."""
        prepared = self._containers.get(container_id)
        if prepared is not None and prepared.record.cgroups:
            await in_thread(mirror_limits, prepared.record.cgroups, resources)

    async def overhead(self, container_id: str, guest_usage: list[Any]) -> Overhead:
        """What the pod's processes cost beyond the figures of its containers."""
        if self._sandbox is None:
            return Overhead()
        launched = self._sandbox.machine.launched
        virtiofsd = () if launched.virtiofsd is None else (launched.virtiofsd.pid,)
        pids = (os.getpid(), launched.qemu.pid, *virtiofsd)
        return await asyncio.to_thread(measure, pids, guest_usage)

    # Steps

    def _record(
        self, container_id: str, bundle: Bundle, hooks: Mapping[str, list[dict[str, Any]]], undo: contextlib.ExitStack
    ) -> ContainerRecord:
        records.claim(self._layout, container_id)
        undo.callback(remove_container, self._layout, container_id)
        record = records.describe(bundle, container_id, self._sandbox_id, hooks)
        records.save(self._layout, record)
        save_process(self._layout.container(container_id), bundle.raw["process"])  # for `vmpod exec`
        return record

    async def _mount(self, request: CreateTaskRequest, bundle: Bundle, undo: contextlib.ExitStack) -> None:
        planned = plan_mounts(list(request.rootfs))
        place = RootPlace(bundle.path)
        undo.callback(place.unmount)
        await in_thread(mount_rootfs, planned, place)

    def _start_holder(self, container_id: str, prepared: _Prepared) -> None:
        """In the loop's thread: the holder dies with the thread that starts it."""
        if self._first is not None and self._first.container_id == container_id:
            child = self._first.holder
            self._unused_holder = None
        else:
            child = holder.start_member_holder(self._pod_pid)
        prepared.child = child
        prepared.record.pid, prepared.record.pid_start = child.pid, start_time(child.pid)
        records.save(self._layout, prepared.record)
        asyncio.get_running_loop().add_reader(child.pidfd, self._lost, container_id, prepared)

    def _join_cgroup(self, container_id: str, prepared: _Prepared) -> None:
        """A member's own cgroup holds its stand-in, with its limits; the machine's was joined before it started."""
        if self._first is not None and self._first.holds_machine and self._first.container_id == container_id:
            return
        linux = prepared.bundle.raw.get("linux") or {}
        group = plan_cgroup(str(linux.get("cgroupsPath") or ""), container_id, holds_machine=False)
        prepared.record.cgroups = list(group.group.paths)
        records.save(self._layout, prepared.record)
        prepared.undo.callback(remove_all, prepared.record.cgroups)
        group.make(prepared.record.pid, linux.get("resources") or {})

    def _lost(self, container_id: str, prepared: _Prepared) -> None:
        """Somebody killed the stand-in: its container shares its fate."""
        log.warning("the process that stands for a container is gone", container=container_id)
        prepared.end_holder()
        self._on_lost(container_id)

    async def _tolerantly(self, prepared: _Prepared, kind: str, status: str) -> None:
        hooks = prepared.record.hooks.get(kind)
        if hooks:
            state = prepared.record.oci_state(status)
            await in_thread(run_tolerantly, kind, hooks, state, prepared.bundle.path)
