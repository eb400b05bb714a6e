"""Everything that a pod needs of this host, tried rather than guessed."""

from __future__ import annotations

import os

from oci_runtime.check import kernel
from oci_runtime.check.item import OK, Item, absent
from oci_runtime.check.network import try_network
from oci_runtime.check.qemu import QemuFacts, ask_qemu
from oci_runtime.errors import OciRuntimeError
from oci_runtime.host.cgroups import read_layout
from oci_runtime.image.store import find_image
from oci_runtime.network.tap import has_vhost
from oci_runtime.storage.virtiofsd import find_virtiofsd, is_rust
from oci_runtime.vm.accel import choose_accel, choose_transport, read_host_facts
from oci_runtime.vm.launch import QEMU_HINT, find_firmware

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.config.model import Config
    from oci_runtime.vm.accel import HostFacts

# Devices of every machine, and those that settings ask for.
_DEVICES = frozenset(
    {
        "virtio-rng-pci",
        "virtio-balloon-pci",
        "pvpanic-pci",
        "vhost-user-fs-pci",
        "virtio-net-pci",
        "memory-backend-memfd",
    }
)
_BUSES = {"q35": "pcie-root-port"}
_CHANNELS = {"serial": "virtserialport", "vsock": "vhost-vsock-pci"}
_IMAGES = {"nvdimm": "nvdimm", "virtio-pmem": "virtio-pmem-pci"}
_DISKS = {"virtio-blk": "virtio-blk-pci", "virtio-scsi": "virtio-scsi-pci"}
_SHARES = {"virtio-9p": "virtio-9p-pci"}
_MEMORY_MARGIN_MIB = 256


def check_host(config: Config) -> list[Item]:
    """All items, in the order in which a pod's start would meet them. Takes about half a second; changes nothing."""
    facts = read_host_facts()
    release = os.uname().release
    kernel_config = kernel.read_kernel_config(release)
    return [
        _check_user(),
        kernel.check_version(release),
        _check_accel(config, facts),
        *_check_qemu(config, facts),
        *([_check_virtiofsd(config)] if config.storage.shared_fs == "virtio-fs" else []),
        _check_image(config),
        _check_memory(config),
        *_check_channel(config, facts),
        *_check_network(config),
        _check_cgroups(),
        _check_namespace_runtime(config),
        *kernel.check_config(release, kernel_config),
        *(kernel.check_modules(release, kernel_config[1]) if kernel_config else []),
    ]


def _check_user() -> Item:
    if os.geteuid():
        return absent("user", f"uid {os.geteuid()}", "run vmpod as root", needed=True)
    return Item(name="user", status=OK, found="root")


def _check_accel(config: Config, facts: HostFacts) -> Item:
    try:
        choice = choose_accel(config.vm.accel, facts)
    except OciRuntimeError as error:
        return absent("accelerator", error.message, 'set vm.accel = "auto"', needed=True)
    if choice.warning:
        return absent("accelerator", choice.warning, "see docs/vm.md", needed=False)
    return Item(name="accelerator", status=OK, found=choice.value)


def _check_qemu(config: Config, facts: HostFacts) -> list[Item]:
    try:
        qemu = ask_qemu(config.vm.qemu, QEMU_HINT)
    except OciRuntimeError as error:
        return [absent("qemu", error.message, f"{QEMU_HINT}, or set vm.qemu", needed=True)]
    version = ".".join(map(str, qemu.version))
    items = [Item(name="qemu", status=OK, found=f"{version} at {qemu.path}")]
    if not qemu.is_recent:
        items = [absent("qemu", f"{version} at {qemu.path}", "vmpod needs QEMU 6.2 or newer", needed=True)]
    firmware = config.vm.firmware or find_firmware()
    if not firmware:
        items.append(absent("firmware", "no qboot.rom: QEMU's own takes longer", "see docs/vm.md", needed=False))
    elif not os.access(firmware, os.R_OK):
        items.append(absent("firmware", f"{firmware} cannot be read", "set vm.firmware", needed=True))
    return [*items, _check_features(config, facts, qemu)]


def _check_features(config: Config, facts: HostFacts, qemu: QemuFacts) -> Item:
    """What this configuration's machines have on their command line."""
    wanted = set(_DEVICES) | {_IMAGES[config.vm.image_device]}
    try:
        wanted |= {f"{choose_accel(config.vm.accel, facts).value}-accel"}
        wanted |= {_CHANNELS[choose_transport(config.vm.transport, facts)]}
    except OciRuntimeError:
        pass  # has an item of its own
    storage = config.storage
    tables = (_BUSES, config.vm.machine), (_DISKS, storage.block_driver), (_SHARES, storage.shared_fs)
    wanted |= {table[key] for table, key in tables if key in table}
    lacking = sorted(wanted - qemu.types) + sorted({config.vm.machine} - qemu.machines)
    if lacking:
        remedy = "install the full qemu-system-x86 package (some devices have packages of their own)"
        return absent("qemu features", f"lacks {', '.join(lacking)}", remedy, needed=True)
    return Item(name="qemu features", status=OK, found=f"machine {config.vm.machine}, {', '.join(sorted(wanted))}")


