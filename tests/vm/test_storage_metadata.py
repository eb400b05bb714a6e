"""What programs do to files, in a container of runc and of vmpod: the same answers, and the same tree on the host."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine import Engine
from tests.storage_lab import capable, private_mounts, run_checks  # noqa: F401 - a fixture

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("private_mounts")]
FILES = int(os.environ.get("VMPOD_TEST_FILES", "1000"))
SEEDS = 2
CAPABLE = capable(*"CHOWN DAC_OVERRIDE FOWNER FSETID SETUID SETGID SETFCAP KILL MKNOD SYS_ADMIN".split())


class Ran:
    """What the checks said, and the directory that they worked in."""

    def __init__(self, results: dict[str, Any], work: Path) -> None:
        self.results = results
        self.work = work


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Ran]]:
    """Both runs, on the same file system of the host."""
    directory = tmp_path_factory.mktemp("metadata")
    engine = Engine(directory / "engine")
    found = {}
    for runtime in ("runc", "vmpod"):
        work = directory / f"{runtime}-work"
        results = run_checks(
            engine, work, runtime, files=FILES, seeds=SEEDS, process=CAPABLE, deadline_s=240.0 + FILES / 20
        )
        found[runtime] = Ran(results, work)
    yield found
    engine.clean()


@pytest.mark.parametrize(
    "check",
    [
        "ownership", "suid_is_lost_by_writing", "permissions", "supplementary_groups", "extended_attributes",
        "access_lists", "links", "sparse_files", "locks", "memory_maps", "direct", "renames", "rename_flags",
        "device_nodes", "copies", "names", "times", "appends", "special_files", "errors", "small_files", "random_io",
    ],
)  # fmt: skip
def test_a_check_says_what_it_says_under_runc(ran: dict[str, Ran], check: str) -> None:
    expected = ran["runc"].results[check]
    assert not isinstance(expected, str), f"the check itself does not work: {expected}"
    assert ran["vmpod"].results[check] == expected


def test_what_a_share_cannot_do_is_what_the_documentation_says(ran: dict[str, Ran]) -> None:
    """On ext4, as everywhere in the tests, runc's container can do all of it."""
    assert set(ran["runc"].results["what_differs"].values()) == {"fine"}
    assert ran["vmpod"].results["what_differs"] == {
        "O_TMPFILE": "ENOTSUP",
        "collapse": "ENOTSUP",
        "get flags": "ENOTTY",
        "security": "EPERM",
        "set flags": "ENOTTY",
        "trusted": "EPERM",
    }


def test_no_check_is_forgotten(ran: dict[str, Ran]) -> None:
    assert len(ran["vmpod"].results) == len(ran["runc"].results) == 23


def _look(path: Path) -> tuple[Any, ...]:
    """All of a file that must be the same: kind, mode, owner, links, size, attributes, and content or target."""
    status = path.lstat()
    attributes = {
        name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
    }
    content = b""
    if stat.S_ISLNK(status.st_mode):
        content = os.fsencode(os.readlink(path))
    elif stat.S_ISREG(status.st_mode) and status.st_size < 1 << 30:
        content = hashlib.sha256(path.read_bytes()).digest()
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    return status.st_mode, status.st_rdev, status.st_uid, status.st_gid, status.st_nlink, size, attributes, content


def test_the_trees_are_the_same_bit_for_bit(ran: dict[str, Ran]) -> None:
    trees = []
    for runtime in ("runc", "vmpod"):
        work = ran[runtime].work
        found = [Path(place, name) for place, below, files in os.walk(work) for name in (*below, *files)]
        trees.append({str(path.relative_to(work)): _look(path) for path in found})
    runc, vmpod = trees
    assert runc.keys() == vmpod.keys() and len(runc) > FILES / 2
    assert {path: (runc[path], vmpod[path]) for path in runc if runc[path] != vmpod[path]} == {}
    assert ran["vmpod"].work.joinpath("timed").stat().st_mtime_ns == 987_654_321_987_654_321
