"""The guest's network: brought to the state that the host describes, and described.

The host is the master of what it has asked for, nothing else: addresses, routes and rules that a container made for
itself (a VPN, a mesh) survive every update. So the last wish is remembered; what is in it and not in the new one goes.
"""

from __future__ import annotations

import errno
import os
import time
from _thread import allocate_lock

from oci_runtime.errors import InvalidInput, NotFound, OciRuntimeError
from oci_runtime.guest.log import log
from oci_runtime.guest.modules import load_known_module
from oci_runtime.netlink import objects, requests, wire
from oci_runtime.netlink.codec import NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE
from oci_runtime.netlink.connection import Connection
from oci_runtime.ttrpc.proto import agent_lean as pb

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from oci_runtime.guest.agent import Agent
    from oci_runtime.netlink.objects import Address, Link, Neighbour, Route, Rule

_SYSCTL_ROOT = "/proc/sys/net/"
_MAX_WAIT_MS = 60_000
CARRIER_S = 2.0
_RETRIED = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL, errno.ENODEV, errno.ENETDOWN)
_DEFAULT_RULES = ((0, 255), (32766, 254), (32767, 253))
_lock = allocate_lock()


class Wish:
    """What the host asked for last, and whether it ever did."""

    def __init__(self) -> None:
        self.addresses: dict[str, tuple[Address, ...]] = {}
        self.routes: frozenset[Route] = frozenset()
        self.rules: frozenset[Rule] = frozenset()
        self.neighbours: frozenset[Neighbour] = frozenset()


_wish = Wish()


def update_network(agent: Agent, request: pb.UpdateNetworkRequest) -> pb.Empty:
    """Bring interfaces, and on demand all routing, to the wanted state. Runs in a worker thread.

    Raises NotFound for a NIC that does not appear in time, InvalidInput for values that are none, OciRuntimeError with
    the kernel's words. What was done until then stays; the next update goes on from there.
    """
    with _lock:
        try:
            with Connection() as connection:
                _update(connection, request)
        except ValueError as error:
            raise InvalidInput(f"network of the guest: {error}") from error
        except OSError as error:
            raise OciRuntimeError(f"network of the guest: {error.strerror}") from error
    return pb.Empty()


def list_network(agent: Agent, request: pb.Empty) -> pb.ListNetworkResponse:
    """Describe interfaces with their addresses, routes, static neighbours and rules as they are."""
    try:
        with Connection() as connection:
            links = _links(connection)
            names = {link.index: link.name for link in links.values()}
            addresses = _addresses(connection, names)
            neighbours = connection.dump(requests.RTM_GETNEIGH, requests.DUMP_NEIGHBOURS)
            statics = [entry for body in neighbours if (entry := objects.parse_neighbour(body, names)) is not None]
            return pb.ListNetworkResponse(
                interfaces=[_describe(link, addresses) for link in links.values() if link.name != "lo"],
                routes=[wire.route_to_message(pb, route) for route in _routes(connection, names)],
                neighbours=[wire.neighbour_to_message(pb, entry) for entry in statics],
                rules=[wire.rule_to_message(pb, rule) for rule in _rules(connection)],
            )
    except OSError as error:
        raise OciRuntimeError(f"network of the guest: {error.strerror}") from error


def _update(connection: Connection, request: pb.UpdateNetworkRequest) -> None:
    _wait_for_nics(connection, request)
    links = _links(connection)
    made_by_kernel = {route for route in _routes(connection, _names(links)) if route.protocol == "kernel"}
    for name in request.remove_interfaces:
        _wish.addresses.pop(name, None)
        if name in links:
            connection.request(requests.RTM_NEWLINK, requests.link(links[name].index, up=False))
    _clear_names(connection, request.interfaces, links)
    own_sysctls = {name: value for name, value in request.sysctls.items() if name.split("/")[1:2] == ["conf"]}
    _write_sysctls({name: value for name, value in request.sysctls.items() if name not in own_sysctls})
    risen = set()
    for interface in request.interfaces:
        link = _nic(links, interface)
        if interface.up and not link.up:
            risen.add(interface.name)
        _set_link(connection, interface, link)
        _write_sysctls({name: value for name, value in own_sysctls.items() if f"/{interface.name}/" in name})
    links = _links(connection)
    present = _addresses(connection, _names(links))
    for interface in request.interfaces:
        _set_addresses(connection, interface, links[interface.name], present.get(interface.name, ()))
    _write_sysctls({name: value for name, value in own_sysctls.items() if "/all/" in name or "/default/" in name})
    if request.replace_routes:
        _set_routing(connection, request, made_by_kernel, _names(links))
    _wait_for_carriers(connection, risen)


