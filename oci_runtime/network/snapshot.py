"""The state of a network namespace at one moment, as a value: what plans are made from, and what tests record.

Reading is synchronous and must happen in a thread that lives in the namespace (see `pod.NamespaceThread`).
"""

from __future__ import annotations

from oci_runtime.errors import HostError
from oci_runtime.netlink import requests
from oci_runtime.netlink.connection import Connection
from oci_runtime.netlink.objects import (
    FAMILIES,
    Address,
    Link,
    Neighbour,
    Route,
    Rule,
    Value,
    parse_address,
    parse_link,
    parse_neighbour,
    parse_route,
    parse_rule,
)
from oci_runtime.network.sysctls import read_sysctls

# What every namespace has from birth: (priority, table) of the rules for the tables local, main and default.
DEFAULT_RULES = ((0, 255), (32766, 254), (32767, 253))


class NamespaceSnapshot(Value):
    """Everything of a namespace that a pod's guest may need. sysctls: those that differ from a new namespace's."""

    links: tuple[Link, ...] = ()
    addresses: tuple[Address, ...] = ()
    routes: tuple[Route, ...] = ()
    rules: tuple[Rule, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()

    def find_link(self, name: str) -> Link | None:
        """The link of that name."""
        return next((link for link in self.links if link.name == name), None)


def is_configured(rule: Rule) -> bool:
    """Whether somebody made the rule; multicast routing has families of its own here, with rules from birth."""
    return rule.family in FAMILIES and (rule.priority, rule.table) not in DEFAULT_RULES


def take_snapshot(connection: Connection) -> NamespaceSnapshot:
    """Read the namespace of `connection`; the calling thread must live in the same one. Raises HostError."""
    try:
        links = tuple(parse_link(body) for body in connection.dump(requests.RTM_GETLINK, requests.DUMP_LINKS))
        names = {link.index: link.name for link in links}
        addresses = connection.dump(requests.RTM_GETADDR, requests.DUMP_ADDRESSES)
        routes = connection.dump(requests.RTM_GETROUTE, requests.DUMP_ROUTES)
        rules = connection.dump(requests.RTM_GETRULE, requests.DUMP_RULES)
        neighbours = connection.dump(requests.RTM_GETNEIGH, requests.DUMP_NEIGHBOURS)
        neighbours += connection.dump(requests.RTM_GETNEIGH, requests.DUMP_PROXY_NEIGHBOURS)
    except OSError as error:
        raise HostError.from_oserror(error, "netlink dump", "network namespace", hint=str(error.strerror)) from error
    return NamespaceSnapshot(
        links=links,
        addresses=tuple(parse_address(body, names) for body in addresses),
        routes=tuple(route for body in routes if (route := parse_route(body, names)) is not None),
        rules=tuple(rule for rule in map(parse_rule, rules) if is_configured(rule)),
        neighbours=tuple(entry for body in neighbours if (entry := parse_neighbour(body, names)) is not None),
        sysctls=read_sysctls([link.name for link in links if link.name != "lo"]),
    )
