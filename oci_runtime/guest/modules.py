"""Kernel modules by their names, loaded without a program: starting modprobe costs more than most modules."""

from __future__ import annotations

import errno
import os

from oci_runtime.errors import HostError
from oci_runtime.guest.syscalls import system_call

_ROOT = "/lib/modules"
# Of the image's own making (image/modules.py): depmod's list is long, and a search through it slow.
_LISTING = "modules.agent"


def load_known_module(name: str) -> None:
    """Load a module of the image and what it needs. Raises HostError.

    One that is there already is no error, nor is one that the image lacks: what is asked of it says so next. For what
    the agent itself needs; names and parameters from outside go through modprobe.
    """
    directory = f"{_ROOT}/{os.uname().release}"
    try:
        with open(f"{directory}/{_LISTING}", encoding="utf-8", errors="replace") as file:
            paths = find_with_dependencies(file.read(), name)
    except FileNotFoundError:
        return
    for path in paths:
        _insert(f"{directory}/{path}")


def find_with_dependencies(listing: str, name: str) -> list[str]:
    """The files to load for a module, in their order, from lines of `NAME PATH...`; empty when it is unknown."""
    for line in listing.splitlines():
        known, *paths = line.split()
        if known == name:
            return paths
    return []


def _insert(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        number = system_call("finit_module", fd, b"", 0)
    finally:
        os.close(fd)
    if number not in (0, errno.EEXIST):
        raise HostError("finit_module", path, number)