# Interfaces


def _wait_for_nics(connection: Connection, request: pb.UpdateNetworkRequest) -> None:
    from oci_runtime.guest.uevent import retry_on_uevent

    if not request.interfaces:
        return
    if not os.path.isdir("/sys/module/virtio_net"):
        load_known_module("virtio_net")
    missing: list[pb.Interface] = []

    def all_there() -> bool:
        links = _links(connection)
        missing[:] = [wanted for wanted in request.interfaces if _find_nic(links, wanted) is None]
        return not missing

    wait_ms = min(request.wait_device_ms, _MAX_WAIT_MS)
    if not retry_on_uevent(all_there, wait_ms / 1000):
        wanted = ", ".join(f"{entry.name} ({entry.match_mac})" for entry in missing)
        raise NotFound(f"network interface {wanted} did not appear in the guest within {wait_ms} ms")


def _find_nic(links: dict[str, Link], wanted: pb.Interface) -> Link | None:
    """The NIC by its permanent address, or by name when no address is given."""
    if not wanted.match_mac:
        return links.get(wanted.name)
    nics = (link for link in links.values() if not link.kind)
    return next((link for link in nics if (link.permanent_mac or link.mac) == wanted.match_mac.lower()), None)


def _nic(links: dict[str, Link], wanted: pb.Interface) -> Link:
    link = _find_nic(links, wanted)
    if link is None:
        raise NotFound(f"network interface {wanted.name} has left the guest")
    return link


def _wait_for_carriers(connection: Connection, names: set[str]) -> None:
    """Return once these interfaces work: a container's first packet must not be lost.

    The driver tells of the carrier, and the kernel takes note of it, in threads of their own.
    """
    if not names or not _without_carrier(connection, names):
        return
    end_s = time.monotonic() + CARRIER_S
    with Connection(groups=[requests.RTNLGRP_LINK]) as listener:  # before the look, or the news could come in between
        while waiting := _without_carrier(connection, names):
            if not listener.wait(end_s - time.monotonic()):
                log(f"network interface {', '.join(waiting)}: no carrier for {CARRIER_S:g} s")
                return
            listener.forget_events()


def _without_carrier(connection: Connection, names: set[str]) -> list[str]:
    return [name for name, link in _links(connection).items() if name in names and not link.works]


def _clear_names(connection: Connection, wanted: list[pb.Interface], links: dict[str, Link]) -> None:
    """Free the names that belong to another NIC by now: two may have to change places."""
    for interface in wanted:
        holder = links.get(interface.name)
        if holder is None or holder.index == _nic(links, interface).index:
            continue
        aside = f"vmold{holder.index}"
        _rename(connection, holder, aside)
        links[aside] = links.pop(interface.name).replace(name=aside, flags=holder.flags & ~objects.IFF_UP)


def _rename(connection: Connection, link: Link, name: str) -> None:
    if link.up:
        connection.request(requests.RTM_NEWLINK, requests.link(link.index, up=False))
    connection.request(requests.RTM_NEWLINK, requests.link(link.index, name=name))


def _set_link(connection: Connection, wanted: pb.Interface, link: Link) -> None:
    if link.name != wanted.name:
        _rename(connection, link, wanted.name)
        known = _wish.addresses.pop(link.name, None)
        _wish.addresses.pop(wanted.name, None)
        if known is not None:
            _wish.addresses[wanted.name] = tuple(entry.replace(device=wanted.name) for entry in known)
    if not link.up or link.name != wanted.name:
        # The host tells all addresses, and that they are free: the kernel neither makes nor checks any.
        for setting in ("accept_ra", "accept_dad", "autoconf"):
            _write_sysctl(f"ipv6/conf/{wanted.name}/{setting}", "0", needed=False)
    flags = {
        objects.IFF_NOARP: wanted.noarp,
        objects.IFF_MULTICAST: wanted.multicast,
        objects.IFF_PROMISC: wanted.promiscuous,
        objects.IFF_ALLMULTI: wanted.all_multicast,
    }
    has_ipv6 = os.path.isdir(f"/proc/sys/net/ipv6/conf/{wanted.name}")
    change = requests.link(
        link.index,
        up=wanted.up,
        flags=sum(flag for flag, on in flags.items() if on),
        mask=sum(flags),
        mac=wanted.mac if wanted.mac.lower() != link.mac else "",
        mtu=wanted.mtu,
        tx_queue_length=wanted.tx_queue_length or -1,
        no_ipv6_addresses=has_ipv6,
    )
    _change(connection, (requests.RTM_NEWLINK, change, 0), f"interface {wanted.name}")
    if not has_ipv6 and os.path.isdir(f"/proc/sys/net/ipv6/conf/{wanted.name}"):  # its MTU has become large enough
        change = requests.link(link.index, no_ipv6_addresses=True)
        _change(connection, (requests.RTM_NEWLINK, change, 0), f"interface {wanted.name}")


