"""Direct volumes' records, superblocks, and root file systems that are disks: the pure parts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.config.load import load_config
from oci_runtime.errors import InvalidInput, NotFound
from oci_runtime.sandbox.root_overlay import RootOverlays
from oci_runtime.shim.proto.types_pb2 import Mount
from oci_runtime.shim.rootfs import find_root_disk
from oci_runtime.storage import superblock, volumes

INFO = {"volume-type": "block", "device": "/dev/sdb", "fstype": "ext4", "options": ["noatime"]}


def test_a_record_is_found_by_its_path_until_it_is_removed(tmp_path: Path) -> None:
    store = str(tmp_path / "volumes")
    assert volumes.find(store, "/a/b") is None
    volumes.add(store, "/a/./b/", json.dumps(INFO))
    assert volumes.find(store, "/a/b") == {**INFO, "volume_path": "/a/b"}
    assert volumes.find(store, "/a") is None
    volumes.add(store, "/a/b", json.dumps({**INFO, "fstype": "xfs"}))
    found = volumes.find(store, "/a/b")
    assert found is not None and found["fstype"] == "xfs", "added again, it is replaced"
    volumes.note_pod(store, "/a/b", "1234", "/run/x")
    assert volumes.pods_of(store, "/a/b") == ["/run/x"]
    volumes.forget_pod(store, "/a/b", "1234")
    volumes.forget_pod(store, "/a/b", "1234")
    assert volumes.pods_of(store, "/a/b") == []
    volumes.remove(store, "/a/b")
    assert volumes.find(store, "/a/b") is None and list((tmp_path / "volumes").iterdir()) == []
    for call in (volumes.remove, volumes.pods_of):
        with pytest.raises(NotFound, match="volume /a/b is not registered"):
            call(store, "/a/b")


def test_a_path_of_any_length_has_a_record(tmp_path: Path) -> None:
    path = "/" + "/".join(["x" * 200] * 20)
    volumes.add(str(tmp_path), path, json.dumps(INFO))
    assert volumes.find(str(tmp_path), path) is not None


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a JSON object"),
        (json.dumps({**INFO, "volume-type": "nbd"}), "volume-type 'nbd'"),
        (json.dumps({**INFO, "device": "sdb"}), "device 'sdb' is not an absolute path"),
        (json.dumps({**INFO, "device": 5}), "device 5"),
        (json.dumps({**INFO, "fstype": "ntfs"}), "fstype 'ntfs'"),
        (json.dumps({**INFO, "options": "ro"}), "options"),
        (json.dumps({**INFO, "options": ["x"] * 65}), "options"),
        (json.dumps({**INFO, "metadata": {"fsGroup": "-1"}}), "fsGroup"),
        (json.dumps({**INFO, "metadata": []}), ""),
    ],
)
def test_a_wrong_record_is_refused_before_it_is_written(tmp_path: Path, text: str, word: str) -> None:
    if not word:
        volumes.add(str(tmp_path), "/v", text)  # an empty value is none
        return
    with pytest.raises(InvalidInput, match="mountInfo of volume /v.*") as caught:
        volumes.add(str(tmp_path), "/v", text)
    assert word in caught.value.message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["", "relative", "/nul\0"])
def test_a_volume_has_an_absolute_path(tmp_path: Path, path: str) -> None:
    with pytest.raises(InvalidInput, match="not an absolute path"):
        volumes.add(str(tmp_path), path, json.dumps(INFO))


@pytest.mark.parametrize(
    ("offset", "magic", "name"),
    [(0x438, b"\x53\xef", "ext4"), (0, b"XFSB", "xfs"), (0x400, b"\xe2\xe1\xf5\xe0", "erofs"),
     (0, b"hsqs", "squashfs"), (0x10040, b"_BHRfS_M", "btrfs"), (0x439, b"\x53\xef", ""), (0, b"XFS", "")],
)  # fmt: skip
def test_file_systems_are_told_by_their_magic(offset: int, magic: bytes, name: str) -> None:
    head = bytearray(superblock.HEAD_BYTES)
    head[offset : offset + len(magic)] = magic
    assert superblock.detect(bytes(head)) == name
    assert superblock.detect(bytes(head[:offset])) == ""


def test_a_snapshotters_device_is_left_to_the_guest(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.touch()
    loop = Mount(type="ext4", source=str(image), options=["loop", "ro", "defaults"])
    assert find_root_disk([loop]) == {"source": str(image), "fstype": "ext4", "options": ["ro"]}
    others: list[list[Mount]] = [
        [],
        [loop, loop],
        [Mount(type="ext4", source=str(image))],
        [Mount(type="ext4", source=str(tmp_path / "missing"), options=["loop"])],
        [Mount(type="ext4", source=str(image), options=["loop"], target="/etc")],
        [Mount(type="bind", source=str(tmp_path), options=["rbind"])],
        [Mount(type="overlay", source="overlay", options=["lowerdir=/a:/b"])],
    ]
    assert [find_root_disk(mounts) for mounts in others] == [None] * len(others)


@pytest.mark.parametrize(
    ("setting", "readonly_root", "readonly_disk", "kind"),
    [
        ("auto", False, False, "none"),
        ("auto", False, True, "memory"),
        ("auto", True, True, "memory"),
        ("auto", True, False, "none"),
        ("none", False, True, "none"),
        ("memory", False, False, "memory"),
        ("disk", False, False, "disk"),
        ("disk", False, True, "disk"),
        ("disk", True, False, "none"),
        ("disk", True, True, "memory"),
        ("none", True, True, "none"),
    ],
)
def test_when_changes_of_a_root_have_a_layer_of_their_own(
    setting: str, readonly_root: bool, readonly_disk: bool, kind: str
) -> None:
    storage = load_config().storage.replace(rootfs_overlay=setting)
    nobody: Any = None
    overlays = RootOverlays(nobody, nobody, storage)
    assert overlays.kind(readonly_root=readonly_root, readonly_disk=readonly_disk) == kind
