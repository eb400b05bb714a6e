"""Files of a container in every kind of storage that a pod can have, beside runc on the same disk of the host.

The workloads are those of `inside/files.py`, run by the host's Python in the container: large and small reads and
writes, 10,000 small files, git and pip without a network. One container at a time; some minutes in all.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measure import Runtime, Table, make_bundle
from bench.storage_sources import make_repository, make_wheels, unpack_pip
from conformance.bundle import make_rootfs

VMPOD = str(Path(sys.executable).parent / "vmpod")
WORKLOAD = Path(__file__).parent / "inside" / "files.py"
DEADLINE_S = 900.0
_DISK_BYTES = 1 << 30  # sparse


@dataclass(frozen=True)
class Way:
    """A column of the table. settings: of [storage], "" where runc runs. disk: what an image file with ext4 is."""

    title: str
    settings: str = ""
    is_volume: bool = True
    disk: str = ""


WAYS = (
    Way("runc"),
    Way("share (auto)", 'virtio_fs_cache = "auto"'),
    Way("share, always", 'virtio_fs_cache = "always"'),
    Way("share, never", 'virtio_fs_cache = "never"'),
    Way("direct volume", 'direct_volumes = "{directory}/volumes"', disk="volume"),
    Way("root on a disk", 'block_driver = "virtio-blk"', is_volume=False, disk="root"),
    Way("overlay in memory", 'rootfs_overlay = "memory"', is_volume=False),
    Way("overlay on a scratch disk", 'rootfs_overlay = "disk"', is_volume=False),
)


def run(directory: Path) -> Iterable[Table]:
    """Yield one table: a column per way, the higher the better."""
    table = Table(
        "Files of a container", "per second", tuple(way.title for way in WAYS), (WAYS[1].title, WAYS[0].title)
    )
    source = directory / "source"
    make_repository(source / "repository.git")
    make_wheels(source / "wheels")
    unpack_pip(source / "pip")
    for number, way in enumerate(WAYS):
        for row, rate in measure(directory / str(number), way, source).items():
            table.add(row, way.title, rate)
    yield table


def measure(directory: Path, way: Way, source: Path) -> dict[str, float]:
    """Run all workloads one way, in a directory of its own; return the rates by row."""
    work = directory / "work"
    work.mkdir(parents=True)
    runtime = _runtime(directory, way)
    place = "/work" if way.is_volume else "/tmp"
    arguments = ["/usr/bin/python3", "-I", "/files.py", place, "/source"]
    bundle = make_bundle(directory / "bundle", arguments)
    spec: dict[str, Any] = json.loads((bundle / "config.json").read_text())
    sources = [("/usr", "/usr", "ro"), ("/usr/lib", "/lib", "ro"), ("/usr/lib64", "/lib64", "ro")]
    sources += [(str(source), "/source", "ro"), (str(WORKLOAD), "/files.py", "ro")]
    sources += [(str(work), "/work", "rw")] if way.is_volume else []
    spec["mounts"] += [
        {"destination": destination, "type": "bind", "source": path, "options": ["rbind", access]}
        for path, destination, access in sources
    ]
    if way.disk == "root":
        spec["root"]["path"] = str(_make_disk(directory))
    elif way.disk:
        info = {"volume-type": "block", "device": str(_make_disk(directory)), "fstype": "ext4"}
        runtime.call("volume", "add", "--volume-path", str(work), "--mount-info", json.dumps(info))
    (bundle / "config.json").write_text(json.dumps(spec))
    output = directory / "output"
    try:
        with output.open("wb") as file:
            command = [*runtime.command, "run", "--bundle", str(bundle), "files"]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=file, timeout=DEADLINE_S)
    finally:
        runtime.try_call("delete", "--force", "files")
    rates: dict[str, float] = json.loads(output.read_text())
    return rates


def _runtime(directory: Path, way: Way) -> Runtime:
    """runc, or vmpod with its own state directory and configuration."""
    if not way.settings:
        return Runtime("runc", "runc", directory / "run")
    config = directory / "config.toml"
    settings = way.settings.format(directory=directory)
    config.write_text(f"[vm]\ndefault_memory_mib = 1024\n[storage]\n{settings}\n")
    runtime = Runtime("vmpod", VMPOD, directory / "run")
    runtime.command += ["--config", str(config)]
    return runtime


def _make_disk(directory: Path) -> Path:
    """An image file with a root file system on ext4, which serves as a volume as well."""
    image = directory / "image"
    with image.open("wb") as file:
        file.truncate(_DISK_BYTES)
    make_rootfs(directory / "content")
    subprocess.run(["mkfs.ext4", "-q", "-F", "-d", str(directory / "content"), str(image)], check=True)
    return image