def _check_virtiofsd(config: Config) -> Item:
    try:
        path = find_virtiofsd(config.storage.virtiofsd)
        kind = "Rust" if is_rust(path) else "C"
    except OciRuntimeError as error:
        return absent("virtiofsd", error.message, "install it, or set storage.virtiofsd", needed=True)
    return Item(name="virtiofsd", status=OK, found=f"{path} ({kind})")


def _check_image(config: Config) -> Item:
    try:
        image = find_image(config.image.store, config.image.name)
    except OciRuntimeError as error:
        return absent("guest image", error.message, "vmpod image build", needed=True)
    found = f"{image.name} at {image.directory}: kernel {image.kernel_release}, agent {image.agent_version}"
    if config.storage.shared_fs == "virtio-9p" and not image.has_9p:
        remedy = "vmpod image build --kernel-package linux-image-amd64 --name NAME, and set image.name"
        return absent("guest image", f"{found}, without 9p", remedy, needed=True)
    return Item(name="guest image", status=OK, found=found)


def _check_memory(config: Config) -> Item:
    available = read_available_mib()
    found = f"{available} MiB available, {os.cpu_count()} processors"
    if available < config.vm.default_memory_mib + _MEMORY_MARGIN_MIB:
        remedy = f"a machine may use {config.vm.default_memory_mib} MiB and more: free memory, or lower its defaults"
        return absent("memory", found, remedy, needed=False)
    return Item(name="memory", status=OK, found=found)


def read_available_mib() -> int:
    """MemAvailable of this host."""
    with open("/proc/meminfo", encoding="ascii") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) >> 10
    return 0


def _check_channel(config: Config, facts: HostFacts) -> list[Item]:
    if facts.vhost_vsock:
        vsock = Item(name="vsock", status=OK, found="/dev/vhost-vsock")
    else:
        needed = config.vm.transport == "vsock"
        text = "/dev/vhost-vsock cannot be opened" + ("" if needed else ": the agent is reached over virtio-serial")
        vsock = absent("vsock", text, "modprobe vhost_vsock", needed=needed)
    if config.network.disable_vhost_net:
        return [vsock]
    if has_vhost():
        return [vsock, Item(name="vhost-net", status=OK, found="/dev/vhost-net")]
    text = "/dev/vhost-net cannot be opened: QEMU moves the packets itself, slower"
    return [vsock, absent("vhost-net", text, "modprobe vhost_net", needed=False)]


def _check_network(config: Config) -> list[Item]:
    model = config.network.model
    remedies = {
        "tap": "modprobe tun; inside a container give it /dev/net/tun and CAP_NET_ADMIN",
        "tc": "modprobe -a sch_ingress cls_u32 act_mirred sch_tbf (Debian's kernels have them all)",
        "macvtap": "modprobe macvtap",
        "nftables": "modprobe -a nf_tables nft_redir nft_chain_nat: without it, port-forward does not reach the guest",
    }
    needed = {"tap": model != "none", "tc": model == "tcfilter", "macvtap": True, "nftables": False}
    items = []
    for name, problem in try_network(macvtap=model == "macvtap").items():
        if problem:
            items.append(absent(name, problem, remedies[name], needed=needed[name]))
        else:
            items.append(Item(name=name, status=OK, found="works in a namespace made for the attempt"))
    return items


def _check_cgroups() -> Item:
    try:
        layout = read_layout()
    except OciRuntimeError as error:
        return absent("cgroups", error.message, needed=False)
    controllers = sorted({name for hierarchy in layout.hierarchies for name in hierarchy.controllers})
    if layout.mode == "none":
        text = "none mounted: engines see no figures, pods have no limits on the host"
        return absent("cgroups", text, "mount -t cgroup2 none /sys/fs/cgroup", needed=False)
    return Item(name="cgroups", status=OK, found=f"{layout.mode}: {' '.join(controllers)}")


def _check_namespace_runtime(config: Config) -> Item:
    runtime = config.runtime
    policies = (runtime.host_network, runtime.host_pid, runtime.host_ipc)
    needed = runtime.vm == "untrusted" or "namespace" in policies
    name, path = "namespace runtime", runtime.namespace_runtime
    if path and os.access(path, os.X_OK):
        return Item(name=name, status=OK, found=path + ("" if needed else " (this configuration never asks for it)"))
    return absent(name, f"{path or 'none set'}: not there", "set runtime.namespace_runtime", needed=needed)
