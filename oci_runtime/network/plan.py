"""What to build for a namespace: pure functions from a snapshot to values. `apply` builds it, the agent mirrors it.

Every refusal names the interface. Nothing here touches the system, so kinds that a machine's kernel lacks are covered
by recorded snapshots as well as the others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from oci_runtime.errors import InvalidInput, Unsupported
from oci_runtime.netlink.objects import (
    IFF_ALLMULTI,
    IFF_MULTICAST,
    IFF_NOARP,
    IFF_PROMISC,
    Address,
    Link,
    Neighbour,
    Route,
    Rule,
    Value,
)
from oci_runtime.network.snapshot import NamespaceSnapshot

MODELS = ("tcfilter", "macvtap", "none")
KINDS = ("veth", "macvlan", "ipvlan", "vlan", "tun")
# A macvtap needs a device of its own below it; the kernel would put it on the host's device instead.
_NO_MACVTAP = ("macvlan", "ipvlan", "tun")
_LOOPBACK = 772
_TUN_TYPE_TAP = 2
# A tap device counts the Ethernet header within its 65535 bytes.
MAX_MTU = 65535 - 14
MIN_MTU = 68
MAX_QUEUES = 8
MAX_INTERFACES = 16
_NULL_MAC = "00:00:00:00:00:00"


class NetworkSettings(Value):
    """How to join a pod's interfaces to its machine.

    model: one of MODELS. vhost: /dev/vhost-net may be used. vcpus: of the machine. Rates are bits per second, 0 for no
    limit; rx is towards the pod.
    """

    model: str = "tcfilter"
    vhost: bool = False
    vcpus: int = 1
    rx_rate_bps: int = 0
    tx_rate_bps: int = 0

    @property
    def queues(self) -> int:
        """Queue pairs per interface: more than one pays only when the host's kernel moves the packets."""
        return min(self.vcpus, MAX_QUEUES) if self.vhost else 1


class NicPlan(Value):
    """One interface of the pod and the NIC that stands for it in the machine.

    name, index, mac, mtu: of the interface in the namespace. nic_mac: of the NIC, by which the guest finds it. model:
    "tcfilter", "macvtap", or "direct" (a tap device that nobody serves becomes the NIC's own). tap_name: the device
    made beside it ("direct": the interface itself). queueless: the interface's transmit queue has the length 0.
    """

    name: str
    index: int
    kind: str
    mac: str
    nic_mac: str
    mtu: int
    model: str
    tap_name: str
    queues: int = 1
    vhost: bool = False
    rx_rate_bps: int = 0
    tx_rate_bps: int = 0
    queueless: bool = False


class GuestInterface(Value):
    """An interface as the guest is to have it. tx_queue_length: 0 leaves the guest's own, since a NIC needs a queue."""

    name: str
    match_mac: str
    mac: str
    mtu: int
    tx_queue_length: int
    up: bool
    noarp: bool
    multicast: bool
    promiscuous: bool
    all_multicast: bool
    addresses: tuple[Address, ...]


