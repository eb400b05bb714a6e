"""Files: a container's own file system and its volumes, beside runc on the same disk, over the share's cache policies.

Each workload is one script of /usr/bin/python3 of the host in the container, which measures itself: no start-up counts.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.measure import Runtime, Table, make_bundle

VMPOD = str(Path(sys.executable).parent / "vmpod")
CACHES = ("auto", "always", "never")
DEADLINE_S = 900.0
ROWS = {
    "write 64 MiB, 1 MiB each, with fsync": "MiB/s",
    "read 64 MiB, 1 MiB each, again": "MiB/s",
    "write 4 KiB at random, 2,000 times, with fsync": "operations/s",
    "read 4 KiB at random, 2,000 times": "operations/s",
    "create 10,000 small files": "files/s",
    "stat them": "files/s",
    "read them": "files/s",
    "remove them": "files/s",
    "git clone-like: pack file, 2,000 objects, renames": "files/s",
    "pip install-like: 1,500 modules with fsync-less copies and byte code": "files/s",
}

WORKLOAD = r"""
import json, os, random, sys, time
os.chdir(sys.argv[1])
rows, figures = json.loads(sys.argv[2]), []

def timed(amount, call):
    begin = time.perf_counter()
    call()
    figures.append(amount / (time.perf_counter() - begin))

def put(path, data):
    with open(path, "wb", buffering=0) as file:
        file.write(data)

def sequential_write():
    data = os.urandom(1 << 20)
    with open("big", "wb", buffering=0) as file:
        for _ in range(64):
            file.write(data)
        os.fsync(file.fileno())

def sequential_read():
    with open("big", "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass

def random_write():
    chance, data = random.Random(1), os.urandom(4096)
    with open("big", "r+b", buffering=0) as file:
        for _ in range(2000):
            os.pwrite(file.fileno(), data, chance.randrange(16384) * 4096)
        os.fsync(file.fileno())

def random_read():
    chance = random.Random(2)
    with open("big", "rb", buffering=0) as file:
        for _ in range(2000):
            os.pread(file.fileno(), 4096, chance.randrange(16384) * 4096)

NAMES = [f"many/{number // 500}/{number}" for number in range(10000)]

def create():
    os.mkdir("many")
    for number in range(20):
        os.mkdir(f"many/{number}")
    for name in NAMES:
        put(name, b"small")

def look():
    for name in NAMES:
        os.stat(name)

def read():
    for name in NAMES:
        with open(name, "rb", buffering=0) as file:
            file.read()

def remove():
    for name in NAMES:
        os.unlink(name)

def clone():
    os.makedirs("clone/objects")
    put("clone/pack.tmp", os.urandom(8 << 20))
    os.rename("clone/pack.tmp", "clone/pack")
    for number in range(2000):
        directory = f"clone/tree/{number % 40}"
        if number < 40:
            os.makedirs(directory)
        put(f"{directory}/{number}.lock", b"x" * 3000)
        os.rename(f"{directory}/{number}.lock", f"{directory}/{number}")
        os.lstat(f"{directory}/{number}")

def install():
    for number in range(1500):
        package = f"site/package{number % 30}"
        if number < 30:
            os.makedirs(f"{package}/__pycache__")
        put(f"{package}/module{number}.py", b"# text\n" * 500)
        os.chmod(f"{package}/module{number}.py", 0o644)
        os.utime(f"{package}/module{number}.py", (1, 1))
        put(f"{package}/__pycache__/module{number}.tmp", b"code" * 700)
        os.replace(f"{package}/__pycache__/module{number}.tmp", f"{package}/__pycache__/module{number}.pyc")

WORK = ((64, sequential_write), (64, sequential_read), (2000, random_write), (2000, random_read), (10000, create),
        (10000, look), (10000, read), (10000, remove), (2000, clone), (1500, install))
for amount, call in WORK:
    timed(amount, call)
print(json.dumps(dict(zip(rows, figures))))
"""


def run(directory: Path) -> Iterable[Table]:
    """Yield one table: a column per way of storage, the higher the better."""
    columns = ("runc", *(f"virtio-fs {cache}" for cache in CACHES), "guest's overlay in memory")
    table = Table("Files of a container", "MiB/s, operations/s or files/s", columns)
    _measure(table, "runc", Runtime("runc", "runc", directory / "runc-run"), directory / "runc", volume=True)
    for cache in CACHES:
        settings = f'virtio_fs_cache = "{cache}"'
        runtime = _vmpod(directory, cache, settings)
        _measure(table, f"virtio-fs {cache}", runtime, directory / cache, volume=True)
    runtime = _vmpod(directory, "overlay", 'rootfs_overlay = "memory"')
    _measure(table, "guest's overlay in memory", runtime, directory / "overlay", volume=False)
    yield table


def _vmpod(directory: Path, name: str, settings: str) -> Runtime:
    """vmpod with its own state directory and configuration."""
    config = directory / f"{name}.toml"
    config.write_text(f"[vm]\ndefault_memory_mib = 1024\n[storage]\n{settings}\n")
    runtime = Runtime("vmpod", VMPOD, directory / f"{name}-run")
    runtime.command += ["--config", str(config)]
    return runtime


def _measure(table: Table, column: str, runtime: Runtime, directory: Path, *, volume: bool) -> None:
    """Run the workload in a volume of the container, or in its root file system."""
    arguments = ["/usr/bin/python3", "-I", "-c", WORKLOAD, "/work" if volume else "/tmp", json.dumps(list(ROWS))]
    bundle = make_bundle(directory, arguments)
    config: dict[str, Any] = json.loads((bundle / "config.json").read_text())
    (directory / "work").mkdir()
    sources = [("/usr", "/usr", "ro"), ("/usr/lib", "/lib", "ro"), ("/usr/lib64", "/lib64", "ro")]
    sources += [(str(directory / "work"), "/work", "rw")] if volume else []
    config["mounts"] += [
        {"destination": destination, "type": "bind", "source": source, "options": ["rbind", access]}
        for source, destination, access in sources
    ]
    (bundle / "config.json").write_text(json.dumps(config))
    output = directory / "output"
    try:
        with output.open("wb") as file:
            command = [*runtime.command, "run", "--bundle", str(bundle), "files"]
            subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=file, timeout=DEADLINE_S)
    finally:
        runtime.try_call("delete", "--force", "files")
    for row, figure in json.loads(output.read_text()).items():
        table.add(f"{row} ({ROWS[row]})", column, figure)
