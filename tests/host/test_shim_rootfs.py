"""Root file systems mounted for real, in the private mount namespace of the test run."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from oci_runtime.errors import HostError
from oci_runtime.host.mounts import list_mounts
from oci_runtime.shim.proto.types_pb2 import Mount
from oci_runtime.shim.root_place import RootPlace, unmount_leftovers
from oci_runtime.shim.rootfs import mount_rootfs, plan_mounts

pytestmark = pytest.mark.root


def layer(base: Path, name: str, **files: str) -> str:
    """A directory with some files."""
    directory = base / name
    directory.mkdir(parents=True)
    for file, text in files.items():
        (directory / file).write_text(text)
    return str(directory)


class Rooted:
    """A bundle in memory, with what is mounted as its root."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.path = base / "rootfs"
        self.place = RootPlace(str(base))

    def mount(self, *mounts: Mount) -> None:
        mount_rootfs(plan_mounts(list(mounts)), self.place)

    def points(self) -> list[str]:
        """What is mounted below the base, by names in it."""
        return [os.path.relpath(point, self.base) for point in list_mounts(str(self.base))[1:]]


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Rooted]:
    # overlayfs does not lie on overlayfs: the layers are on a tmpfs.
    base = tmp_path / "base"
    base.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", base], check=True)
    rooted = Rooted(base)
    yield rooted
    rooted.place.unmount()
    subprocess.run(["umount", base], check=True)


def test_overlay(root: Rooted) -> None:
    base = root.base
    lower = ":".join([layer(base, "two", a="2"), layer(base, "one", a="1", b="1")])
    upper, work = layer(base, "upper"), layer(base, "work")
    root.mount(
        Mount(type="overlay", source="overlay", options=[f"workdir={work}", f"upperdir={upper}", f"lowerdir={lower}"]),
    )
    assert (root.path / "a").read_text() == "2" and (root.path / "b").read_text() == "1"
    (root.path / "c").write_text("new")
    assert (Path(upper) / "c").read_text() == "new"
    root.place.unmount()
    root.place.unmount()
    assert not os.listdir(root.path) and not root.points()


def test_overlay_with_more_layers_than_a_page_can_name(root: Rooted) -> None:
    base = root.base / "a-rather-long-name-for-a-snapshotter-and-its-directories" / "snapshots"
    here = os.getcwd()
    layers = [layer(base, f"{number}/fs", **{f"file{number}": str(number)}) for number in range(80)]
    assert len(":".join(layers)) > 4096
    root.mount(Mount(type="overlay", source="overlay", options=[f"lowerdir={':'.join(layers)}"]))
    assert sorted(os.listdir(root.path)) == sorted(f"file{number}" for number in range(80))
    assert os.getcwd() == here


@pytest.mark.parametrize("option", ["ro", "rw"])
def test_bind(root: Rooted, option: str) -> None:
    source = layer(root.base, "snapshot", a="1")
    root.mount(Mount(type="bind", source=source, options=["rbind", option]))
    assert (root.path / "a").read_text() == "1"
    if option == "rw":
        (root.path / "b").write_text("")
    else:
        with pytest.raises(OSError, match="Read-only"):
            (root.path / "b").write_text("")


