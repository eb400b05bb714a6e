"""What the guest tells of itself, turned into the pod's events."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from oci_runtime.agent.client import AgentClient
from oci_runtime.errors import OciRuntimeError
from oci_runtime.sandbox.events import EventFeed, SandboxEvent
from oci_runtime.sandbox.oom import OomNotices
from oci_runtime.sandbox.process import Container


async def follow_guest(
    agent: AgentClient, containers: Mapping[str, Container], notices: OomNotices, feed: EventFeed
) -> None:
    """Tell engines and followers of each out-of-memory kill; returns at the end of the guest."""
    sequence = 0
    with contextlib.suppress(OciRuntimeError):
        while True:
            event = await agent.next_event(sequence)
            if event is None:
                continue
            sequence = event.sequence
            container = containers.get(event.container_id)
            if event.kind == "oom" and container is not None:
                await notices.tell(container)
                feed.publish(SandboxEvent("oom", container.id))
