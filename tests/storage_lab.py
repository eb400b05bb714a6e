"""Mounts in tests: a mount namespace of the test run's own, and trees attached as the command line would."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.host import syscalls
from oci_runtime.storage.share import Share
from tests.engine import Engine

CHECKS = Path(__file__).parent / "data" / "storage" / "metadata_checks.py"


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


def capable(*names: str) -> dict[str, Any]:
    """The process of a spec that has these capabilities, named without CAP_."""
    names = tuple(f"CAP_{name}" for name in names)
    return {"capabilities": {kind: names for kind in ("bounding", "effective", "permitted", "inheritable")}}


def run_checks(
    engine: Engine,
    work: Path,
    runtime: str,
    *,
    files: int,
    seeds: int,
    process: dict[str, Any],
    deadline_s: float,
    **changes: Any,
) -> dict[str, Any]:
    """What programs do to files, in a container of runc or vmpod that works in `work`: each check's result."""
    work.mkdir()
    name = f"checks-{runtime}"
    mounts = [*HOST_PYTHON, bind(work, "/work", "rw"), bind(CHECKS, "/checks.py", "ro")]
    arguments = ["/usr/bin/python3", "-I", "/checks.py", str(files), str(seeds)]
    if runtime == "vmpod":
        engine.run(name, arguments, more_mounts=mounts, process=process, **changes)
        code, output = engine.exit_code(name, deadline_s), engine.log(name)
        engine.call("delete", name)
    else:
        bundle = engine.bundle(name, arguments, more_mounts=mounts, process=process)
        command = ["runc", "--root", f"{work}-state", "run", "--bundle", str(bundle), name]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=deadline_s, check=False
        )
        code, output = done.returncode, done.stdout + done.stderr
    assert code == 0, output
    results: dict[str, Any] = json.loads(output)
    return results


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
