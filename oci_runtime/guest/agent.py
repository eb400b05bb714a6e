"""The agent's state: what the handlers of all methods share."""

from __future__ import annotations

from _thread import RLock

from oci_runtime.errors import NotFound
from oci_runtime.guest.events import Events
from oci_runtime.guest.flag import Flag
from oci_runtime.guest.loop import Loop
from oci_runtime.guest.server import Workers

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.guest.containers import Container
    from oci_runtime.guest.processes import Process
    from oci_runtime.guest.reaper import Reaper
    from oci_runtime.ttrpc.proto import agent_lean as pb


class Agent:
    """One per guest. `lock` guards the tables and is never held while something blocks."""

    def __init__(self, loop: Loop, *, is_init: bool) -> None:
        """is_init: the agent is PID 1 of a guest, and not of a test's namespaces."""
        self.loop = loop
        self.is_init = is_init
        self.reaper: Reaper  # set by prepare.py, before `prepared`
        self.prepared = Flag()
        self.workers = Workers()
        self.events = Events(loop)
        self.lock = RLock()
        self.greeted = False
        self.sandbox_id = ""
        self.phases: list[tuple[str, int]] = []
        self.containers: dict[str, Container] = {}
        self.trees: dict[str, dict[str, pb.TreeEntry]] = {}  # by target: what SyncTree has put there
        self.storages: dict[str, str] = {}  # target: driver, in the order in which they were mounted

    def container(self, container_id: str) -> Container:
        """The container of that name. Raises NotFound."""
        with self.lock:
            container = self.containers.get(container_id)
        if container is None:
            raise NotFound(f"container {container_id!r} does not exist in the guest")
        return container

    def process(self, container_id: str, exec_id: str) -> Process:
        """A container's first process (exec_id is empty) or one of its execs. Raises NotFound."""
        container = self.container(container_id)
        with self.lock:
            process = container.processes.get(exec_id)
        if process is None:
            what = f"exec {exec_id!r} of container" if exec_id else "first process of container"
            raise NotFound(f"{what} {container_id!r} does not exist in the guest")
        return process
