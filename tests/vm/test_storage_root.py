"""File systems on disks, mounted by the guest: root file systems, layers for their changes, direct volumes."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.control.client import Client
from oci_runtime.errors import HostError
from oci_runtime.storage.claims import NONE, claim
from tests.engine import Engine, crio, wait_until
from tests.loop_lab import loop_disk, make_image, read_ext4, used_loops

pytestmark = pytest.mark.vm


def serve(directory: Path, settings: str) -> Iterator[Engine]:
    """An engine with a configuration of its own and a pod called `pod`."""
    directory.mkdir()
    config = directory / "config.toml"
    config.write_text(f"[storage]\n{settings}\n")
    engine = Engine(directory / "engine", config=config)
    engine.run("pod", ["sleep", "100000"], annotations=crio("sandbox", "pod"))
    yield engine
    engine.clean()
    wait_until(lambda: not engine.leftovers(), f"nothing left: {engine.leftovers()}", 10)
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    directory = tmp_path_factory.mktemp("root") / "lab"
    yield from serve(directory, f'direct_volumes = "{directory}/volumes"\nscratch_size_mib = 16')


@pytest.fixture(autouse=True)
def every_disk_goes(lab: Engine) -> Iterator[None]:
    yield
    left = [name for name in lab.ids if name != "pod" and (lab.root / name).exists()]
    for name in left:
        lab.call("delete", "--force", name)
    assert (disks_of(lab), left) == ([], [])


def disks_of(engine: Engine) -> list[dict[str, Any]]:
    """The disks that the pod's machine has now."""
    (sandbox,) = engine.root.glob(".sandboxes/*")
    with Client.connect(str(sandbox), 20) as client:
        disks: list[dict[str, Any]] = client.call("info")["info"]["disks"]
    return disks


def member(**changes: Any) -> dict[str, Any]:
    return {"annotations": crio("container", "pod")} | changes


def test_an_image_file_is_a_root_file_system_that_the_guest_mounts(lab: Engine, tmp_path: Path) -> None:
    image = tmp_path / "image"
    make_image(image, size_mib=32, fstype="ext4", content=lab.rootfs)
    lab.run("i1", ["sleep", "1000"], **member(root={"path": str(image)}))
    assert lab.exec("i1", "stat", "-f", "-c", "%T", "/").out == "ext2/ext3\n"
    lab.exec("i1", "sh", "-c", "echo kept > /etc/file; ln /etc/file /etc/link; mknod /tmp/p p")
    assert lab.exec("i1", "stat", "-c", "%h", "/etc/link").out == "2\n"
    full = lab.exec("i1", "dd", "if=/dev/zero", "of=/etc/big", "bs=1M", check=False)
    assert full.code != 0 and "No space left on device" in full.err
    lab.exec("i1", "rm", "/etc/big")
    lab.call("delete", "--force", "i1")
    assert read_ext4(image, "/etc/file") == "kept\n"
    assert "clean" in subprocess.run(["fsck.ext4", "-n", str(image)], capture_output=True, text=True, check=True).stdout
    assert str(image) not in used_loops()


def test_a_block_device_is_a_root_file_system_unless_the_host_uses_it(lab: Engine, tmp_path: Path) -> None:
    with loop_disk(tmp_path / "image", size_mib=32, fstype="ext4") as disk:
        (tmp_path / "mnt").mkdir()
        subprocess.run(["mount", disk.path, str(tmp_path / "mnt")], check=True)
        shutil.copytree(lab.rootfs, tmp_path / "mnt", symlinks=True, dirs_exist_ok=True)
        refused = lab.create("i2", ["true"], check=False, **member(root={"path": disk.path}))
        assert f"root.path {disk.path}" in refused.err and "the host uses it" in refused.err
        subprocess.run(["umount", str(tmp_path / "mnt")], check=True)
        lab.run("i2", ["sleep", "1000"], **member(root={"path": disk.path, "readonly": True}))
        assert lab.exec("i2", "touch", "/etc/x", check=False).code != 0
        assert disks_of(lab)[0]["readonly"] is True
        with open(disk.path, "rb") as file:
            assert claim(file.fileno(), "x", keep=False) == NONE, "another pod may read it, too"
        lab.call("delete", "--force", "i2")


def test_a_block_device_that_the_guest_writes_is_its_pods_alone(lab: Engine, tmp_path: Path) -> None:
    with loop_disk(tmp_path / "image", size_mib=16, fstype="ext4") as disk:
        info = {"volume-type": "block", "device": disk.path, "fstype": "ext4"}
        volume(lab, "add", "--volume-path", str(tmp_path), "--mount-info", json.dumps(info))
        mounts = [{"destination": "/data", "type": "bind", "source": str(tmp_path), "options": ["rbind"]}]
        for name in ("w1", "w2"):
            lab.run(name, ["sleep", "1000"], **member(more_mounts=mounts))
        refused = subprocess.run(["mount", disk.path, "/mnt"], capture_output=True, text=True, check=False)
        assert refused.returncode != 0 and "busy" in refused.stderr
        with open(disk.path, "rb") as file:
            with pytest.raises(HostError, match="or another pod writes to it"):
                claim(file.fileno(), "x", keep=False)
            for name in ("w1", "w2"):
                lab.call("delete", "--force", name)
            assert claim(file.fileno(), "x", keep=False) == NONE
        volume(lab, "remove", "--volume-path", str(tmp_path))


