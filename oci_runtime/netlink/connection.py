"""A netlink socket: requests that are acknowledged, dumps, and multicast events.

The socket belongs to the network namespace of the thread that makes it and may be used from any other thread later.
"""

from __future__ import annotations

import _socket as socket  # the guest does without the parts of `socket` that take time to import
import errno
import os
import struct
import sys

from oci_runtime.netlink import codec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Self

NETLINK_ROUTE = 0
NETLINK_NETFILTER = 12
_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_SO_RCVBUFFORCE = 33
_NLMSGERR_ATTR_MSG = 1

_RECEIVE_BYTES = 1 << 18
_EVENT_BUFFER_BYTES = 1 << 20
_DEADLINE = struct.pack("@ll", 10, 0)
_MAX_DUMP_TRIES = 20


class NetlinkError(OSError):
    """The kernel refused a request. `errno` is its number; the text carries the kernel's own words, if it gave any."""


class Connection:
    """A netlink socket of one family. Not safe for use by two threads at once."""

    def __init__(self, family: int = NETLINK_ROUTE, groups: Iterable[int] = ()) -> None:
        """groups: RTNLGRP_* numbers whose events this socket is to receive. Raises OSError."""
        self._sequence = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        try:
            for option in (_NETLINK_EXT_ACK, _NETLINK_CAP_ACK):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
            # A kernel that answers late is a kernel in trouble: better an error than a thread that never returns.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _DEADLINE)
            self._socket.bind((0, 0))
            for group in groups:
                self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, group)
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; idempotent."""
        self._socket.close()

    def fileno(self) -> int:
        """The descriptor, for a selector."""
        return self._socket.fileno()

    def request(self, kind: int, body: bytes, flags: int = 0) -> None:
        """Ask for one change and wait for its acknowledgement. Raises NetlinkError."""
        self.batch([(kind, body, flags)])

    def batch(
        self,
        requests: Iterable[tuple[int, bytes, int]],
        *,
        begin: tuple[int, bytes] | None = None,
        end: tuple[int, bytes] | None = None,
    ) -> None:
        """Ask for several changes, (type, body, flags) each, in one system call; the first refusal is raised.

        The kernel works through all of them in order, also behind a refused one, unless `begin` and `end`, messages
        that are not acknowledged, make a transaction of them.
        """
        data = bytearray(self._unacknowledged(begin))
        opening = self._sequence
        waiting = set()
        for kind, body, flags in requests:
            self._sequence += 1
            waiting.add(self._sequence)
            data += codec.message(kind, codec.NLM_F_REQUEST | codec.NLM_F_ACK | flags, self._sequence, body)
        if not waiting:
            return
        data += self._unacknowledged(end)
        self._socket.send(data)
        failure: NetlinkError | None = None
        while waiting:
            for answer, flags, sequence, body in self._receive():
                if answer != codec.NLMSG_ERROR or sequence < opening:
                    continue
                waiting.discard(sequence)
                failure = failure or _failure(flags, body)
                if sequence == opening and begin is not None:
                    waiting.clear()
        if failure is not None:
            raise failure

    def _unacknowledged(self, request: tuple[int, bytes] | None) -> bytes:
        if request is None:
            return b""
        self._sequence += 1
        return codec.message(request[0], codec.NLM_F_REQUEST, self._sequence, request[1])

    def get(self, kind: int, body: bytes) -> bytes:
        """Ask for one object; return its message body. Raises NetlinkError."""
        self._sequence += 1
        self._socket.send(codec.message(kind, codec.NLM_F_REQUEST, self._sequence, body))
        while True:
            for answer, flags, sequence, data in self._receive():
                if sequence != self._sequence:
                    continue
                if answer == codec.NLMSG_ERROR:
                    raise _failure(flags, data) or NetlinkError(errno.ENODATA, os.strerror(errno.ENODATA))
                return data

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """All objects of a kind, as message bodies. A dump that a change interrupted is read again.

        Raises NetlinkError, also (EINTR) when the table never holds still.
        """
        for _ in range(_MAX_DUMP_TRIES):
            found, interrupted = self._dump_once(kind, body)
            if not interrupted:
                return found
        raise NetlinkError(errno.EINTR, "the table changed while it was read, many times in a row")

    def _dump_once(self, kind: int, body: bytes) -> tuple[list[bytes], bool]:
        self._sequence += 1
        self._socket.send(codec.message(kind, codec.NLM_F_REQUEST | codec.NLM_F_DUMP, self._sequence, body))
        found: list[bytes] = []
        interrupted = False
        while True:
            for answer, flags, sequence, data in self._receive():
                if sequence != self._sequence:
                    continue
                interrupted |= bool(flags & codec.NLM_F_DUMP_INTERRUPTED)
                if answer == codec.NLMSG_DONE:
                    return found, interrupted
                if answer == codec.NLMSG_ERROR:
                    raise _failure(flags, data) or NetlinkError(errno.ENODATA, os.strerror(errno.ENODATA))
                found.append(data)

    def events(self) -> Iterator[tuple[int, bytes]]:
        """Events that wait now, as (type, body), without blocking. Raises OSError(ENOBUFS) when some were lost."""
        while True:
            try:
                data = self._socket.recv(_RECEIVE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            for kind, _, _, body in codec.iterate_messages(data):
                yield kind, body

    def forget_events(self) -> None:
        """Drop the events that wait now, lost ones as well: for those who look at the present state themselves."""
        try:
            for _ in self.events():
                pass
        except OSError:
            return

    def enlarge_buffer(self) -> None:
        """Make room for bursts of events."""
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _EVENT_BUFFER_BYTES)

    def wait(self, timeout_s: float) -> bool:
        """Wait for events; tell whether any came."""
        import select

        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(max(0, int(timeout_s * 1000))))

    def _receive(self) -> Iterator[tuple[int, int, int, bytes]]:
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            raise NetlinkError(errno.ETIMEDOUT, "the kernel did not answer") from None
        return codec.iterate_messages(data)


def _failure(flags: int, body: bytes) -> NetlinkError | None:
    """The error that an acknowledgement carries, None when it reports success."""
    number = -int.from_bytes(body[:4], sys.byteorder, signed=True)
    if number == 0:
        return None
    reason = os.strerror(number)
    if flags & codec.NLM_F_ACK_TLVS:
        # With NETLINK_CAP_ACK only the header of the refused request is quoted.
        quoted = codec.HEADER.size if flags & codec.NLM_F_CAPPED else int.from_bytes(body[4:8], sys.byteorder)
        words = codec.parse_text(codec.parse_attributes(body, 4 + quoted).get(_NLMSGERR_ATTR_MSG))
        reason = f"{reason}: {words}" if words else reason
    return NetlinkError(number, reason)
