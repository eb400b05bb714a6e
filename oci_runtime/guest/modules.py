"""Kernel modules by their names, loaded without a program: starting modprobe costs more than most modules."""

from __future__ import annotations

import errno
import os

from oci_runtime.errors import HostError
from oci_runtime.guest.syscalls import system_call

_ROOT = "/lib/modules"


def load_known_module(name: str) -> bool:
    """Load a module of the image and what it needs; False when the image has none of that name.

    A module that is there already is no error. Raises HostError. For what the agent itself needs; names and parameters
    from outside go through modprobe.
    """
    directory = f"{_ROOT}/{os.uname().release}"
    try:
        with open(f"{directory}/modules.dep", encoding="utf-8", errors="replace") as file:
            paths = find_with_dependencies(file.read(), name)
    except FileNotFoundError:
        return False
    for path in paths:
        _insert(f"{directory}/{path}")
    return bool(paths)


def find_with_dependencies(listing: str, name: str) -> list[str]:
    """The files to load for a module, in their order, from the text of modules.dep; empty when it is unknown."""
    end = listing.find(f"/{name}.ko:")
    if end < 0:
        return []
    begin = listing.rfind("\n", 0, end) + 1
    path, _, needed = listing[begin : listing.find("\n", end)].partition(":")
    return [*reversed(needed.split()), path]


def _insert(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        number = system_call("finit_module", fd, b"", 0)
    finally:
        os.close(fd)
    if number not in (0, errno.EEXIST):
        raise HostError("finit_module", path, number)
