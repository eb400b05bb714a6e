"""Block devices for tests: loop devices over sparse files, and the count of those that are in use."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path


class LoopDisk:
    """A block device of the host. path: its node. number: (major, minor). image: the file behind it."""

    def __init__(self, image: Path, path: str) -> None:
        self.image = image
        self.path = path
        number = os.stat(path).st_rdev
        self.number = (os.major(number), os.minor(number))

    def detach(self) -> None:
        """Take the file away from the device."""
        subprocess.run(["losetup", "--detach", self.path], check=True)


@contextlib.contextmanager
def loop_disk(image: Path, *, size_mib: int = 16, fstype: str = "", readonly: bool = False) -> Iterator[LoopDisk]:
    """Make an image file, with a file system when one is named, and a loop device over it."""
    make_image(image, size_mib=size_mib, fstype=fstype)
    words = ["losetup", "--find", "--show", *(["--read-only"] if readonly else []), str(image)]
    path = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    disk = LoopDisk(image, path)
    try:
        yield disk
    finally:
        if str(image) in used_loops():
            disk.detach()


def make_image(image: Path, *, size_mib: int, fstype: str = "", content: Path | None = None) -> None:
    """A sparse file, formatted as ext4, with a copy of the directory `content` in it, or left empty."""
    with image.open("wb") as file:
        file.truncate(size_mib << 20)
    if fstype:
        tree = ["-d", str(content)] if content else []
        subprocess.run([f"mkfs.{fstype}", "-q", "-F", *tree, str(image)], check=True)


def read_ext4(image: Path, path: str) -> str:
    """A file of an unmounted image; empty when there is none."""
    return subprocess.run(
        ["debugfs", "-R", f"cat {path}", str(image)], check=True, capture_output=True, text=True
    ).stdout


def used_loops() -> list[str]:
    """The files behind the loop devices of the host."""
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            found.append(path.read_text().strip())
    return found
