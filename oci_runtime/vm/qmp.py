"""QMP over the inherited socket, by qemu.qmp: every command has a deadline, every failure one of our kinds.

Only this module imports qemu.qmp.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any

from qemu.qmp import EventListener, ExecuteError, QMPClient, QMPError, Runstate

from oci_runtime.errors import NotFound, OciRuntimeError, Unavailable, Unsupported

COMMAND_DEADLINE_S = 10.0
CONNECT_DEADLINE_S = 30.0
_KINDS = {"CommandNotFound": Unsupported, "DeviceNotFound": NotFound}


class Qmp:
    """One QMP session. Commands may be sent from several tasks; those that carry descriptors are serialised."""

    def __init__(self, client: QMPClient) -> None:
        self._client = client
        self._descriptor_lock = asyncio.Lock()

    @classmethod
    async def connect(cls, qmp_socket: socket.socket, deadline_s: float = CONNECT_DEADLINE_S) -> Qmp:
        """Greet and negotiate. The socket belongs to the session from here on. Raises: Unavailable."""
        client = QMPClient("vmpod")
        qmp_socket.setblocking(False)
        try:
            async with asyncio.timeout(deadline_s):
                await client.connect(qmp_socket)
        except TimeoutError as error:
            raise Unavailable(f"QEMU: no QMP greeting within {deadline_s:g} s") from error
        except (QMPError, OSError, EOFError) as error:
            raise Unavailable(f"QEMU: QMP session failed: {error}") from error
        return cls(client)

    async def execute(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        fd: int | None = None,
        deadline_s: float = COMMAND_DEADLINE_S,
    ) -> Any:
        """Run a command, with a descriptor (borrowed) if given, and return its result.

        Raises: OciRuntimeError or a kind of it with QEMU's text (QEMU said no), Unavailable (no answer in time or QEMU
        is gone: the outcome is unknown).
        """
        try:
            async with asyncio.timeout(deadline_s):
                if fd is None:
                    return await self._client.execute(command, dict(arguments or {}))
                async with self._descriptor_lock:
                    self._client.send_fd_scm(fd)
                    return await self._client.execute(command, dict(arguments or {}))
        except TimeoutError as error:
            raise Unavailable(f"QEMU: no answer to {command} within {deadline_s:g} s") from error
        except ExecuteError as error:
            kind = _KINDS.get(error.error_class, OciRuntimeError)
            raise kind(f"QEMU refused {command}: {' '.join(str(error).split())}") from error
        except (QMPError, OSError, EOFError) as error:
            raise Unavailable(f"QEMU: lost during {command}: {error}") from error

    def listen(self, *names: str) -> Events:
        """Collect events of these names from now on, until the listener is closed."""
        return Events(self._client, names)

    async def drain(self, deadline_s: float) -> None:
        """Wait until QEMU has closed the connection: every event that it sent has then been queued."""
        try:
            async with asyncio.timeout(deadline_s):
                while self._client.runstate == Runstate.RUNNING:
                    await self._client.runstate_changed()
        except TimeoutError:
            return

    async def close(self) -> None:
        """End the session; idempotent, and content with a QEMU that is gone."""
        try:
            async with asyncio.timeout(COMMAND_DEADLINE_S):
                await self._client.disconnect()
        except (TimeoutError, QMPError, OSError, EOFError):
            return


class Events:
    """A queue of QMP events. It goes quiet when QEMU dies: wait on the machine's exit beside it."""

    def __init__(self, client: QMPClient, names: tuple[str, ...]) -> None:
        self._client = client
        self._closed = False
        self._listener = EventListener(names)
        client.register_listener(self._listener)

    def __aiter__(self) -> AsyncIterator[Mapping[str, Any]]:
        return self._events()

    async def _events(self) -> AsyncIterator[Mapping[str, Any]]:
        async for message in self._listener:
            yield message

    def pending(self) -> list[Mapping[str, Any]]:
        """Take the events that are queued now."""
        return list(self._listener.clear())

    def close(self) -> None:
        """Stop collecting; idempotent."""
        if not self._closed:
            self._closed = True
            self._client.remove_listener(self._listener)
