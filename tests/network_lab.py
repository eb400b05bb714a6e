"""Network namespaces for tests: made here, without pins in the file system, gone with their last descriptor."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from oci_runtime.host import syscalls

_T = TypeVar("_T")
_VNET_HEADER = 10


class Netns:
    """A network namespace of the test's own. `path` is valid as long as the object is open."""

    def __init__(self, *, duplicate_detection: bool = False) -> None:
        found: list[int] = []

        def make() -> None:
            syscalls.unshare(syscalls.CLONE_NEWNET)
            for which in ("all", "default"):  # a second less per address that a test adds
                Path(f"/proc/sys/net/ipv6/conf/{which}/accept_dad").write_text("0" if not duplicate_detection else "1")
            found.append(os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC))

        _in_thread(make)
        self.fd = found[0]
        self.path = f"/proc/{os.getpid()}/fd/{self.fd}"

    def __enter__(self) -> Netns:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)

    def run(self, command: str, *, check: bool = True, stdin: str | None = None) -> str:
        """Run a command line (split at spaces) inside; return its standard output."""
        return self.start(command.split(), check=check, stdin=stdin)

    def start(self, argv: list[str], *, check: bool = True, stdin: str | None = None, env: Any = None) -> str:
        """The same with separate words."""
        done = subprocess.run(
            ["nsenter", f"--net={self.path}", *argv], capture_output=True, text=True, input=stdin, env=env, timeout=60
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def json(self, command: str) -> Any:
        """The same for commands that print JSON."""
        return json.loads(self.run(command) or "[]")

    def call(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Run a function in a thread that has entered the namespace."""

        def work() -> _T:
            syscalls.setns(self.fd, syscalls.CLONE_NEWNET)
            return function(*arguments)

        return _in_thread(work)

    def picture(self) -> dict[str, Any]:
        """All that must be as before once an undo is done."""
        commands = {
            "link": "ip -j -d link",
            "addr": "ip -j addr",
            "route4": "ip -j route show table all",
            "route6": "ip -j -6 route show table all",
            "rule": "ip -j rule",
            "qdisc": "tc -j qdisc",
        }
        shown = {name: self.json(command) for name, command in commands.items()}
        shown["neigh"] = sorted(map(str, self.json("ip -j neigh show nud permanent")))
        shown["filter"] = {
            link["ifname"]: self.run(f"tc filter show dev {link['ifname']} ingress") for link in shown["link"]
        }
        shown["nftables"] = self.run("nft list ruleset")
        return shown


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """What two pictures do not agree in, by the pictures' keys: what was only before, and what is only now."""
    return {key: _only(before[key], after[key]) for key in before if before[key] != after[key]}


def _only(before: Any, after: Any) -> tuple[Any, Any]:
    if isinstance(before, list) and isinstance(after, list):
        return [entry for entry in before if entry not in after], [entry for entry in after if entry not in before]
    return before, after


def settle(*namespaces: Netns) -> None:
    """Wait until no IPv6 address is tentative any more, so that pictures do not differ by that."""
    while any("tentative" in netns.run("ip -6 addr") for netns in namespaces):
        time.sleep(0.05)


def join_namespaces(left: Netns, left_name: str, right: Netns, right_name: str, **settings: Any) -> None:
    """A veth pair between two namespaces, both ends up. settings: mtu, mac (of the left end)."""
    left.run(f"ip link add {left_name} type veth peer name {right_name} netns {right.path}")
    if "mtu" in settings:
        left.run(f"ip link set {left_name} mtu {settings['mtu']}")
        right.run(f"ip link set {right_name} mtu {settings['mtu']}")
    if "mac" in settings:
        left.run(f"ip link set {left_name} address {settings['mac']}")
    left.run(f"ip link set {left_name} up")
    right.run(f"ip link set {right_name} up")


def _in_thread(function: Callable[[], _T]) -> _T:
    results: list[_T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            failures.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]


class TapPeer:
    """A guest in a few lines, at the other end of a tap's descriptor: answers ARP and IPv4 echo, counts frames."""

    def __init__(self, fd: int, mac: str, address: str) -> None:
        """fd: borrowed, opened with IFF_VNET_HDR."""
        self._fd = fd
        self._mac = bytes.fromhex(mac.replace(":", ""))
        self._address = socket.inet_aton(address)
        self._stop = threading.Event()
        self.largest = 0
        self.echoes = 0
        self.kinds: list[bytes] = []  # of each frame the protocol, and behind IPv6's the type of an ICMPv6 message
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> TapPeer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        while not self._stop.is_set():
            if poll.poll(50):
                frame = os.read(self._fd, 1 << 17)[_VNET_HEADER:]
                self.largest = max(self.largest, len(frame))
                self.kinds.append(frame[12:14] + frame[54:55] if frame[12:14] == b"\x86\xdd" else frame[12:14])
                answer = self._answer(frame)
                if answer:
                    os.write(self._fd, bytes(_VNET_HEADER) + answer)

    def _answer(self, frame: bytes) -> bytes:
        kind = frame[12:14]
        if kind == b"\x08\x06" and frame[20:22] == b"\0\1" and frame[38:42] == self._address:
            reply = frame[12:20] + b"\0\2" + self._mac + frame[38:42] + frame[22:32]
            return frame[6:12] + self._mac + reply
        if kind == b"\x08\0" and frame[23] == 1 and frame[34] == 8 and frame[30:34] == self._address:
            self.echoes += 1
            total = int.from_bytes(frame[16:18], "big")
            echo = bytearray(frame[34 : 14 + total])
            checksum = int.from_bytes(echo[2:4], "big") + 0x0800  # the type becomes 0 instead of 8
            echo[0] = 0
            echo[2:4] = ((checksum & 0xFFFF) + (checksum >> 16)).to_bytes(2, "big")
            header = frame[14:26] + frame[30:34] + frame[26:30]
            return frame[6:12] + self._mac + frame[12:14] + header + bytes(echo)
        return b""
