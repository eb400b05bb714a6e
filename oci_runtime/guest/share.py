"""What a container has of the host: its sources are there before it is created, and are let go when it is removed.

The guest's kernel keeps what it has looked up, and a mount for each file system in the share, until somebody looks at
the same name again and finds it gone. Until then virtiofsd holds the files open, and the host cannot free the file
system they are on. So the agent looks, once the time is over for which a name is trusted without asking.
"""

from __future__ import annotations

import os
import time
from _thread import start_new_thread

from oci_runtime.errors import NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oci_runtime.guest.agent import Agent

SHARE = "/run/vmpod/share/"
_OURS = "/run/vmpod/"
_DELAY_S = 1.5  # names are trusted for a second (virtiofsd's cache=auto)
_ATTEMPTS = 4
_MAX_LINKS = 40


def share_directories(spec: dict[str, Any]) -> frozenset[str]:
    """The directories of the share that a container's root and binds lie in, its own and those of its volumes."""
    paths = [str((spec.get("root") or {}).get("path", ""))]
    paths += [str(mount.get("source", "")) for mount in spec.get("mounts") or ()]
    return frozenset(os.path.dirname(path) for path in paths if path.startswith(SHARE))


def check_sources(spec: dict[str, Any]) -> None:
    """See that the guest has what binds take from its own. Raises NotFound with the mount and the path."""
    for index, mount in enumerate(spec.get("mounts") or ()):
        source = str(mount.get("source", ""))
        if {"bind", "rbind"}.isdisjoint(mount.get("options") or ()) or source.startswith(_OURS):
            continue
        if not os.path.exists(source):
            raise NotFound(
                f"mounts[{index}] {mount.get('destination')}: the guest has no {source}, and what the host's kernel"
                " has there cannot be shared with a virtual machine"
            )


def make_dev(spec: dict[str, Any]) -> None:
    """Make /dev in a root file system that has none and gets nothing mounted there, as runc does: crun wants to see it.

    A root that nobody can write to is left to crun's own words.
    """
    if any(os.path.normpath(str(mount.get("destination"))) == "/dev" for mount in spec.get("mounts") or ()):
        return
    try:
        os.mkdir(f"{spec['root']['path']}/dev", 0o755)
    except OSError:
        return


def settle_destinations(spec: dict[str, Any]) -> None:
    """Let mounts go where links of the root file system lead that end at nothing, as /var/run may: crun makes missing
    directories, but not behind such a link, as runc does.

    Whatever changes afterwards: crun looks everything up anew, and stays in the root.
    """
    root = str(spec["root"]["path"])
    for mount in spec.get("mounts") or ():
        place, missing = _resolve(root, str(mount.get("destination")))
        if missing:
            mount["destination"] = place


def _resolve(root: str, path: str) -> tuple[str, bool]:
    """Follow the links of a path inside of `root`; also whether there are some and what they lead to is missing."""
    parts = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    place, links, missing = "", 0, False
    while parts:
        part = parts.pop()
        if part == "..":
            place, missing = place.rpartition("/")[0], False
            continue
        try:
            target = "" if missing else os.readlink(f"{root}{place}/{part}")
        except FileNotFoundError:
            target, missing = "", True
        except OSError:  # EINVAL: no link
            target = ""
        if not target:
            place += f"/{part}"
            continue
        links += 1
        if links > _MAX_LINKS:
            return path, False
        place = "" if target.startswith("/") else place
        parts += [part for part in reversed(target.split("/")) if part not in ("", ".")]
    return place or "/", missing and links > 0


def forget_share(agent: Agent, directories: frozenset[str]) -> None:
    """Have a container's directories in the share dropped soon; the host takes them out right after the removal."""
    if not directories:
        return

    def look() -> None:
        # In a thread: a share whose daemon is gone would hold up the loop.
        start_new_thread(_look, (directories,))

    def later() -> None:
        agent.loop.later(_DELAY_S, look)

    agent.loop.call(later)


def _look(directories: frozenset[str]) -> None:
    """Look until they are gone; one that stays belongs to another container, too."""
    for _ in range(_ATTEMPTS):
        if not any([os.path.exists(directory) for directory in directories]):  # a list: each one is looked at
            return
        time.sleep(_DELAY_S)
