"""Root file systems mounted for real, in the private mount namespace of the test run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from oci_runtime.errors import HostError
from oci_runtime.host.mounts import list_mounts
from oci_runtime.shim.proto.types_pb2 import Mount
from oci_runtime.shim.rootfs import mount_rootfs, plan_mounts, unmount_rootfs

pytestmark = pytest.mark.root


@pytest.fixture
def rootfs(tmp_path: Path) -> Iterator[Path]:
    # overlayfs does not lie on overlayfs: the layers are on a tmpfs.
    base = tmp_path / "base"
    base.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", base], check=True)
    path = base / "rootfs"
    path.mkdir()
    yield path
    unmount_rootfs(str(path))
    subprocess.run(["umount", base], check=True)


def layer(base: Path, name: str, **files: str) -> str:
    """A directory with some files."""
    directory = base / name
    directory.mkdir(parents=True)
    for file, text in files.items():
        (directory / file).write_text(text)
    return str(directory)


def mount(rootfs: Path, *mounts: Mount) -> None:
    mount_rootfs(plan_mounts(list(mounts), str(rootfs)), str(rootfs))


def test_overlay(rootfs: Path) -> None:
    base = rootfs.parent
    lower = ":".join([layer(base, "two", a="2"), layer(base, "one", a="1", b="1")])
    upper, work = layer(base, "upper"), layer(base, "work")
    mount(
        rootfs,
        Mount(type="overlay", source="overlay", options=[f"workdir={work}", f"upperdir={upper}", f"lowerdir={lower}"]),
    )
    assert (rootfs / "a").read_text() == "2" and (rootfs / "b").read_text() == "1"
    (rootfs / "c").write_text("new")
    assert (Path(upper) / "c").read_text() == "new"
    unmount_rootfs(str(rootfs))
    unmount_rootfs(str(rootfs))
    assert not os.listdir(rootfs) and not list_mounts(str(rootfs))


def test_overlay_with_more_layers_than_a_page_can_name(rootfs: Path) -> None:
    base = rootfs.parent / "a-rather-long-name-for-a-snapshotter-and-its-directories" / "snapshots"
    here = os.getcwd()
    layers = [layer(base, f"{number}/fs", **{f"file{number}": str(number)}) for number in range(80)]
    assert len(":".join(layers)) > 4096
    mount(rootfs, Mount(type="overlay", source="overlay", options=[f"lowerdir={':'.join(layers)}"]))
    assert sorted(os.listdir(rootfs)) == sorted(f"file{number}" for number in range(80))
    assert os.getcwd() == here


@pytest.mark.parametrize("option", ["ro", "rw"])
def test_bind(rootfs: Path, option: str) -> None:
    source = layer(rootfs.parent, "snapshot", a="1")
    mount(rootfs, Mount(type="bind", source=source, options=["rbind", option]))
    assert (rootfs / "a").read_text() == "1"
    if option == "rw":
        (rootfs / "b").write_text("")
    else:
        with pytest.raises(OSError, match="Read-only"):
            (rootfs / "b").write_text("")


def test_a_file_system_in_a_file(rootfs: Path) -> None:
    image = rootfs.parent / "image"
    image.write_bytes(b"")
    os.truncate(image, 8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    mount(rootfs, Mount(type="ext4", source=str(image), options=["loop", "noatime"]))
    (rootfs / "file").write_text("content")
    unmount_rootfs(str(rootfs))
    mount(rootfs, Mount(type="ext4", source=str(image), options=["loop", "ro"]))
    assert (rootfs / "file").read_text() == "content"
    unmount_rootfs(str(rootfs))
    attached = subprocess.run(["losetup", "-j", image], capture_output=True, text=True, check=True).stdout
    assert not attached, "the loop device frees itself"


def test_several_mounts_on_top_of_each_other(rootfs: Path) -> None:
    source = layer(rootfs.parent, "snapshot", a="1")
    (Path(source) / "sub").mkdir()
    mount(
        rootfs,
        Mount(type="bind", source=source, options=["rbind"]),
        Mount(type="tmpfs", source="tmpfs", target="/sub", options=["size=64k", "mode=700"]),
    )
    assert len(list_mounts(str(rootfs))) == 2
    assert (rootfs / "sub").stat().st_mode & 0o777 == 0o700


def test_a_mount_that_fails_is_named_and_takes_the_others_with_it(rootfs: Path) -> None:
    source = layer(rootfs.parent, "snapshot")
    with pytest.raises(HostError, match="nosuchfs mount of x"):
        mount(rootfs, Mount(type="bind", source=source, options=["rbind"]), Mount(type="nosuchfs", source="x"))
    assert not list_mounts(str(rootfs))
    with pytest.raises(HostError, match="No such file"):
        mount(rootfs, Mount(type="ext4", source="/no/such/image", options=["loop"]))
