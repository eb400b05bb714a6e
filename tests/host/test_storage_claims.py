"""Claims on block devices, with real ones: who may have a disk beside whom."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from oci_runtime.bundle.load import load_bundle
from oci_runtime.cli.creation import CreateOptions, Creation
from oci_runtime.config.load import load_config
from oci_runtime.control.frames import ConnectionLost
from oci_runtime.errors import HostError, NotFound
from oci_runtime.host import syscalls
from oci_runtime.storage.claims import NONE, claim
from oci_runtime.storage.disks import open_disk
from tests.loop_lab import loop_disk
from tests.storage_lab import private_mounts  # noqa: F401 - a fixture

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("private_mounts")]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """A device with a file system: its path, and a descriptor as the command line sends it."""
    with loop_disk(tmp_path / "image", size_mib=8, fstype="ext4") as loop:
        descriptor = os.open(loop.path, os.O_RDWR | os.O_CLOEXEC)
        yield loop.path, descriptor
        os.close(descriptor)


def test_what_the_host_has_mounted_is_refused_and_named(disk: tuple[str, int], tmp_path: Path) -> None:
    path, descriptor = disk
    (tmp_path / "mnt").mkdir()
    subprocess.run(["mount", path, str(tmp_path / "mnt")], check=True)
    for keep in (False, True):
        with pytest.raises(HostError, match=r"open root\.path x: Device or resource busy \(the host uses it: unmount"):
            claim(descriptor, "root.path x", keep=keep)
    syscalls.umount(str(tmp_path / "mnt"))
    assert claim(descriptor, "x", keep=False) == NONE


def test_a_disk_that_may_not_be_opened_says_what_to_do(disk: tuple[str, int], tmp_path: Path) -> None:
    """A mount without devices stands for all that forbids it: a device cgroup answers alike."""
    syscalls.mount("tmpfs", str(tmp_path), "tmpfs", syscalls.MS_NODEV)
    os.mknod(tmp_path / "node", stat.S_IFBLK | 0o600, os.fstat(disk[1]).st_rdev)
    with pytest.raises(
        HostError, match=r"open linux\.devices\[0\] /dev/x: Permission denied \(.* leave the disk out\)$"
    ):
        open_disk(str(tmp_path / "node"), "linux.devices[0] /dev/x", readonly=True)


def test_a_writer_is_alone_and_the_host_cannot_mount_what_it_has(disk: tuple[str, int], tmp_path: Path) -> None:
    path, descriptor = disk
    held = claim(descriptor, "x", keep=True)
    (tmp_path / "mnt").mkdir()
    refused = subprocess.run(["mount", path, str(tmp_path / "mnt")], capture_output=True, text=True, check=False)
    assert refused.returncode != 0 and "busy" in refused.stderr
    for keep in (False, True):
        with pytest.raises(HostError, match="or another pod writes to it"):
            claim(descriptor, "x", keep=keep)
    os.close(held)
    os.close(claim(descriptor, "x", keep=True))


def test_any_number_of_readers_never_meet(disk: tuple[str, int]) -> None:
    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(lambda _: claim(disk[1], "x", keep=False), range(400))) == {NONE}


def test_a_lock_that_every_user_of_the_host_may_take_holds_nobody_up(disk: tuple[str, int]) -> None:
    number = os.fstat(disk[1]).st_rdev
    place = os.open(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}", os.O_RDONLY)
    fcntl.flock(place, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as threads:
        claiming = threads.submit(claim, disk[1], "x", keep=False)
        try:
            assert claiming.result(30) == NONE
        finally:
            os.close(place)


def test_an_image_file_knows_no_claims(tmp_path: Path) -> None:
    with (tmp_path / "image").open("w") as file:
        assert claim(file.fileno(), "x", keep=True) == NONE


def test_a_creation_that_finds_no_sandbox_keeps_nothing_open_for_its_second_try(tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "config.json").write_text(
        '{"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "process": {"cwd": "/", "args": ["x"],'
        ' "user": {"uid": 0, "gid": 0}}}'
    )
    creation = Creation(cast(Any, SimpleNamespace(layout=None)), CreateOptions("c", str(tmp_path), "", "", detach=True))
    creation.bundle = load_bundle(str(tmp_path))
    creation.config = load_config("")
    creation.sandbox = cast(Any, SimpleNamespace(directory=str(tmp_path)))
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises((ConnectionLost, NotFound)):
        creation._create_in_guest()
    assert sorted(os.listdir("/proc/self/fd")) == before
