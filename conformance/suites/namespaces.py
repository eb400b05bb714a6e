"""The namespaces of the process that callers see (config-linux.md#namespaces): new, kept, joined by path, refused."""

from __future__ import annotations

import os
import subprocess
from functools import partial
from pathlib import Path

from conformance import host
from conformance.bundle import Config, namespace
from conformance.case import Case
from conformance.container import Container
from conformance.registry import Suite
from conformance.session import Session

suite = Suite("namespaces")

CLAUSE = "config-linux.md#namespaces"
# Types of the specification, and their names below /proc/PID/ns.
FILES = {"pid": "pid", "network": "net", "mount": "mnt", "ipc": "ipc", "uts": "uts", "user": "user", "cgroup": "cgroup"}
NEW = ("pid", "network", "mount", "ipc", "uts", "cgroup")
KEPT = ("user",)
JOINED = ("network", "ipc", "uts", "cgroup")
# Joined one at a time: a root is made in the mount namespace, and the holder of a pid namespace is not in it itself.
JOINED_ALONE = {"mount": ("--mount", "ns/mnt"), "pid": ("--pid", "ns/pid_for_children")}


def _identity(pid: int | str, kind: str) -> int:
    return os.stat(f"/proc/{pid}/ns/{FILES[kind]}").st_ino


def _entry(config: Config, kind: str) -> Config:
    """The configuration's entry of a kind, added where there is none."""
    entries = config["linux"]["namespaces"]
    if kind not in [entry["type"] for entry in entries]:
        entries.append({"type": kind})
    return namespace(config, kind)


def fresh(session: Session) -> Container:
    """A container with new namespaces of every kind but user."""
    container = session.keep(Container(session, session.new_name("ns"), ("sleep", "1000"), member=False))
    for kind in NEW:
        _entry(container.config, kind)
    return container.create()


def joining(session: Session) -> tuple[Container, int]:
    """A container in the namespaces of a process of the host, and that process's pid."""
    holder = subprocess.Popen(["unshare", "--net", "--ipc", "--uts", "--cgroup", "sleep", "1000"])
    session.defer(holder.wait)
    session.defer(holder.kill)
    host.poll_until(lambda: all(_identity(holder.pid, kind) != _identity("self", kind) for kind in JOINED), 10)
    container = session.keep(Container(session, session.new_name("ns"), ("sleep", "1000"), member=False))
    container.config.pop("hostname")
    for kind in JOINED:
        _entry(container.config, kind)["path"] = f"/proc/{holder.pid}/ns/{FILES[kind]}"
    return container.create(), holder.pid


def _new(kind: str, case: Case) -> None:
    pid = case.shared(fresh).pid()
    case.expect(_identity(pid, kind) != _identity("self", kind), f"the {kind} namespace of the process is the caller's")


def _kept(kind: str, case: Case) -> None:
    pid = case.shared(fresh).pid()
    case.equal(_identity(pid, kind), _identity("self", kind), f"{kind} namespace of the process")


def _joined(kind: str, case: Case) -> None:
    container, holder = case.shared(joining)
    case.equal(_identity(container.pid(), kind), _identity(holder, kind), f"{kind} namespace of the process")


def _joined_alone(kind: str, case: Case) -> None:
    option, name = JOINED_ALONE[kind]
    holder = subprocess.Popen(["unshare", option, "--fork", "--kill-child", "sleep", "1000"])
    case.defer(holder.wait)
    case.defer(holder.kill)
    path = f"/proc/{holder.pid}/{name}"
    host.poll_until(lambda: os.stat(path).st_ino != _identity("self", kind), 10)
    container = case.container("sleep", "1000", own=True)
    _entry(container.config, kind)["path"] = path
    container.create()
    case.equal(_identity(container.pid(), kind), os.stat(path).st_ino, f"{kind} namespace of the process")


def _new_user(case: Case) -> None:
    container = case.container("sleep", "1000", own=True)
    for path in (container.rootfs, *container.rootfs.iterdir()):
        os.chown(path, 100000, 100000, follow_symlinks=False)
    _entry(container.config, "user")
    for key in ("uidMappings", "gidMappings"):
        container.config["linux"][key] = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    pid = container.create().pid()
    case.expect(
        _identity(pid, "user") != _identity("self", "user"), "the user namespace of the process is the caller's"
    )
    for name in ("uid_map", "gid_map"):
        case.equal(Path(f"/proc/{pid}/{name}").read_text().split(), ["0", "100000", "65536"], name)


def _refused(kind: str, case: Case) -> None:
    container = case.container("true", own=True)
    container.config.pop("hostname")
    other = "uts" if kind != "uts" else "ipc"
    _entry(container.config, kind)["path"] = f"/proc/self/ns/{FILES[other]}"
    case.refused(container.try_create())


for _kind in NEW:
    suite.add(f"new-{_kind}", CLAUSE, f"the process has a {_kind} namespace of its own", partial(_new, _kind))
suite.add("new-user", CLAUSE, "the process has a user namespace of its own, with its mappings", _new_user)
for _kind in KEPT:
    suite.add(
        f"kept-{_kind}", CLAUSE, f"without an entry the process keeps the {_kind} namespace", partial(_kept, _kind)
    )
for _kind in JOINED:
    suite.add(f"joined-{_kind}", CLAUSE, f"the process joins the {_kind} namespace of a path", partial(_joined, _kind))
for _kind in JOINED_ALONE:
    _title = f"the process joins the {_kind} namespace of a path that no container made"
    suite.add(f"joined-{_kind}", CLAUSE, _title, partial(_joined_alone, _kind))
for _kind in FILES:
    _title = f"as {_kind} namespace a path to one of another kind is refused"
    suite.add(f"refused-{_kind}", CLAUSE, _title, partial(_refused, _kind))
