"""File systems that the host asks for: a registry of drivers, each of which mounts one kind of source.

A source that was hot-plugged may not be there yet. Nothing is polled for it: the kernel announces devices (uevent.py),
and after each announcement the attempt is repeated until the deadline.
"""

from __future__ import annotations

import errno
import os
import time

from oci_runtime.errors import AlreadyExists, HostError, InvalidInput, NotFound, OciRuntimeError, Unsupported
from oci_runtime.guest import syscalls as sys
from oci_runtime.guest.log import log
from oci_runtime.guest.modules import load_known_module
from oci_runtime.guest.mounts import unescape
from oci_runtime.guest.share import SHARE, forget_share
from oci_runtime.guest.uevent import retry_on_uevent
from oci_runtime.ttrpc.proto import agent_lean as pb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oci_runtime.guest.agent import Agent

ROOT = "/run/vmpod"
_HUGEPAGES = "/sys/kernel/mm/hugepages"
_DEVICE_S = 20.0
_REMOVAL_SETTLE_S = 10.0
_SHUTDOWN_SETTLE_S = 10.0  # the host waits fifteen seconds for a guest with disks
_WATCH_AFTER_S = 2.0  # out of the way of the first container
_MAX_STORAGES = 2048
_MAX_OPTIONS_BYTES = 4000  # mount(2) takes one page
_FLAGS = {
    "ro": sys.MS_RDONLY, "rw": 0, "nosuid": sys.MS_NOSUID, "suid": 0, "nodev": sys.MS_NODEV, "dev": 0,
    "noexec": sys.MS_NOEXEC, "exec": 0, "noatime": sys.MS_NOATIME, "nodiratime": sys.MS_NODIRATIME,
    "relatime": sys.MS_RELATIME, "strictatime": sys.MS_STRICTATIME, "sync": sys.MS_SYNCHRONOUS,
    "dirsync": sys.MS_DIRSYNC, "bind": sys.MS_BIND, "rbind": sys.MS_BIND | sys.MS_REC, "defaults": 0,
}  # fmt: skip


def add_storage(agent: Agent, request: pb.Storage) -> pb.Empty:
    """Mount one storage at its target, which is made. After a failure nothing is mounted.

    Raises InvalidInput, AlreadyExists, NotFound when the device does not appear, HostError with the kernel's reason.
    """
    target = check_target(request.target)
    driver = _DRIVERS.get(request.driver)
    if driver is None:
        raise InvalidInput(f"storage driver {request.driver!r}: known are {', '.join(sorted(_DRIVERS))}")
    with agent.lock:
        if target in agent.storages:
            raise AlreadyExists(f"storage {target} is mounted already")
        if len(agent.storages) >= _MAX_STORAGES:
            raise InvalidInput(f"the guest has {_MAX_STORAGES} storages, no more are taken")
        agent.storages[target] = request.driver
    try:
        driver(agent, request, target)
    except BaseException:
        with agent.lock:
            agent.storages.pop(target, None)
        raise
    return pb.Empty()


def remove_storage(agent: Agent, request: pb.RemoveStorageRequest) -> pb.Empty:
    """Unmount a storage; one in use goes when its last user does. A disk can be taken out afterwards.

    Raises NotFound, Unavailable (a disk that is still in use after a while).
    """
    target = check_target(request.target)
    with agent.lock:
        driver = agent.storages.pop(target, None)
        agent.trees.pop(target, None)
    if driver is None:
        raise NotFound(f"storage {target} is not mounted")
    if driver == "overlay":
        directories = _layers(target)
        _unmount(target)
        forget_share(agent, directories)
    elif driver == "block":
        _settle(target, _REMOVAL_SETTLE_S)
    else:
        _unmount(target)
    return pb.Empty()


