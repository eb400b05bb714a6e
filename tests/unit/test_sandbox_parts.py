"""Rendezvous of processes and stand-ins, the feed of events: the parts of a sandbox process that need no machine."""

from __future__ import annotations

import asyncio

import pytest

from oci_runtime.errors import Unavailable
from oci_runtime.sandbox.arrivals import Arrivals
from oci_runtime.sandbox.events import EventFeed, SandboxEvent
from oci_runtime.sandbox.process import Container, Process, Status

KEY = ("c", "e")


async def test_all_who_wait_get_the_process() -> None:
    arrivals = Arrivals()
    first, second = arrivals.expect(KEY), arrivals.expect(KEY)
    process = Process("c", "e", terminal=False)
    assert arrivals.arrive(process)
    assert await first is await second is process


async def test_a_stand_in_that_went_before_the_request_was_read_leaves_no_orphan() -> None:
    arrivals = Arrivals()
    arrivals.expect(KEY)
    arrivals.abandon(KEY)
    assert not arrivals.arrive(Process("c", "e", terminal=False))
    assert arrivals.arrive(Process("c", "e", terminal=False)), "the mark was for one process"


async def test_a_name_that_is_used_again_is_wanted_again() -> None:
    arrivals = Arrivals()
    arrivals.abandon(KEY)
    arrivals.expect(KEY)
    assert arrivals.arrive(Process("c", "e", terminal=False))
    arrivals.abandon(KEY)
    arrivals.forget(KEY)
    assert arrivals.arrive(Process("c", "e", terminal=False))


async def test_marks_of_processes_that_never_come_are_bounded() -> None:
    arrivals = Arrivals()
    for number in range(5000):
        arrivals.abandon(("c", str(number)))
    assert len(arrivals._abandoned) == 1024
    assert not arrivals.arrive(Process("c", "4999", terminal=False))


async def test_those_who_wait_learn_of_the_end() -> None:
    arrivals = Arrivals()
    waiting = arrivals.expect(KEY)
    arrivals.close(Unavailable("the pod has ended"))
    with pytest.raises(Unavailable, match="the pod has ended"):
        await waiting


async def test_events_are_kept_from_the_subscription_on() -> None:
    feed = EventFeed()
    feed.publish(SandboxEvent("created", "a"))
    followed = feed.follow()
    feed.publish(SandboxEvent("started", "a"))
    feed.close()
    assert [event.kind async for event in followed] == ["started"]


async def test_whoever_comes_after_the_end_does_not_wait() -> None:
    feed = EventFeed()
    feed.close()
    assert [event async for event in feed.follow()] == []


async def test_a_reader_that_sleeps_costs_a_bounded_memory_and_still_ends() -> None:
    feed = EventFeed()
    followed = feed.follow()
    for number in range(3000):
        feed.publish(SandboxEvent("oom", str(number)))
    feed.close()
    received = [event.container_id async for event in followed]
    assert received[-1] == "2999" and len(received) == 1023


async def test_what_waits_for_a_resume_wakes_at_the_end_as_well() -> None:
    container = Container("c", "/b", {})
    for status in (Status.CREATED, Status.RUNNING, Status.PAUSED):
        container.move(status)
    waiting = asyncio.create_task(container.unpaused.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    container.move(Status.STOPPED)
    assert await waiting
