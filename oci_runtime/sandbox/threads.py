"""Blocking calls in threads of their own. A thread cannot be stopped: who is cancelled has to wait for its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

_T = TypeVar("_T")


async def in_thread(
    function: Callable[..., _T], *arguments: Any, discard: Callable[[_T], object] | None = None, **named: Any
) -> _T:
    """Run a blocking call in a thread and return what it returns.

    Cancelled, it returns only after the call has: an undo must not run beside what it undoes. discard: takes a result
    that nobody gets then, such as an open descriptor.
    """
    work = asyncio.ensure_future(asyncio.to_thread(function, *arguments, **named))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        if discard is not None:
            work.add_done_callback(lambda done: _hand_over(done, discard))
        await asyncio.wait([work])
        raise


def _hand_over(done: asyncio.Future[_T], discard: Callable[[_T], object]) -> None:
    if not done.cancelled() and done.exception() is None:
        discard(done.result())