def _set_addresses(connection: Connection, interface: pb.Interface, link: Link, present: tuple[Address, ...]) -> None:
    wanted = tuple(wire.address_from_message(entry, link.name) for entry in interface.addresses)
    first = link.name not in _wish.addresses
    before = _wish.addresses.get(link.name, ())
    keep = {_essence(entry) for entry in wanted}
    ours = {_essence(entry) for entry in before}
    gone = [entry for entry in present if _essence(entry) not in keep and (first or _essence(entry) in ours)]
    for entry in gone:
        body = requests.address(entry, link.index)
        _change(connection, (requests.RTM_DELADDR, body, 0), _name_of(entry), ignore=(errno.EADDRNOTAVAIL,))
    if gone:  # the first address of a prefix may have taken others along
        present = _addresses(connection, {link.index: link.name}).get(link.name, ())
    there = {_essence(entry) for entry in present}
    for entry in wanted:
        if _essence(entry) not in there:
            change = (requests.RTM_NEWADDR, requests.address(entry, link.index), NLM_F_CREATE | NLM_F_REPLACE)
            _change(connection, change, _name_of(entry))
    _wish.addresses[link.name] = wanted


def _essence(entry: Address) -> Address:
    """An address without what the kernel may add or leave out."""
    return entry.replace(permanent=True)


def _name_of(entry: Address) -> str:
    return f"address {entry.address}/{entry.prefix_length} of {entry.device}"


# Routing


