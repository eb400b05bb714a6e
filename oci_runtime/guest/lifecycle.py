"""Life of the guest as a whole: the greeting, clock and random pool, set-up of the pod, the end."""

from __future__ import annotations

import fcntl
import os
import struct
import time

from oci_runtime import __version__
from oci_runtime.errors import HostError, InvalidInput, OciRuntimeError, WrongState
from oci_runtime.guest.log import log
from oci_runtime.guest.syscalls import RNDADDENTROPY, RNDRESEEDCRNG
from oci_runtime.ttrpc.proto import agent_lean as pb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.guest.agent import Agent

_MAX_SEED_BYTES = 256
_MAX_MODULES = 64
_MODPROBE_S = 20.0
_NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


def hello(agent: Agent, request: pb.HelloRequest) -> pb.HelloResponse:
    """Check the version, set clock and random pool, tell when the phases of the boot began."""
    if request.version != __version__:
        raise WrongState(
            f"the guest's agent is version {__version__}, the host is {request.version!r}: rebuild the guest image"
        )
    if request.time_ns:
        _set_clock(agent, request.time_ns)
    if request.random_seed:
        _reseed(request.random_seed)
    if not agent.greeted:
        agent.greeted = True
        agent.phases.append(("hello", time.monotonic_ns()))
        agent.workers.submit(lambda: prepare(agent))
    phases = [pb.Phase(name=name, monotonic_ns=at) for name, at in agent.phases]
    return pb.HelloResponse(version=__version__, kernel_release=os.uname().release, phases=phases)


def set_clock(agent: Agent, request: pb.SetClockRequest) -> pb.Empty:
    """Set the guest's clock."""
    _set_clock(agent, request.time_ns)
    return pb.Empty()


def reseed(agent: Agent, request: pb.ReseedRequest) -> pb.Empty:
    """Mix the host's bytes into the guest's random pool, with credit."""
    _reseed(request.data)
    return pb.Empty()


def setup_sandbox(agent: Agent, request: pb.SetupSandboxRequest) -> pb.Empty:
    """Prepare the guest for its pod: kernel modules, host name, sysctls, storages. Once per guest."""
    from oci_runtime.guest.storage import add_storage
    from oci_runtime.guest.sysctl import write_sysctls

    with agent.lock:
        if agent.sandbox_id:
            raise WrongState(f"the guest is the sandbox {agent.sandbox_id!r} already")
        agent.sandbox_id = request.sandbox_id or "sandbox"
    try:
        if len(request.kernel_modules) > _MAX_MODULES:
            raise InvalidInput(f"{len(request.kernel_modules)} kernel modules: {_MAX_MODULES} are allowed")
        for module in request.kernel_modules:
            load_module(agent, module)
        if request.hostname:
            set_name("hostname", request.hostname)
        if request.domainname:
            set_name("domainname", request.domainname)
        write_sysctls(request.sysctls)
        for storage in request.storages:
            add_storage(agent, storage)
    except BaseException:
        with agent.lock:
            agent.sandbox_id = ""
        raise
    return pb.Empty()


def shutdown(agent: Agent, request: pb.Empty) -> pb.Empty:
    """Kill everything, write back what is dirty, unmount, and turn the machine off after the answer is sent."""
    from oci_runtime.guest.cgroups import kill_cgroup
    from oci_runtime.guest.storage import unmount_all

    with agent.lock:
        containers = list(agent.containers.values())
    for container in containers:
        kill_cgroup(container.cgroup, 9)
    unmount_all(agent)
    os.sync()
    if agent.is_init:
        agent.loop.soon(lambda: _soon_off(agent))
    return pb.Empty()


def _soon_off(agent: Agent) -> None:
    from oci_runtime.guest.syscalls import power_off

    agent.loop.later(0.1, power_off)  # the answer leaves first


def prepare(agent: Agent) -> None:
    """Ready the guest while the host plugs share and network: in a thread, after the greeting."""
    from oci_runtime.guest.prepare import prepare_guest

    prepare_guest(agent)


def load_module(agent: Agent, line: str) -> None:
    """Load a kernel module; `line` is its name and its parameters. Raises InvalidInput, OciRuntimeError."""
    words = line.split()
    if not words or not set(words[0]) <= _NAME_CHARS or words[0].startswith("-"):
        raise InvalidInput(f"kernel module {line!r}: not a name")
    if any(word.startswith("-") for word in words[1:]):
        raise InvalidInput(f"kernel module {line!r}: a parameter must not begin with a dash")
    code, _, errors = agent.reaper.run(["modprobe", "--", *words], timeout_s=_MODPROBE_S)
    if code:
        reason = errors.decode("utf-8", "replace").strip().replace("\n", "; ") or f"modprobe exited with {code}"
        raise OciRuntimeError(f"kernel module {words[0]} cannot be loaded in the guest: {reason}")


def set_name(which: str, name: str) -> None:
    """Set `hostname` or `domainname` of the guest. Raises InvalidInput."""
    if len(name.encode()) > 64 or "\0" in name or "\n" in name:
        raise InvalidInput(f"{which} {name!r}: at most 64 bytes without control characters")
    with open(f"/proc/sys/kernel/{which}", "w", encoding="utf-8") as file:
        file.write(name)


def _set_clock(agent: Agent, time_ns: int) -> None:
    if time_ns < 0:
        raise InvalidInput(f"time {time_ns}: before 1970")
    if not agent.is_init:
        return  # not our machine
    try:
        time.clock_settime_ns(time.CLOCK_REALTIME, time_ns)
    except OSError as error:
        raise HostError.from_oserror(error, "clock_settime", str(time_ns)) from error


def _reseed(seed: bytes) -> None:
    if len(seed) > _MAX_SEED_BYTES:
        raise InvalidInput(f"random seed of {len(seed)} bytes: at most {_MAX_SEED_BYTES}")
    try:
        fd = os.open("/dev/random", os.O_WRONLY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, RNDADDENTROPY, struct.pack("ii", len(seed) * 8, len(seed)) + seed)
            fcntl.ioctl(fd, RNDRESEEDCRNG)
        finally:
            os.close(fd)
    except OSError as error:
        log(f"random pool: {error}")
        raise HostError.from_oserror(error, "ioctl", "/dev/random") from error
