"""Build what a NicPlan says in the pod's namespace, and take it away again.

Synchronous; runs in a thread that lives in the namespace. Each act registers its undo at once, so that a failure in the
middle, or an undo at any later time, leaves the namespace as it was found.
"""

from __future__ import annotations

import errno
import functools
import os
import struct
from collections.abc import Callable

from oci_runtime.errors import AlreadyExists, HostError
from oci_runtime.log import get_logger
from oci_runtime.netlink import requests
from oci_runtime.netlink.codec import text
from oci_runtime.netlink.connection import Connection
from oci_runtime.netlink.objects import IFF_MULTICAST, IFF_NOARP, Link, parse_link
from oci_runtime.network import traffic
from oci_runtime.network.plan import NicPlan
from oci_runtime.network.tap import close_all, open_macvtap, open_tap, open_vhost

log = get_logger(__name__)


class AppliedNic:
    """A NIC's host side: descriptors for QEMU (which gets duplicates) and the undo of all that was done.

    own_index: the device made beside the pod's interface, 0 where none was.
    """

    def __init__(self, plan: NicPlan) -> None:
        self.plan = plan
        self.tap_fds: tuple[int, ...] = ()
        self.vhost_fds: tuple[int, ...] = ()
        self.own_index = 0
        self._undo: list[tuple[str, Callable[[], None]]] = []

    def register(self, what: str, act: Callable[[], None]) -> None:
        """Remember how to take something back; last made is first undone."""
        self._undo.append((what, act))

    def close_descriptors(self) -> None:
        """Close our copies of the descriptors, once QEMU has its own; idempotent."""
        fds, self.tap_fds, self.vhost_fds = (*self.tap_fds, *self.vhost_fds), (), ()
        close_all(fds)

    def undo(self) -> None:
        """Take everything back. Idempotent; every step is tried, failures are logged."""
        self.close_descriptors()
        while self._undo:
            what, act = self._undo.pop()
            try:
                act()
            except (OSError, HostError) as error:
                if error.errno in (errno.ENODEV, errno.ENOENT):
                    continue  # it went with its interface
                log.warning("cannot undo", interface=self.plan.name, step=what, reason=str(error))


def apply_nic(connection: Connection, plan: NicPlan) -> AppliedNic:
    """Build one NIC's host side. Raises OciRuntimeError naming the interface; after a failure nothing is left."""
    nic = AppliedNic(plan)
    builders = {"tcfilter": _build_tcfilter, "macvtap": _build_macvtap, "direct": _build_direct}
    try:
        builders[plan.model](connection, nic)
        _limit_rates(connection, nic)
        if plan.vhost:
            nic.vhost_fds = open_vhost(plan.name, plan.queues)
    except BaseException:
        nic.undo()
        raise
    return nic


def update_nic(connection: Connection, nic: AppliedNic, plan: NicPlan) -> None:
    """Follow a changed MTU of the pod's interface. Raises HostError."""
    if nic.own_index and plan.mtu != nic.plan.mtu:
        _request(connection, plan.name, (requests.RTM_NEWLINK, requests.link(nic.own_index, mtu=plan.mtu), 0))
    nic.plan = plan


def hear_answers(connection: Connection, nic: AppliedNic) -> None:
    """Let the namespace's own kernel hear the name servers that it asks through the interface. Raises HostError."""
    if nic.plan.model == "tcfilter":
        _request(connection, nic.plan.name, *traffic.hear_answers(nic.plan.index, nic.own_index))


def _build_tcfilter(connection: Connection, nic: AppliedNic) -> None:
    plan = nic.plan
    _add_ingress(connection, nic, plan.index)
    nic.tap_fds = open_tap(plan.tap_name, plan.name, plan.queues, create=True)
    nic.own_index = find_index(connection, plan.tap_name)
    _silence(plan.tap_name)
    # Without ARP and IPv6 the namespace's kernel says nothing of its own on the tap: the guest hears the peers only.
    setting = requests.link(
        nic.own_index,
        up=True,
        flags=IFF_NOARP,
        mask=IFF_NOARP | IFF_MULTICAST,
        mtu=plan.mtu,
        no_ipv6_addresses=True,
    )
    _request(
        connection,
        plan.name,
        (requests.RTM_NEWLINK, setting, 0),
        traffic.add_ingress(nic.own_index),
        traffic.redirect(nic.own_index, plan.index),
        traffic.share_advertisements(plan.index, nic.own_index),
        traffic.redirect(plan.index, nic.own_index, queueless=plan.queueless),
    )


