"""Let go of a removed container's files in the share.

The guest's kernel keeps what it has looked up, and a mount for each file system in the share, until somebody looks at
the same name again and finds it gone. Until then virtiofsd holds the files open, and the host cannot free the file
system they are on. So the agent looks, once the time is over for which a name is trusted without asking.
"""

from __future__ import annotations

import os
import time
from _thread import start_new_thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.guest.agent import Agent

SHARE = "/run/vmpod/share/"
_DELAY_S = 1.5  # names are trusted for a second (virtiofsd's cache=auto)
_ATTEMPTS = 4


def forget_share(agent: Agent, rootfs: str) -> None:
    """Have a container's directory in the share dropped soon; the host takes it out right after the removal."""
    directory = os.path.dirname(rootfs)
    if not directory.startswith(SHARE):
        return

    def look() -> None:
        # In a thread: a share whose daemon is gone would hold up the loop.
        start_new_thread(_look, (directory,))

    def later() -> None:
        agent.loop.later(_DELAY_S, look)

    agent.loop.call(later)


def _look(directory: str) -> None:
    for _ in range(_ATTEMPTS):
        try:
            os.stat(directory)
        except OSError:
            return
        time.sleep(_DELAY_S)
