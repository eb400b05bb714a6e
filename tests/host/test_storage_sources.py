"""Opening what a spec takes from the host, in the caller's mount namespace."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.bundle.model import Mount
from oci_runtime.errors import HostError, InvalidInput, NotFound, OciRuntimeError, Unsupported
from oci_runtime.host import syscalls
from oci_runtime.storage import volumes
from oci_runtime.storage.mount_points import check_mount_points
from oci_runtime.storage.share import Share
from oci_runtime.storage.sources import Sources, open_sources
from tests.fuse_lab import FuseLab
from tests.loop_lab import loop_disk
from tests.storage_lab import private_mounts  # noqa: F401 - a fixture

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("private_mounts")]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "rootfs").mkdir()
    return tmp_path


def bind(source: Path | str, destination: str = "/data", *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": str(source), "options": list(options) or ["rbind"]}


def opened(bundle: Path, *mounts: dict[str, Any]) -> Sources:
    return open_sources({"root": {"path": "rootfs"}, "mounts": list(mounts)}, str(bundle))


def refused(bundle: Path, kind: type[OciRuntimeError], *mounts: dict[str, Any]) -> str:
    with pytest.raises(kind) as caught:
        opened(bundle, *mounts)
    return caught.value.message


def test_rootfs_and_binds_become_descriptors_in_order(bundle: Path) -> None:
    (bundle / "file").touch()
    sources = opened(
        bundle,
        {"destination": "/proc", "type": "proc", "source": "proc"},
        bind(bundle, "/data", "rbind", "rslave"),
        bind(bundle / "file", "/etc/file", "bind", "ro", "private"),
    )
    pools = [description.pop("pool", None) for description, _ in sources.descriptors]
    assert [description for description, _ in sources.descriptors] == [
        {"kind": "rootfs"},
        {"kind": "mount", "index": 1, "readonly": "", "propagation": "slave"},
        {"kind": "mount", "index": 2, "readonly": "top", "propagation": "private"},
    ]
    assert pools[0] is None and pools[1] != pools[2]
    kinds = [stat.S_IFMT(os.fstat(descriptor).st_mode) for _, descriptor in sources.descriptors]
    assert kinds == [stat.S_IFDIR, stat.S_IFDIR, stat.S_IFREG]
    assert sources.guest_mounts == [] and sources.warnings == []
    sources.close()
    sources.close()


def test_descriptors_are_not_inherited_by_programs(bundle: Path) -> None:
    sources = opened(bundle)
    assert not os.get_inheritable(sources.descriptors[0][1])
    sources.close()


def test_relative_sources_start_at_the_bundle(bundle: Path) -> None:
    (bundle / "near").mkdir()
    sources = opened(bundle, bind("near"))
    assert os.fstat(sources.descriptors[1][1]).st_ino == (bundle / "near").stat().st_ino
    sources.close()


@pytest.mark.parametrize(("option", "entries"), [("rbind", ["deep"]), ("bind", [])])
def test_only_rbind_takes_mounts_below_along(bundle: Path, option: str, entries: list[str]) -> None:
    (bundle / "data" / "sub").mkdir(parents=True)
    syscalls.mount("sub", str(bundle / "data" / "sub"), "tmpfs")
    (bundle / "data" / "sub" / "deep").touch()
    sources = opened(bundle, bind(bundle / "data", "/data", option))
    assert os.listdir(f"/proc/self/fd/{sources.descriptors[1][1]}/sub") == entries
    sources.close()
    syscalls.umount(str(bundle / "data" / "sub"))


def pools(bundle: Path, *mounts: dict[str, Any]) -> list[str]:
    """The pool keys of binds."""
    sources = opened(bundle, *mounts)
    found = [description["pool"] for description, _ in sources.descriptors[1:]]
    sources.close()
    return found


def test_the_same_source_is_one_for_the_pod_unless_mounts_are_inside(bundle: Path) -> None:
    for name in ("data", "data/sub", "other", "again"):
        (bundle / name).mkdir()
    syscalls.mount(str(bundle / "data"), str(bundle / "again"), flags=syscalls.MS_BIND)
    private = ("rbind", "rprivate")
    first, ro, bound, other = pools(
        bundle, bind(bundle / "data", "/a", *private), bind(bundle / "data", "/b", *private, "ro"),
        bind(bundle / "again", "/c", *private), bind(bundle / "other", "/d", *private),
    )  # fmt: skip
    assert first == ro == bound != other
    slave, slave_elsewhere = pools(bundle, bind(bundle / "data", "/a"), bind(bundle / "again", "/c"))
    assert len({first, slave, slave_elsewhere}) == 3, "what follows the host follows one place of the host"
    syscalls.mount("sub", str(bundle / "data" / "sub"), "tmpfs")
    assert pools(bundle, bind(bundle / "data", "/a", *private), bind(bundle / "data", "/a", "bind", "private")) == [
        "",
        first,
    ]
    syscalls.umount(str(bundle / "data" / "sub"))
    syscalls.umount(str(bundle / "again"))


def test_what_the_kernel_has_below_a_source_is_announced_as_missing(bundle: Path) -> None:
    (bundle / "data" / "proc").mkdir(parents=True)
    syscalls.mount("proc", str(bundle / "data" / "proc"), "proc")
    sources = opened(bundle, bind(bundle / "data"))
    syscalls.umount(str(bundle / "data" / "proc"))
    assert sources.warnings == [
        f"mounts[0] /data: {bundle}/data/proc of the host's kernel below {bundle}/data are left out: a virtual machine"
        " has its own"
    ]
    sources.close()


@pytest.mark.parametrize(
    ("root", "expected"), [("", "slave"), ("rslave", "slave"), ("private", "private"), ("rshared", "slave")]
)
def test_a_bind_without_propagation_follows_the_containers_root(bundle: Path, root: str, expected: str) -> None:
    spec = {"root": {"path": "rootfs"}, "mounts": [bind(bundle)], "linux": {"rootfsPropagation": root}}
    sources = open_sources(spec, str(bundle))
    assert sources.descriptors[1][0]["propagation"] == expected
    sources.close()


def test_a_path_means_what_the_caller_sees(bundle: Path) -> None:
    """The command line may live in another mount namespace than the sandbox process that attaches the descriptor."""
    (bundle / "data").mkdir()
    (bundle / "data" / "wrong").touch()
    ours, theirs = socket.socketpair()
    script = f"""if True:
        import socket
        from pathlib import Path
        from oci_runtime.host import syscalls
        from oci_runtime.storage.sources import open_sources
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
        syscalls.mount("seen", {str(bundle / "data")!r}, "tmpfs")
        Path({str(bundle / "data" / "right")!r}).touch()
        mount = {{"destination": "/data", "type": "bind", "source": "data", "options": ["rbind"]}}
        sources = open_sources({{"root": {{"path": "rootfs"}}, "mounts": [mount]}}, {str(bundle)!r})
        channel = socket.socket(fileno={theirs.fileno()})
        socket.send_fds(channel, [b"x"], [sources.descriptors[1][1]])
    """
    with ours, theirs:
        subprocess.run(
            [sys.executable, "-c", script], check=True, cwd=REPOSITORY, pass_fds=[theirs.fileno()], timeout=60
        )
        _, (tree,), _, _ = socket.recv_fds(ours, 1, 1)
    (bundle / "sandbox").mkdir()
    share = Share.create(bundle / "sandbox")
    share.attach(tree, "c1", "m0")
    os.close(tree)
    assert os.listdir(share.root / "c1.1" / "m0") == ["right"]
    share.close()


def test_a_host_tmpfs_at_dev_shm_is_the_guests(bundle: Path) -> None:
    for name, size in (("one", "8m"), ("two", "4m")):
        (bundle / name).mkdir()
        syscalls.mount("shm", str(bundle / name), "tmpfs", 0, f"size={size}")
    sources = opened(
        bundle, bind(bundle / "one", "/dev/shm"), bind(bundle / "one", "/dev/shm/"), bind(bundle / "two", "/dev/shm"),
        bind(bundle / "two", "/cache"),
    )  # fmt: skip
    first, again, other = sources.guest_mounts
    assert (first["kind"], first["index"], first["size_bytes"]) == ("shm", 0, 8 << 20)
    assert first["key"] == again["key"] != other["key"]
    assert other["size_bytes"] == 4 << 20
    assert [description.get("index") for description, _ in sources.descriptors] == [None, 3]
    sources.close()
    for name in ("one", "two"):
        syscalls.umount(str(bundle / name))


def empty_dir(bundle: Path, options: str = "size=4m,mode=0777") -> Path:
    """What the kubelet mounts for an emptyDir in memory."""
    volume = bundle / "pods/uid/volumes/kubernetes.io~empty-dir/cache"
    volume.mkdir(parents=True)
    syscalls.mount("tmpfs", str(volume), "tmpfs", 0, options)
    return volume


def test_a_volume_in_memory_is_the_guests_with_all_that_is_bound_of_it(bundle: Path) -> None:
    volume = empty_dir(bundle, "size=4m,mode=2775,gid=1234")
    (volume / "a, b" / "c").mkdir(parents=True)
    part = bundle / "pods/uid/volume-subpaths/cache/web/0"
    part.mkdir(parents=True)
    syscalls.mount(str(volume / "a, b"), str(part), flags=syscalls.MS_BIND)
    sources = opened(bundle, bind(volume), bind(part), bind(part / "c"), bind(volume / "a, b"))
    sources.close()
    whole = {"kind": "memory", "index": 0, "size_bytes": 4 << 20, "owner": [0o2775, 0, 1234]}
    key = sources.guest_mounts[0].pop("key")
    assert sources.guest_mounts[0] == whole
    assert [entry.get("below") for entry in sources.guest_mounts] == [None, "a, b", "a, b/c", "a, b"]
    assert {entry["key"] for entry in sources.guest_mounts[1:]} == {key}
    assert sources.guest_mounts[1]["owner"] == whole["owner"] != sources.guest_mounts[1]["below_owner"]
    for path in (part, volume):
        syscalls.umount(str(path))


def test_other_volumes_in_memory_are_the_hosts(bundle: Path) -> None:
    """A Secret's tmpfs, a part of it, and an emptyDir on disk: only emptyDirs begin empty."""
    secret = bundle / "pods/uid/volumes/kubernetes.io~secret/token"
    part = bundle / "pods/uid/volume-subpaths/token/web/0"
    disk = bundle / "pods/uid/volumes/kubernetes.io~empty-dir/disk"
    for path in (secret, part, disk):
        path.mkdir(parents=True)
    syscalls.mount("tmpfs", str(secret), "tmpfs")
    syscalls.mount(str(secret), str(part), flags=syscalls.MS_BIND)
    sources = opened(bundle, bind(secret), bind(part), bind(disk))
    assert sources.guest_mounts == [] and len(sources.descriptors) == 4
    sources.close()
    for path in (part, secret):
        syscalls.umount(str(path))


