"""Steps of which each is taken, whatever became of those before it: how things are taken away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from oci_runtime.log import get_logger

log = get_logger(__name__)

Step = tuple[str, Callable[[], Awaitable[object]]]


async def try_all(steps: Iterable[Step], timeout_s: float | None = None) -> Exception | None:
    """Take the named steps in order, each with a deadline; failures are logged. Returns the first of them."""
    first: Exception | None = None
    for name, step in steps:
        try:
            await asyncio.wait_for(step(), timeout_s)
        except Exception as error:  # noqa: BLE001 - the other steps must be tried whatever this one does
            log.error("cannot undo", step=name, reason=repr(error))
            first = first or error
    return first
