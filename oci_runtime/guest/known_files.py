"""Files of the share that the guest's kernel remembers: each holds a descriptor of virtiofsd, which has only so many.

The kernel forgets files when it needs their memory, and knows nothing of descriptors; beyond the last one programs
would be told EMFILE, or EBADF. So it is made to forget in time. Nothing announces a new file, but their number is at
hand.
"""

from __future__ import annotations

from oci_runtime.guest.log import log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.guest.agent import Agent

_NUMBER = "/sys/kernel/slab/fuse_inode/total_objects"
_FORGET = "/proc/sys/vm/drop_caches"
# No line on the console each time; page cache, which holds on to files, and with it names and files.
_ORDERS = ("4", "3")
# A guest that comes to know this many files a second gets no further than to half of what it may know in one pause.
_FILES_PER_S = 20_000
_SHORTEST_S = 0.02
_LONGEST_S = 10.0


class KnownFiles:
    """Keeps the number of known files well below `limit`, as far as they are not in use."""

    def __init__(self, agent: Agent, limit: int) -> None:
        self._agent = agent
        self._limit = limit
        self._most = limit // 2
        self._pause_s = min(max(limit / 2 / _FILES_PER_S, _SHORTEST_S), _LONGEST_S)

    def watch(self) -> None:
        """Look from time to time, for as long as the guest lives. Call in the loop's thread."""
        try:
            known = count_known()
        except OSError as error:
            log(f"known files of the share cannot be counted: {error}")
            return
        if known > self._most:
            self._agent.workers.submit(self._forget)
        else:
            self._later()

    def _later(self) -> None:
        self._agent.loop.later(self._pause_s, self.watch)

    def _forget(self) -> None:
        """In a worker: a share that hangs may hold it up. What is in use stays known, and is no reason to try again."""
        try:
            for order in _ORDERS:
                with open(_FORGET, "w", encoding="ascii") as file:
                    file.write(order)
            self._most = max(self._limit // 2, count_known() + self._limit // 4)
        except OSError as error:
            log(f"known files of the share cannot be forgotten: {error}")
            return
        self._agent.loop.soon(self._later)


def count_known() -> int:
    """How many files of virtio-fs the kernel remembers. Raises OSError."""
    with open(_NUMBER, encoding="ascii") as file:
        return int(file.read().split()[0])
