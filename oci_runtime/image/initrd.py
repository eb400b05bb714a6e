"""The first-stage initrd: a program that loads what root and channel need, mounts the root and becomes the agent."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping

from oci_runtime.image.cpio import CpioArchive
from oci_runtime.image.firststage import Buffer, Step, assemble, execute, fail

ROOT_DEVICE = "/dev/pmem0"
# Where the file systems that the agent finds are mounted at first; they move with the root.
_SYSTEM = (("/proc", "proc", 2 | 4 | 8, ""), ("/sys", "sysfs", 2 | 4 | 8, ""), ("/dev", "devtmpfs", 2, "mode=755"))
_MS_RDONLY, _MS_MOVE = 1, 8192
_CLOCK_MONOTONIC = 1
# The driver binds to the first virtio device if that is the agent's port; vsock is loaded otherwise.
_SERIAL_BOUND = "/sys/bus/virtio/drivers/virtio_console/virtio0"
# The device appears a moment after its driver: looked for each two milliseconds, twenty times before the image is
# taken to be on an NVDIMM, ten seconds in all.
_WAIT = struct.pack("<qq", 0, 2_000_000)
_VIRTIO_TRIES, _TRIES = 20, 5000
_PHASES = ("first-stage", "modules", "root")
_TIMES = "times"
_TIME_BYTES = 16
# The pipe's descriptors: 0 to 2 are the console, which the kernel has opened.
_READ_FD, _WRITE_FD = 3, 4


def plan_first_stage(
    modules: Mapping[str, bytes], device_modules: Mapping[str, tuple[str, ...]], agent: tuple[str, ...]
) -> list[Step]:
    """Return what the first stage does, as system calls.

    modules: name -> file, in loading order. device_modules: what only some machines need, in loading order, by the
    reason: "vsock", "nvdimm"; the others are always loaded. agent: argv inside the image, an absolute path first.
    The agent finds VMPOD_PHASES="FD NAME...": a descriptor with the time (two 64-bit numbers: seconds and nanoseconds
    since the kernel started) at which each of these phases began.
    """
    special = {name for names in device_modules.values() for name in names}
    always = [name for name in modules if name not in special]
    failures: list[Step] = []

    def load(names: Iterable[str]) -> list[Step]:
        steps = []
        for name in names:
            failures.extend(fail(f"no {name}", f"cannot load the kernel module {name}"))
            steps.append(Step("init_module", (modules[name], len(modules[name]), b"\0"), otherwise=f"no {name}"))
        return steps

    failures += fail("no system", "cannot mount /proc, /sys and /dev")
    failures += fail("no root", f"cannot mount {ROOT_DEVICE}")
    failures += fail("no agent", f"cannot execute {agent[0]}")
    steps = [_note(0)]
    steps += [_mount_system(*row) for row in _SYSTEM]
    steps += load(always)
    steps += [
        Step("access", (_SERIAL_BOUND.encode() + b"\0", 0), then="root", otherwise="vsock"),
        Step("access", (b"/\0", 0), "vsock"),
        *load(device_modules.get("vsock", ())),
        Step("clock_gettime", (_CLOCK_MONOTONIC, _time(1)), "root"),
        _mount_root("first", "first wait", _VIRTIO_TRIES, "nvdimm"),
        Step("nanosleep", (_WAIT, 0), "first wait", then="first", otherwise="first"),
        Step("access", (b"/\0", 0), "nvdimm"),
        *load(device_modules.get("nvdimm", ())),
        _mount_root("second", "second wait", _TRIES, "no root"),
        Step("nanosleep", (_WAIT, 0), "second wait", then="second", otherwise="second"),
        Step("clock_gettime", (_CLOCK_MONOTONIC, _time(2)), "mounted"),
        *_tell_phases(),
        *_change_root(),
        execute(
            agent[0],
            agent,
            ("PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", f"VMPOD_PHASES={_READ_FD} {' '.join(_PHASES)}"),
            otherwise="no agent",
        ),
    ]
    return steps + failures


def _mount_system(path: str, kind: str, flags: int, data: str) -> Step:
    source, target, options = (text.encode() + b"\0" for text in (kind, path, data))
    return Step("mount", (source, target, source, flags, options), otherwise="no system")


def _mount_root(label: str, wait: str, tries: int, exhausted: str) -> Step:
    arguments = (ROOT_DEVICE.encode() + b"\0", b"/root\0", b"erofs\0", _MS_RDONLY, b"dax\0")
    return Step("mount", arguments, label, then="mounted", otherwise=wait, tries=tries, exhausted=exhausted)


def _time(index: int) -> Buffer:
    return Buffer(_TIMES, _TIME_BYTES * len(_PHASES), _TIME_BYTES * index)


def _note(index: int) -> Step:
    return Step("clock_gettime", (_CLOCK_MONOTONIC, _time(index)))


def _tell_phases() -> tuple[Step, ...]:
    return (
        Step("pipe2", (Buffer("pipe", 8), 0)),
        Step("write", (_WRITE_FD, _time(0), _TIME_BYTES * len(_PHASES))),
        Step("close", (_WRITE_FD,)),
    )


def _change_root() -> tuple[Step, ...]:
    """Move everything onto the image; the initrd's only large file goes, its memory with it."""
    moves = [(path.encode() + b"\0", f"/root{path}\0".encode()) for path, *_ in _SYSTEM]
    return (
        *(Step("mount", (old, new, 0, _MS_MOVE, 0), otherwise="no system") for old, new in moves),
        Step("unlink", (b"/init\0",)),
        Step("chdir", (b"/root\0",), otherwise="no root"),
        Step("mount", (b".\0", b"/\0", 0, _MS_MOVE, 0), otherwise="no root"),
        Step("chroot", (b".\0",), otherwise="no root"),
        Step("chdir", (b"/\0",), otherwise="no root"),
    )


def build_initrd(first_stage: list[Step]) -> bytes:
    """Return the archive, uncompressed: unpacking costs the guest more than QEMU's copying of another megabyte."""
    archive = CpioArchive()
    for name in ("dev", "proc", "root", "sys"):
        archive.add_directory(name)
    archive.add_device("dev/console", 5, 1)
    archive.add_file("init", assemble(first_stage), 0o755)
    return archive.finish()
