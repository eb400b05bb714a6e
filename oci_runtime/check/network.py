"""Try what a pod's network needs of the kernel, in a network namespace that ends with the attempt."""

from __future__ import annotations

import socket
import threading

from oci_runtime.errors import OciRuntimeError
from oci_runtime.host import syscalls
from oci_runtime.netlink.connection import Connection
from oci_runtime.network import nftables, traffic
from oci_runtime.network.apply import find_index
from oci_runtime.network.tap import close_all, open_macvtap, open_tap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_POD, _OWN = "pod0", "vmpod0"
_RATE_BPS = 1_000_000
_MTU = 1500
_ANY_PORT = 1024


def try_network(*, macvtap: bool) -> dict[str, str]:
    """What went wrong with each of tap, tc, nftables and (only if asked for) macvtap; "" for what works."""
    outcome: dict[str, str] = {}

    def attempt() -> None:
        try:
            syscalls.unshare(syscalls.CLONE_NEWNET)
        except OciRuntimeError as error:
            outcome.update(dict.fromkeys(("tap", "tc", "nftables"), error.message))
            return
        _try_all(outcome, macvtap=macvtap)

    # The namespace lives as long as the thread that is in it.
    thread = threading.Thread(target=attempt, name="check-network")
    thread.start()
    thread.join()
    return outcome


def _try_all(outcome: dict[str, str], *, macvtap: bool) -> None:
    fds: list[int] = []
    try:
        with Connection() as connection:
            outcome["tap"] = _problem(lambda: _make_taps(fds))
            further = {"tc": lambda: _join(connection)}
            if macvtap:
                further["macvtap"] = lambda: _make_macvtap(connection, fds)
            for name, act in further.items():
                outcome[name] = "not tried without tap devices" if outcome["tap"] else _problem(act)
        outcome["nftables"] = _problem(
            lambda: nftables.add_redirect({socket.AF_INET: _ANY_PORT, socket.AF_INET6: _ANY_PORT})
        )
    finally:
        close_all(fds)


def _problem(act: Callable[[], None]) -> str:
    try:
        act()
    except OciRuntimeError as error:
        return error.message
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _make_taps(fds: list[int]) -> None:
    for name in (_POD, _OWN):
        fds.extend(open_tap(name, name, 1, create=True))


def _join(connection: Connection) -> None:
    """What apply.py does to join a pod's interface with the machine's, rate limit included."""
    pod, own = find_index(connection, _POD), find_index(connection, _OWN)
    connection.batch(
        [
            *(traffic.add_ingress(index) for index in (pod, own)),
            traffic.redirect(own, pod),
            traffic.share_advertisements(pod, own),
            traffic.redirect(pod, own),
        ]
    )
    connection.batch([traffic.limit_rate(own, _RATE_BPS, _MTU)])


def _make_macvtap(connection: Connection, fds: list[int]) -> None:
    fds.extend(open_macvtap(connection, "macvtap0", _POD, find_index(connection, _POD), 1))
