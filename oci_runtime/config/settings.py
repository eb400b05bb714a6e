"""The one table of settings: parser, `config show`, annotations and docs/configuration.md come from it."""

from __future__ import annotations

import os

from oci_runtime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    Value = bool | int | str | tuple[str, ...]

BOOL = "bool"
INT = "integer"
TEXT = "string"
PATH = "path"
LIST = "list of strings"
_MACHINE = os.uname().machine


class Setting(Record):
    """One setting.

    kind: bool, integer, string, path or list of strings. choices: the allowed strings, empty for any.
    low, high: bounds of an integer, both included. items: what a list holds: regex, glob, module or argument; name
    says that a string is a file name.
    pod: whether an annotation may set it at all (enable_annotations decides whether one does).
    guard: the list of globs in [runtime] that a path from an annotation must match. optional: a path may be empty.
    """

    section: str
    key: str
    kind: str
    default: Value
    help: str
    choices: tuple[str, ...] = ()
    low: int = 0
    high: int = (1 << 31) - 1
    items: str = ""
    pod: bool = False
    guard: str = ""
    optional: bool = False

    @property
    def name(self) -> str:
        """`section.key`, as in annotations and messages."""
        return f"{self.section}.{self.key}"


def _flag(section: str, key: str, default: bool, help: str, *, pod: bool = False) -> Setting:
    return Setting(section=section, key=key, kind=BOOL, default=default, help=help, pod=pod)


def _int(section: str, key: str, default: int, low: int, high: int, help: str, *, pod: bool = False) -> Setting:
    return Setting(section=section, key=key, kind=INT, default=default, low=low, high=high, help=help, pod=pod)


def _text(section: str, key: str, default: str, help: str, *, pod: bool = False, items: str = "") -> Setting:
    return Setting(section=section, key=key, kind=TEXT, default=default, help=help, pod=pod, items=items)


def _choice(section: str, key: str, choices: str, help: str, *, pod: bool = False) -> Setting:
    """The first choice is the default."""
    names = tuple(choices.split("|"))
    return Setting(section=section, key=key, kind=TEXT, default=names[0], choices=names, help=help, pod=pod)


def _path(section: str, key: str, default: str, help: str, *, guard: str = "", optional: bool = False) -> Setting:
    return Setting(
        section=section, key=key, kind=PATH, default=default, help=help, pod=bool(guard), guard=guard, optional=optional
    )


def _list(section: str, key: str, items: str, help: str, *, pod: bool = False) -> Setting:
    return Setting(section=section, key=key, kind=LIST, default=(), items=items, help=help, pod=pod)


