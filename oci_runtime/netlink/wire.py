"""Network values as messages of the agent's protocol, and back: the same fields under the same names.

`pb` is the module of message classes: protobuf's on the host, the lean one in the guest.
"""

from __future__ import annotations

from oci_runtime.netlink.objects import Address, Neighbour, NextHop, Route, Rule, Value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TypeVar

    _V = TypeVar("_V", bound=Value)

_ADDRESS = ("address", "prefix_length", "scope", "broadcast", "peer", "flags", "label", "metric")
_NEXT_HOP = ("gateway", "device", "weight", "onlink")
_ROUTE = (
    *("family", "destination", "gateway", "device", "source", "scope", "metric", "table", "protocol", "type"),
    *("onlink", "via_family", "tos", "preference"),
)
_RULE = (
    *("family", "priority", "source", "destination", "table", "input_interface", "output_interface", "mark", "mask"),
    *("action", "tos", "invert", "ip_protocol", "source_ports", "destination_ports", "goto", "suppress_prefix_length"),
    *("uid_range", "protocol"),
)
_NEIGHBOUR = ("address", "device", "mac", "state", "flags")


def address_to_message(pb: Any, value: Address) -> Any:
    """An IpAddress message; the device is that of the interface that it is put into."""
    return pb.IpAddress(**_fields(value, _ADDRESS))


def address_from_message(message: Any, device: str) -> Address:
    """An address of `device`."""
    family = "inet6" if ":" in message.address else "inet"
    return Address(family=family, device=device, **_fields(message, _ADDRESS))


def route_to_message(pb: Any, value: Route) -> Any:
    """A Route message."""
    hops = [pb.NextHop(**_fields(hop, _NEXT_HOP)) for hop in value.next_hops]
    return pb.Route(**_fields(value, _ROUTE), next_hops=hops, metrics=dict(value.metrics))


def route_from_message(message: Any) -> Route:
    """A route; an unset table is the main one."""
    fields = _fields(message, _ROUTE)
    fields["table"] = fields["table"] or Route.table
    for name in ("scope", "protocol", "type"):
        fields[name] = fields[name] or getattr(Route, name)
    hops = tuple(NextHop(**_fields(hop, _NEXT_HOP)) for hop in message.next_hops)
    return Route(**fields, next_hops=hops, metrics=tuple(sorted(message.metrics.items())))


def rule_to_message(pb: Any, value: Rule) -> Any:
    """A Rule message."""
    return pb.Rule(**_fields(value, _RULE))


def rule_from_message(message: Any) -> Rule:
    """A policy rule."""
    return Rule(**_fields(message, _RULE))


def neighbour_to_message(pb: Any, value: Neighbour) -> Any:
    """A Neighbour message."""
    return pb.Neighbour(**_fields(value, _NEIGHBOUR))


def neighbour_from_message(message: Any) -> Neighbour:
    """A static neighbour."""
    return Neighbour(**_fields(message, _NEIGHBOUR))


def _fields(source: Any, names: tuple[str, ...]) -> dict[str, Any]:
    return {name: getattr(source, name) for name in names}
