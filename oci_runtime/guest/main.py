"""PID 1 of the guest: prepare the machine, open the channel, serve until the machine is turned off."""

from __future__ import annotations

import time

_STARTED_NS = time.monotonic_ns()

import os  # noqa: E402
import sys  # noqa: E402

from oci_runtime.guest import channel, mounts, registry  # noqa: E402
from oci_runtime.guest.agent import Agent  # noqa: E402
from oci_runtime.guest.log import log, open_console  # noqa: E402
from oci_runtime.guest.loop import Loop  # noqa: E402
from oci_runtime.guest.server import Connection  # noqa: E402

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # without the enumerations


def main(arguments: list[str] | None = None) -> None:
    """Run the agent; returns only for a test whose channel has ended."""
    imported_ns = time.monotonic_ns()
    channel.keep_standard_fds()
    # PID 1 gets no signal that it does not handle, and Python handles only these two.
    for number in (signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    parameters = channel.read_parameters(" ".join(sys.argv[1:] if arguments is None else arguments))
    is_init = os.getpid() == 1 and not parameters.get("transport", "").startswith("fd:")
    if is_init:
        mounts.mount_first()
        open_console()
        parameters = _command_line() | parameters
    loop = Loop()
    agent = Agent(loop, is_init=is_init)
    agent.phases += [*_earlier_phases(), ("agent", _STARTED_NS), ("imported", imported_ns)]
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(loop.wake_write, warn_on_full_buffer=False)
    link = channel.Channel(loop, parameters.get("transport") or "serial", lambda fd: _serve(agent, link, fd))
    link.start()
    loop.run()


def _serve(agent: Agent, link: channel.Channel, fd: int) -> None:
    if not agent.greeted:
        agent.phases.append(("channel", time.monotonic_ns()))
    Connection(agent.loop, fd, lambda call, payload: registry.dispatch(agent, call, payload), link.lost)


def _command_line() -> dict[str, str]:
    try:
        with open("/proc/cmdline", encoding="utf-8", errors="replace") as file:
            return channel.read_parameters(file.read())
    except OSError as error:
        log(f"/proc/cmdline: {error}")
        return {}


def _earlier_phases() -> list[tuple[str, int]]:
    """What the first stage measured: VMPOD_PHASES="FD NAME...", a descriptor to read each one's time from.

    A time is two 64-bit numbers: seconds and nanoseconds since the kernel started.
    """
    number, *names = os.environ.pop("VMPOD_PHASES", "").split() or [""]
    try:
        data = os.read(int(number), 16 * len(names))
        os.close(int(number))
    except (OSError, ValueError):
        return []
    words = [int.from_bytes(data[at : at + 8], "little") for at in range(0, len(data) - 7, 8)]
    return [
        (name, words[2 * at] * 10**9 + words[2 * at + 1]) for at, name in enumerate(names) if 2 * at + 1 < len(words)
    ]