def test_a_file_system_in_a_file(root: Rooted) -> None:
    image = root.base / "image"
    image.write_bytes(b"")
    os.truncate(image, 8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    root.mount(Mount(type="ext4", source=str(image), options=["loop", "noatime"]))
    (root.path / "file").write_text("content")
    root.place.unmount()
    root.place = RootPlace(str(root.base))
    root.mount(Mount(type="ext4", source=str(image), options=["loop", "ro"]))
    assert (root.path / "file").read_text() == "content"
    root.place.unmount()
    attached = subprocess.run(["losetup", "-j", image], capture_output=True, text=True, check=True).stdout
    assert not attached, "the loop device frees itself"


def test_several_mounts_on_top_of_each_other(root: Rooted) -> None:
    source = layer(root.base, "snapshot", a="1")
    (Path(source) / "sub").mkdir()
    root.mount(
        Mount(type="bind", source=source, options=["rbind"]),
        Mount(type="tmpfs", source="tmpfs", target="/sub", options=["size=64k", "mode=700"]),
    )
    assert len(root.points()) == 2
    assert (root.path / "sub").stat().st_mode & 0o777 == 0o700


def test_a_mount_that_fails_is_named_and_takes_the_others_with_it(root: Rooted) -> None:
    source = layer(root.base, "snapshot")
    with pytest.raises(HostError, match="nosuchfs mount of x"):
        root.mount(Mount(type="bind", source=source, options=["rbind"]), Mount(type="nosuchfs", source="x"))
    assert not root.points()
    with pytest.raises(HostError, match="No such file"):
        root.mount(Mount(type="ext4", source="/no/such/image", options=["loop"]))


def in_another_namespace(script: str) -> None:
    """Run a script where unmounting changes nothing here, while what it does to files is seen."""
    subprocess.run(["unshare", "--mount", "sh", "-ec", script], check=True)


def test_links_of_an_image_lead_to_places_of_the_image(root: Rooted) -> None:
    image = Path(layer(root.base, "image"))
    (image / "etc").mkdir()
    (image / "link").symlink_to("/etc")
    (image / "up").symlink_to("../../../etc")
    tmpfs = [Mount(type="tmpfs", source="tmpfs", target=target) for target in ("/link", "up")]
    root.mount(Mount(type="bind", source=str(image)), *tmpfs)
    assert root.points() == ["rootfs", "rootfs/etc", "rootfs/etc"]


def test_a_root_that_is_a_link_gets_no_mount(root: Rooted) -> None:
    outside = layer(root.base, "outside")
    root.path.rmdir()
    root.path.symlink_to(outside)
    with pytest.raises(HostError, match="Too many levels of symbolic links"):
        root.mount(Mount(type="tmpfs", source="tmpfs"))
    assert root.points() == []


def test_directories_that_are_swapped_for_links_lead_no_mount_outside(root: Rooted) -> None:
    """The container swaps a directory of its image back and forth, while the host mounts there and unmounts."""
    outside, image = Path(layer(root.base, "outside")), Path(layer(root.base, "image"))
    for place in (outside, image):
        (place / "a" / "b").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "kept", outside / "a" / "b"], check=True)
    (image / "link").symlink_to(outside / "a")
    ended = threading.Event()

    def swap() -> None:
        while not ended.is_set():
            for one, other in (("a", "c"), ("link", "a"), ("a", "link"), ("c", "a")):
                os.rename(image / one, image / other)

    swapper = threading.Thread(target=swap)
    swapper.start()
    mounted = 0
    try:
        while mounted < 20:
            with contextlib.suppress(HostError):
                root.mount(Mount(type="bind", source=str(image)), Mount(type="tmpfs", source="inner", target="/a/b"))
                mounted += 1
            assert root.points()[0] == "outside/a/b" and not [p for p in root.points()[1:] if "outside" in p]
            root.place.unmount()
            assert root.points() == ["outside/a/b"]
            root.place = RootPlace(str(root.base))
    finally:
        ended.set()
        swapper.join()
        subprocess.run(["umount", outside / "a" / "b"], check=True)


@pytest.mark.parametrize("dead", [False, True], ids=["shim", "delete-after-it"])
def test_a_root_swapped_for_a_link_to_a_mount_of_the_host(root: Rooted, dead: bool) -> None:
    victim = layer(root.base, "victim")
    subprocess.run(["mount", "-t", "tmpfs", "victim", victim], check=True)
    root.mount(Mount(type="tmpfs", source="tmpfs"))
    in_another_namespace(f"umount {root.path}; mv {root.path} {root.base}/moved; ln -s {victim} {root.path}")
    if dead:
        unmount_leftovers(str(root.base))
        assert root.points() == ["victim", "moved"], "what is ours cannot be known any more"
    root.place.unmount()
    assert root.points() == ["victim"]
    subprocess.run(["umount", victim], check=True)


def test_a_mount_over_the_bundle_does_not_hide_the_root_from_its_end(root: Rooted) -> None:
    root.mount(Mount(type="tmpfs", source="tmpfs"))
    subprocess.run(["mount", "-t", "tmpfs", "cover", root.base], check=True)
    with pytest.raises(HostError, match="another mount hides it"):
        unmount_leftovers(str(root.base))
    root.place.unmount()
    unmount_leftovers(str(root.base))
    subprocess.run(["umount", root.base], check=True)
    assert root.points() == []


def test_a_mount_that_comes_after_the_end_is_refused(root: Rooted) -> None:
    """Deleting a container while it is created: the thread that mounts its root learns of it last."""
    root.place.unmount()
    with pytest.raises(HostError, match="Operation canceled"):
        root.mount(Mount(type="tmpfs", source="tmpfs"))
    assert root.points() == []


def test_what_a_dead_shim_left_is_unmounted_with_all_that_is_inside(root: Rooted) -> None:
    root.mount(Mount(type="tmpfs", source="tmpfs"), Mount(type="tmpfs", source="tmpfs"))
    (root.path / "sub").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "inner", root.path / "sub"], check=True)
    unmount_leftovers(str(root.base))
    unmount_leftovers(str(root.base))
    unmount_leftovers(str(root.base / "absent"))
    assert root.points() == []