def test_huge_pages_are_the_guests(bundle: Path) -> None:
    (bundle / "huge").mkdir()
    syscalls.mount("nodev", str(bundle / "huge"), "hugetlbfs", 0, "pagesize=2M,mode=0770,gid=7")
    sources = opened(bundle, bind(bundle / "huge"))
    sources.close()
    syscalls.umount(str(bundle / "huge"))
    (entry,) = sources.guest_mounts
    assert (entry["kind"], entry["page_bytes"], entry["owner"]) == ("hugepages", 2 << 20, [0o770, 0, 7])


def test_a_plain_directory_at_dev_shm_is_shared_like_any_other(bundle: Path) -> None:
    (bundle / "shm").mkdir()
    sources = opened(bundle, bind(bundle / "shm", "/dev/shm"))
    assert sources.guest_mounts == []
    assert len(sources.descriptors) == 2
    sources.close()


@pytest.mark.parametrize(
    "path", ["/proc", "/sys", "/sys/fs/cgroup", "/dev", "/dev/null", "/dev/pts", "/proc/self/ns/net"]
)
def test_what_belongs_to_the_kernel_is_the_guests_own(bundle: Path, path: str) -> None:
    sources = opened(bundle, bind(path, "/host"))
    assert sources.guest_mounts == [{"kind": "guest", "index": 0, "source": os.path.realpath(path)}]
    sources.close()


