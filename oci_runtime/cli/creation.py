"""Create a container: the steps of `create` and of the first half of `run`, each undone when a later one fails.

Order (docs/internals.md): bundle, route, directory and record, namespaces and proxy, sandbox process, hooks while the
guest boots, sources, the guest's container, stream to the proxy, pid file.
"""

from __future__ import annotations

import contextlib
import os

from oci_runtime.annotations.route import MEMBER, SANDBOX, SHAREABLE, SINGLE, host_refusal, identify, policy_for, route
from oci_runtime.annotations.sizing import plan_size
from oci_runtime.bundle.load import load_bundle
from oci_runtime.cli import boot
from oci_runtime.cli.delegation import delegate, delegated_runtime, make_room
from oci_runtime.cli.execution import save_process
from oci_runtime.cli.hooks import bound_hooks, run_creation_hooks, run_tolerantly
from oci_runtime.cli.host_cgroup import HostCgroup, remove_all
from oci_runtime.cli.proxies import find_container, proxy_mark
from oci_runtime.cli.stopping import Deferred
from oci_runtime.cli.undo import UndoStack
from oci_runtime.config.derive import route_policy, size_limits
from oci_runtime.config.load import load_config
from oci_runtime.config.override import apply_annotations
from oci_runtime.config.show import to_json
from oci_runtime.control.client import Client
from oci_runtime.control.frames import ConnectionLost, Silent
from oci_runtime.errors import HostError, InvalidInput, OciRuntimeError, Unsupported, WrongState
from oci_runtime.host import namespaces
from oci_runtime.host.files import write_atomic
from oci_runtime.host.processes import start_time
from oci_runtime.host.terminal import open_pty, send_master
from oci_runtime.log import get_logger
from oci_runtime.proxy.launch import Proxy, ProxyPlan, start_proxy
from oci_runtime.proxy.view import GUEST, PROC, TREE, ViewMount, enter_view
from oci_runtime.state import records
from oci_runtime.state.endings import find_reason
from oci_runtime.state.records import ContainerRecord
from oci_runtime.storage.mount_points import check_mount_points
from oci_runtime.storage.sources import Sources, open_sources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oci_runtime.annotations.route import Route
    from oci_runtime.bundle.load import Bundle
    from oci_runtime.cli.context import Context
    from oci_runtime.config.model import Config

log = get_logger(__name__)

# Namespaces of the host that the proxy joins or makes; without a path for it, it gets a mount namespace in any case.
_PROXY_NAMESPACES = ("network", "ipc", "uts", "pid", "cgroup", "user", "mount")
# Those of them that a createContainer hook enters: what it may expect in the others is in the guest.
_HOOK_NAMESPACES = ("network", "ipc", "uts")
# What comes on top of the guest's own time to boot before a `create` gives up.
_CREATE_MARGIN_S = 60.0
# A machine that is ending when a member arrives takes this long.
_ENDING_S = 5.0


class CreateOptions:
    """What the command line says. bundle: its directory. detach: nobody waits in the foreground."""

    def __init__(self, container_id: str, bundle: str, console_socket: str, pid_file: str, *, detach: bool) -> None:
        self.id = container_id
        self.bundle = bundle
        self.console_socket = console_socket
        self.pid_file = pid_file
        self.detach = detach


