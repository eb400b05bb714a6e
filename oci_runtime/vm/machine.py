"""The running machine: process, QMP session and hot-plug in one object with one `exited` future.

How a machine ends is told by three voices: QMP events (SHUTDOWN, GUEST_PANICKED), the process (pidfd) and us (`stop`).
`exited` completes when the process is gone; an event that announces the end gives QEMU half a second to go by itself.
"""

from __future__ import annotations

import asyncio
import resource
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oci_runtime.errors import OciRuntimeError, Unavailable
from oci_runtime.host.spawn import describe_exit
from oci_runtime.vm.console import LIMIT_BYTES
from oci_runtime.vm.hotplug import UNPLUG_DEADLINE_S, Hotplug, PluggedDevice
from oci_runtime.vm.launch import QemuLaunch
from oci_runtime.vm.process import QemuProcess
from oci_runtime.vm.qmp import CONNECT_DEADLINE_S, Events, Qmp
from oci_runtime.vm.vsock import AGENT_DEADLINE_S, connect_vsock

STOP_DEADLINE_S = 3.0
_LINGER_S = 0.5
_DRAIN_S = 1.0
# QMP's SHUTDOWN reasons → ours. The agent powers off and never resets: a reset is a panic (panic=-1) or a triple fault.
_REASONS = {
    "guest-shutdown": "shutdown",
    "guest-reset": "panic",
    "guest-panic": "panic",
    "host-qmp-quit": "stopped",
    "host-signal": "killed",
}


@dataclass(frozen=True)
class VmExit:
    """How the machine ended.

    reason: shutdown (the guest powered off), panic, stopped (by us), killed (QEMU got a signal from elsewhere), failed
    (QEMU gave up; detail has its messages). exit_code: QEMU's, or minus a signal's number.
    """

    reason: str
    exit_code: int
    detail: str = ""


class Machine:
    """A running QEMU. Made by `connect`; `stop` must be called in the end, also after `exited` completed.

    plug_share, plug_nic, plug_vfio, plug_disk, disk_bytes, resize_disk: those of Hotplug.
    """

    def __init__(self, process: QemuProcess, qmp: Qmp, events: Events) -> None:
        """Private: use `connect`."""
        self._process = process
        self._qmp = qmp
        self._events = events
        self._hotplug = hotplug = Hotplug(qmp, process.launch.settings)
        self.plug_share, self.plug_nic, self.plug_vfio = hotplug.plug_share, hotplug.plug_nic, hotplug.plug_vfio
        self.plug_disk, self.disk_bytes, self.resize_disk = hotplug.plug_disk, hotplug.disk_bytes, hotplug.resize_disk
        self._reason = ""
        self._stop_lock = asyncio.Lock()
        self.exited: asyncio.Future[VmExit] = asyncio.get_running_loop().create_future()
        self._watch_task = asyncio.create_task(self._watch_events(), name="qmp events")
        self._exit_task = asyncio.create_task(self._watch_exit(), name="qemu exit")

    @classmethod
    async def connect(
        cls,
        launch: QemuLaunch,
        console_log: Path,
        deadline_s: float = CONNECT_DEADLINE_S,
        console_bytes: int = LIMIT_BYTES,
    ) -> Machine:
        """Take over a launch: watch it, collect its console, open the QMP session. All of `launch` but its agent socket
        belongs to the machine from here on. console_bytes: how much of the console is kept.

        Raises: Unavailable, with QEMU's messages as detail, when it died or does not answer; HostError (console log).
        After a failure QEMU is dead and everything is closed.
        """
        process = QemuProcess(launch, console_log, console_bytes)
        try:
            qmp = await Qmp.connect(launch.qmp, deadline_s)
        except BaseException as error:
            try:
                failure = await process.explain(error) if isinstance(error, Unavailable) else error
            finally:
                process.kill()
                await asyncio.shield(process.ended)
                process.close()
            raise failure from error
        return cls(process, qmp, qmp.listen("SHUTDOWN", "GUEST_PANICKED"))

    @property
    def pid(self) -> int:
        return self._process.launch.pid

    @property
    def qmp(self) -> Qmp:
        """The session, for commands that have no method here."""
        return self._qmp

    async def connect_agent(self, deadline_s: float = AGENT_DEADLINE_S) -> socket.socket:
        """Return the stream to the guest's agent, which the caller owns. It may connect before the agent listens.

        serial: the other end of its port, at once; call it once. vsock: connects to the agent's port, again and again
        until the guest listens. Raises: Unavailable when the guest does not listen in time.
        """
        launch = self._process.launch
        if launch.agent is not None:
            return launch.agent
        return await connect_vsock(launch.settings.cid, deadline_s)

    def console_tail(self, lines: int = 40) -> str:
        """The last lines of the guest's console, safe to print; QEMU's own messages after them."""
        messages = self._process.messages()
        return "\n".join(filter(None, (self._process.console.tail(lines), messages and f"qemu: {messages}")))

    async def add_iommu(self, descriptor: int) -> str:
        """See Hotplug.add_iommu. The guest's memory is pinned for the devices, so QEMU may lock it all."""
        resource.prlimit(self.pid, resource.RLIMIT_MEMLOCK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return await self._hotplug.add_iommu(descriptor)

    async def unplug(self, device: PluggedDevice, deadline_s: float = UNPLUG_DEADLINE_S) -> None:
        """See Hotplug.unplug. A machine that has ended has no devices: no error."""
        if not self.exited.done():
            await self._hotplug.unplug(device, deadline_s)

    async def stop(self, deadline_s: float = STOP_DEADLINE_S) -> VmExit:
        """End the machine (quit, then SIGKILL after `deadline_s`) and close everything. Idempotent; returns the end.

        Orderly shutdown of the guest is the agent's business and comes before this.
        """
        async with self._stop_lock:
            if not self._process.ended.done():
                await self._quit(deadline_s)
            ended = await asyncio.shield(self._exit_task)
            self._watch_task.cancel()
            await asyncio.gather(self._watch_task, return_exceptions=True)
            self._events.close()
            await self._qmp.close()
            self._process.close()
            return ended

    async def _quit(self, deadline_s: float) -> None:
        self._reason = self._reason or "stopped"
        try:
            async with asyncio.timeout(deadline_s):
                await self._qmp.execute("quit", deadline_s=deadline_s)
                await asyncio.shield(self._process.ended)
        except (TimeoutError, OciRuntimeError):
            self._process.kill()

    async def _watch_events(self) -> None:
        async for event in self._events:
            self._note(event)

    def _note(self, event: Mapping[str, Any]) -> None:
        """Remember the first reason for the end, and see to it that the end comes."""
        reason = "panic" if event.get("event") == "GUEST_PANICKED" else ""
        reason = reason or _REASONS.get(str(event.get("data", {}).get("reason")), "killed")
        if not self._reason or (self._reason == "shutdown" and reason == "panic"):
            self._reason = reason
        asyncio.get_running_loop().call_later(_LINGER_S, self._process.kill)

    async def _watch_exit(self) -> VmExit:
        code = await self._process.ended
        await self._qmp.drain(_DRAIN_S)
        for event in self._events.pending():
            self._note(event)
        reason = self._reason or ("failed" if code >= 0 else "killed")
        detail = self._process.messages()
        if code < 0 and reason in ("killed", "failed"):
            detail = "\n".join(filter(None, (f"QEMU was {describe_exit(code)}", detail)))
        elif reason == "failed":
            detail = "\n".join(filter(None, (f"QEMU gave up: {describe_exit(code)}", detail)))
        ended = VmExit(reason, code, detail)
        self.exited.set_result(ended)
        return ended