SETTINGS: tuple[Setting, ...] = (
    _choice("vm", "machine", "q35|pc", "Machine type.", pod=True),
    _choice("vm", "accel", "auto|kvm|tcg", "Accelerator; auto takes KVM where it works, else emulation (TCG)."),
    _choice("vm", "transport", "auto|serial|vsock", "Channel to the guest's agent.", pod=True),
    _path("vm", "qemu", f"/usr/bin/qemu-system-{_MACHINE}", "QEMU's program.", guard="valid_qemu_paths"),
    _path("vm", "firmware", "", "Firmware image; empty for QEMU's own.", guard="valid_firmware_paths", optional=True),
    _text("vm", "cpu", "", "CPU model and flags for QEMU; empty for the best one of the accelerator."),
    _choice("vm", "image_device", "virtio-pmem|nvdimm", "Device that carries the guest's root image."),
    _int("vm", "default_vcpus", 1, 1, 255, "Virtual processors of a machine without CPU limits.", pod=True),
    _int("vm", "max_vcpus", 0, 0, 255, "Upper bound of virtual processors; 0 for the host's count.", pod=True),
    _int("vm", "default_memory_mib", 512, 128, 1 << 24, "Memory of a machine without memory limits, MiB.", pod=True),
    _int("vm", "max_memory_mib", 0, 0, 1 << 24, "Upper bound of memory, MiB; 0 for the host's memory.", pod=True),
    _int("vm", "tb_size_mib", 80, 8, 4096, "Bound of the emulator's translation buffer, MiB (TCG only)."),
    _int("vm", "root_ports", 8, 1, 16, "Hot-plug ports on q35; each one costs boot time.", pod=True),
    _text("vm", "kernel_parameters", "", "Words to append to the guest kernel's command line.", pod=True),
    _int("vm", "boot_timeout_s", 120, 1, 3600, "How long a guest may take to answer, seconds.", pod=True),
    _int("vm", "stop_timeout_s", 5, 0, 600, "How long QEMU may take to quit before it is killed, seconds."),
    _int("vm", "uid_base", 2_000_000_000, 1, (1 << 32) - 2, "First of the user ids that QEMU processes run as."),
    _int("vm", "uid_count", 65_536, 1, 1 << 24, "How many user ids there are; each machine has its own."),
    _flag("vm", "debug", False, "Keep the guest kernel's messages on the console.", pod=True),
    _path("image", "store", "/var/cache/vmpod/images", "Directory of guest images."),
    _text("image", "name", "default", "Name of the guest image to boot.", pod=True, items="name"),
    _choice(
        "storage",
        "shared_fs",
        "virtio-fs|virtio-9p|none",
        "How host directories reach the guest, if they do (docs/storage.md).",
        pod=True,
    ),
    _path(
        "storage",
        "virtiofsd",
        "",
        "virtiofsd's program; empty to look where distributions put it.",
        guard="valid_virtiofsd_paths",
        optional=True,
    ),
    _choice(
        "storage",
        "virtio_fs_cache",
        "auto|always|never|metadata",
        "virtiofsd's cache policy; metadata is of the Rust one.",
        pod=True,
    ),
    _list(
        "storage",
        "virtio_fs_extra_args",
        "argument",
        "Further arguments for virtiofsd, from a list of harmless ones (docs/storage.md).",
    ),
    _int(
        "storage",
        "msize_9p",
        512 << 10,
        4096,
        16 << 20,
        "Largest message of 9p, bytes; Linux takes at most 512000.",
        pod=True,
    ),
    _choice("storage", "block_driver", "virtio-blk|virtio-scsi|none", "Device model of block volumes.", pod=True),
    _path("storage", "direct_volumes", "/run/vmpod-volumes", "Where `vmpod volume` registers direct volumes."),
    _choice(
        "storage",
        "rootfs_overlay",
        "auto|none|memory|disk",
        "Where the guest keeps changes to a root file system: auto leaves them to it, and takes memory for a read-only"
        " image.",
        pod=True,
    ),
    _int("storage", "scratch_size_mib", 1024, 1, 1 << 24, "Size of such an overlay, MiB.", pod=True),
    _path("storage", "scratch_directory", "/var/tmp", "Where the host keeps overlays of the kind disk."),
    _choice(
        "network", "model", "tcfilter|macvtap|none", "How the pod's interfaces are joined to the guest's.", pod=True
    ),
    _flag("network", "disable_vhost_net", False, "Move packets in QEMU instead of in the host's kernel.", pod=True),
    _int("network", "rx_rate_limiter_max_rate", 0, 0, 1 << 50, "Bits per second into the pod; 0: no limit.", pod=True),
    _int("network", "tx_rate_limiter_max_rate", 0, 0, 1 << 50, "Bits per second out of it; 0: no limit.", pod=True),
    _choice("runtime", "vm", "always|untrusted", "Which pods get a machine: all, or those marked as untrusted."),
    _path(
        "runtime",
        "namespace_runtime",
        "/usr/bin/crun",
        "The runtime that runs everything else; empty for none.",
        optional=True,
    ),
    _choice("runtime", "host_network", "refuse|namespace", "What becomes of pods that use the host's network."),
    _choice("runtime", "host_pid", "refuse|namespace|vm", "Likewise for the host's processes; vm: the machine's."),
    _choice("runtime", "host_ipc", "refuse|namespace|vm", "Likewise for the host's IPC objects."),
    _list("runtime", "enable_annotations", "regex", "Settings (`section.key`) that pods may set by annotation."),
    _list("runtime", "valid_qemu_paths", "glob", "Paths that an annotation may give for vm.qemu."),
    _list("runtime", "valid_firmware_paths", "glob", "Paths that an annotation may give for vm.firmware."),
    _list("runtime", "valid_virtiofsd_paths", "glob", "Paths that an annotation may give for storage.virtiofsd."),
    _int("runtime", "hook_timeout_s", 60, 0, 3600, "Bound for OCI hooks that have none of their own; 0: no bound."),
    _int("runtime", "kill_timeout_s", 10, 1, 600, "How long the guest may take to deliver a signal, seconds."),
    _int("runtime", "stop_timeout_s", 30, 1, 600, "How long `delete --force` may take for a pod, seconds."),
    _list("agent", "kernel_modules", "module", "Modules (with parameters) that the guest loads at start.", pod=True),
    _choice(
        "log", "level", "info|debug|warning|error", "What the sandbox process logs; a shim's level is containerd's."
    ),
    _int(
        "log",
        "max_console_kib",
        512,
        16,
        1 << 20,
        "How much of a guest's console is kept, half of its beginning and half of its end, KiB.",
    ),
)
BY_NAME = {setting.name: setting for setting in SETTINGS}
SECTIONS = tuple(dict.fromkeys(setting.section for setting in SETTINGS))
