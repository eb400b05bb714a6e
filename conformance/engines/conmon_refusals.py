"""CRI-O's pods that ask for what not every runtime can give: it works, or the message that CRI-O shows says why not."""

from __future__ import annotations

import os
from functools import partial

from conformance import host
from conformance.case import Case
from conformance.engines.conmon import CRIO, places, suite
from conformance.engines.crio import CrioContainer, Pod
from conformance.engines.refusals import HOST_DEVICE


def _sandbox(case: Case) -> CrioContainer:
    sandbox = Pod(case.session, case.shared(places)).container("sandbox")
    case.defer(sandbox.cleanup)
    return sandbox


def _expect_shared(case: Case, sandbox: CrioContainer, kind: str, file: str) -> None:
    """The sandbox is in the namespace of the caller, or conmon passes one line on that names it."""
    monitor = sandbox.create()
    if monitor.pid > 0:
        found, own = (os.stat(f"/proc/{process}/ns/{file}").st_ino for process in (monitor.pid, "self"))
        case.equal(found, own, f"{kind} namespace")
    else:
        _expect_one_line(case, monitor.message, f"host.*{kind}")


def _expect_one_line(case: Case, message: str, words: str) -> None:
    case.matches(message, words, "message")
    case.equal(len(message.strip().splitlines()), 1, f"lines of the message {message!r}")


@suite.check("host-network", CRIO, "a pod on the host's network either works there, or one line says why not")
def host_network(case: Case) -> None:
    sandbox = _sandbox(case)
    host_path = sandbox.pod.directory / "host-netns"
    host_path.touch()
    host.mount("/proc/self/ns/net", str(host_path), flags=host.MS_BIND)
    case.defer(lambda: host.umount(str(host_path)))
    for entry in sandbox.config["linux"]["namespaces"]:
        if entry["type"] == "network":
            entry["path"] = str(host_path)
    _expect_shared(case, sandbox, "network", "net")


def _without(kind: str, case: Case) -> None:
    sandbox = _sandbox(case)
    linux = sandbox.config["linux"]
    linux["namespaces"] = [entry for entry in linux["namespaces"] if entry["type"] != kind]
    _expect_shared(case, sandbox, kind, kind)


for _kind in ("pid", "ipc"):
    suite.add(
        f"host-{_kind}",
        CRIO,
        f"a pod with the host's {_kind} namespace either has it, or one line says why not",
        partial(_without, _kind),
    )


@suite.check("device-host", CRIO, "a device that only the host has is there, or one line says why not")
def device_host(case: Case) -> None:
    sandbox = _sandbox(case)
    number = os.stat(HOST_DEVICE).st_rdev
    device = {"path": HOST_DEVICE, "type": "c", "major": os.major(number), "minor": os.minor(number)}
    sandbox.config["linux"]["devices"] = [device]
    monitor = sandbox.create()
    if monitor.pid < 0:
        _expect_one_line(case, monitor.message, "device")