def _layers(target: str) -> frozenset[str]:
    """The directories of the share that an overlay lies upon."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            mount, _, filesystem = line.partition(" - ")
            if unescape(mount.split(" ")[4]) == target:
                options = filesystem.rstrip("\n").rpartition(" ")[2].split(",")
                lowers = [unescape(text[len("lowerdir=") :]) for text in options if text.startswith("lowerdir=")]
                return frozenset(os.path.dirname(path) for path in lowers if path.startswith(SHARE))
    return frozenset()


def unmount_all(agent: Agent) -> None:
    """Unmount every storage, the last one first; failures are logged.

    All disks together have their time: one that a process keeps, which hangs in the share, must not cost the others
    being written back.
    """
    with agent.lock:
        storages = list(agent.storages.items())
        agent.storages.clear()
    deadline = time.monotonic() + _SHUTDOWN_SETTLE_S
    for target, driver in reversed(storages):
        try:
            if driver == "block":
                _settle(target, deadline - time.monotonic())  # or there would be a journal to replay
            else:
                _unmount(target)
        except OciRuntimeError as error:
            log(str(error))


def _settle(target: str, timeout_s: float) -> None:
    from oci_runtime.guest.devices import settle_disk

    settle_disk(target, lambda: _unmount(target), timeout_s)


def check_target(target: str) -> str:
    """A path below /run/vmpod without dots, symbolic links of containers out of reach. Raises InvalidInput."""
    parts = target.split("/")
    if not target.startswith(ROOT + "/") or any(part in ("", ".", "..") for part in parts[1:]) or "\0" in target:
        raise InvalidInput(f"storage target {target!r}: an absolute path below {ROOT} is wanted")
    return target


def split_relative(path: str) -> list[str]:
    """The names of a relative path without dots. Raises InvalidInput."""
    parts = path.split("/")
    if any(part in ("", ".", "..") or "\0" in part for part in parts):
        raise InvalidInput(f"{path!r} is no path inside a volume")
    return parts


def parse_options(options: list[str]) -> tuple[int, str]:
    """mount(2)'s flags and data. Raises InvalidInput."""
    flags = 0
    data = []
    for option in options:
        if option in _FLAGS:
            flags |= _FLAGS[option]
        elif "\0" in option or "," in option:
            raise InvalidInput(f"mount option {option!r}: one option per entry")
        else:
            data.append(option)
    text = ",".join(data)
    if len(text.encode()) > _MAX_OPTIONS_BYTES:
        raise InvalidInput(f"mount options of {len(text)} characters: the kernel takes {_MAX_OPTIONS_BYTES}")
    return flags, text


def _mount_virtiofs(agent: Agent, storage: pb.Storage, target: str) -> None:
    """Mount the share. Option files=N: the number of files that the host's side can have open for it."""
    files = [option.removeprefix("files=") for option in storage.options if option.startswith("files=")]
    if not all(number.isdigit() for number in files):
        raise InvalidInput(f"storage {target}: files={files[0]} is no number")
    flags, data = parse_options([option for option in storage.options if not option.startswith("files=")])
    os.makedirs(target, exist_ok=True)
    if not os.path.isdir("/sys/module/virtiofs"):
        load_known_module("virtiofs")  # the kernel would start modprobe for it
    _mount_when_there(
        lambda: sys.mount(storage.source, target, "virtiofs", flags, data),
        f"no virtio-fs device with the tag {storage.source!r}",
    )
    if files:
        agent.loop.soon(lambda: _watch_files(agent, int(files[0])))


def _watch_files(agent: Agent, limit: int) -> None:
    def begin() -> None:
        from oci_runtime.guest.known_files import KnownFiles

        KnownFiles(agent, limit).watch()

    agent.loop.later(_WATCH_AFTER_S, begin)


def _mount_9p(agent: Agent, storage: pb.Storage, target: str) -> None:
    flags, data = parse_options(["trans=virtio", "version=9p2000.L", *storage.options])
    os.makedirs(target, exist_ok=True)
    for module in ("9p", "9pnet_virtio"):
        if not os.path.isdir(f"/sys/module/{module}"):
            load_known_module(module)  # the kernel would start modprobe for it
    _mount_when_there(
        lambda: sys.mount(storage.source, target, "9p", flags, data),
        f"no virtio-9p device with the tag {storage.source!r}",
    )


def _mount_when_there(mount: Callable[[], None], missing: str) -> None:
    """Mount as soon as the device is there: until then the kernel says EINVAL or ENOENT."""
    refused: list[HostError] = []

    def attempt() -> bool:
        try:
            mount()
        except HostError as error:
            if error.errno not in (errno.EINVAL, errno.ENOENT, errno.ENXIO):
                raise
            refused[:] = [error]
            return False
        return True

    if not retry_on_uevent(attempt, _DEVICE_S):
        raise NotFound(f"{missing} appeared in the guest within {_DEVICE_S:g} s", detail=str(refused[0]))


def _mount_tmpfs(agent: Agent, storage: pb.Storage, target: str) -> None:
    flags, data = parse_options(storage.options)
    os.makedirs(target, exist_ok=True)
    sys.mount(storage.source or "tmpfs", target, "tmpfs", flags, data)


