"""Frames of the control socket: 4-byte big-endian length, then one JSON object in UTF-8; descriptors ride along.

The first half is sans-I/O and shared with the asyncio server of the sandbox process; the second half moves frames over
a blocking Unix stream socket for the command line. Only light modules are imported: thin verbs pay for every one.
"""

from __future__ import annotations

import _socket
import os
import struct

from oci_runtime import json_text
from oci_runtime.errors import HostError, InvalidInput, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

MAX_FRAME_BYTES = 16 << 20
MAX_FDS = 200
HEADER = struct.Struct(">I")
_FD = struct.Struct("=i")


class ConnectionLost(Unavailable):
    """The connection broke or fell silent: there was no answer, as opposed to one that reports an error."""


class Silent(ConnectionLost):
    """The sandbox process lives, but did not answer in time."""


def encode_frame(message: dict[str, Any]) -> bytes:
    """Return the frame of a JSON object. Raises InvalidInput when it exceeds MAX_FRAME_BYTES."""
    body = json_text.dumps(message).encode()
    if len(body) > MAX_FRAME_BYTES:
        raise InvalidInput(f"control message of {len(body)} bytes exceeds {MAX_FRAME_BYTES} bytes")
    return HEADER.pack(len(body)) + body


def decode_body(body: bytes | bytearray) -> dict[str, Any]:
    """Return the object in a frame's body. Raises InvalidInput for anything but a JSON object."""
    try:
        message = json_text.loads(body)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"control message is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise InvalidInput(f"control message is a JSON {type(message).__name__}, not an object")
    return message


def body_length(header: bytes | bytearray) -> int:
    """Return the body length that a 4-byte header announces. Raises InvalidInput above MAX_FRAME_BYTES."""
    (length,) = HEADER.unpack(header)
    if length > MAX_FRAME_BYTES:
        raise InvalidInput(f"control message of {length} bytes exceeds {MAX_FRAME_BYTES} bytes")
    return int(length)


def pack_fds(fds: Sequence[int]) -> list[tuple[int, int, bytes]]:
    """Return the ancillary data that carries `fds`. Raises InvalidInput above MAX_FDS."""
    if len(fds) > MAX_FDS:
        raise InvalidInput(f"{len(fds)} descriptors exceed the {MAX_FDS} of one control message")
    if not fds:
        return []
    return [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, b"".join(_FD.pack(fd) for fd in fds))]


def unpack_fds(ancillary: Sequence[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors in received ancillary data; the caller owns them."""
    fds: list[int] = []
    for level, kind, data in ancillary:
        if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS:
            whole = len(data) - len(data) % _FD.size
            fds += [number for (number,) in _FD.iter_unpack(data[:whole])]
    return fds


def send_frame(sock: _socket.socket, message: dict[str, Any], fds: Sequence[int] = ()) -> None:
    """Send one frame, its descriptors on the first byte.

    Raises ConnectionLost when the peer is gone, Silent, HostError when this side cannot send.
    """
    frame = encode_frame(message)
    try:
        sent = sock.sendmsg([frame], pack_fds(fds), _socket.MSG_NOSIGNAL)
        if sent < len(frame):
            sock.sendall(frame[sent:], _socket.MSG_NOSIGNAL)
    except TimeoutError as error:
        raise Silent(f"the sandbox process took no request within {sock.gettimeout():g} s") from error
    except ConnectionError as error:
        raise ConnectionLost(f"control socket: cannot send: {error.strerror or error}") from error
    except OSError as error:
        raise HostError.from_oserror(error, "send", "request to the sandbox process") from error


def receive_frame(sock: _socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Receive exactly one frame and not a byte more; return the message and its descriptors (close-on-exec).

    Raises ConnectionLost on end of stream or reset, Silent on timeout; InvalidInput for a malformed frame; HostError
    when this side cannot receive. Then no descriptor stays open.
    """
    fds: list[int] = []
    try:
        header = _receive_exactly(sock, HEADER.size, fds)
        body = _receive_exactly(sock, body_length(header), fds)
        return decode_body(body), fds
    except BaseException:
        for fd in fds:
            os.close(fd)
        raise


def _receive_exactly(sock: _socket.socket, count: int, fds: list[int]) -> bytearray:
    data = bytearray()
    space = _socket.CMSG_SPACE(MAX_FDS * _FD.size)
    while len(data) < count:
        try:
            chunk, ancillary, flags, _ = sock.recvmsg(min(count - len(data), 1 << 18), space, _socket.MSG_CMSG_CLOEXEC)
        except TimeoutError as error:
            raise Silent(f"the sandbox process did not answer within {sock.gettimeout():g} s") from error
        except ConnectionError as error:
            raise ConnectionLost(f"control socket: connection lost: {error.strerror or error}") from error
        except OSError as error:
            raise HostError.from_oserror(error, "receive", "answer of the sandbox process") from error
        fds += unpack_fds(ancillary)
        if flags & _socket.MSG_CTRUNC or len(fds) > MAX_FDS:
            raise InvalidInput(f"control message carries more than {MAX_FDS} descriptors")
        if not chunk:
            raise ConnectionLost("control socket: the sandbox process closed the connection")
        data += chunk
    return data
