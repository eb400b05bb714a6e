"""The cases of every agent, on one that runs in namespaces of this machine."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.agent_cases import *  # noqa: F403 - pytest collects them here
from tests.agent_lab import Guest
from tests.agent_stream_cases import *  # noqa: F403
from tests.host.agent_host import make_rootfs, running_agent

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guest(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Guest]:
    rootfs = make_rootfs(tmp_path_factory.mktemp("agent") / "rootfs")
    async with running_agent(rootfs) as guest:
        yield guest
