"""Mounts in tests: a mount namespace of the test run's own, and trees attached as the command line would."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.host import syscalls
from oci_runtime.storage.share import Share


@pytest.fixture(scope="session")
def private_mounts() -> Iterator[None]:
    """Move this test run out of the host's mount namespace, for good: what it mounts goes with it."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    yield


def bind(source: Path, destination: str, *options: str) -> dict[str, Any]:
    """A recursive bind mount of a spec."""
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind", *options]}


# What a container without an image needs to run /usr/bin/python3 of the host.
HOST_PYTHON = (
    bind(Path("/usr"), "/usr", "ro"),
    bind(Path("/usr/lib"), "/lib", "ro"),
    bind(Path("/usr/lib64"), "/lib64", "ro"),
)


def attach_path(
    share: Share,
    path: Path,
    container: str,
    name: str,
    *,
    readonly: str = "",
    propagation: str = "private",
    pool: str = "",
    source: str = "",
) -> str:
    """Open a tree of the host and attach it."""
    tree = syscalls.open_tree(str(path))
    try:
        return share.attach(tree, container, name, readonly=readonly, propagation=propagation, pool=pool, source=source)
    finally:
        os.close(tree)
