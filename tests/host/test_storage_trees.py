"""Reading and watching small trees of the host, and making the copies: the guest's half runs here in a directory."""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.errors import HostError, InvalidInput, NotFound
from oci_runtime.guest import trees as guest_trees
from oci_runtime.storage.trees import FILE, MAX_BYTES, MAX_ENTRIES, TreeEntry, TreeWatch, UnfitTree
from oci_runtime.ttrpc.proto import agent_lean as pb

pytestmark = pytest.mark.root


@pytest.fixture
def watch() -> Iterator[TreeWatch]:
    watch = TreeWatch()
    yield watch
    watch.close()


class Volume:
    """A directory that the kubelet fills: files behind the link ..data, replaced as a whole by a rename."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir()
        self.fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
        self._number = 0

    def publish(self, **files: str) -> None:
        """Do what the kubelet does when a ConfigMap has changed."""
        self._number += 1
        generation = f"..2026_{self._number}"
        (self.path / generation).mkdir()
        for name, text in files.items():
            (self.path / generation / name).write_text(text)
        before = os.readlink(self.path / "..data") if (self.path / "..data").is_symlink() else ""
        os.symlink(generation, self.path / "..data_tmp")
        os.rename(self.path / "..data_tmp", self.path / "..data")
        for name in files:
            if not (self.path / name).is_symlink():
                os.symlink(f"..data/{name}", self.path / name)
        if before:
            for file in (self.path / before).iterdir():
                file.unlink()
            (self.path / before).rmdir()


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    volume = Volume(tmp_path / "volume")
    yield volume
    os.close(volume.fd)


class Copies:
    """The part of the agent that `sync_tree` needs."""

    def __init__(self, target: str) -> None:
        from _thread import RLock

        self.lock = RLock()
        self.storages = {target: "tmpfs"}
        self.trees: dict[str, dict[str, pb.TreeEntry]] = {}


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Copies, Path]]:
    target = tmp_path / "run" / "copy"
    target.mkdir(parents=True)
    monkeypatch.setattr("oci_runtime.guest.storage.ROOT", str(tmp_path / "run"))
    yield Copies(str(target)), target


def sync(copy: tuple[Copies, Path], entries: tuple[TreeEntry, ...]) -> None:
    messages = [pb.TreeEntry(**vars(entry)) for entry in entries]
    guest_trees.sync_tree(copy[0], pb.SyncTreeRequest(target=str(copy[1]), entries=messages))  # type: ignore[arg-type]


def content(path: Path) -> dict[str, tuple[int, int, int, bytes]]:
    """Everything below a directory: mode, owner, and content or target."""
    found = {}
    for place in sorted(path.rglob("*")):
        status = place.lstat()
        data = b""
        if stat.S_ISLNK(status.st_mode):
            data = os.fsencode(os.readlink(place))
        elif stat.S_ISREG(status.st_mode):
            data = place.read_bytes()
        found[str(place.relative_to(path))] = (status.st_mode, status.st_uid, status.st_gid, data)
    return found


def test_a_change_is_noticed_wherever_it_happens(watch: TreeWatch, volume: Volume) -> None:
    volume.publish(key="1")
    (volume.path / "deep" / "er").mkdir(parents=True)
    watch.read(volume.fd)
    changes = (
        lambda: (volume.path / "deep" / "er" / "new").write_text("x"),
        lambda: (volume.path / "deep" / "er" / "new").chmod(0o600),
        lambda: volume.publish(key="2"),
        lambda: (volume.path / "deep" / "er" / "new").unlink(),
    )
    for change in changes:
        before = watch.read(volume.fd)
        assert not select.select([watch], [], [], 0)[0]
        change()
        assert select.select([watch], [], [], 10)[0]
        assert watch.read(volume.fd) != before


def test_the_copy_becomes_the_tree_with_every_update(
    watch: TreeWatch, volume: Volume, copy: tuple[Copies, Path]
) -> None:
    volume.publish(key="1", other="o" * 5000)
    os.chown(volume.path / "..data" / "key", 5, 6)
    (volume.path / "..data" / "other").chmod(0o400)
    for files in ({"key": "2", "other": ""}, {"key": "3", "third": "new"}, {"third": "only"}):
        sync(copy, watch.read(volume.fd))
        assert content(copy[1]) == content(volume.path)
        volume.publish(**files)
    sync(copy, watch.read(volume.fd))
    assert content(copy[1]) == content(volume.path)
    assert copy[1].joinpath("..data/third").stat().st_mtime_ns == (volume.path / "..data/third").stat().st_mtime_ns


def test_a_reader_sees_the_old_files_or_the_new_ones(
    watch: TreeWatch, volume: Volume, copy: tuple[Copies, Path]
) -> None:
    """At each step of an update, what ..data leads to is whole."""
    volume.publish(a="1", b="1")
    sync(copy, watch.read(volume.fd))
    seen = set()
    real = os.rename

    def look() -> None:
        seen.add(((copy[1] / "a").read_text(), (copy[1] / "b").read_text()))

    def rename(*arguments: Any, **more: Any) -> None:
        look()
        real(*arguments, **more)
        look()

    volume.publish(a="2", b="2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", rename)
        sync(copy, watch.read(volume.fd))
    assert seen == {("1", "1"), ("2", "2")}


def test_kinds_that_change_and_files_changed_in_place(
    watch: TreeWatch, volume: Volume, copy: tuple[Copies, Path]
) -> None:
    (volume.path / "a").mkdir()
    (volume.path / "a" / "inside").write_text("1")
    (volume.path / "b").write_text("file")
    sync(copy, watch.read(volume.fd))
    inode = (copy[1] / "b").stat().st_ino
    (volume.path / "b").write_text("changed")
    sync(copy, watch.read(volume.fd))
    assert (copy[1] / "b").read_text() == "changed" and (copy[1] / "b").stat().st_ino == inode
    (volume.path / "a" / "inside").unlink()
    (volume.path / "a").rmdir()
    os.symlink("b", volume.path / "a")
    (volume.path / "c").write_text("renamed")
    (volume.path / "c").rename(volume.path / "b")
    sync(copy, watch.read(volume.fd))
    assert content(copy[1]) == content(volume.path) and (copy[1] / "b").stat().st_ino != inode


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("large", f"more than {MAX_BYTES >> 10} KiB"),
        ("many", f"more than {MAX_ENTRIES} entries"),
        ("fifo", "'fifo' is no file, directory or link"),
        ("name", "is no UTF-8"),
    ],
)
def test_what_does_not_fit_is_left_to_the_share(watch: TreeWatch, volume: Volume, what: str, reason: str) -> None:
    if what == "large":
        os.truncate(os.open(volume.path / "big", os.O_CREAT | os.O_RDWR), MAX_BYTES + 1)
    elif what == "many":
        for number in range(MAX_ENTRIES + 1):
            (volume.path / str(number)).touch()
    elif what == "fifo":
        os.mkfifo(volume.path / "fifo")
    else:
        Path(os.fsdecode(bytes(volume.path) + b"/\xff")).touch()
    with pytest.raises(UnfitTree, match=reason):
        watch.read(volume.fd)


def test_a_file_alone_is_copied_and_stays_the_same_file_when_it_is_written(
    watch: TreeWatch, copy: tuple[Copies, Path], tmp_path: Path
) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 1\n")
    descriptor = os.open(file, os.O_PATH)
    sync(copy, watch.read(descriptor))
    inode = (copy[1] / FILE).stat().st_ino
    assert not select.select([watch], [], [], 0)[0]
    file.write_text("nameserver 2\n")
    file.chmod(0o640)
    assert select.select([watch], [], [], 10)[0]
    sync(copy, watch.read(descriptor))
    assert (copy[1] / FILE).read_text() == "nameserver 2\n"
    assert ((copy[1] / FILE).stat().st_ino, (copy[1] / FILE).stat().st_mode) == (inode, stat.S_IFREG | 0o640)
    os.truncate(file, MAX_BYTES + 1)
    with pytest.raises(UnfitTree, match="it has more than"):
        watch.read(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize("path", ["../x", "/x", "a/../x", "", "a//b", "."])
def test_paths_that_lead_elsewhere_are_refused(copy: tuple[Copies, Path], path: str) -> None:
    with pytest.raises(InvalidInput, match="is no path inside a volume"):
        sync(copy, (TreeEntry(path, stat.S_IFREG | 0o600, 0, 0, 0, 1, b"x"),))
    assert list(copy[1].iterdir()) == []


def test_a_link_that_somebody_put_into_the_copy_is_not_followed(copy: tuple[Copies, Path], tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    directory = TreeEntry("d", stat.S_IFDIR | 0o755, 0, 0, 0, 1)
    sync(copy, (directory,))
    (copy[1] / "d").rmdir()
    os.symlink(tmp_path / "outside", copy[1] / "d")
    with pytest.raises(HostError, match="update tree"):
        sync(copy, (directory, TreeEntry("d/file", stat.S_IFREG | 0o600, 0, 0, 0, 2, b"x")))
    assert list((tmp_path / "outside").iterdir()) == []


def test_only_storages_are_written(copy: tuple[Copies, Path], tmp_path: Path) -> None:
    other = tmp_path / "run" / "other"
    other.mkdir()
    with pytest.raises(NotFound, match="is not mounted"):
        sync((copy[0], other), ())
