"""The event queue: order, repetition, the second channel, bounds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from oci_runtime.errors import Unavailable
from oci_runtime.shim import events
from oci_runtime.shim.proto.events_pb2 import TaskOOM, TaskStart
from oci_runtime.shim.proto.forward_pb2 import Envelope


class Channel:
    """Takes events, or refuses the first `failures` of them."""

    def __init__(self, failures: int = 0) -> None:
        self.failures = failures
        self.topics: list[str] = []

    async def send(self, envelope: Envelope) -> None:
        await asyncio.sleep(0)
        if self.failures:
            self.failures -= 1
            raise Unavailable("not now")
        self.topics.append(envelope.topic)

    async def close(self) -> None: ...


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "RETRY_FIRST_S", 0.001)
    monkeypatch.setattr(events, "RETRY_LAST_S", 0.002)


@contextlib.asynccontextmanager
async def running(*channels: Channel) -> AsyncIterator[events.EventPublisher]:
    publisher = events.EventPublisher("ns", channels)
    task = asyncio.create_task(publisher.run())
    yield publisher
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_order_is_kept_through_failures() -> None:
    channel = Channel(failures=5)
    async with running(channel) as publisher:
        for number in range(20):
            publisher.publish(f"/t/{number}", TaskStart(container_id="c"))
        assert await publisher.flush(5)
    assert channel.topics == [f"/t/{number}" for number in range(20)]


async def test_the_second_channel_takes_what_the_first_refuses() -> None:
    first, second = Channel(failures=1), Channel()
    async with running(first, second) as publisher:
        publisher.publish("/a", TaskOOM())
        publisher.publish("/b", TaskOOM())
        assert await publisher.flush(5)
    assert (first.topics, second.topics) == (["/b"], ["/a"])


async def test_what_is_too_old_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_AGE_S", 0.05)
    channel = Channel(failures=1000)
    async with running(channel) as publisher:
        publisher.publish("/a", TaskOOM())
        assert await publisher.flush(5)
    assert channel.topics == []


async def test_the_queue_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MAX_QUEUED", 10)
    channel = Channel()
    publisher = events.EventPublisher("ns", [channel])
    for number in range(15):
        publisher.publish(f"/t/{number}", TaskOOM())
    task = asyncio.create_task(publisher.run())
    assert await publisher.flush(5)
    task.cancel()
    assert channel.topics == [f"/t/{number}" for number in range(5, 15)]


async def test_without_channels_nothing_is_kept() -> None:
    async with running() as publisher:
        publisher.publish("/a", TaskOOM())
        assert await publisher.flush(1)


async def test_flush_tells_that_nobody_took_the_events() -> None:
    async with running(Channel(failures=10**6)) as publisher:
        publisher.publish("/a", TaskOOM())
        assert not await publisher.flush(0.05)