class GuestNetwork(Value):
    """The whole network of the guest. sysctls: paths below /proc/sys/net."""

    interfaces: tuple[GuestInterface, ...] = ()
    routes: tuple[Route, ...] = ()
    rules: tuple[Rule, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()


class NetworkPlan(Value):
    """NICs to have on the host's side, and what the guest is to make of them. refused: interfaces and why not."""

    nics: tuple[NicPlan, ...] = ()
    guest: GuestNetwork = GuestNetwork()
    refused: tuple[tuple[str, str], ...] = ()


def plan_network(
    snapshot: NamespaceSnapshot,
    settings: NetworkSettings,
    *,
    carried: Mapping[int, NicPlan] | None = None,
    own: Collection[int] = (),
    excluded: Collection[str] = (),
    strict: bool = True,
) -> NetworkPlan:
    """Plan the pod's network as the namespace shows it now.

    carried: NICs that exist already, by the interface's index: they keep their plan. own: indexes of devices that were
    made for the pod. excluded: names of interfaces to leave out. strict: an interface that cannot be carried is an
    error; otherwise it is left out and listed in `refused`.
    An interface is carried once it is up; one that goes down afterwards stays, down. Raises InvalidInput, Unsupported.
    """
    if settings.model not in MODELS:
        raise InvalidInput(f"network model {settings.model!r} is none of {', '.join(MODELS)}")
    carried = carried or {}
    if settings.model == "none":
        return NetworkPlan()
    nics: dict[int, NicPlan] = {}
    refused: list[tuple[str, str]] = []
    for link in sorted(snapshot.links, key=lambda link: link.index):
        if link.link_type == _LOOPBACK or link.index in own or link.name in excluded:
            continue
        known = carried.get(link.index)
        if known is None and not link.up:
            continue
        try:
            nics[link.index] = plan_nic(link, settings, known, {nic.nic_mac for nic in nics.values()})
            if len(nics) > MAX_INTERFACES:
                raise Unsupported(f"interface {link.name}: a pod has at most {MAX_INTERFACES} interfaces")
        except (InvalidInput, Unsupported) as error:
            nics.pop(link.index, None)
            if strict:
                raise
            refused.append((link.name, error.message))
            if known is not None:
                nics[link.index] = known  # what works is not taken away because it was set to what cannot
    # Without an interface nothing needs settings, and the guest is spared the work.
    guest = plan_guest(snapshot, nics) if nics else GuestNetwork()
    return NetworkPlan(nics=tuple(nics.values()), guest=guest, refused=tuple(refused))


def plan_nic(link: Link, settings: NetworkSettings, known: NicPlan | None, taken: Collection[str]) -> NicPlan:
    """The NIC for one interface. taken: MAC addresses of the other NICs (two ipvlan devices share their parent's)."""
    check_interface(link, settings.model)
    if known is not None:
        return known.replace(name=link.name, mac=link.mac, mtu=link.mtu)
    direct = link.kind == "tun" and link.tun_queues == 0
    model = "direct" if direct else settings.model
    check_rates(link, model, settings)
    nic_mac = link.mac
    if nic_mac in taken:
        nic_mac = "02:76:6d:" + (link.index & 0xFFFFFF).to_bytes(3, "big").hex(":")
    queues = settings.queues if not direct or link.tun_multi_queue else 1
    return NicPlan(
        name=link.name,
        index=link.index,
        kind=link.kind,
        mac=link.mac,
        nic_mac=nic_mac,
        mtu=link.mtu,
        model=model,
        tap_name=link.name if direct else f"vmtap{link.index}",
        queues=queues,
        vhost=settings.vhost,
        rx_rate_bps=settings.rx_rate_bps,
        tx_rate_bps=settings.tx_rate_bps,
        queueless=link.tx_queue_length == 0,
    )


def check_interface(link: Link, model: str) -> None:
    """Raise Unsupported or InvalidInput unless the interface can be carried into a machine."""
    if link.kind not in KINDS:
        what = f"kind {link.kind}" if link.kind else "hardware"
        raise Unsupported(
            f"interface {link.name} is {what}; only {', '.join(KINDS)} can be carried into a virtual machine"
        )
    if link.kind == "tun" and link.tun_type != _TUN_TYPE_TAP:
        raise Unsupported(f"interface {link.name} is a tun device without Ethernet frames; use a tap device")
    if not link.mac or link.mac == _NULL_MAC:
        raise Unsupported(f"interface {link.name} has no hardware address, a virtual NIC needs one")
    if int(link.mac[:2], 16) & 1:
        raise InvalidInput(f"interface {link.name}: hardware address {link.mac} is a multicast address")
    if link.master:
        raise Unsupported(f"interface {link.name} belongs to a bridge, bond or VRF of its namespace; use it unenslaved")
    if not MIN_MTU <= link.mtu <= MAX_MTU:
        raise InvalidInput(f"interface {link.name}: MTU {link.mtu} is not within {MIN_MTU}-{MAX_MTU}")
    if model == "macvtap" and link.kind in _NO_MACVTAP:
        raise Unsupported(f'interface {link.name} is {link.kind}, which takes no macvtap; use network.model "tcfilter"')


def check_rates(link: Link, model: str, settings: NetworkSettings) -> None:
    """Raise Unsupported for a limit in a direction in which this interface's packets pass no queue of the host."""
    if settings.rx_rate_bps and model == "macvtap":
        raise Unsupported(f'interface {link.name}: network.rx_rate_limiter_max_rate needs network.model "tcfilter"')
    if settings.tx_rate_bps and model == "direct":
        raise Unsupported(
            f"interface {link.name} is a tap device: network.tx_rate_limiter_max_rate does not apply to it"
        )


def plan_guest(snapshot: NamespaceSnapshot, nics: Mapping[int, NicPlan]) -> GuestNetwork:
    """What the guest is to look like: everything of the carried interfaces, nothing that leads elsewhere."""
    links = {link.index: link for link in snapshot.links if link.index in nics}
    names = {link.name for link in links.values()}
    interfaces = tuple(
        GuestInterface(
            name=link.name,
            match_mac=nics[index].nic_mac,
            mac=link.mac,
            mtu=min(link.mtu, MAX_MTU),
            tx_queue_length=0 if nics[index].queueless else link.tx_queue_length,
            up=link.up,
            noarp=bool(link.flags & IFF_NOARP),
            multicast=bool(link.flags & IFF_MULTICAST),
            promiscuous=bool(link.flags & IFF_PROMISC),
            all_multicast=bool(link.flags & IFF_ALLMULTI),
            addresses=tuple(entry for entry in snapshot.addresses if entry.device == link.name),
        )
        for index, link in links.items()
    )
    rules = tuple(rule for rule in snapshot.rules if _rule_leads(rule, names))
    _check_expressible(snapshot.routes, rules)
    return GuestNetwork(
        interfaces=interfaces,
        routes=tuple(route for route in snapshot.routes if _route_leads(route, names)),
        rules=rules,
        neighbours=tuple(entry for entry in snapshot.neighbours if entry.device in names),
        sysctls=tuple((name, value) for name, value in snapshot.sysctls if _sysctl_applies(name, names)),
    )


def _check_expressible(routes: Collection[Route], rules: Collection[Rule]) -> None:
    for route in routes:
        if route.unsupported:
            where = f"{route.destination or 'default'} of interface {route.device or 'none'}"
            raise Unsupported(f"route {where}: {route.unsupported} is not supported in a virtual machine")
    for rule in rules:
        if rule.unsupported:
            raise Unsupported(f"policy rule {rule.priority}: {rule.unsupported} is not supported in a virtual machine")


def _route_leads(route: Route, names: Collection[str]) -> bool:
    if route.next_hops:
        return all(hop.device in names for hop in route.next_hops)
    if not route.device or route.device == "lo":
        # Blackholes and their like; what the kernel made for the loopback device, the guest's kernel makes as well.
        return route.protocol != "kernel" and (route.type != "unicast" or bool(route.device))
    return route.device in names


def _rule_leads(rule: Rule, names: Collection[str]) -> bool:
    return all(name in names for name in (rule.input_interface, rule.output_interface) if name and name != "lo")


def _sysctl_applies(name: str, interfaces: Collection[str]) -> bool:
    parts = name.split("/")
    return len(parts) != 4 or parts[1] != "conf" or parts[2] in ("all", "default") or parts[2] in interfaces


def settings_from(section: Any, *, vcpus: int, vhost_available: bool) -> NetworkSettings:
    """The settings that a `[network]` section of the configuration stands for on this host."""
    return NetworkSettings(
        model=section.model,
        vhost=vhost_available and not section.disable_vhost_net,
        vcpus=vcpus,
        rx_rate_bps=section.rx_rate_limiter_max_rate,
        tx_rate_bps=section.tx_rate_limiter_max_rate,
    )
