"""What the guest needs before its first container, but not before its first answer.

It runs in a thread while the host plugs the pod's share and network, so that most of it costs the pod nothing. Handlers
that run in threads wait for its end.
"""

from __future__ import annotations

import os
import time

from oci_runtime.guest.log import log_exception
from oci_runtime.guest.reaper import Reaper
from oci_runtime.guest.spec import CGROUP_PARENT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from oci_runtime.guest.agent import Agent

# In the order in which the first container wants them; a pod with interfaces asks for the network by itself.
_WARM = ("storage", "containers")
# By then the first container runs, whose start should not wait for modprobe.
_DRIVERS_AFTER_S = 3.0


def prepare_guest(agent: Agent) -> None:
    """Make the rest ready, each step whatever becomes of the others; always ends with `agent.prepared` set."""
    agent.reaper = Reaper()
    agent.loop.on_wake = agent.reaper.reap
    try:
        for step in (_mount, _controllers, _loopback_up) if agent.is_init else ():
            _try(step)
    finally:
        agent.prepared.set()
    agent.phases.append(("prepared", time.monotonic_ns()))
    for module in _WARM:
        _try(__import__, f"oci_runtime.guest.{module}")
    if agent.is_init:
        agent.loop.call(lambda: _plan_drivers(agent))


def _plan_drivers(agent: Agent) -> None:
    agent.loop.later(_DRIVERS_AFTER_S, lambda: agent.workers.submit(lambda: _try(_drivers, agent)))


def _try(step: Callable[..., object], *arguments: object) -> None:
    try:
        step(*arguments)
    except Exception as error:  # noqa: BLE001 - a guest without this still says more than a dead one
        log_exception("preparation of the guest", error)


def _drivers(agent: Agent) -> None:
    """Drivers for what no container waits for: balloon, random numbers, the panic device."""
    from oci_runtime.guest import devices

    devices.load_drivers(agent, devices.plugged_devices(), set())


def _mount() -> None:
    from oci_runtime.guest import mounts

    mounts.mount_rest()
    mounts.share_root()


def _controllers() -> None:
    from oci_runtime.guest import mounts

    parent = mounts.CGROUP_ROOT + CGROUP_PARENT
    mounts.enable_controllers()
    os.makedirs(parent, exist_ok=True)
    mounts.enable_controllers(parent)


def _loopback_up() -> None:
    """ip link set lo up, without a program: SIOCSIFFLAGS with IFF_UP."""
    import _socket
    import fcntl
    import struct

    probe = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM | _socket.SOCK_CLOEXEC)
    try:
        fcntl.ioctl(probe.fileno(), 0x8914, struct.pack("16sh14x", b"lo", 1))
    finally:
        probe.close()
