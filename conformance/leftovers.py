"""What a run leaves on the host: processes, mounts, cgroups, files, interfaces, counted before and after."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from conformance import host, reaper
from conformance.session import Session

WATCHED = ("/run", "/tmp", "/var/tmp", "/dev/shm", "/dev/mqueue", "/var/run/netns")


@dataclass(frozen=True)
class Leftovers:
    """Everything of ours that exists at one moment."""

    processes: frozenset[str]
    mounts: frozenset[str]
    cgroups: frozenset[str]
    files: frozenset[str]
    interfaces: frozenset[str]

    def beyond(self, before: Leftovers) -> list[str]:
        """Return a line for each thing that is here and was not there before."""
        found = []
        for kind in ("processes", "mounts", "cgroups", "files", "interfaces"):
            extra = sorted(getattr(self, kind) - getattr(before, kind))
            found += [f"{kind}: {item}" for item in extra]
        return found


def look(session: Session) -> Leftovers:
    """Return what is on the host now."""
    children = host.read_children()
    ours = host.descendants(reaper.subreaper(), children) - {os.getpid()}
    for kept in session.kept_pids():
        ours -= {kept, *host.descendants(kept, children)}
    processes = frozenset(f"{pid} {host.command_line(pid)}" for pid in ours if host.read_process(pid))
    with open("/proc/self/mountinfo") as table:
        mounts = frozenset(line.split()[4] for line in table)
    return Leftovers(processes, mounts, _cgroups(session.tag), _files(session), frozenset(os.listdir("/sys/class/net")))


def wait_clean(session: Session, before: Leftovers, deadline_s: float = 10) -> list[str]:
    """Wait until nothing is left beyond `before`; return what remains at the deadline."""
    left: list[str] = []

    def is_clean() -> bool:
        nonlocal left
        left = look(session).beyond(before)
        return not left

    host.poll_until(is_clean, session.runtime.deadline(deadline_s), 0.2)
    return left


def _cgroups(tag: str) -> frozenset[str]:
    """Return the cgroups whose path carries the tag; parents that the caller named do not count."""
    found = set()
    for directory, names, _ in os.walk("/sys/fs/cgroup"):
        for name in names:
            path = f"{directory}/{name}"
            if tag in path and name != tag and not name.startswith("slice-"):
                found.add(path)
    return frozenset(found)


def remove_cgroups(tag: str) -> None:
    """Remove the run's empty parents, which runtimes rightly leave to their caller."""
    for directory, names, _ in os.walk("/sys/fs/cgroup", topdown=False):
        for name in names:
            if tag in f"{directory}/{name}":
                try:
                    os.rmdir(f"{directory}/{name}")
                except OSError:
                    continue


def _files(session: Session) -> frozenset[str]:
    """Return what is in the runtime's root, and what carries the run's tag in the usual places.

    An empty hidden directory in the root does not count: it is a place for things, not one of them.
    """
    found = set()
    root = session.runtime.root
    for directory, names, files in os.walk(root):
        found |= {f"{directory}/{name}" for name in names + files}
        if Path(directory).name.startswith(".") and not names and not files:
            found.discard(directory)
    for place in WATCHED:
        for directory, names, files in os.walk(place):
            if Path(directory) == session.scratch or session.scratch in Path(directory).parents:
                names.clear()
                continue
            if directory.count("/") - place.count("/") >= 2:
                names.clear()
            found |= {f"{directory}/{name}" for name in names + files if session.tag in name}
    found.discard(str(session.scratch))
    return frozenset(found)
