"""Out-of-memory kills in the guest, told to engines that look for them on the host, where none happens.

CRI-O and podman look for an empty file `oom` in the bundle, which conmon makes otherwise. containerd's shim for OCI
runtimes watches the cgroup of the container's process, and passes the kernel's news on to containerd as an event; it
leaves the address of containerd's event service in the environment of its runtime, which sends that event itself.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from typing import Any

from oci_runtime.errors import OciRuntimeError
from oci_runtime.log import get_logger
from oci_runtime.sandbox.process import Container
from oci_runtime.ttrpc.client import TtrpcClient
from oci_runtime.ttrpc.lean import Message, build

log = get_logger(__name__)
FORWARD_SERVICE = "containerd.services.events.ttrpc.v1.Events"
TOPIC = "/tasks/oom"
# The end of the container waits for it: engines must hear of the reason first.
TELL_S = 3.0
# containerd's messages, and protobuf's own in them, as far as an event needs them.
_MESSAGES: dict[str, tuple[tuple[int, str, str, str], ...]] = {
    "google.protobuf.Timestamp": ((1, "seconds", "i", ""), (2, "nanos", "i", "")),
    "google.protobuf.Any": ((1, "type_url", "s", ""), (2, "value", "b", "")),
    "containerd.events.TaskOOM": ((1, "container_id", "s", ""),),
    "Envelope": (
        (1, "timestamp", "m", "google.protobuf.Timestamp"),
        (2, "namespace", "s", ""),
        (3, "topic", "s", ""),
        (4, "event", "m", "google.protobuf.Any"),
    ),
    "ForwardRequest": ((1, "envelope", "m", "Envelope"),),
}


class OomNotices:
    """Tells of each container's first kill: one is enough for every engine, and a guest can make many."""

    def __init__(self, address: str = "", namespace: str = "") -> None:
        """address: the ttRPC socket of containerd's event service, "" for none. namespace: containerd's, of the pod."""
        self._address = address
        self._namespace = namespace

    async def tell(self, container: Container) -> None:
        """Return once everybody was told, or could not be; the log has the reason then. Safe to cancel."""
        container.oom_killed = True
        if container.oom_notice is None:
            container.oom_notice = asyncio.create_task(self._tell(container))
        await asyncio.shield(container.oom_notice)

    async def _tell(self, container: Container) -> None:
        _mark_bundle(container)
        if not self._address:
            return
        try:
            async with asyncio.timeout(TELL_S):
                await _forward(self._address, plan_event(self._namespace, container.id, time.time_ns()))
        except (OciRuntimeError, OSError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            log.warning("cannot tell containerd of an out-of-memory kill", container=container.id, reason=reason)


def plan_event(namespace: str, container_id: str, time_ns: int) -> bytes:
    """The request by which a shim tells containerd that a container ran out of memory."""
    seconds, nanos = divmod(time_ns, 10**9)
    event = _message("containerd.events.TaskOOM", container_id=container_id)
    packed = _message("google.protobuf.Any", type_url=event.NAME, value=event.SerializeToString())
    timestamp = _message("google.protobuf.Timestamp", seconds=seconds, nanos=nanos)
    envelope = _message("Envelope", timestamp=timestamp, namespace=namespace, topic=TOPIC, event=packed)
    return _message("ForwardRequest", envelope=envelope).SerializeToString()


def _message(name: str, **values: Any) -> Message:
    return _class(name)(**values)


def _class(name: str) -> type[Message]:
    return build(name, _MESSAGES[name], _class)


async def _forward(address: str, request: bytes) -> None:
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, address)
        client = await TtrpcClient.connect(sock, "containerd")
    except BaseException:
        sock.close()
        raise
    try:
        await client.call(FORWARD_SERVICE, "Forward", request, TELL_S)
    finally:
        await client.close()


def _mark_bundle(container: Container) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        os.close(os.open(os.path.join(container.bundle, "oom"), flags, 0o644))
    except OSError as error:
        log.warning("cannot mark an out-of-memory kill", container=container.id, reason=str(error))
