"""Start the processes of a new pod: QEMU first, then virtiofsd if there is one. Synchronous, and imports nothing heavy.

QEMU boots for two seconds or more; everything else that the sandbox process has to load or do happens in that time.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack

from oci_runtime import json_text
from oci_runtime.config.model import Config
from oci_runtime.config.show import from_json
from oci_runtime.errors import InvalidInput, Unsupported
from oci_runtime.host.processes import start_time
from oci_runtime.host.spawn import Child, kill_and_reap
from oci_runtime.image.store import find_image
from oci_runtime.log import get_logger
from oci_runtime.record import Record
from oci_runtime.sandbox.timeline import Timeline
from oci_runtime.state.layout import CONSOLE_LOG, short_id
from oci_runtime.state.sandboxes import SandboxRecord
from oci_runtime.vm.accel import HostFacts, choose_accel, choose_transport, read_host_facts
from oci_runtime.vm.argv import VmSettings
from oci_runtime.vm.launch import QemuLaunch, launch_qemu, sandbox_uid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

    from oci_runtime.storage.share import Share
    from oci_runtime.storage.virtiofsd import VirtiofsdLaunch

log = get_logger(__name__)
# After the image's own: the last word counts.
_DEBUG_PARAMETERS = ("ignore_loglevel", "loglevel=7")


class BootRequest(Record):
    """The boot document of docs/internals.md."""

    sandbox_id: str
    owner_id: str
    root: str
    directory: str
    config: Config
    vcpus: int
    memory_mib: int
    origin_ns: int = 0
    cgroup_procs: tuple[str, ...] = ()
    events_address: str = ""
    events_namespace: str = ""

    @classmethod
    def bare(cls, sandbox_id: str, directory: str, config: Config) -> Self:
        """A machine of the configuration's size without a pod, which has its state in `directory` alone."""
        return cls(
            sandbox_id=sandbox_id,
            owner_id="",
            root=directory,
            directory=directory,
            config=config,
            vcpus=config.vm.default_vcpus,
            memory_mib=config.vm.default_memory_mib,
        )

    @classmethod
    def parse(cls, document: bytes) -> Self:
        """Decode the JSON that the command line wrote. Raises: InvalidInput."""
        try:
            values = json_text.loads(document)
            return cls(
                sandbox_id=str(values["sandbox_id"]),
                owner_id=str(values["owner_id"]),
                root=str(values["root"]),
                directory=str(values["directory"]),
                config=from_json(values["config"]),
                vcpus=int(values["vcpus"]),
                memory_mib=int(values["memory_mib"]),
                origin_ns=int(values.get("origin_ns", 0)),
                cgroup_procs=tuple(str(path) for path in values.get("cgroup_procs", ())),
                events_address=str(values.get("events_address", "")),
                events_namespace=str(values.get("events_namespace", "")),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput(f"boot document: {error!r}") from error


class Launched:
    """The processes and mounts of a pod, and the record of them. Made by `launch`.

    share: None for a pod without one. virtiofsd: None also where QEMU serves the share. undo_qemu: emptied by whoever
    takes QEMU over (vm.machine.Machine ends it then).
    """

    def __init__(self, request: BootRequest, record: SandboxRecord, timeline: Timeline) -> None:
        self.request = request
        self.record = record
        self.timeline = timeline
        self.config = request.config
        self.sandbox_id = request.sandbox_id
        self.root = request.root
        self.directory = request.directory
        self.console_log = os.path.join(request.directory, CONSOLE_LOG)
        self.undo_qemu = ExitStack()
        self.undo = ExitStack()
        self.qemu: QemuLaunch
        self.virtiofsd: VirtiofsdLaunch | None = None
        self.share: Share | None = None

    def close(self) -> None:
        """End what still runs and unmount the share, newest first; idempotent, and every step is tried."""
        with self.undo:
            self.undo_qemu.close()


def launch(request: BootRequest, began_ns: int) -> Launched:
    """Start QEMU and virtiofsd for the pod; each is on record as soon as it exists.

    Raises the first failure (missing program or image with the remedy); then nothing is left but the record's files.
    """
    _check_share(request.config)
    shared_fs = request.config.storage.shared_fs
    timeline = Timeline(request.origin_ns or began_ns)
    timeline.add("command line", timeline.origin_ns, began_ns)
    record = SandboxRecord.load(request.directory)
    if record is None:
        raise InvalidInput(f"sandbox directory {request.directory} has no record")
    record.values |= {"pid": os.getpid(), "pid_start": start_time(os.getpid())}
    record.save()
    launched = Launched(request, record, timeline)
    try:
        if shared_fs == "virtio-9p":  # QEMU serves it, and looks for it as it starts
            _make_share(launched)
        _launch_qemu(launched)
        if shared_fs == "virtio-fs":
            _launch_virtiofsd(launched)
    except BaseException:
        launched.close()
        raise
    return launched


def _check_share(config: Config) -> None:
    """Refuse a share that the guest's kernel cannot mount, before anything is started."""
    if config.storage.shared_fs != "virtio-9p":
        return
    image = find_image(config.image.store, config.image.name)
    if not image.has_9p:
        raise Unsupported(
            f"storage.shared_fs = 'virtio-9p': kernel {image.kernel_release} of guest image {image.name} has no 9p (set"
            " image.name to one made by: vmpod image build --kernel-package linux-image-amd64 --name NAME)"
        )


def _launch_qemu(launched: Launched) -> None:
    facts = read_host_facts()
    settings = plan_settings(launched.request, launched.timeline, facts)
    if launched.share is not None:
        from oci_runtime.storage.share import TAG

        place = {"share": str(launched.share.served), "share_stage": str(launched.share.served.parent)}
        settings = settings.replace(share_tag=TAG, **place)
    begin_ns = time.monotonic_ns()
    groups = () if facts.kvm_gid is None else (facts.kvm_gid,)
    launched.qemu = launch_qemu(settings, cgroup_procs=launched.request.cgroup_procs, groups=groups)
    if launched.qemu.agent is not None:
        launched.undo.callback(launched.qemu.agent.close)  # whoever speaks over it closes it before
    launched.undo_qemu.callback(launched.qemu.close)
    launched.undo_qemu.callback(kill_and_reap, launched.qemu.child)
    _record_child(launched, "qemu", launched.qemu.child)
    launched.timeline.add("QEMU started", begin_ns)


def _make_share(launched: Launched) -> Share:
    from pathlib import Path

    from oci_runtime.storage.share import Share

    launched.share = share = Share.create(Path(launched.directory))
    launched.undo.callback(share.close)
    return share


def _launch_virtiofsd(launched: Launched) -> None:
    begin_ns = time.monotonic_ns()
    # From here on imports cost no time: the guest boots beside them.
    from pathlib import Path

    from oci_runtime.storage.virtiofsd import VirtiofsdSettings, launch_virtiofsd

    directory = Path(launched.directory)
    share = _make_share(launched)
    storage = launched.config.storage
    settings = VirtiofsdSettings(
        path=storage.virtiofsd, cache=storage.virtio_fs_cache, extra=storage.virtio_fs_extra_args
    )
    daemon = launch_virtiofsd(share.served, directory, settings, cgroup_procs=launched.request.cgroup_procs)
    launched.virtiofsd = daemon
    launched.undo.callback(daemon.close)
    launched.undo.callback(daemon.kill)
    _record_child(launched, "virtiofsd", daemon.child)
    launched.timeline.add("virtiofsd started", begin_ns)


def _record_child(launched: Launched, kind: str, child: Child) -> None:
    launched.record.values[kind] = {"pid": child.pid, "pid_start": start_time(child.pid)}
    launched.record.save()


def plan_settings(request: BootRequest, timeline: Timeline, facts: HostFacts) -> VmSettings:
    """The machine of a request: configuration, what this host can do, and the guest image."""
    begin_ns = time.monotonic_ns()
    config = request.config
    image = find_image(config.image.store, config.image.name)
    timeline.add("image verified", begin_ns)
    accel = choose_accel(config.vm.accel, facts)
    if accel.warning:
        log.warning(accel.warning)
    transport = choose_transport(config.vm.transport, facts)
    name = short_id(request.sandbox_id)
    uid = sandbox_uid(name, config.vm.uid_base, config.vm.uid_count)
    return VmSettings(
        kernel=image.kernel,
        initrd=image.initrd,
        image=image.rootfs,
        image_bytes=image.image_bytes,
        kernel_parameters=(
            *image.kernel_parameters,
            *(_DEBUG_PARAMETERS if config.vm.debug else ()),
            *config.vm.kernel_parameters.split(),
            f"vmpod.transport={transport}",
        ),
        name=f"vmpod-{name}",
        machine=config.vm.machine,
        accel=accel.value,
        transport=transport,
        image_device=config.vm.image_device,
        vcpus=request.vcpus,
        memory_mib=request.memory_mib,
        tb_size_mib=config.vm.tb_size_mib,
        root_ports=config.vm.root_ports,
        cpu=config.vm.cpu,
        cid=_vsock_cid(name),
        firmware=config.vm.firmware,
        qemu=config.vm.qemu,
        uid=uid,
        gid=uid,
    )


def _vsock_cid(name: str) -> int:
    """A context id of the pod's own: 3 and up, from its short id."""
    return 3 + int(name[:15], 16) % ((1 << 32) - 8)