def _set_routing(
    connection: Connection, request: pb.UpdateNetworkRequest, made_before: set[Route], names: dict[int, str]
) -> None:
    indexes = {name: index for index, name in names.items()}

    def index_of(name: str) -> int:
        if name not in indexes:
            raise ValueError(f"a route or neighbour names interface {name}, which the guest does not have")
        return indexes[name]

    rules = frozenset(wire.rule_from_message(entry) for entry in request.rules)
    _set_rules(connection, rules)
    neighbours = frozenset(wire.neighbour_from_message(entry) for entry in request.neighbours)
    for gone in _wish.neighbours - neighbours:
        if gone.device in indexes:
            change = (requests.RTM_DELNEIGH, requests.neighbour(gone, indexes[gone.device]), 0)
            _change(connection, change, f"neighbour {gone.address}", ignore=(errno.ENOENT,))
    for entry in neighbours:
        change = (
            requests.RTM_NEWNEIGH,
            requests.neighbour(entry, index_of(entry.device)),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
        _change(connection, change, f"neighbour {entry.address}")
    _wish.neighbours = neighbours
    routes = [wire.route_from_message(entry) for entry in request.routes]
    _set_routes(connection, routes, made_before, names, index_of)


def _set_rules(connection: Connection, wanted: frozenset[Rule]) -> None:
    if not wanted and not _wish.rules:
        return  # as in nearly every pod
    present = set(_rules(connection))
    for rule in (_wish.rules - wanted) & present:
        _change(connection, (requests.RTM_DELRULE, requests.rule(rule), 0), f"rule {rule.priority}")
    for rule in sorted(wanted - present, key=lambda rule: rule.priority):
        _change(connection, (requests.RTM_NEWRULE, requests.rule(rule), NLM_F_CREATE), f"rule {rule.priority}")
    _wish.rules = wanted


def _set_routes(
    connection: Connection,
    wanted: list[Route],
    made_before: set[Route],
    names: dict[int, str],
    index_of: Callable[[str], int],
) -> None:
    """Delete what is no longer wanted and what the kernel made for new addresses unasked, then add what is missing."""
    keep = frozenset(wanted)
    present = _routes(connection, names)
    for route in present:
        unasked = route.protocol == "kernel" and route not in made_before and route.device != "lo"
        if route not in keep and (route in _wish.routes or unasked):
            change = (requests.RTM_DELROUTE, requests.route(route, index_of), 0)
            _change(connection, change, _describe_route(route), ignore=(errno.ESRCH,))
    _wish.routes = keep
    there = set(present)
    waiting = [route for route in wanted if route not in there]
    # A gateway must be reachable when its route is added, and routes come in no useful order: try until none succeeds.
    waiting.sort(key=lambda route: bool(route.gateway or route.next_hops))
    while waiting:
        refused = [route for route in waiting if not _add_route(connection, route, index_of)]
        if len(refused) == len(waiting):
            _add_route(connection, refused[0], index_of, last=True)
            refused = refused[1:]
        waiting = refused


def _add_route(connection: Connection, route: Route, index_of: Callable[[str], int], *, last: bool = False) -> bool:
    """Add a route; False when it may succeed after others (`last`: that is an error, too)."""
    change = (requests.RTM_NEWROUTE, requests.route(route, index_of), NLM_F_CREATE | NLM_F_APPEND)
    try:
        connection.batch([change])
    except OSError as error:
        if error.errno == errno.EEXIST:
            return True
        if error.errno in _RETRIED and not last:
            return False
        raise OciRuntimeError(f"{_describe_route(route)} in the guest: {error.strerror}") from error
    return True


def _describe_route(route: Route) -> str:
    gateway = f" via {route.gateway}" if route.gateway else ""
    device = f" dev {route.device}" if route.device else ""
    return f"route {route.destination or 'default'}{gateway}{device}"


# Reading


def _links(connection: Connection) -> dict[str, Link]:
    found = [objects.parse_link(body) for body in connection.dump(requests.RTM_GETLINK, requests.DUMP_LINKS)]
    return {link.name: link for link in found}


def _names(links: dict[str, Link]) -> dict[int, str]:
    return {link.index: name for name, link in links.items()}


def _addresses(connection: Connection, names: dict[int, str]) -> dict[str, tuple[Address, ...]]:
    found: dict[str, tuple[Address, ...]] = {}
    for body in connection.dump(requests.RTM_GETADDR, requests.DUMP_ADDRESSES):
        entry = objects.parse_address(body, names)
        found[entry.device] = (*found.get(entry.device, ()), entry)
    return found


def _routes(connection: Connection, names: dict[int, str]) -> list[Route]:
    bodies = connection.dump(requests.RTM_GETROUTE, requests.DUMP_ROUTES)
    return [route for body in bodies if (route := objects.parse_route(body, names)) is not None]


def _rules(connection: Connection) -> list[Rule]:
    found = [objects.parse_rule(body) for body in connection.dump(requests.RTM_GETRULE, requests.DUMP_RULES)]
    known = [rule for rule in found if rule.family in objects.FAMILIES]
    return [rule for rule in known if (rule.priority, rule.table) not in _DEFAULT_RULES]


def _describe(link: Link, addresses: dict[str, tuple[Address, ...]]) -> pb.Interface:
    return pb.Interface(
        name=link.name,
        mac=link.mac,
        mtu=link.mtu,
        addresses=[wire.address_to_message(pb, entry) for entry in addresses.get(link.name, ())],
        up=link.up,
        noarp=bool(link.flags & objects.IFF_NOARP),
        multicast=bool(link.flags & objects.IFF_MULTICAST),
        tx_queue_length=link.tx_queue_length,
        match_mac=link.permanent_mac or link.mac,
        promiscuous=bool(link.flags & objects.IFF_PROMISC),
        all_multicast=bool(link.flags & objects.IFF_ALLMULTI),
    )


# Writing


def _change(connection: Connection, request: tuple[int, bytes, int], what: str, *, ignore: Iterable[int] = ()) -> None:
    try:
        connection.batch([request])
    except OSError as error:
        if error.errno not in tuple(ignore):
            raise OciRuntimeError(f"{what} in the guest: {error.strerror}") from error


def _write_sysctls(values: dict[str, str]) -> None:
    for name, value in values.items():
        _write_sysctl(name, value)


def _write_sysctl(name: str, value: str, *, needed: bool = True) -> None:
    """Set one of the network's parameters. One that this kernel does not have, or does not take, is logged."""
    parts = name.split("/")
    if parts[0] not in ("core", "ipv4", "ipv6") or any(part in ("", ".", "..") for part in parts) or "\0" in name:
        raise InvalidInput(f"network parameter {name!r}: not a name below /proc/sys/net")
    try:
        fd = os.open(_SYSCTL_ROOT + name, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        if needed:
            log(f"network parameter {name} = {value!r}: {error.strerror}")
