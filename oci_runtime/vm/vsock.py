"""The stream to the agent over AF_VSOCK, for hosts with vhost-vsock."""

from __future__ import annotations

import asyncio
import errno
import socket
from typing import Any

from oci_runtime.errors import HostError, Unavailable

AGENT_PORT = 1024
AGENT_DEADLINE_S = 60.0
_RETRY_S = 0.01
# What connect says while the guest boots: no such guest yet, nobody listens, no answer in time.
_NOT_YET = frozenset((errno.ENODEV, errno.ECONNREFUSED, errno.ECONNRESET, errno.ETIMEDOUT, errno.EHOSTUNREACH))


async def connect_vsock(cid: int, deadline_s: float) -> socket.socket:
    """Connect to the agent's port of a guest, trying until it listens there.

    Raises: Unavailable after `deadline_s`, HostError (no vsock support).
    """
    return await connect_patiently(socket.AF_VSOCK, (cid, AGENT_PORT), f"guest {cid} port {AGENT_PORT}", deadline_s)


async def connect_patiently(family: int, address: Any, what: str, deadline_s: float) -> socket.socket:
    """Connect a stream socket, again and again while the peer is not there yet. Raises: Unavailable, HostError."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(deadline_s):
            while True:
                stream = _make_socket(family, what)
                try:
                    await loop.sock_connect(stream, address)
                    return stream
                except OSError as error:
                    stream.close()
                    if error.errno not in _NOT_YET:
                        raise HostError.from_oserror(error, "connect", what) from error
                except BaseException:
                    stream.close()
                    raise
                await asyncio.sleep(_RETRY_S)
    except TimeoutError as error:
        raise Unavailable(f"{what}: nobody listens within {deadline_s:g} s") from error


def _make_socket(family: int, what: str) -> socket.socket:
    try:
        stream = socket.socket(family)
    except OSError as error:
        raise HostError.from_oserror(error, "socket", what, hint='modprobe vsock, or transport = "serial"') from error
    stream.setblocking(False)
    return stream
