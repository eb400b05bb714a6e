"""What the guest tells about itself: for `env`, and for the error of a failure."""

from __future__ import annotations

import os
import time

from oci_runtime import __version__
from oci_runtime.errors import OciRuntimeError
from oci_runtime.guest.mounts import CGROUP_ROOT
from oci_runtime.ttrpc.proto import agent_lean as pb
from oci_runtime.ttrpc.status import clip

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.guest.agent import Agent

_PROGRAM_S = 10.0
_MAX_SECTION_BYTES = 16 << 10
_MAX_PACKAGES = 4096
_MAX_FEATURES = 4096
_FILE_SYSTEM_MODULES = frozenset({"9p", "btrfs", "erofs", "ext4", "fuse", "overlay", "squashfs", "virtiofs", "xfs"})
_PACKAGES = "/usr/share/vmpod/packages"
_FILES = (
    "/proc/meminfo", "/proc/loadavg", "/proc/pressure/memory", "/proc/pressure/io", "/proc/mounts",
    "/proc/net/dev", "/proc/net/route", "/proc/partitions", "/proc/modules",
)  # fmt: skip


def guest_details(agent: Agent, request: pb.Empty) -> pb.GuestDetailsResponse:
    """Kernel, memory, CPUs, versions and packages."""
    try:
        _, output, _ = agent.reaper.run(["crun", "--version"], timeout_s=_PROGRAM_S)
        crun = output.decode("utf-8", "replace").splitlines()[0].removeprefix("crun version ")
    except (OciRuntimeError, IndexError):
        crun = ""
    packages = [line.strip() for line in _read(_PACKAGES).splitlines()[:_MAX_PACKAGES] if line.isprintable()]
    return pb.GuestDetailsResponse(
        kernel_release=os.uname().release,
        memory_total_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        vcpus=os.cpu_count() or 1,
        crun_version=crun,
        agent_version=__version__,
        image_packages=packages,
        features=kernel_features(),
    )


def kernel_features() -> list[str]:
    """What the kernel can do for containers, as `kind:name`; modules count as what they would bring when loaded."""
    release = os.uname().release
    modules = [os.path.basename(line.partition(":")[0]) for line in _lines(f"/lib/modules/{release}/modules.dep")]
    names = sorted({name.partition(".")[0].replace("-", "_") for name in modules})
    filesystems = {line.split("\t")[-1] for line in _lines("/proc/filesystems")}
    found = {
        "namespace": sorted({name.removesuffix("_for_children") for name in os.listdir("/proc/self/ns")}),
        "controller": _read(f"{CGROUP_ROOT}/cgroup.controllers").split(),
        "filesystem": sorted(filesystems | (_FILE_SYSTEM_MODULES & set(names))),
        "seccomp": _read("/proc/sys/kernel/seccomp/actions_avail").split(),
        "module": names,
    }
    return [f"{kind}:{name}" for kind in found for name in found[kind]][:_MAX_FEATURES]


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def diagnostics(agent: Agent, request: pb.Empty) -> pb.DiagnosticsResponse:
    """A text: containers and their processes, memory, mounts, network, the end of the kernel's log."""
    parts = [f"guest {os.uname().release}, agent {__version__}, up {time.monotonic():.1f} s"]
    with agent.lock:
        containers = list(agent.containers.values())
    for container in containers:
        pids = _read(f"{container.cgroup}/cgroup.procs").split()
        parts.append(
            f"container {container.id}: started={container.started} paused={container.paused} pids={pids[:64]}"
        )
        parts.append(_read(f"{container.cgroup}/memory.events").replace("\n", " "))
    parts.append(f"cgroup controllers: {_read(f'{CGROUP_ROOT}/cgroup.subtree_control')}")
    parts += [f"--- {path}\n{_read(path)}" for path in _FILES]
    parts.append(f"--- kernel log\n{_kernel_log()}")
    return pb.DiagnosticsResponse(text=clip("\n".join(parts), 512 << 10))


def _kernel_log() -> str:
    """The end of the kernel's ring buffer, as /dev/kmsg gives it."""
    lines: list[bytes] = []
    try:
        fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        while True:
            lines.append(os.read(fd, 8192))
    except OSError:
        pass  # the end (EAGAIN), or overwritten meanwhile (EPIPE)
    finally:
        os.close(fd)
    texts = [line.partition(b";")[2].split(b"\n", 1)[0].decode("utf-8", "replace") for line in lines]
    return "\n".join(texts)[-_MAX_SECTION_BYTES:]


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(_MAX_SECTION_BYTES)
    except OSError as error:
        return f"({error.strerror})" if path not in (_PACKAGES,) else ""