def _mount_hugetlbfs(agent: Agent, storage: pb.Storage, target: str) -> None:
    """Mount huge pages: the kernel finds them as they are mapped, up to all memory, and says ENOMEM if it cannot."""
    flags, data = parse_options(storage.options)
    size = next((option.partition("=")[2] for option in storage.options if option.startswith("pagesize=")), "")
    if not size.isdigit():
        raise InvalidInput(f"storage {target}: huge pages need a page size in bytes")
    pool = f"{_HUGEPAGES}/hugepages-{int(size) >> 10}kB/nr_overcommit_hugepages"
    if not os.path.exists(pool):
        known = ", ".join(sorted(name.removeprefix("hugepages-") for name in os.listdir(_HUGEPAGES)))
        raise Unsupported(f"huge pages of {int(size) >> 10} kB: the guest's kernel has {known or 'none'}")
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        with open(pool, "w", encoding="ascii") as file:
            file.write(str(total // int(size)))
    except OSError as error:
        raise Unsupported(f"huge pages of {int(size) >> 10} kB: the guest cannot make them while it runs") from error
    os.makedirs(target, exist_ok=True)
    sys.mount(storage.source or "hugetlbfs", target, "hugetlbfs", flags, data)


def _mount_subpath(agent: Agent, storage: pb.Storage, target: str) -> None:
    """Bind a directory inside a volume, made if it is missing. Containers write there: no symbolic link is followed."""
    options = dict(option.partition("=")[::2] for option in storage.options)
    parts = split_relative(options.get("below", ""))
    flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    directory = os.open(check_target(storage.source), flags)
    try:
        made = False
        for part in parts:
            try:
                os.mkdir(part, dir_fd=directory)
                made = True
            except FileExistsError:
                made = False
            parent, directory = directory, os.open(part, flags, dir_fd=directory)
            os.close(parent)
        path = f"/proc/self/fd/{directory}"
        if made:
            os.chown(path, int(options["uid"]), int(options["gid"]))
            os.chmod(path, int(options["mode"], 8))
        os.makedirs(target, exist_ok=True)
        sys.mount(path, target, "", sys.MS_BIND)
    except OSError as error:
        raise HostError.from_oserror(error, "open inside volume", "/".join(parts)) from error
    finally:
        os.close(directory)


def _mount_overlay(agent: Agent, storage: pb.Storage, target: str) -> None:
    flags, data = parse_options(storage.options)
    for option in storage.options:
        key, _, path = option.partition("=")
        if key in ("upperdir", "workdir"):
            os.makedirs(check_target(path), exist_ok=True)
    os.makedirs(target, exist_ok=True)
    sys.mount("overlay", target, "overlay", flags, data)


def _mount_bind(agent: Agent, storage: pb.Storage, target: str) -> None:
    """Bind a directory or file of the guest; read-only and the like take a second call."""
    flags, _ = parse_options(storage.options)
    source = storage.source
    if not source.startswith("/") or "\0" in source:
        raise InvalidInput(f"bind source {source!r}: an absolute path of the guest is wanted")
    if not os.path.exists(source):
        raise NotFound(f"bind source {source} does not exist in the guest")
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_CLOEXEC, 0o600))
    recursive = sys.MS_REC if "rbind" in storage.options else 0
    sys.mount(source, target, "", sys.MS_BIND | recursive)
    extra = flags & ~(sys.MS_BIND | sys.MS_REC)
    if extra:
        try:
            sys.mount("", target, "", sys.MS_BIND | sys.MS_REMOUNT | extra)
        except HostError:
            _unmount(target)
            raise


def _mount_block(agent: Agent, storage: pb.Storage, target: str) -> None:
    """Mount a hot-plugged disk, or with fstype "none" put its device node at the target."""
    from oci_runtime.guest.devices import wait_block_device

    flags, data = parse_options(storage.options)
    device = wait_block_device(agent, storage.source, _DEVICE_S)
    if not device:
        raise NotFound(f"no disk at PCI address {storage.source} appeared in the guest within {_DEVICE_S:g} s")
    if storage.fstype == "none":
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_CLOEXEC, 0o600))
        sys.mount(device, target, "", sys.MS_BIND)
        return
    if not storage.fstype:
        raise InvalidInput(f"storage {target}: a disk needs its file system type")
    os.makedirs(target, exist_ok=True)
    sys.mount(device, target, storage.fstype, flags, data)
    if storage.fs_group:
        from oci_runtime.guest.ownership import give_to_group

        try:
            give_to_group(target, storage.fs_group, only_on_mismatch=storage.fs_group_on_mismatch)
        except BaseException:
            _unmount(target)
            raise


def _unmount(target: str) -> None:
    try:
        sys.umount(target)
    except HostError as error:
        if error.errno == errno.EBUSY:
            sys.umount(target, sys.MNT_DETACH)
        elif error.errno != errno.EINVAL:
            raise
    try:
        if os.path.isdir(target):
            os.rmdir(target)
        else:
            os.unlink(target)
    except OSError as error:
        log(f"mount point {target}: {error.strerror}")


_DRIVERS: dict[str, Callable[[Agent, pb.Storage, str], None]] = {
    "virtiofs": _mount_virtiofs,
    "9p": _mount_9p,
    "tmpfs": _mount_tmpfs,
    "hugetlbfs": _mount_hugetlbfs,
    "subpath": _mount_subpath,
    "overlay": _mount_overlay,
    "bind": _mount_bind,
    "block": _mount_block,
}