class Creation:
    """One creation in progress. After a failure everything is undone; after success `proxy` is the container's."""

    def __init__(self, context: Context, options: CreateOptions) -> None:
        self.context = context
        self.options = options
        self.layout = context.layout
        self.undo = UndoStack()
        self.bundle: Bundle
        self.config: Config
        self.route: Route
        self.record: ContainerRecord
        self.hooks: dict[str, list[dict[str, Any]]] = {}
        self.proxy: Proxy
        self.cgroup: HostCgroup
        self.sandbox: boot.Sandbox
        self._terminal = -1
        self._pid_owner = ""
        self._booted_pid = 0

    def run(self) -> Proxy:
        """Perform all steps and return the proxy. Raises the first failure, with nothing left behind."""
        self.undo.guard(self._perform)
        return self.proxy

    def _perform(self) -> None:
        self._prepare()
        self._record()
        self._start_proxy()
        self._join_cgroup()
        try:
            self._reach_sandbox()
            self._settle_proxy()
            self._run_hooks()
            try:
                self._create_in_guest()
            except Silent:
                raise
            except (ConnectionLost, WrongState) as error:
                self._reach_next_sandbox(error)
                self._create_in_guest()
        except ConnectionLost as error:
            raise boot.explain_loss(self.layout.sandbox(self.route.sandbox_id), error, self._booted_pid) from error
        self._finish()

    # Before anything is touched

    def _prepare(self) -> None:
        """Read and check; hand over to the namespace runtime where the policy says so."""
        self.layout.prepare()
        self.bundle = load_bundle(self.options.bundle)
        spec = self.bundle.spec
        if spec.process is None:
            raise InvalidInput(f"bundle {self.bundle.path}: config.json has no process")
        self.config, warnings = apply_annotations(load_config(self.context.config), spec.annotations)
        for warning in warnings:
            log.warning(warning)
        self.hooks = bound_hooks(self.bundle.raw.get("hooks") or {}, self.config.runtime.hook_timeout_s)
        kind, sandbox_id = identify(spec.annotations, self.options.id)
        known = self._known_runtime(sandbox_id) if kind == MEMBER else None
        self.route = route(spec, self.options.id, route_policy(self.config), known)
        if self.route.delegated:
            delegate(self.context, self.options.id, self.route.runtime, detach=self.options.detach)
        self._check_terminal()
        if spec.root.readonly or self.config.storage.rootfs_overlay in ("none", "auto"):
            check_mount_points(self.bundle.rootfs, spec.mounts)
        make_room(self.context, self.options.id)

    def _known_runtime(self, sandbox_id: str) -> str | None:
        """What the state directory knows of a member's sandbox: nothing, a VM (""), or its namespace runtime."""
        runtime = delegated_runtime(self.layout, sandbox_id)
        if runtime:
            return runtime
        return "" if os.path.exists(self.layout.sandbox(sandbox_id)) else None

    def _check_terminal(self) -> None:
        wants = bool(self.bundle.spec.process and self.bundle.spec.process.terminal)
        socket = self.options.console_socket
        if wants and self.options.detach and not socket:
            raise InvalidInput("cannot allocate tty if vmpod will detach without setting console socket")
        if socket and not (wants and self.options.detach):
            raise InvalidInput("cannot use console socket if vmpod will not detach or allocate tty")

    # Steps

    def _record(self) -> None:
        records.claim(self.layout, self.options.id)
        self.undo.push(self._remove_directory)
        me = os.getpid()
        self.record = records.describe(self.bundle, self.options.id, self.route.sandbox_id, self.hooks)
        self.record.creator, self.record.creator_start = me, start_time(me)
        records.save(self.layout, self.record)
        save_process(self.layout.container(self.options.id), self.bundle.raw["process"])

    def _remove_directory(self) -> None:
        from oci_runtime.cli.cleanup import remove_container

        remove_container(self.layout, self.options.id)

    def _start_proxy(self) -> None:
        spec = self.bundle.spec
        process = spec.process
        assert process is not None, "checked in _prepare"
        join = self._open_namespaces()
        master = -1
        try:
            if "pid" in join:
                self._pid_owner = self._find_pid_owner(join["pid"])
            self._refuse_foreign_ipc()
            if self.options.console_socket:
                size = process.console_size
                master, self._terminal = open_pty(size.height if size else 0, size.width if size else 0)
            plan = ProxyPlan(
                process.args,
                join={kind: fd for kind, fd in join.items() if kind in _PROXY_NAMESPACES},
                make=[kind for kind in _PROXY_NAMESPACES if {"mount": "", **spec.namespaces}.get(kind) == ""],
                hostname=spec.hostname,
                domainname=spec.domainname,
                terminal=self._terminal,
                watches_window=process.terminal,
                oom_score=process.oom_score_adj,
                mark=proxy_mark(self.layout, self.options.id),
            )
            self.proxy = start_proxy(plan)
            self.undo.push(self.proxy.abandon)
            if master >= 0:
                send_master(self.options.console_socket, master)
        finally:
            for fd in (*join.values(), master, self._terminal):
                if fd >= 0:
                    os.close(fd)
        self.record.pid = self.proxy.pid
        self.record.pid_start = self.proxy.start
        records.save(self.layout, self.record)

    def _join_cgroup(self) -> None:
        """Put the proxy into the container's cgroup, which is on record before it is made."""
        spec = self.bundle.spec
        linux = self.bundle.raw.get("linux") or {}
        self.cgroup = HostCgroup(
            str(linux.get("cgroupsPath") or ""),
            self.options.id,
            systemd=self.context.systemd_cgroup,
            holds_machine=self.route.kind != MEMBER,
        )
        self.record.cgroups = list(self.cgroup.group.paths)
        records.save(self.layout, self.record)
        self.undo.push(remove_all, self.record.cgroups)
        self.undo.push(self.proxy.abandon)  # a cgroup goes only when it is empty
        self.cgroup.make(self.proxy.pid, linux.get("resources") or {} if spec.linux else {})

    def _open_namespaces(self) -> dict[str, int]:
        """Open all namespaces that have a path, which checks them; those of the host are refused."""
        fds: dict[str, int] = {}
        try:
            for kind, path in self.bundle.spec.namespaces.items():
                if path:
                    fds[kind] = namespaces.open_namespace(kind, path)
            for kind in SHAREABLE:
                if kind in fds and namespaces.is_host_namespace(fds[kind], kind):
                    self._refuse_of_host(kind)
        except BaseException:
            for fd in fds.values():
                os.close(fd)
            raise
        return fds

    def _refuse_of_host(self, kind: str) -> None:
        """A path turned out to lead to the host's namespace: as if none of its kind had been listed."""
        policy = route_policy(self.config)
        decision = policy_for(kind, policy)
        if decision == "vm":
            return
        may_be_delegated = self.route.kind != MEMBER and not self.route.untrusted
        if decision == "namespace" and policy.namespace_runtime and may_be_delegated:
            self.undo.run()
            delegate(self.context, self.options.id, policy.namespace_runtime, detach=self.options.detach)
        raise Unsupported(host_refusal(self.options.id, kind))

    def _reach_sandbox(self) -> None:
        timeout_s = self.config.vm.boot_timeout_s + _CREATE_MARGIN_S
        must_exist = self._has_owner()
        if not must_exist:
            # Before the act: whatever of it was done when a signal arrives, this takes it back.
            self.undo.push(self._leave_sandbox)
        self.sandbox = boot.ensure_sandbox(
            self.layout,
            self.route.sandbox_id,
            self._boot_document,
            self.cgroup.make_machine,
            timeout_s,
            must_exist=must_exist,
        )
        if must_exist:
            # Not before: what a dead pod has left says why, and is its sandbox container's.
            self.undo.push(self._leave_sandbox)
        self._booted_pid = self.sandbox.pid

    def _reach_next_sandbox(self, error: OciRuntimeError) -> None:
        """Boot anew when the sandbox that was there has come to its end meanwhile; else raise `error`.

        A pod without an infra container ends with its last container, just when the engine may be about to restart it.
        """
        if self._booted_pid or not boot.has_ended(self.sandbox.directory, _ENDING_S):
            raise error
        log.info("the sandbox has ended, booting it anew")
        self.sandbox.client.close()
        self._reach_sandbox()

    def _boot_document(self) -> dict[str, Any]:
        size = plan_size(self.bundle.spec, size_limits(self.config))
        return {
            "sandbox_id": self.route.sandbox_id,
            "owner_id": self.options.id if self.route.kind in (SANDBOX, SINGLE) else "",
            "config": to_json(self.config),
            "vcpus": size.vcpus,
            "memory_mib": size.memory_mib,
            "origin_ns": self.context.started_ns,
            **self._event_service(),
        }

    def _event_service(self) -> dict[str, str]:
        """Where containerd's shim for OCI runtimes has its events from; its bundles are …/NAMESPACE/ID."""
        address = os.environ.get("TTRPC_ADDRESS", "")
        namespace = os.path.basename(os.path.dirname(self.bundle.path))
        return {"events_address": address, "events_namespace": namespace} if address else {}

    def _leave_sandbox(self) -> None:
        """Take the container out of the sandbox again, and end the sandbox unless others are in it."""
        from oci_runtime.cli.cleanup import ask_to_leave, end_sandbox

        sandbox_id, timeout_s = self.route.sandbox_id, boot.UNDO_TIMEOUT_S
        at_end = ask_to_leave(
            self.layout, sandbox_id, self.options.id, force=True, timeout_s=timeout_s, unfinished=True
        )
        self.proxy.abandon()  # it may have the stream already, which keeps the sandbox process
        # What is left of a pod that has ended in order says why, and goes with its sandbox container.
        if at_end and not (self._has_owner() and find_reason(self.layout.sandbox(sandbox_id))):
            end_sandbox(self.layout, sandbox_id, kill=True)

    def _has_owner(self) -> bool:
        """Whether this joins a pod whose sandbox container is on record."""
        return self.route.kind == MEMBER and os.path.exists(self.layout.state_file(self.route.sandbox_id))

    def _settle_proxy(self) -> None:
        """Return once the proxy is in its namespaces; a user namespace of its own shows the container's mappings."""
        self.proxy.wait_entered()
        if self.bundle.spec.namespaces.get("user") == "":
            self.proxy.wait_ready()
            linux = self.bundle.raw["linux"]
            try:
                namespaces.write_mappings(
                    self.proxy.pid, linux.get("uidMappings") or (), linux.get("gidMappings") or ()
                )
            except HostError as error:
                # They hold in the guest; here they are for those who look.
                log.warning(error.message)

    def _run_hooks(self) -> None:
        hooks = self.hooks
        if not any(hooks.get(kind) for kind in ("prestart", "createRuntime", "createContainer", "poststop")):
            return
        if hooks.get("poststop"):
            stopped = self.record.oci_state(records.STOPPED)
            self.undo.push(run_tolerantly, "poststop", hooks["poststop"], stopped, self.bundle.path)
        kinds = [kind for kind in _HOOK_NAMESPACES if kind in self.bundle.spec.namespaces]
        state = self.record.oci_state(records.CREATING)
        run_creation_hooks(hooks, state, self.bundle.path, self.proxy.pid, kinds)

    def _create_in_guest(self) -> None:
        """Attach first: from then on the container dies with this command. Then create, then hand the stream over."""
        volumes = self.config.storage.direct_volumes
        with contextlib.ExitStack() as leaving:
            sources = open_sources(self.bundle.raw, self.bundle.path, with_view=True, volumes=volumes)
            leaving.callback(sources.close)
            for warning in sources.warnings:
                log.warning(warning)
            stream = Client.connect(self.sandbox.directory, self.config.vm.boot_timeout_s + _CREATE_MARGIN_S)
            leaving.callback(stream.close)
            netns = os.open(f"/proc/{self.proxy.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            sources.add({"kind": "netns"}, netns)
            stream.begin_attach(self.options.id)
            answer = self.sandbox.client.call(
                "create",
                [fd for _, fd in sources.descriptors],
                id=self.options.id,
                bundle=self.bundle.path,
                spec=self.bundle.raw,
                pid=self.proxy.pid,
                fds=[description for description, _ in sources.descriptors],
                guest_mounts=sources.guest_mounts,
                pid_namespace_of=self._pid_owner,
                stdin=True,
            )
            for warning in answer.get("warnings") or ():
                log.warning(str(warning))
            fd = stream.finish_attach()
            leaving.callback(os.close, fd)
            self._show_files(sources)
            self.proxy.hand_over(fd)

    def _show_files(self, sources: Sources) -> None:
        """Give the proxy the container's files as its root, now that the guest has made all mount points in it.

        In a mount namespace that is not its own it changes nothing.
        """
        self.proxy.wait_ready()
        if self.bundle.spec.namespaces.get("mount"):
            return
        has_pids = "pid" in self.bundle.spec.namespaces
        mounts = []
        for kind, destination, fd in sources.view:
            shown = TREE if fd >= 0 else PROC if kind == "proc" and has_pids else GUEST
            mounts.append(ViewMount(destination, shown, fd))
        # A child that nobody reaps would stay in the proxy's pid namespace, and the proxy's end wait for it for ever.
        with Deferred():
            enter_view(self.proxy.pid, sources.view_root, mounts)

    def _refuse_foreign_ipc(self) -> None:
        """Raise Unsupported when the ipc namespace is named by the process of a container in another machine."""
        path = self.bundle.spec.namespaces.get("ipc") or ""
        parts = path.split("/")
        if parts[:2] != ["", "proc"] or parts[3:] != ["ns", "ipc"] or not parts[2].isdigit():
            return
        owner = find_container(self.layout, int(parts[2]))
        if owner and records.load(self.layout, owner).sandbox_id != self.route.sandbox_id:
            raise Unsupported(
                f"ipc namespace {path} belongs to container {owner} of another virtual machine, which shares no memory"
                " with this one: put both into one pod"
            )

    def _find_pid_owner(self, fd: int) -> str:
        """The container of this pod whose proxy lives in the pid namespace behind `fd`, "" for the first one there.

        A namespace that was made for containers, which a pin or a maker's pid_for_children names, has one in the guest
        that stands for it. Raises Unsupported where processes would have to be shared that are not in this machine.
        """
        wanted = os.fstat(fd)
        foreign = namespaces.is_host_namespace(fd, "pid")
        for container_id in records.list_ids(self.layout):
            try:
                record = records.load(self.layout, container_id)
                found = os.stat(f"/proc/{record.pid}/ns/pid")
            except (OciRuntimeError, OSError):
                continue
            if container_id != self.options.id and (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                if record.sandbox_id == self.route.sandbox_id:
                    return container_id
                foreign = True
        path = self.bundle.spec.namespaces["pid"]
        parts = path.split("/")
        names_process = parts[:2] == ["", "proc"] and parts[-2:] == ["ns", "pid"]
        if not foreign and not names_process:
            return ""
        raise Unsupported(
            f"pid namespace {path} belongs to no container of pod {self.route.sandbox_id}: processes of other virtual"
            " machines or of the host cannot be shared"
        )

    def _finish(self) -> None:
        """The pid file comes last: engines take it for the end of the creation.

        From the answer on the record is the sandbox process's; one that it could not write would call this container
        dead as soon as this command ends.
        """
        if records.load(self.layout, self.options.id).status == records.CREATING:
            raise OciRuntimeError(f"the sandbox process could not record container {self.options.id}, see vmpod logs")
        self.sandbox.client.close()
        if self.options.pid_file:
            self.undo.push(_remove_file, self.options.pid_file)
            write_atomic(self.options.pid_file, str(self.proxy.pid).encode(), 0o644, sync=False)


def _remove_file(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
