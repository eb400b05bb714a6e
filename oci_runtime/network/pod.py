"""A pod's network namespace on the host's side: one thread that lives in it, and what that thread has built there.

Everything that needs the namespace (netlink sockets, taps, listening sockets, /proc/sys/net) runs in that thread, one
after another; the event loop's thread never leaves the host's namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, ThreadPoolExecutor
from typing import Any, TypeVar

from oci_runtime.errors import HostError, OciRuntimeError
from oci_runtime.host import syscalls
from oci_runtime.log import get_logger
from oci_runtime.netlink import requests
from oci_runtime.netlink.connection import Connection
from oci_runtime.netlink.objects import parse_neighbour
from oci_runtime.network import namespace, nftables, resolver
from oci_runtime.network.apply import AppliedNic, apply_nic, hear_answers, update_nic
from oci_runtime.network.claim import Claim, claim_namespace
from oci_runtime.network.leftovers import clean_devices
from oci_runtime.network.plan import NicPlan
from oci_runtime.network.snapshot import NamespaceSnapshot, take_snapshot
from oci_runtime.network.sysctls import BORN_PORT_RANGE, PORT_RANGE, read_sysctl, write_sysctl
from oci_runtime.network.traffic import OWN_PORTS

log = get_logger(__name__)
_T = TypeVar("_T")

_GROUPS = (
    requests.RTNLGRP_LINK,
    requests.RTNLGRP_NEIGH,
    requests.RTNLGRP_IPV4_IFADDR,
    requests.RTNLGRP_IPV4_ROUTE,
    requests.RTNLGRP_IPV4_RULE,
    requests.RTNLGRP_IPV6_IFADDR,
    requests.RTNLGRP_IPV6_ROUTE,
    requests.RTNLGRP_IPV6_RULE,
)
_LISTEN_BACKLOG = 512
_IP_FREEBIND = 15
_IPV6_FREEBIND = 78


class PodNamespace:
    """The namespace of one pod, open until `close`. Make it with `open`."""

    def __init__(self, fd: int, name: str) -> None:
        self.name = name
        self.identity = namespace.identify(fd)
        self.nics: dict[int, AppliedNic] = {}
        self._fd = fd
        self._thread = ThreadPoolExecutor(1, "netns", syscalls.setns, (fd, syscalls.CLONE_NEWNET))
        self._connection: Connection | None = None
        self._events: Connection | None = None
        self._claim: Claim | None = None
        self._redirected = False
        self._hears_answers = False
        self._port_range = ""
        self._closed = False

    @classmethod
    async def open(
        cls, fd: int, sandbox_id: str, is_own: Callable[[int], bool] = lambda _: False, name: str = ""
    ) -> PodNamespace:
        """Take possession of the namespace behind `fd` (owned from the call on, closed by `close` or on failure).

        is_own: whether a process that lives in it is ours. name: for errors. Raises InvalidInput for what is no network
        namespace, is the host's, or is used by a process that is not of the pod; AlreadyExists when another pod has it;
        HostError. After a failure nothing was touched.
        """
        try:
            namespace.check_is_network(fd, name)
            namespace.refuse_host_network(fd, name)
            pod = cls(fd, name)
        except BaseException:
            os.close(fd)
            raise
        try:
            users = asyncio.to_thread(namespace.refuse_foreign_users, fd, is_own, name)
            await asyncio.gather(pod._run(pod._prepare, sandbox_id), users)
        except BaseException:
            await pod.close()
            raise
        return pod

    def _prepare(self, sandbox_id: str) -> None:
        self._claim = claim_namespace(sandbox_id)
        try:
            self._connection = Connection()
            self._events = Connection(groups=_GROUPS)
            self._events.enlarge_buffer()
            clean_devices(self._connection)
        except OSError as error:
            raise HostError.from_oserror(error, "netlink", self.name or "network namespace") from error

    @property
    def own_indexes(self) -> frozenset[int]:
        """The devices that were made for the pod."""
        return frozenset(nic.own_index for nic in self.nics.values() if nic.own_index)

    async def snapshot(self) -> NamespaceSnapshot:
        """Read the namespace, without what was changed for the pod. Raises HostError."""
        return await self._run(self._snapshot)

    def _snapshot(self) -> NamespaceSnapshot:
        seen = take_snapshot(self._require_connection())
        if not self._port_range:
            return seen
        kept = tuple((name, value) for name, value in seen.sysctls if name != PORT_RANGE)
        born = self._port_range == BORN_PORT_RANGE
        return seen.replace(sysctls=kept if born else (*kept, (PORT_RANGE, self._port_range)))

    async def apply(self, plan: NicPlan) -> AppliedNic:
        """Build the host side of one NIC, or bring a known one up to date. Errors name the interface."""
        return await self._run(self._apply, plan)

    def _apply(self, plan: NicPlan) -> AppliedNic:
        connection = self._require_connection()
        nic = self.nics.get(plan.index)
        if nic is None:
            nic = self.nics[plan.index] = apply_nic(connection, plan)
            if self._hears_answers:
                hear_answers(connection, nic)
        else:
            update_nic(connection, nic, plan)
        return nic

    async def remove(self, index: int) -> None:
        """Take one NIC's host side away. Idempotent."""
        await self._run(self._remove, index)

    def _remove(self, index: int) -> None:
        nic = self.nics.pop(index, None)
        if nic is not None:
            nic.undo()

    async def listen_on_localhost(self) -> dict[int, socket.socket]:
        """Listening sockets in the namespace, by address family, to which its local TCP connections are redirected.

        The caller owns them. Raises HostError; then nothing is left.
        """
        return await self._run(self._listen)

    def _listen(self) -> dict[int, socket.socket]:
        listeners: dict[int, socket.socket] = {}
        try:
            listeners[socket.AF_INET] = _listen_at(socket.AF_INET, "127.0.0.1", socket.IPPROTO_IP, _IP_FREEBIND)
            with contextlib.suppress(HostError):  # a namespace may be without IPv6
                listeners[socket.AF_INET6] = _listen_at(socket.AF_INET6, "::1", socket.IPPROTO_IPV6, _IPV6_FREEBIND)
            self._redirected = True
            nftables.add_redirect({family: entry.getsockname()[1] for family, entry in listeners.items()})
        except BaseException:
            for entry in listeners.values():
                entry.close()
            raise
        return listeners

    async def has_resolver(self) -> bool:
        """Whether Docker runs a name server in the namespace."""
        return await self._run(resolver.is_served)

    async def hear_answers(self) -> None:
        """Let processes of the namespace itself ask name servers outside, as Docker's own does. Raises HostError."""
        await self._run(self._hear_answers)

    def _hear_answers(self) -> None:
        if self._hears_answers:
            return
        connection = self._require_connection()
        self._port_range = read_sysctl(PORT_RANGE) or ""
        write_sysctl(PORT_RANGE, "{} {}".format(*OWN_PORTS))
        self._hears_answers = True
        for nic in self.nics.values():
            hear_answers(connection, nic)

    async def open_socket(self, kind: int) -> socket.socket:
        """A non-blocking IPv4 socket of the namespace. Raises HostError."""
        return await self._run(lambda: socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC))

    def watch(self, on_change: Callable[[], None]) -> None:
        """Call back in the event loop after every change that can concern the pod; `unwatch` or `close` ends it."""
        events = self._events
        if events is not None:
            asyncio.get_running_loop().add_reader(events.fileno(), _drain, events, on_change)

    def unwatch(self) -> None:
        """Idempotent."""
        if self._events is not None and self._events.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._events.fileno())

    async def close(self) -> None:
        """Undo everything and let the namespace go. Idempotent; goes on after failures, which are logged."""
        if self._closed:
            return
        self._closed = True
        self.unwatch()
        try:
            await asyncio.shield(self._run(self._undo_all))
        except OciRuntimeError as error:
            log.warning("cannot undo", step="network", reason=error.message)
        finally:
            self._thread.shutdown(wait=False)
            os.close(self._fd)

    def _undo_all(self) -> None:
        for index in list(self.nics):
            self._remove(index)
        steps = {"redirection of localhost": nftables.remove_redirect if self._redirected else None}
        if self._port_range:
            steps["port range"] = lambda: write_sysctl(PORT_RANGE, self._port_range)
        for what, step in steps.items():
            try:
                if step is not None:
                    step()
            except (HostError, OSError) as error:
                log.warning("cannot undo", step=what, reason=str(error))
        for connection in (self._connection, self._events):
            if connection is not None:
                connection.close()
        if self._claim is not None:
            self._claim.close()

    def _require_connection(self) -> Connection:
        if self._connection is None:
            raise HostError("netlink", self.name or "network namespace", 0)
        return self._connection

    async def _run(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Run in the namespace's thread. Cancelled, it still runs to its end there, before whatever comes later."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, function, *arguments)
        except OSError as error:
            raise HostError.from_oserror(error, function.__name__, self.name or "network namespace") from error
        except BrokenExecutor as error:
            raise HostError("setns", self.name or "network namespace", errno.EPERM) from error


def _listen_at(family: int, address: str, level: int, freebind: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        # The loopback device may still be down, and then has no address.
        listener.setsockopt(level, freebind, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((address, 0))
        listener.listen(_LISTEN_BACKLOG)
    except OSError as error:
        listener.close()
        raise HostError.from_oserror(error, "listen", address) from error
    return listener


def _drain(events: Connection, on_change: Callable[[], None]) -> None:
    """Take what has come; a buffer that overran means that something changed, too."""
    changed = False
    try:
        for kind, body in events.events():
            changed |= concerns_pod(kind, body)
    except OSError:
        changed = True
    if changed:
        on_change()


def concerns_pod(kind: int, body: bytes) -> bool:
    """Whether an event can change the plan: of neighbours only the static ones do, the rest is daily business."""
    if kind not in (requests.RTM_NEWNEIGH, requests.RTM_DELNEIGH):
        return True
    return kind == requests.RTM_DELNEIGH or parse_neighbour(body, {}) is not None
