"""Undo without memory: what a sandbox process that was killed left in its pod's namespace.

Taps go with QEMU. What stays are the ingress qdiscs, rate limits, macvtaps and the nftables table, all of which bear
our mark; the record says only in which namespace. A namespace that is gone took everything with it.
"""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable, Mapping
from typing import Any

from oci_runtime.errors import HostError, OciRuntimeError
from oci_runtime.host import syscalls
from oci_runtime.netlink import requests
from oci_runtime.netlink.connection import Connection
from oci_runtime.netlink.objects import parse_link
from oci_runtime.network import nftables, traffic
from oci_runtime.network.claim import claim_namespace
from oci_runtime.network.namespace import Identity, check_is_network, identify

RESOURCE_KIND = "network"


def describe_resource(identity: Identity, path: str = "") -> dict[str, Any]:
    """The record to write before a namespace is touched. path: one under which it may be found later, "" for none."""
    return {"kind": RESOURCE_KIND, "device": identity[0], "inode": identity[1], "path": path}


def undo_network(resource: Mapping[str, Any]) -> None:
    """Clean the recorded namespace, if it still exists and no other pod has it by now. Idempotent.

    Blocking (tens of milliseconds), no event loop needed. Raises HostError when something could not be removed.
    """
    wanted = (int(resource["device"]), int(resource["inode"]))
    fd = _find_namespace(wanted, str(resource.get("path") or ""))
    if fd is None:
        return
    try:
        _run_in(fd, _clean)
    finally:
        os.close(fd)


def _clean() -> None:
    try:
        claim = claim_namespace("cleanup")
    except OciRuntimeError:
        return  # another pod lives there now and began by cleaning up
    try:
        nftables.remove_redirect()
        with Connection() as connection:
            clean_devices(connection)
    except OSError as error:
        raise HostError.from_oserror(error, "netlink", "leftovers in a network namespace") from error
    finally:
        claim.close()


def clean_devices(connection: Connection) -> None:
    """Remove the qdiscs and macvtaps that bear our mark from the namespace, whose claim the caller holds.

    Raises OSError.
    """
    connection.batch(traffic.find_own(connection))
    for body in connection.dump(requests.RTM_GETLINK, requests.DUMP_LINKS):
        link = parse_link(body)
        if link.kind == "macvtap" and link.name.startswith("vmtap"):
            connection.request(requests.RTM_DELLINK, struct.pack("=BxHiII", 0, 0, link.index, 0, 0))


def _find_namespace(wanted: Identity, path: str) -> int | None:
    """Open the namespace by its recorded path, a pin, or a process in it; None when there is none of these."""
    for candidate in (path, *_pins(wanted), *_members(wanted)):
        if not candidate:
            continue
        try:
            fd = os.open(candidate, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            continue
        try:
            if identify(fd) == wanted:
                check_is_network(fd)
                return fd
        except OciRuntimeError:
            pass
        os.close(fd)
    return None


def _pins(wanted: Identity) -> list[str]:
    """Where the namespace is mounted: field 4 of mountinfo shows a namespace file's own name."""
    root = f"net:[{wanted[1]}]"
    with open("/proc/self/mountinfo") as file:
        rows = [line.split() for line in file]
    return [_unescape(row[4]) for row in rows if row[3] == root]


def _unescape(path: str) -> str:
    return path.encode().decode("unicode_escape") if "\\" in path else path


def _members(wanted: Identity) -> list[str]:
    paths = [f"/proc/{name}/ns/net" for name in os.listdir("/proc") if name.isdigit()]
    return [path for path in paths if _is(path, wanted)]


def _is(path: str, wanted: Identity) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == wanted


def _run_in(fd: int, function: Callable[[], None]) -> None:
    """Run in a short-lived thread that has entered the namespace."""
    failures: list[BaseException] = []

    def work() -> None:
        try:
            syscalls.setns(fd, syscalls.CLONE_NEWNET)
            function()
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            failures.append(error)

    thread = threading.Thread(target=work, name="netns")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