def test_a_link_into_the_kernels_files_is_seen_through(bundle: Path) -> None:
    (bundle / "link").symlink_to("/proc/sys")
    sources = opened(bundle, bind(bundle / "link", "/host"))
    assert sources.guest_mounts == [{"kind": "guest", "index": 0, "source": "/proc/sys"}]
    sources.close()


def test_a_device_node_outside_of_dev_is_the_guests_too(bundle: Path) -> None:
    os.mknod(bundle / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    sources = opened(bundle, bind(bundle / "null", "/masked"))
    assert sources.guest_mounts == [{"kind": "guest", "index": 0, "source": str(bundle / "null")}]
    sources.close()


@pytest.mark.parametrize("options", [["bind"], ["bind", "ro"]])
def test_a_block_device_becomes_a_disk(bundle: Path, options: list[str]) -> None:
    with loop_disk(bundle / "image") as disk:
        os.mknod(bundle / "disk", stat.S_IFBLK | 0o640, os.makedev(*disk.number))
        os.chown(bundle / "disk", 5, 6)
        sources = opened(bundle, bind(bundle / "disk", "/disk", *options))
        (_, (description, descriptor)) = sources.descriptors
        assert description == {
            "kind": "disk", "mount": 0, "readonly": "ro" in options, "major": disk.number[0], "minor": disk.number[1],
            "mode": 0o640, "uid": 5, "gid": 6,
        }  # fmt: skip
        assert os.fstat(descriptor).st_rdev == os.makedev(*disk.number)
        sources.close()


def test_a_disk_that_the_host_only_reads_is_read_only(bundle: Path) -> None:
    with loop_disk(bundle / "image", readonly=True) as disk:
        sources = opened(bundle, bind(disk.path, "/disk"))
        assert sources.descriptors[1][0]["readonly"] is True
        sources.close()


def test_a_block_device_that_nothing_is_behind_is_named(bundle: Path) -> None:
    os.mknod(bundle / "disk", stat.S_IFBLK | 0o600, os.makedev(8, 200))
    message = refused(bundle, OciRuntimeError, bind(bundle / "disk"))
    assert message.startswith(f"open mounts[0] /data: source {bundle}/disk: ") and "no such disk" in message


def test_devices_of_the_spec_are_found_by_number_and_opened_as_the_rules_say(bundle: Path) -> None:
    with loop_disk(bundle / "image") as disk:
        number = {"type": "b", "major": disk.number[0], "minor": disk.number[1]}
        for access, readonly in (("r", True), ("rw", False)):
            rules = [{"allow": False, "access": "rwm"}, {"allow": True, **number, "access": access}]
            linux = {"devices": [{"path": "/dev/x", **number}], "resources": {"devices": rules}}
            sources = open_sources({"root": {"path": "rootfs"}, "linux": linux}, str(bundle))
            (_, (description, _descriptor)) = sources.descriptors
            assert (description["device"], description["readonly"]) == (0, readonly)
            sources.close()


def test_a_volume_whose_disk_is_neither_device_nor_image_is_refused(bundle: Path) -> None:
    store = str(bundle / "volumes")
    info = {"volume-type": "block", "device": str(bundle), "fstype": "ext4"}
    volumes.add(store, str(bundle / "place"), json.dumps(info))
    spec = {"root": {"path": "rootfs"}, "mounts": [bind(bundle / "place")]}
    with pytest.raises(InvalidInput, match=f"volume {bundle}: neither a block device nor an image file"):
        open_sources(spec, str(bundle), volumes=store)
    with loop_disk(bundle / "image", fstype="ext4") as disk:
        info["device"] = disk.path
        volumes.add(store, str(bundle / "place"), json.dumps(info))
        both = [open_sources(spec, str(bundle), volumes=store) for _ in range(2)]  # at the same time
        for sources in both:
            found = [(entry["kind"], entry.get("fstype"), entry.get("what")) for entry, _ in sources.descriptors]
            what = f"mounts[0] /data: volume {disk.path}"
            assert found == [("rootfs", None, None), ("volume", "ext4", what)]
            sources.close()


def test_sockets_and_pipes_come_with_a_warning(bundle: Path) -> None:
    os.mkfifo(bundle / "fifo")
    sources = opened(bundle, bind(bundle / "fifo"))
    assert sources.warnings == [
        f"mounts[0] /data: pipe {bundle}/fifo of the host is visible in the guest, but leads nowhere there"
    ]
    assert len(sources.descriptors) == 2
    sources.close()


def test_missing_things_are_named(bundle: Path) -> None:
    (bundle / "loop").symlink_to("loop")
    assert refused(bundle, NotFound, bind("/none/x")) == "mounts[0] /data: source /none/x: No such file or directory"
    assert "Too many levels of symbolic links" in refused(bundle, InvalidInput, bind(bundle / "loop"))
    assert refused(bundle, InvalidInput, bind("")) == "mounts[0] /data: a bind mount without a source"
    (bundle / "rootfs").rmdir()
    assert refused(bundle, NotFound) == f"root.path {bundle}/rootfs: No such file or directory"
    (bundle / "rootfs").touch()
    assert refused(bundle, InvalidInput) == (
        f"root.path {bundle}/rootfs: no file system that the guest mounts (ext4, xfs, erofs, squashfs, btrfs)"
    )
    (bundle / "rootfs").unlink()
    os.mkfifo(bundle / "rootfs")
    assert refused(bundle, InvalidInput) == f"root.path {bundle}/rootfs: neither a directory nor a disk"


def overlay(bundle: Path, *options: str) -> dict[str, Any]:
    """A mount of three layers, as podman writes it for an image or a volume with `:O`."""
    for name in ("low", "lower", "upper", "work"):
        (bundle / name).mkdir(exist_ok=True)
        (bundle / name / f"of {name}").touch()
    (bundle / "work" / "of work").unlink()
    layers = f"lowerdir={bundle / 'low'}:{bundle / 'lower'}"
    return {"destination": "/both", "type": "overlay", "source": "overlay", "options": [layers, *options]}


def test_an_overlay_is_mounted_by_the_host_where_nobody_sees_it(bundle: Path) -> None:
    """Longer than what fsconfig takes, which an image of a few layers is at once."""
    bundle = bundle / ("long" * 30) / ("longer" * 30)
    bundle.mkdir(parents=True)
    (bundle / "rootfs").mkdir()
    writable = overlay(bundle, f"upperdir={bundle / 'upper'}", f"workdir={bundle / 'work'}", "private")
    (bundle / "sandbox").mkdir()
    before = Path("/proc/self/mountinfo").read_text()
    spec = {"root": {"path": "rootfs"}, "mounts": [writable, overlay(bundle, "ro")]}
    sources = open_sources(spec, str(bundle), with_view=True)
    assert Path("/proc/self/mountinfo").read_text() == before
    assert [(kind, destination) for kind, destination, _ in sources.view] == [("overlay", "/both")] * 2
    share = Share.create(bundle / "sandbox")
    for (description, tree), expected in zip(sources.descriptors[1:], ("low lower upper", "low lower"), strict=True):
        share.attach(tree, "c1", f"m{description['index']}", readonly=description["readonly"])
        place = share.root / "c1.1" / f"m{description['index']}"
        assert sorted(os.listdir(place)) == [f"of {name}" for name in expected.split()]
    (share.root / "c1.1" / "m0" / "new").touch()
    assert (bundle / "upper" / "new").exists()
    with pytest.raises(OSError, match="Read-only"):
        (share.root / "c1.1" / "m1" / "new").touch()
    sources.close()
    share.close()


def test_an_overlay_that_the_kernel_does_not_mount_is_named(bundle: Path) -> None:
    mount = overlay(bundle) | {"options": [f"lowerdir={bundle / 'missing'}"]}
    assert refused(bundle, HostError, mount) == "mount mounts[0] /both: overlay: No such file or directory"


def test_types_that_need_the_hosts_kernel_are_refused(bundle: Path) -> None:
    message = refused(bundle, Unsupported, {"destination": "/mnt", "type": "nfs", "source": "server:/"})
    assert message == ("mounts[0] /mnt: a virtual machine cannot mount type 'nfs' (mount it on the host and bind it)")


MAPPING = [{"containerID": 0, "hostID": 100000, "size": 1000}, {"containerID": 2000, "hostID": 5, "size": 1}]
MAPPED: dict[str, Any] = {"uidMappings": MAPPING, "gidMappings": MAPPING}


def test_an_id_mapped_mount_shows_the_ids_of_the_container(bundle: Path) -> None:
    data = bundle / "data"
    (data / "below").mkdir(parents=True)
    os.chown(data, 7, 2000)
    syscalls.mount("below", str(data / "below"), "tmpfs", 0, "uid=1,gid=1")
    (bundle / "sandbox").mkdir()
    spec = {"root": {"path": "rootfs"}, "mounts": [
        bind(data) | MAPPED, bind(data) | MAPPED | {"options": ["rbind", "ridmap"]},
    ]}  # fmt: skip
    sources = open_sources(spec, str(bundle), with_view=True)
    share = Share.create(bundle / "sandbox")
    for index, below in ((0, 1), (1, 100001)):
        share.attach(sources.descriptors[index + 1][1], "c1", f"m{index}")
        for place in (share.root / "c1.1" / f"m{index}", Path(f"/proc/self/fd/{sources.view[index][2]}")):
            assert (place.stat().st_uid, place.stat().st_gid, (place / "below").stat().st_uid) == (100007, 5, below)
    sources.close()
    share.close()
    syscalls.umount(str(data / "below"))
    assert data.stat().st_uid == 7


def test_the_same_source_with_other_ids_is_another_one(bundle: Path) -> None:
    assert len(set(pools(bundle, bind(bundle), bind(bundle) | MAPPED, bind(bundle, "/again") | MAPPED))) == 2


def test_a_volume_in_memory_has_the_owner_of_an_id_mapped_mount(bundle: Path) -> None:
    volume = empty_dir(bundle, "size=4m,mode=2775,uid=999,gid=2000")
    (volume / "part").mkdir()
    os.chown(volume / "part", 1000, 0)
    sources = opened(bundle, bind(volume) | MAPPED, bind(volume / "part") | MAPPED)
    assert [entry["owner"] for entry in sources.guest_mounts] == [[0o2775, 100999, 5]] * 2
    assert sources.guest_mounts[1]["below_owner"][1:] == [65534, 100000]
    sources.close()
    syscalls.umount(str(volume))


def test_id_mappings_that_cannot_be_are_refused(bundle: Path) -> None:
    half = bind(bundle) | {"uidMappings": MAPPING}
    assert refused(bundle, InvalidInput, half) == (
        "mounts[0] /data: an id-mapped mount takes uidMappings and gidMappings"
    )
    served = FuseLab(bundle / "rootfs", b"content")
    message = "mounts[0] /data: the source's file system cannot be mounted with id mappings"
    assert refused(bundle, Unsupported, bind(bundle / "rootfs") | MAPPED) == message
    served.close()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"options": ["rbind", "nosymfollow"]}, "option 'nosymfollow' is not known to the guest's crun (leave it out)"),
        ({"type": "tmpfs", "options": ["rnosymfollow"]}, "option 'rnosymfollow' is not known to the guest's crun"),
        ({"type": "tmpfs", "options": [], "uidMappings": MAPPING}, "only a bind mount can have id mappings of its own"),
    ],
)
def test_what_crun_would_leave_out_is_refused(bundle: Path, more: dict[str, Any], message: str) -> None:
    assert refused(bundle, Unsupported, bind(bundle) | more).startswith(f"mounts[0] /data: {message}")


