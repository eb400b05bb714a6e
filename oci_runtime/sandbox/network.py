"""The pod's network, joined: what its namespace shows, the NICs of its machine, and what the guest makes of them.

`attach` works while the machine boots: the host's side at once, the NICs as soon as QEMU's monitor answers, the guest's
configuration after the agent's greeting. From then on every change in the namespace is carried over (`_follow`): one
comparison at a time, with whatever came meanwhile in the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from oci_runtime.errors import AlreadyExists, InvalidInput, NotFound, OciRuntimeError, Unsupported
from oci_runtime.log import get_logger
from oci_runtime.netlink import wire
from oci_runtime.netlink.objects import Address, Route
from oci_runtime.network import forms, namespace, resolver
from oci_runtime.network.leftovers import describe_resource
from oci_runtime.network.plan import GuestInterface, GuestNetwork, NetworkPlan, NicPlan, plan_network, settings_from
from oci_runtime.network.pod import PodNamespace
from oci_runtime.network.relay import LocalhostRelay
from oci_runtime.network.resolver import ResolverRelay
from oci_runtime.network.tap import has_vhost
from oci_runtime.state import records
from oci_runtime.state.layout import Layout

if TYPE_CHECKING:
    from oci_runtime.agent.client import AgentClient
    from oci_runtime.config.model import NetworkConfig
    from oci_runtime.sandbox.virtual_machine import VirtualMachine
    from oci_runtime.vm.hotplug import PluggedDevice

log = get_logger(__name__)

# How long the guest may take to find a NIC; emulation on a busy machine is slow.
WAIT_DEVICE_MS = 30_000
_FIRST_RETRY_S = 1.0
_LAST_RETRY_S = 30.0
_INTERFACE_FIELDS = (
    *("name", "match_mac", "mac", "mtu", "tx_queue_length", "up", "noarp", "multicast", "promiscuous"),
    "all_multicast",
)


class PodNetwork:
    """The network of one pod, from `attach` to `close`."""

    def __init__(self, vm: VirtualMachine, config: NetworkConfig) -> None:
        self._vm = vm
        self._settings = settings_from(
            config, vcpus=vm.launched.qemu.settings.vcpus, vhost_available=not config.disable_vhost_net and has_vhost()
        )
        self._pod: PodNamespace | None = None
        self._resource: dict[str, Any] | None = None
        self._plugged: dict[int, PluggedDevice] = {}
        self._guest = GuestNetwork()
        self._wishes: dict[str, dict[str, Any]] = {}
        self._excluded: set[str] = set()
        self._routes_by_hand: tuple[tuple[Route, ...], tuple[Route, ...]] | None = None
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None
        self._relay: LocalhostRelay | None = None
        self._resolver: ResolverRelay | None = None

    async def attach(self, netns_fd: int, own_pid: int = 0, path: str = "") -> None:
        """Bring the namespace's interfaces into the machine and keep them in step.

        netns_fd: owned from the call on. own_pid: a process of ours that lives there. path: where the namespace may be
        found later, for errors and for the undo after our death. Raises InvalidInput, Unsupported, AlreadyExists (host
        network, foreign users, an interface that cannot be carried, busy), HostError, or why the machine is lost; then
        the namespace is as it was.
        """
        launched = self._vm.launched
        begin_ns = time.monotonic_ns()
        try:
            namespace.check_is_network(netns_fd, path)
            namespace.refuse_host_network(netns_fd, path)
            self._resource = describe_resource(namespace.identify(netns_fd), path)
            launched.record.add(self._resource)
            fd, netns_fd = netns_fd, -1
            owner = _Owner(launched.root, own_pid)
            self._pod = await PodNamespace.open(fd, launched.sandbox_id, owner.is_own, path)
            self._pod.watch(self._changed.set)
            await self._reconcile(strict=True, began_ns=begin_ns)
            await self._serve_names()
        except BaseException:
            if netns_fd >= 0:
                os.close(netns_fd)
            await self.close()
            raise
        self._follower = asyncio.create_task(self._follow(), name="network")

    async def close(self) -> None:
        """Undo everything in the namespace; QEMU may be gone. Idempotent."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)
        for relay in (self._relay, self._resolver):
            if relay is not None:
                await relay.close()
        if self._pod is not None:
            await self._pod.close()
        resource, self._resource = self._resource, None
        if resource is not None:
            self._vm.launched.record.remove(resource)

    # Following the namespace

    async def _follow(self) -> None:
        """Carry changes over until cancelled; what fails is tried again, later and later."""
        retry_s = 0.0
        while True:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), retry_s or None)
            self._changed.clear()
            try:
                await self._reconcile(strict=False)
                await self._serve_names()
                retry_s = 0.0
            except Exception as error:  # noqa: BLE001 - whatever it was, later changes must be followed
                reason = error.message if isinstance(error, OciRuntimeError) else repr(error)
                log.warning("cannot follow a change of the pod's network", reason=reason)
                retry_s = min(max(_FIRST_RETRY_S, retry_s * 2), _LAST_RETRY_S)

    async def _reconcile(self, *, strict: bool, began_ns: int = 0) -> None:
        """Compare the namespace with what the machine has, and bring the machine up to date.

        strict: an interface that cannot be carried is an error. began_ns: this is the first time, put its phases on the
        timeline; localhost is taken over as well, while the guest boots.
        """
        pod = self._require_pod()
        async with self._lock:
            snapshot = await pod.snapshot()
            carried = {index: nic.plan for index, nic in pod.nics.items()}
            failures: dict[str, OciRuntimeError] = {}
            while True:
                plan = plan_network(
                    snapshot,
                    self._settings,
                    carried=carried,
                    own=pod.own_indexes,
                    excluded=self._excluded | failures.keys(),
                    strict=strict,
                )
                failed = await self._build(pod, plan, strict=strict)
                if not failed:
                    break
                failures |= failed  # the others go on without
            for name, reason in plan.refused:
                log.warning("interface is not carried into the guest", interface=name, reason=reason)
            if began_ns:
                await self._start_relay()
                self._vm.timeline.add("interfaces plugged", began_ns)
            await self._configure(self._desired(plan), timed=bool(began_ns))
            await self._remove_except(pod, {nic.index for nic in plan.nics})
            for failure in failures.values():
                raise failure

    async def _build(self, pod: PodNamespace, plan: NetworkPlan, *, strict: bool) -> dict[str, OciRuntimeError]:
        """Have every NIC of the plan in place; what fails, by name, unless `strict`."""
        failed: dict[str, OciRuntimeError] = {}
        for nic in plan.nics:
            try:
                await pod.apply(nic)
            except OciRuntimeError as error:
                if strict:
                    raise
                failed[nic.name] = error
        for nic in plan.nics:
            try:
                if nic.name not in failed:
                    await self._plug(pod, nic)
            except OciRuntimeError as error:
                if strict:
                    raise
                failed[nic.name] = error
        return failed

    async def _remove_except(self, pod: PodNamespace, wanted: Collection[int]) -> None:
        machine = await self._vm.machine()
        for index in [index for index in pod.nics if index not in wanted]:
            device = self._plugged.pop(index, None)
            try:
                if device is not None:
                    await machine.unplug(device)
            finally:
                await pod.remove(index)

    async def _plug(self, pod: PodNamespace, plan: NicPlan) -> None:
        """Give the machine a NIC, unless it has it; without it the host's side goes as well."""
        if plan.index in self._plugged:
            return
        nic = pod.nics[plan.index]
        machine = await self._vm.machine()
        try:
            # The guest hears its MTU from the agent: as a property of the NIC it could never grow again.
            device = await machine.plug_nic(nic.tap_fds, plan.nic_mac, vhost_fds=nic.vhost_fds)
        except BaseException:
            await pod.remove(plan.index)
            raise
        self._plugged[plan.index] = device
        nic.close_descriptors()  # QEMU has its own: the tap lives and dies with it

    async def _configure(self, wanted: GuestNetwork, *, timed: bool) -> None:
        if wanted == self._guest:
            return
        agent = await self._vm.greeted_agent()
        begin_ns = time.monotonic_ns()
        remaining = {interface.name for interface in wanted.interfaces}
        removed = [interface.name for interface in self._guest.interfaces if interface.name not in remaining]
        await agent.update_network(build_request(wanted, removed))
        self._guest = wanted
        if timed:
            self._vm.timeline.add("network in the guest", begin_ns)

    def _desired(self, plan: NetworkPlan) -> GuestNetwork:
        """The plan's guest with what was changed by hand."""
        guest = plan.guest
        if self._routes_by_hand is not None and self._routes_by_hand[0] != guest.routes:
            self._routes_by_hand = None  # the namespace's routes have changed since, and they lead
        if self._routes_by_hand is not None:
            guest = guest.replace(routes=self._routes_by_hand[1])
        return apply_wishes(guest, self._wishes)

    # localhost of the namespace

    async def _start_relay(self) -> None:
        """Without the relay only port-forwarding and probes of localhost are missing: no reason to refuse the pod."""
        try:
            listeners = await self._require_pod().listen_on_localhost()
        except OciRuntimeError as error:
            log.warning("localhost of the pod's namespace does not reach the guest", reason=error.message)
            return
        self._relay = LocalhostRelay(listeners, Dialer(self._vm.agent))

    async def _serve_names(self) -> None:
        """Let the guest reach Docker's name server, once there is one."""
        pod = self._require_pod()
        if self._resolver is not None or not await pod.has_resolver():
            return
        agent = await self._vm.greeted_agent()
        try:
            await pod.hear_answers()
            await agent.serve_resolver(resolver.ADDRESS, resolver.PORT)
        except OciRuntimeError as error:
            log.warning("Docker's name server does not reach the guest", reason=error.message)
            return
        self._resolver = ResolverRelay(agent, pod.open_socket)

    # By hand

    async def operate(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Op `network`: {"verb": "list-ifaces" | "add-iface" | "del-iface" | "list-routes" | "update-routes"}.

        add-iface takes `interface` (see forms.parse_interface), del-iface `name`, update-routes `routes`. The lists
        answer `interfaces` and `routes` as the guest has them; a change answers the list that it concerns.
        Raises InvalidInput, NotFound, or what the change itself raises.
        """
        action = request.get("verb")
        if action == "add-iface":
            await self._add_interface(forms.parse_interface(request.get("interface")))
        elif action == "del-iface":
            await self._delete_interface(str(request.get("name") or ""))
        elif action == "update-routes":
            await self._update_routes(request.get("routes"))
        elif action not in ("list-ifaces", "list-routes"):
            raise InvalidInput(f"network action {action!r} is unknown")
        shown = await (await self._vm.agent()).list_network()
        if str(action).endswith("routes"):
            return {"routes": [forms.show_route(route) for route in shown.routes]}
        return {"interfaces": [forms.show_interface(interface) for interface in shown.interfaces]}

    async def operate_firewall(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Op `iptables`: {"verb": "get" | "set", "ipv6": bool, "rules": text for set}; get answers `rules`."""
        agent = await self._vm.agent()
        ipv6 = bool(request.get("ipv6"))
        action = request.get("verb")
        if action == "get":
            return {"rules": (await agent.get_firewall(ipv6=ipv6)).decode("utf-8", "replace")}
        if action != "set":
            raise InvalidInput(f"iptables action {action!r} is unknown")
        rules = request.get("rules")
        if not isinstance(rules, str) or not rules.strip():
            raise InvalidInput("iptables set: needs rules as iptables-save writes them")
        await agent.set_firewall(rules.encode(), ipv6=ipv6)
        return {}

    async def _add_interface(self, wish: dict[str, Any]) -> None:
        device = wish["device"]
        snapshot = await self._require_pod().snapshot()
        link = snapshot.find_link(device)
        if link is None:
            raise NotFound(f"interface {device} does not exist in the pod's network namespace; make it there first")
        if not link.up:
            raise InvalidInput(f"interface {device} is down in the pod's network namespace; set it up there first")
        if self._settings.model == "none":
            raise Unsupported('network.model is "none": this pod has no interfaces')
        taken = {other.name for other in snapshot.links}
        taken |= {other["name"] for name, other in self._wishes.items() if name != device}
        if wish["name"] != device and wish["name"] in taken:
            raise AlreadyExists(f"interface {wish['name']} exists already, {device} cannot have its name")
        was_excluded = device in self._excluded
        before = self._wishes.get(device)
        self._excluded.discard(device)
        self._wishes[device] = wish
        try:
            await self._reconcile(strict=True)
        except BaseException:
            if was_excluded:
                self._excluded.add(device)
            self._wishes.pop(device, None)
            if before is not None:
                self._wishes[device] = before
            self._changed.set()
            raise

    async def _delete_interface(self, name: str) -> None:
        devices = {wish["name"]: device for device, wish in self._wishes.items()}
        devices |= {nic.plan.name: nic.plan.name for nic in self._require_pod().nics.values()}
        if name not in {interface.name for interface in self._guest.interfaces}:
            raise NotFound(f"interface {name!r} does not exist in the guest")
        device = devices.get(name, name)
        self._excluded.add(device)
        self._wishes.pop(device, None)
        await self._reconcile(strict=False)

    async def _update_routes(self, value: object) -> None:
        routes = forms.parse_routes(value, [interface.name for interface in self._guest.interfaces])
        snapshot = await self._require_pod().snapshot()
        carried = {index: nic.plan for index, nic in self._require_pod().nics.items()}
        own = self._require_pod().own_indexes
        plan = plan_network(snapshot, self._settings, carried=carried, own=own, excluded=self._excluded, strict=False)
        before = self._routes_by_hand
        self._routes_by_hand = (plan.guest.routes, routes)
        try:
            await self._reconcile(strict=False)
        except BaseException:
            self._routes_by_hand = before
            self._changed.set()
            raise

    def _require_pod(self) -> PodNamespace:
        if self._pod is None:
            raise Unsupported("this pod has no network namespace")
        return self._pod


def find_network_path(spec: Mapping[str, Any]) -> str:
    """The path of the network namespace in a config.json, "" when there is none."""
    namespaces = (spec.get("linux") or {}).get("namespaces") or []
    paths = [entry.get("path") for entry in namespaces if entry.get("type") == "network"]
    return str(paths[0] or "") if paths else ""


class _Owner:
    """Tells our own processes from others: the record of each container names its proxy."""

    def __init__(self, root: str, own_pid: int) -> None:
        self._layout = Layout(root)
        self._own_pid = own_pid

    def is_own(self, pid: int) -> bool:
        if pid in (self._own_pid, os.getpid()):
            return True
        for container_id in records.list_ids(self._layout):
            with contextlib.suppress(OciRuntimeError):
                if records.load(self._layout, container_id).pid == pid:
                    return True
        return False


class Dialer:
    """The agent's client as the relay wants it. agent: waits for the agent; a connection may come before it answers."""

    def __init__(self, agent: Callable[[], Awaitable[AgentClient]]) -> None:
        self._agent = agent

    async def dial(self, address: str, port: int, timeout_ms: int) -> int:
        return await (await self._agent()).dial(address, port, timeout_ms)

    async def conn_read(self, connection: int, max_bytes: int) -> tuple[bytes, bool]:
        return await (await self._agent()).conn_read(connection, max_bytes)

    async def conn_write(self, connection: int, data: bytes, eof: bool) -> int:
        return await (await self._agent()).conn_write(connection, data, eof=eof)

    async def conn_close(self, connection: int) -> None:
        await (await self._agent()).conn_close(connection)


def build_request(guest: GuestNetwork, removed: list[str]) -> Any:
    """The agent's request for a whole network."""
    from oci_runtime.ttrpc.proto import agent_pb2 as pb

    interfaces = [
        pb.Interface(
            addresses=[wire.address_to_message(pb, entry) for entry in interface.addresses],
            **{name: getattr(interface, name) for name in _INTERFACE_FIELDS},
        )
        for interface in guest.interfaces
    ]
    return pb.UpdateNetworkRequest(
        interfaces=interfaces,
        remove_interfaces=removed,
        replace_routes=True,
        routes=[wire.route_to_message(pb, route) for route in guest.routes],
        neighbours=[wire.neighbour_to_message(pb, entry) for entry in guest.neighbours],
        rules=[wire.rule_to_message(pb, rule) for rule in guest.rules],
        wait_device_ms=WAIT_DEVICE_MS,
        sysctls=dict(guest.sysctls),
    )


def apply_wishes(guest: GuestNetwork, wishes: Mapping[str, Mapping[str, Any]]) -> GuestNetwork:
    """The guest with what `add-iface` asked to be different; a renamed device is renamed wherever it is named."""
    if not wishes:
        return guest
    wishes = _yield_names(guest, wishes)
    names = {device: wish["name"] for device, wish in wishes.items()}
    readdressed = {wish["name"]: wish["addresses"] for wish in wishes.values() if "addresses" in wish}
    routes = [_rename_route(route, names) for route in guest.routes]
    routes = [route for route in routes if route.protocol != "kernel" or route.device not in readdressed]
    routes += [connected_route(address) for addresses in readdressed.values() for address in addresses]
    return guest.replace(
        interfaces=tuple(_apply_wish(interface, wishes.get(interface.name)) for interface in guest.interfaces),
        routes=tuple(routes),
        neighbours=tuple(entry.replace(device=names.get(entry.device, entry.device)) for entry in guest.neighbours),
        rules=tuple(
            rule.replace(
                input_interface=names.get(rule.input_interface, rule.input_interface),
                output_interface=names.get(rule.output_interface, rule.output_interface),
            )
            for rule in guest.rules
        ),
        sysctls=tuple((_rename_sysctl(name, names), value) for name, value in guest.sysctls),
    )


def _yield_names(guest: GuestNetwork, wishes: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """The wishes without names that an interface of the namespace has by now: it came later, and keeps its own."""
    taken = {interface.name for interface in guest.interfaces}
    yielded = dict(wishes)
    for device, wish in wishes.items():
        if wish["name"] != device and wish["name"] in taken:
            moved = {"addresses": tuple(entry.replace(device=device) for entry in wish.get("addresses", ()))}
            yielded[device] = {**wish, "name": device, **(moved if "addresses" in wish else {})}
    return yielded


def _apply_wish(interface: GuestInterface, wish: Mapping[str, Any] | None) -> GuestInterface:
    if wish is None:
        return interface
    changes = {name: value for name, value in wish.items() if name in ("name", "mac", "mtu", "addresses")}
    return interface.replace(**changes)


def connected_route(address: Address) -> Route:
    """The route to an address's own network, as the kernel makes it."""
    import ipaddress  # for this alone

    network = str(ipaddress.ip_interface(f"{address.address}/{address.prefix_length}").network)
    common = Route(family=address.family, destination=network, device=address.device, protocol="kernel")
    if address.family == "inet":
        return common.replace(source=address.address, scope="link", metric=address.metric)
    return common.replace(metric=address.metric or 256)


def _rename_route(route: Route, names: Mapping[str, str]) -> Route:
    hops = tuple(hop.replace(device=names.get(hop.device, hop.device)) for hop in route.next_hops)
    return route.replace(device=names.get(route.device, route.device), next_hops=hops)


def _rename_sysctl(name: str, names: Mapping[str, str]) -> str:
    parts = name.split("/")
    if len(parts) == 4 and parts[1] == "conf":
        parts[2] = names.get(parts[2], parts[2])
    return "/".join(parts)
