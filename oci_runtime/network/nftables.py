"""The pod namespace's nftables table: connections to local addresses go to the relay. Requests as bytes, then one call.

In the pod's namespace nobody but the engine's side opens connections: the containers live in the guest. So every TCP
connection that leaves through the loopback device, to 127.0.0.0/8, ::1 or the pod's own addresses, is a port-forward or
a probe and means the guest. Docker's resolver (127.0.0.11), which does live in the namespace, is left alone.
Source: linux/netfilter/nf_tables.h, nfnetlink.h.
"""

from __future__ import annotations

import errno
import socket
import struct

from oci_runtime.errors import HostError
from oci_runtime.netlink.codec import NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, attribute, nested, text
from oci_runtime.netlink.connection import NETLINK_NETFILTER, Connection

TABLE = "vmpod"
_CHAIN = "localhost"
_SUBSYSTEM = 10
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEWTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE = 0, 2, 3, 6
_INET = 1
_NF_INET_LOCAL_OUT = 3
_PRIORITY_DSTNAT = -100
_LOOPBACK_INDEX = 1
_META_OIF, _META_NFPROTO, _META_L4PROTO = 5, 15, 16
_REGISTER = 1
_NFPROTO: dict[int, int] = {socket.AF_INET: 2, socket.AF_INET6: 10}
_DOCKER_RESOLVER = socket.inet_aton("127.0.0.11")

Request = tuple[int, bytes, int]


def plan_redirect(ports: dict[int, int]) -> list[Request]:
    """The requests that make the table. ports: address family -> port of the relay's listening socket."""
    hook = nested(4, _be32(1, _NF_INET_LOCAL_OUT), attribute(2, struct.pack(">i", _PRIORITY_DSTNAT)))
    chain = text(1, TABLE) + text(3, _CHAIN) + hook + text(7, "nat")
    requests = [
        _request(_NEWTABLE, text(1, TABLE), NLM_F_CREATE | NLM_F_EXCL),
        _request(_NEWCHAIN, chain, NLM_F_CREATE),
    ]
    local_tcp = [*_match_meta(_META_OIF, struct.pack("=I", _LOOPBACK_INDEX)), *_match_meta(_META_L4PROTO, b"\x06")]
    for family, port in sorted(ports.items()):
        of_family = _match_meta(_META_NFPROTO, bytes((_NFPROTO[family],)))
        if family == socket.AF_INET:
            resolver = _match_destination4(_DOCKER_RESOLVER)
            requests.append(_rule([*local_tcp, *of_family, *resolver, _accept()]))
        requests.append(_rule([*local_tcp, *of_family, *_redirect(port)]))
    return requests


def add_redirect(ports: dict[int, int]) -> None:
    """Make the table in the calling thread's namespace. Raises HostError; after a failure no table is left."""
    try:
        with Connection(NETLINK_NETFILTER) as connection:
            try:
                _replace(connection, plan_redirect(ports))
            except OSError as error:
                hint = f"redirection of localhost to the guest: {error.strerror}"
                raise HostError.from_oserror(error, "nftables", f"table inet {TABLE}", hint=hint) from error
    except OSError as error:
        raise HostError.from_oserror(error, "socket", "NETLINK_NETFILTER") from error


def _replace(connection: Connection, requests: list[Request]) -> None:
    try:
        _commit(connection, requests)
    except OSError as error:
        if error.errno != errno.EEXIST:
            raise
        delete_table(connection)  # a pod that was killed left it behind
        _commit(connection, requests)


def remove_redirect() -> None:
    """Remove the table from the calling thread's namespace; no error when there is none. Raises HostError."""
    try:
        with Connection(NETLINK_NETFILTER) as connection:
            delete_table(connection)
    except OSError as error:
        raise HostError.from_oserror(error, "nftables", f"table inet {TABLE}") from error


def delete_table(connection: Connection) -> None:
    """Delete the table if there is one. Raises OSError."""
    try:
        _commit(connection, [_request(_DELTABLE, text(1, TABLE), 0)])
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise


def _commit(connection: Connection, requests: list[Request]) -> None:
    envelope = struct.pack(">BBH", 0, 0, _SUBSYSTEM)
    connection.batch(requests, begin=(_BATCH_BEGIN, envelope), end=(_BATCH_END, envelope))


def _request(kind: int, body: bytes, flags: int) -> Request:
    return _SUBSYSTEM << 8 | kind, struct.pack(">BBH", _INET, 0, 0) + body, flags


def _rule(expressions: list[bytes]) -> Request:
    body = text(1, TABLE) + text(2, _CHAIN) + nested(4, *(attribute(1 | 0x8000, entry) for entry in expressions))
    return _request(_NEWRULE, body, NLM_F_CREATE | NLM_F_APPEND)


def _expression(name: str, *attributes: bytes) -> bytes:
    return text(1, name) + nested(2, *attributes)


def _be32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value))


def _equals(value: bytes) -> bytes:
    return _expression("cmp", _be32(1, _REGISTER), _be32(2, 0), nested(3, attribute(1, value)))


def _match_meta(key: int, value: bytes) -> list[bytes]:
    return [_expression("meta", _be32(2, key), _be32(1, _REGISTER)), _equals(value)]


def _match_destination4(address: bytes) -> list[bytes]:
    network_header, offset = 1, 16
    load = _expression("payload", _be32(1, _REGISTER), _be32(2, network_header), _be32(3, offset), _be32(4, 4))
    return [load, _equals(address)]


def _accept() -> bytes:
    verdict = nested(2, _be32(1, 1))
    return _expression("immediate", _be32(1, 0), nested(2, verdict))


def _redirect(port: int) -> list[bytes]:
    load = _expression("immediate", _be32(1, _REGISTER), nested(2, attribute(1, struct.pack(">H", port))))
    return [load, _expression("redir", _be32(1, _REGISTER), _be32(2, _REGISTER))]
