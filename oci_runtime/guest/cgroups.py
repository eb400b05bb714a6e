"""A container's cgroup (v2): signals to all of it, freezing, out-of-memory kills, removal."""

from __future__ import annotations

import os
import select
import time

from oci_runtime.errors import OciRuntimeError, Unavailable, WrongState
from oci_runtime.guest.loop import PRIORITY
from oci_runtime.guest.mounts import CGROUP_ROOT
from oci_runtime.guest.spec import CGROUP_PARENT
from oci_runtime.ttrpc.proto.agent_lean import ContainerRequest, Empty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from oci_runtime.guest.agent import Agent
    from oci_runtime.guest.loop import Loop

_SIGKILL = 9
_FREEZE_S = 10.0
_EMPTY_S = 10.0
# A cgroup that a container filled with cgroups of its own is walked no deeper and no further than this.
_MAX_CGROUPS = 4096


def cgroup_path(container_id: str) -> str:
    """The directory of a container's cgroup."""
    return f"{CGROUP_ROOT}{CGROUP_PARENT}/{container_id}"


def read_keys(path: str) -> dict[str, int]:
    """A file of `key number` lines (memory.events, cpu.stat, cgroup.events); empty when it is not there."""
    try:
        with open(path, encoding="utf-8") as file:
            pairs = (line.split() for line in file)
            return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}
    except OSError:
        return {}


def list_cgroups(path: str) -> Iterator[str]:
    """`path` and every cgroup below it, parents first."""
    waiting = [path]
    for _ in range(_MAX_CGROUPS):
        if not waiting:
            return
        current = waiting.pop()
        yield current
        try:
            with os.scandir(current) as entries:
                waiting += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue


def list_pids(path: str) -> list[int]:
    """The processes in a cgroup and below it, as the guest's root numbers them."""
    pids: list[int] = []
    for cgroup in list_cgroups(path):
        try:
            with open(f"{cgroup}/cgroup.procs", encoding="utf-8") as file:
                pids += [int(line) for line in file]
        except OSError:
            continue
    return pids


def kill_cgroup(path: str, number: int) -> int:
    """Send a signal to every process of the cgroup; return how many there were."""
    pids = list_pids(path)
    if number == _SIGKILL:
        try:
            _write(f"{path}/cgroup.kill", "1")
            return len(pids)
        except OSError:
            pass  # gone, or a kernel before 5.14
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
    return len(pids)


def remove_cgroup(path: str) -> None:
    """Kill what is left in the cgroup, wait until it is empty, remove it with all below. Raises Unavailable."""
    deadline = time.monotonic() + _EMPTY_S
    while os.path.isdir(path):
        kill_cgroup(path, _SIGKILL)
        if not _await_key(f"{path}/cgroup.events", "populated", 0, max(0.0, deadline - time.monotonic())):
            raise Unavailable(f"processes of cgroup {path} in the guest do not end within {_EMPTY_S:g} s of SIGKILL")
        for cgroup in reversed(list(list_cgroups(path))):
            try:
                os.rmdir(cgroup)
            except FileNotFoundError:
                continue
            except OSError as error:
                if time.monotonic() > deadline:
                    raise OciRuntimeError(f"rmdir {cgroup} in the guest: {error.strerror}") from error
                time.sleep(0.005)  # the last process has left, but the kernel still counts it
                break


class OomWatch:
    """Tells of kills for want of memory in one cgroup, when the kernel says that memory.events has changed."""

    def __init__(self, loop: Loop, path: str, on_kill: Callable[[], None]) -> None:
        """on_kill: called in the loop's thread. Without a memory controller nothing ever happens."""
        self._loop = loop
        self._path = f"{path}/memory.events"
        self._on_kill = on_kill
        self._fd = -1
        self.kills = 0

    def start(self) -> None:
        """Begin to watch; in the loop's thread."""
        try:
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return
        self._loop.watch(self._fd, PRIORITY, self._changed)
        self.check()

    def _changed(self, _: int) -> None:
        self.check()

    def check(self) -> int:
        """Read the counter now and return it; in the loop's thread."""
        if self._fd < 0:
            return self.kills
        try:
            text = os.pread(self._fd, 4096, 0).decode("ascii")
        except OSError:
            self.close()  # the cgroup is gone
            return self.kills
        for line in text.splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill" and int(value) > self.kills:
                self.kills = int(value)
                self._on_kill()
        return self.kills

    def close(self) -> None:
        """Stop watching. Idempotent; in the loop's thread."""
        if self._fd >= 0:
            self._loop.unwatch(self._fd)
            os.close(self._fd)
            self._fd = -1


def pause_container(agent: Agent, request: ContainerRequest) -> Empty:
    """Freeze every process of the container; returns when they stand still."""
    _freeze(agent, request.container_id, True)
    return Empty()


def resume_container(agent: Agent, request: ContainerRequest) -> Empty:
    """Thaw them."""
    _freeze(agent, request.container_id, False)
    return Empty()


def _freeze(agent: Agent, container_id: str, frozen: bool) -> None:
    container = agent.container(container_id)
    with container.lock:
        container.require_running()
        if container.paused == frozen:
            state = "paused already" if frozen else "not paused"
            raise WrongState(f"container {container_id!r} is {state}")
        path = container.cgroup
        try:
            _write(f"{path}/cgroup.freeze", "1" if frozen else "0")
        except OSError as error:
            raise OciRuntimeError(f"write {path}/cgroup.freeze in the guest: {error.strerror}") from error
        if not _await_key(f"{path}/cgroup.events", "frozen", int(frozen), _FREEZE_S):
            if frozen:
                _write(f"{path}/cgroup.freeze", "0")
            raise Unavailable(f"container {container_id!r} did not {'freeze' if frozen else 'thaw'} in {_FREEZE_S:g} s")
        container.paused = frozen


def _await_key(path: str, key: str, value: int, timeout_s: float) -> bool:
    """Wait until `key` of a kernfs file has `value`; the kernel reports each change. No file counts as reached."""
    deadline = time.monotonic() + timeout_s
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        poll = select.poll()
        poll.register(fd, select.POLLPRI)
        while True:
            text = os.pread(fd, 4096, 0).decode("ascii")
            if f"{key} {value}\n" in text:
                return True
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                return False
            poll.poll(remaining_s * 1000)
    except OSError:
        return True
    finally:
        os.close(fd)


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