@pytest.mark.parametrize("fstype", ["xfs", "btrfs"])
def test_other_file_systems_are_roots_as_well(lab: Engine, tmp_path: Path, fstype: str) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(320 << 20)
    if fstype == "xfs":
        command = ["mkfs.xfs", "-q", "-p", str(xfs_tree(tmp_path / "tree", lab.rootfs)), str(image)]
    else:
        command = ["mkfs.btrfs", "-q", "--rootdir", str(lab.rootfs), str(image)]
    subprocess.run(command, check=True, capture_output=True)
    lab.run("f1", ["sleep", "1000"], **member(root={"path": str(image)}))
    lab.exec("f1", "sh", "-c", "echo kept > /tmp/other; mkdir /kept; echo kept > /kept/file; sync")
    assert lab.exec("f1", "grep", "-c", f" / {fstype} rw", "/proc/mounts").out == "1\n"
    lab.call("delete", "--force", "f1")
    lab.run("f2", ["sleep", "1000"], **member(root={"path": str(image), "readonly": True}))
    assert lab.exec("f2", "cat", "/kept/file").out == "kept\n"
    lab.call("delete", "--force", "f2")


def xfs_tree(path: Path, rootfs: Path) -> Path:
    """The description of a small root file system as mkfs.xfs reads it: name, kind and mode, owner, content."""
    links = [f"{name} l--777 0 0 busybox" for name in ("cat", "echo", "grep", "mkdir", "sh", "sleep", "sync")]
    directories = [f"{name} d--755 0 0\n$" for name in ("dev", "proc", "sys", "tmp")]
    busybox = f"busybox ---755 0 0 {rootfs}/bin/busybox"
    lines = ["none", "0 0", "d--755 0 0", "bin d--755 0 0", busybox, *links, "$", *directories, "$", ""]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("program", [["mkfs.erofs", "--quiet", "IMAGE", "TREE"], ["mksquashfs", "TREE", "IMAGE"]])
def test_changes_to_a_read_only_image_go_to_a_layer_in_memory(lab: Engine, tmp_path: Path, program: list[str]) -> None:
    image = tmp_path / "image"
    places = {"IMAGE": str(image), "TREE": str(lab.rootfs)}
    subprocess.run([places.get(word, word) for word in program], check=True, capture_output=True)
    before = hashlib.sha256(image.read_bytes()).digest()
    for name in ("e1", "e2"):
        lab.run(name, ["sleep", "1000"], **member(root={"path": str(image)}))
        lab.exec(name, "sh", "-c", f"echo {name} > /etc/name")
    assert len(disks_of(lab)) == 1, "two containers share the image"
    assert [lab.exec(name, "cat", "/etc/name").out for name in ("e1", "e2")] == ["e1\n", "e2\n"]
    full = lab.exec("e1", "dd", "if=/dev/zero", "of=/etc/big", "bs=1M", check=False)
    assert full.code != 0 and "No space left on device" in full.err
    for name in ("e1", "e2"):
        lab.call("delete", "--force", name)
    assert hashlib.sha256(image.read_bytes()).digest() == before


def test_what_holds_no_file_system_is_named(lab: Engine, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(1 << 20))
    result = lab.create("n1", ["true"], check=False, **member(root={"path": str(image)}))
    assert f"root.path {image}: no file system that the guest mounts (ext4, xfs, erofs" in result.err
    make_image(image, size_mib=8, fstype="ext4")
    with image.open("r+b") as file:
        file.seek(1024)
        file.write(b"\xff" * 56)  # all but the magic number
    result = lab.create("n2", ["true"], check=False, **member(root={"path": str(image)}))
    assert result.code != 0 and "mount" in result.err


def volume(lab: Engine, *words: str, check: bool = True) -> Any:
    return lab.call("volume", *words, check=check)