def test_more_binds_than_a_message_carries_are_refused(bundle: Path) -> None:
    mounts = [bind(bundle, f"/m{number}") for number in range(200)]
    assert "more than 190 bind mounts and disks" in refused(bundle, Unsupported, *mounts)


def test_the_module_is_light(bundle: Path) -> None:
    """Every `create` imports it."""
    script = (
        "import sys; import oci_runtime.storage.sources;"
        "heavy = {'asyncio', 'dataclasses', 'inspect', 're', 'typing', 'subprocess', 'pathlib', 'json'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-IS", "-c", f"import sys; sys.path[:0] = [{str(REPOSITORY)!r}]; {script}"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_a_file_system_whose_server_refuses_or_is_gone_is_explained(bundle: Path) -> None:
    point = bundle / "served"
    point.mkdir()
    served = FuseLab(point, b"", uid=1000)
    message = f"mounts[0] /data: source {point}: Permission denied (this FUSE file system lets in nobody but its user"
    assert refused(bundle, InvalidInput, bind(point)).startswith(message)
    served.close()
    served = FuseLab(point, b"", uid=1000, options="allow_other")
    opened(bundle, bind(point)).close()
    served.vanish()
    assert "Transport endpoint is not connected" in refused(bundle, InvalidInput, bind(point))
    served.close()


# Mount points


def mounts(*destinations: str) -> list[Mount]:
    return [Mount(destination=destination) for destination in destinations]


def test_mount_points_that_nobody_can_make_are_named(bundle: Path) -> None:
    rootfs = bundle / "rootfs"
    (rootfs / "there").mkdir()
    (rootfs / "link").symlink_to("/there")
    (rootfs / "out").symlink_to("/../../../../proc/self")
    wanted = mounts("/dev", "/dev/pts", "/proc")
    check_mount_points(str(rootfs), wanted)
    subprocess.run(["mount", "--bind", rootfs, rootfs], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", rootfs], check=True)
    for found, message in (
        (wanted, "mounts[0] /dev: root"),
        (mounts("/there", "/link", "/there/../proc"), "mounts[2] /there/../proc: root"),
        (mounts("/there", "/there/below", "/therefore"), "mounts[2] /therefore: root"),
        (mounts("/out"), "mounts[0] /out: root"),
        (mounts("/there"), "/dev, which every container needs: root"),
    ):
        with pytest.raises(InvalidInput) as caught:
            check_mount_points(str(rootfs), found)
        assert caught.value.message == (
            f"{message} file system {rootfs} is mounted read-only and has no such mount point: make it there first"
        )
    check_mount_points(str(rootfs), mounts("/", "/dev", "/proc"))
    (bundle / "image").write_bytes(b"")
    check_mount_points(str(bundle / "image"), wanted)