def _build_macvtap(connection: Connection, nic: AppliedNic) -> None:
    plan = nic.plan
    nic.register("macvtap", lambda: _delete_device(connection, nic))
    nic.tap_fds = open_macvtap(connection, plan.tap_name, plan.name, plan.index, plan.queues)
    nic.own_index = find_index(connection, plan.tap_name)
    _silence(plan.tap_name)
    setting = requests.link(nic.own_index, up=True, mtu=plan.mtu, no_ipv6_addresses=True)
    _request(connection, plan.name, (requests.RTM_NEWLINK, setting, 0))


def _build_direct(connection: Connection, nic: AppliedNic) -> None:
    nic.tap_fds = open_tap(nic.plan.tap_name, nic.plan.name, nic.plan.queues, create=False)


def _add_ingress(connection: Connection, nic: AppliedNic, index: int) -> None:
    name = nic.plan.name
    try:
        connection.batch([traffic.add_ingress(index)])
    except OSError as error:
        if error.errno == errno.EEXIST:
            raise AlreadyExists(
                f"interface {name} is busy: it has an ingress qdisc already, of another machine or a network plugin"
            ) from error
        raise _host_error(error, name) from error
    _restore_queue(connection, nic)
    nic.register("ingress qdisc", lambda: connection.batch([traffic.delete_ingress(index)]))


def _limit_rates(connection: Connection, nic: AppliedNic) -> None:
    plan = nic.plan
    towards_pod = nic.own_index or plan.index
    for index, rate_bps in ((towards_pod, plan.rx_rate_bps), (plan.index, plan.tx_rate_bps)):
        if not rate_bps:
            continue
        queueless = plan.queueless and index == plan.index
        try:
            connection.batch([traffic.limit_rate(index, rate_bps, plan.mtu, queueless=queueless)])
        except OSError as error:
            raise _host_error(error, plan.name, f"rate limit of {rate_bps} bit/s") from error
        if index == plan.index:
            _restore_queue(connection, nic)
            delete = traffic.delete_limit(index, queueless=queueless)
            nic.register("rate limit", functools.partial(connection.batch, [delete]))


def _restore_queue(connection: Connection, nic: AppliedNic) -> None:
    """Attaching a qdisc has given a device without a queue one of the default length (see `traffic`)."""
    if nic.plan.queueless:
        reset = traffic.empty_queue(nic.plan.index)
        nic.register("queue length", functools.partial(connection.batch, [reset]))


def _delete_device(connection: Connection, nic: AppliedNic) -> None:
    index = nic.own_index or find_index(connection, nic.plan.tap_name)
    connection.request(requests.RTM_DELLINK, struct.pack("=BxHiII", 0, 0, index, 0, 0))


def find_index(connection: Connection, name: str) -> int:
    """The number of a device by its name. Raises HostError."""
    return find_device(connection, name).index


def find_device(connection: Connection, name: str) -> Link:
    """A device by its name. Raises HostError (ENODEV)."""
    try:
        return parse_link(connection.get(requests.RTM_GETLINK, requests.link(0) + text(3, name)))
    except OSError as error:
        raise HostError.from_oserror(error, "RTM_GETLINK", name) from error


def _silence(name: str) -> None:
    """Keep IPv6 off a device, or the kernel would announce itself there. A kernel without IPv6 has no such file."""
    try:
        fd = os.open(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(fd, b"1")
    finally:
        os.close(fd)


def _request(connection: Connection, name: str, *changes: tuple[int, bytes, int]) -> None:
    try:
        connection.batch(changes)
    except OSError as error:
        raise _host_error(error, name) from error


def _host_error(error: OSError, name: str, what: str = "join to a tap device") -> HostError:
    return HostError.from_oserror(error, "netlink", f"interface {name}", hint=f"{what}: {error.strerror}")