def test_a_direct_volume_is_mounted_measured_and_grown(lab: Engine, tmp_path: Path) -> None:
    content = tmp_path / "content"
    (content / "inner").mkdir(parents=True)
    (content / "inner" / "file").write_text("of the volume")
    image = tmp_path / "image"
    make_image(image, size_mib=16, fstype="ext4", content=content)
    place = tmp_path / "place"
    place.mkdir()
    info = {
        "volume-type": "block", "device": str(image), "fstype": "ext4", "options": ["noatime"],
        "metadata": {"fsGroup": "2000", "fsGroupChangePolicy": "OnRootMismatch"},
    }  # fmt: skip
    volume(lab, "add", "--volume-path", str(place), "--mount-info", json.dumps(info))
    nobody = volume(lab, "stats", "--volume-path", str(place), check=False)
    assert nobody.code != 0 and f"no running pod has volume {place}" in nobody.err
    mounts = [{"destination": "/data", "type": "bind", "source": str(place), "options": ["rbind"]}]
    for name in ("v1", "v2"):
        lab.run(name, ["sleep", "1000"], **member(more_mounts=mounts))
    assert len(disks_of(lab)) == 1
    assert lab.exec("v1", "cat", "/data/inner/file").out == "of the volume"
    assert lab.exec("v1", "stat", "-c", "%g %a", "/data/inner", "/data/inner/file").out == "2000 2775\n2000 664\n"
    lab.exec("v1", "sh", "-c", "echo kept > /data/new")
    assert lab.exec("v2", "cat", "/data/new").out == "kept\n"
    space, inodes = json.loads(volume(lab, "stats", "--volume-path", str(place)).out)["usage"]
    assert space["unit"] == 1 and space["total"] < 16 << 20 and space["used"] > 0 and inodes["unit"] == 2
    volume(lab, "resize", "--volume-path", str(place), "--size", str(48 << 20))
    grown = json.loads(volume(lab, "stats", "--volume-path", str(place)).out)["usage"][0]
    assert grown["total"] > 40 << 20
    smaller = volume(lab, "resize", "--volume-path", str(place), "--size", str(8 << 20), check=False)
    assert smaller.code != 0 and "cannot shrink" in smaller.err
    for name in ("v1", "v2"):
        lab.call("delete", "--force", name)
    assert read_ext4(image, "/new") == "kept\n" and list(place.iterdir()) == []
    volume(lab, "remove", "--volume-path", str(place))
    lab.run("v3", ["sleep", "1000"], **member(more_mounts=mounts))
    assert lab.exec("v3", "ls", "/data").out == "", "without a record it is a directory again"
    lab.call("delete", "--force", "v3")


def test_a_direct_volume_without_its_disk_is_named(lab: Engine, tmp_path: Path) -> None:
    info = {"volume-type": "block", "device": str(tmp_path / "gone"), "fstype": "ext4"}
    volume(lab, "add", "--volume-path", str(tmp_path), "--mount-info", json.dumps(info))
    mounts = [{"destination": "/data", "type": "bind", "source": str(tmp_path), "options": ["rbind"]}]
    result = lab.create("g1", ["true"], check=False, **member(more_mounts=mounts))
    assert f"volume {tmp_path}/gone: No such file or directory" in result.err
    volume(lab, "remove", "--volume-path", str(tmp_path))


def test_a_host_without_space_behind_a_disk_fails_its_writer_and_nobody_else(lab: Engine, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "small", str(small)], check=True)
    make_image(small / "image", size_mib=32, fstype="ext4")
    info = {"volume-type": "block", "device": str(small / "image"), "fstype": "ext4"}
    volume(lab, "add", "--volume-path", str(small), "--mount-info", json.dumps(info))
    mounts = [{"destination": "/data", "type": "bind", "source": str(small), "options": ["rbind"]}]
    lab.run("h1", ["sleep", "1000"], **member(more_mounts=mounts))
    lab.exec("h1", "sh", "-c", "echo kept > /data/first; sync")
    failed = lab.exec("h1", "dd", "if=/dev/zero", "of=/data/big", "bs=1M", "count=16", "conv=fsync", check=False)
    assert failed.code != 0 and "Input/output error" in failed.err
    assert lab.exec("h1", "cat", "/data/first").out == "kept\n"
    assert lab.exec("pod", "true").code == 0
    lab.call("delete", "--force", "h1")
    volume(lab, "remove", "--volume-path", str(small))
    subprocess.run(["umount", str(small)], check=True)


def test_changes_can_go_to_a_scratch_disk_of_the_host(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    settings = (
        f'rootfs_overlay = "disk"\nscratch_size_mib = 16\nscratch_directory = "{scratch}"\nblock_driver = "virtio-scsi"'
    )
    for engine in serve(tmp_path / "overlay", settings):
        assert engine.exec("pod", "stat", "-f", "-c", "%T", "/").out != "fuseblk\n"
        engine.exec("pod", "sh", "-c", "echo changed > /etc/new; rm /bin/zcat")
        assert not (engine.rootfs / "etc/new").exists() and (engine.rootfs / "bin/zcat").is_symlink()
        full = engine.exec("pod", "dd", "if=/dev/zero", "of=/etc/big", "bs=1M", check=False)
        assert full.code != 0 and "No space left on device" in full.err
        assert engine.exec("pod", "cat", "/etc/new").out == "changed\n"
        assert list(scratch.iterdir()) == [], "the scratch disk has no name"
