"""Devices: the default set, links, devices of the configuration, and the device cgroup."""

from __future__ import annotations

from conformance.bundle import Config
from conformance.case import Case, sections
from conformance.container import Container
from conformance.registry import Suite
from conformance.session import Session

suite = Suite("devices")

DEFAULT = {
    "null": "1:3",
    "zero": "1:5",
    "full": "1:7",
    "random": "1:8",
    "urandom": "1:9",
    "tty": "5:0",
}
LINKS = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}

PROBE = """
section() { echo; echo "@@ $1"; }
section default; for d in null zero full random urandom tty; do stat -c '%n %F %t:%T %a' /dev/$d; done
section links; for l in fd stdin stdout stderr ptmx; do echo "$l $(readlink /dev/$l)"; done
section work; head -c 16 /dev/zero | wc -c; head -c 16 /dev/urandom | wc -c; echo x >/dev/null && echo null-ok
echo x >/dev/full || echo full-ok
section list; ls /dev
section custom; stat -c '%n %F %t:%T %a %u:%g' /dev/custom /dev/pipe /opt/deep/dev; echo x >/dev/custom && echo written
section mknod; mknod /opt/n c 1 3 && echo x >/opt/n && echo null-made
section denied; mknod /opt/m c 1 1 2>/dev/null; head -c 1 /opt/m >/dev/null 2>&1 && echo read-memory || echo refused
section allowed; mknod /opt/a c 1 5 2>/dev/null; head -c 4 /opt/a | wc -c
"""


def probe(session: Session) -> dict[str, str]:
    """One container with devices of its own and a device cgroup that denies the rest."""
    container = session.keep(Container(session, session.new_name("dev"), ("sh", "-c", PROBE), member=True))
    linux: Config = container.config["linux"]
    linux["devices"] = [
        {"path": "/dev/custom", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 1000, "gid": 5},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600},
        {"path": "/opt/deep/dev", "type": "c", "major": 1, "minor": 5, "fileMode": 0o666},
    ]
    linux["resources"]["devices"] = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "access": "m"},
        {"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
        {"allow": True, "type": "c", "major": 1, "minor": 5, "access": "rw"},
    ]
    return sections(container.run().out)


def _hex(number: str) -> str:
    major, minor = number.split(":")
    return f"{int(major):x}:{int(minor):x}"


@suite.check("default", "config-linux.md#default-devices", "null, zero, full, random, urandom and tty exist")
def default_devices(case: Case) -> None:
    lines = case.shared(probe)["default"].splitlines()
    for name, number in DEFAULT.items():
        case.contains(lines, f"/dev/{name} character special file {_hex(number)} 666", "devices")


@suite.check("links", "config-linux.md#default-devices", "/dev/fd, stdin, stdout, stderr and ptmx are links")
def links(case: Case) -> None:
    lines = case.shared(probe)["links"].splitlines()
    for name, target in LINKS.items():
        expected = (f"{name} {target}", f"{name} /dev/{target}")
        case.expect(any(line in expected for line in lines), f"/dev/{name}: {lines}")


@suite.check("work", "config-linux.md#default-devices", "the default devices can be used in spite of the device cgroup")
def work(case: Case) -> None:
    case.equal(case.shared(probe)["work"].split(), ["16", "16", "null-ok", "full-ok"], "zero, urandom, null, full")


@suite.check("nothing-else", "config-linux.md#devices", "/dev holds nothing of the host but what was asked for")
def nothing_else(case: Case) -> None:
    known = {*DEFAULT, *LINKS, "console", "pts", "shm", "mqueue", "core", "custom", "pipe"}
    case.equal(set(case.shared(probe)["list"].split()) - known, set(), "further entries in /dev")


@suite.check(
    "custom", "config-linux.md#devices", "devices of the configuration have their kind, number, mode and owner"
)
def custom(case: Case) -> None:
    lines = case.shared(probe)["custom"].splitlines()
    case.contains(lines, "/dev/custom character special file 1:3 640 1000:5", "character device")
    case.contains(lines, "/dev/pipe fifo 0:0 600 0:0", "named pipe")
    case.contains(lines, "/opt/deep/dev character special file 1:5 666 0:0", "device outside /dev")
    case.contains(lines, "written", "write to the device")


@suite.check("mknod", "config-linux.md#allowed-device-list", "mknod and use of an allowed device")
def mknod(case: Case) -> None:
    facts = case.shared(probe)
    case.equal(facts["mknod"], "null-made", "null device made inside")
    case.equal(facts["allowed"], "4", "bytes from a zero device made inside")


@suite.check("denied", "config-linux.md#allowed-device-list", "a device that no rule allows cannot be opened")
def denied(case: Case) -> None:
    case.equal(case.shared(probe)["denied"], "refused", "open of /dev/mem")


@suite.check(
    "unknown-numbers", "config-linux.md#devices", "nodes are made although nothing stands behind their numbers"
)
def unknown_numbers(case: Case) -> None:
    container = case.container("stat", "-c", "%n %F %t:%T %a %u:%g", "/dev/one", "/dev/two", "/dev/three")
    container.config["linux"]["devices"] = [
        {"path": "/dev/one", "type": "c", "major": 10, "minor": 666, "fileMode": 0o432, "uid": 0, "gid": 0},
        {"path": "/dev/two", "type": "b", "major": 8, "minor": 666, "fileMode": 0o432, "uid": 7, "gid": 8},
        {"path": "/dev/three", "type": "p", "major": 8, "minor": 666, "fileMode": 0o432, "uid": 0, "gid": 0},
    ]
    lines = container.run().out.splitlines()
    expected = ["/dev/one character special file a:29a 432 0:0", "/dev/two block special file 8:29a 432 7:8"]
    case.equal(lines, [*expected, "/dev/three fifo 0:0 432 0:0"], "kind, number, mode and owner")
