"""Runs in a container: workloads of files in the directory of the first argument, as one JSON object of rates.

The second argument is a directory with `repository.git`, `wheels` and `pip`. Each workload measures itself, so the
container's start does not count. Rates are per second; one that the file system cannot do is missing.
"""

from __future__ import annotations

import json
import mmap
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable

BIG_MIB = 64
OPERATIONS = 1_000
SMALL = 10_000
SOME = 1_000
BLOCK = 4096
_SMALL_PER_DIRECTORY = 500
_BIG, _MANY = "big", "many"
_WRITE, _READ = os.O_CREAT | os.O_WRONLY | os.O_TRUNC, os.O_RDONLY

rates: dict[str, float] = {}


def timed(row: str, amount: float, call: Callable[[], object]) -> None:
    """Add the rate of one workload; amount: how much it does."""
    begin = time.perf_counter()
    try:
        call()
    except OSError as error:
        print(f"{row}: {error}", file=sys.stderr)
        return
    rates[row] = amount / (time.perf_counter() - begin)


def sequential_write() -> None:
    data = os.urandom(1 << 20)
    with open(_BIG, "wb", buffering=0) as file:
        for _ in range(BIG_MIB):
            file.write(data)
        os.fsync(file.fileno())


def sequential_read() -> None:
    with open(_BIG, "rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


def forget() -> None:
    """Drop what the container's kernel has cached of the big file."""
    with open(_BIG, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def places(seed: int) -> list[int]:
    chance = random.Random(seed)
    return [chance.randrange((BIG_MIB << 20) // BLOCK) * BLOCK for _ in range(OPERATIONS)]


def random_write(flags: int = 0) -> None:
    block = mmap.mmap(-1, BLOCK)  # aligned, as O_DIRECT wants it
    block[:] = os.urandom(BLOCK)
    file = os.open(_BIG, os.O_RDWR | flags)
    try:
        for place in places(1):
            os.pwritev(file, [block], place)
        os.fsync(file)
    finally:
        os.close(file)


def random_read(flags: int = 0) -> None:
    block = mmap.mmap(-1, BLOCK)
    file = os.open(_BIG, os.O_RDONLY | flags)
    try:
        for place in places(2):
            os.preadv(file, [block], place)
    finally:
        os.close(file)


def small_files() -> None:
    names = [f"{_MANY}/{number // _SMALL_PER_DIRECTORY}/{number}" for number in range(SMALL)]

    def create() -> None:
        os.mkdir(_MANY)
        for number in range(SMALL // _SMALL_PER_DIRECTORY):
            os.mkdir(f"{_MANY}/{number}")
        for name in names:
            file = os.open(name, _WRITE)
            os.write(file, b"small")
            os.close(file)

    def look() -> None:
        for name in names:
            os.stat(name)

    def read() -> None:
        for name in names[:SOME]:
            file = os.open(name, _READ)
            os.read(file, 100)
            os.close(file)

    def remove() -> None:
        for name in names[:SOME]:
            os.unlink(name)

    timed(f"create {SMALL:,} small files (files/s)", SMALL, create)
    timed("stat them (files/s)", SMALL, look)
    timed(f"open and read {SOME:,} of them (files/s)", SOME, read)
    timed(f"remove {SOME:,} of them (files/s)", SOME, remove)


def clone(source: str) -> None:
    """A clone over git's own protocol: a pack is written and indexed, and a tree of files checked out."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/", "GIT_CONFIG_NOSYSTEM": "1"}
    command = ["git", "-c", "safe.directory=*", "clone", "-q", f"file://{source}/repository.git", "clone"]
    subprocess.run(command, check=True, env=environment)


def install(source: str) -> None:
    """pip of the host's Python with wheels of ours: unpacked, hashed and moved into place."""
    options = ["--no-index", "--disable-pip-version-check", "--no-cache-dir", "--quiet", "--root-user-action=ignore"]
    options += ["--no-compile"]  # that takes the processor's time alone
    wheels = sorted(os.listdir(f"{source}/wheels"))
    paths = [f"{source}/wheels/{wheel}" for wheel in wheels]
    command = ["/usr/bin/python3", "-m", "pip", "install", *options, "--target", "site", *paths]
    os.makedirs("temporary")
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": f"{source}/pip", "TMPDIR": os.path.abspath("temporary")}
    subprocess.run(command, check=True, env=environment)


def count(directory: str) -> int:
    return sum(len(files) for _, _, files in os.walk(directory))


def whole_program(row: str, made: str, call: Callable[[], None]) -> None:
    """Add the rate of files that a program makes in the directory `made`, its own start included."""
    begin = time.perf_counter()
    call()
    seconds = time.perf_counter() - begin
    rates[row] = count(made) / seconds


def main() -> None:
    os.chdir(sys.argv[1])
    timed("write 64 MiB in order, with fsync (MiB/s)", BIG_MIB, sequential_write)
    forget()
    timed("read it in order, cache dropped (MiB/s)", BIG_MIB, sequential_read)
    timed("read it again (MiB/s)", BIG_MIB, sequential_read)
    timed("write 4 KiB at random, one fsync (operations/s)", OPERATIONS, random_write)
    timed("read 4 KiB at random (operations/s)", OPERATIONS, random_read)
    timed("write 4 KiB at random, O_DIRECT (operations/s)", OPERATIONS, lambda: random_write(os.O_DIRECT))
    timed("read 4 KiB at random, O_DIRECT (operations/s)", OPERATIONS, lambda: random_read(os.O_DIRECT))
    os.unlink(_BIG)
    small_files()
    source = sys.argv[2]
    whole_program("git clone, 1,000 files (files/s)", "clone", lambda: clone(source))
    whole_program("pip install, 4 wheels with 200 modules (files/s)", "site", lambda: install(source))
    print(json.dumps(rates))


main()
