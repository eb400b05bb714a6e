"""Blocking calls in threads: who is cancelled waits for their end, and nothing that they return is lost."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from oci_runtime.errors import NotFound
from oci_runtime.sandbox.threads import in_thread


async def test_results_and_errors_come_back() -> None:
    def add(first: int, *, second: int) -> int:
        if second < 0:
            raise NotFound("no such number")
        return first + second

    assert await in_thread(add, 1, second=2) == 3
    with pytest.raises(NotFound, match="no such number"):
        await in_thread(add, 1, second=-1)


async def test_whoever_is_cancelled_waits_for_the_thread_and_gives_its_descriptor_back() -> None:
    begun, may_end = threading.Event(), threading.Event()
    opened: list[int] = []

    def open_late() -> int:
        begun.set()
        may_end.wait()
        opened.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
        return opened[0]

    working = asyncio.create_task(in_thread(open_late, discard=os.close))
    await asyncio.to_thread(begun.wait)
    working.cancel()
    await asyncio.sleep(0.01)
    assert not working.done(), "what follows would run beside the thread"
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await working
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


async def test_a_call_that_fails_after_the_cancellation_has_nothing_to_give_back() -> None:
    begun, may_end = threading.Event(), threading.Event()
    given_back: list[int] = []

    def fail_late() -> int:
        begun.set()
        may_end.wait()
        raise NotFound("too late")

    working = asyncio.create_task(in_thread(fail_late, discard=given_back.append))
    await asyncio.to_thread(begun.wait)
    working.cancel()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await working
    assert not given_back
