"""The cases of every agent, on one that is PID 1 of a virtual machine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.agent_cases import *  # noqa: F403 - pytest collects them here
from tests.agent_lab import Guest
from tests.agent_stream_cases import *  # noqa: F403
from tests.vm.agent_guest import booted_guest

pytestmark = [pytest.mark.vm, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guest() -> AsyncIterator[Guest]:
    async with booted_guest() as guest:
        yield guest
