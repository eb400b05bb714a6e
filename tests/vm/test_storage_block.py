"""Block devices of the host in the containers of a pod: as devices, as bind mounts, shared, limited, and gone again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.control.client import Client
from tests.engine import Engine, crio
from tests.loop_lab import LoopDisk, loop_disk, used_loops

pytestmark = pytest.mark.vm
DENY = {"allow": False, "access": "rwm"}


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopDisk]:
    with loop_disk(tmp_path_factory.mktemp("disk") / "image") as made:
        yield made


def member(**changes: Any) -> dict[str, Any]:
    return {"annotations": crio("container", "pod")} | changes


def device(disk: LoopDisk, path: str, **more: Any) -> dict[str, Any]:
    return {"path": path, "type": "b", "major": disk.number[0], "minor": disk.number[1]} | more


def rule(disk: LoopDisk, access: str) -> dict[str, Any]:
    return {"allow": True, "type": "b", "major": disk.number[0], "minor": disk.number[1], "access": access}


def bind(disk: LoopDisk, destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": disk.path, "options": ["bind", *options]}


def disks_of(engine: Engine) -> list[dict[str, Any]]:
    """The disks that the pod's machine has now."""
    (sandbox,) = engine.root.glob(".sandboxes/*")
    with Client.connect(str(sandbox), 20) as client:
        disks: list[dict[str, Any]] = client.call("info")["info"]["disks"]
    return disks


@pytest.fixture(autouse=True)
def every_disk_goes(shared: Engine) -> Iterator[None]:
    yield
    left = [name for name in shared.ids if name != "pod" and (shared.root / name).exists()]
    for name in left:
        shared.call("delete", "--force", name)
    assert (disks_of(shared), left) == ([], [])


def test_a_device_of_the_spec_has_its_path_mode_and_owner_and_holds_the_hosts_bytes(
    shared: Engine, disk: LoopDisk
) -> None:
    Path(disk.path).open("r+b").write(b"from the host")
    devices = [
        device(disk, "/dev/xvda", fileMode=0o640, uid=1000, gid=6),
        device(disk, "/srv/deep/disk", fileMode=0o600),
    ]
    shared.run("d1", ["sleep", "1000"], **member(linux=dict(
        devices=devices, resources={"devices": [DENY, rule(disk, "rwm")]})))  # fmt: skip
    assert shared.exec("d1", "stat", "-c", "%F %a %u:%g", "/dev/xvda").out == "block special file 640 1000:6\n"
    assert shared.exec("d1", "head", "-c", "13", "/srv/deep/disk").out == "from the host"
    shared.exec("d1", "sh", "-c", "printf 'from a guest!' | dd of=/srv/deep/disk bs=512 conv=notrunc,fsync")
    assert disk.image.read_bytes()[:13] == b"from a guest!"
    assert len(disks_of(shared)) == 1, "one disk under two names"
    assert not (shared.rootfs / "srv/deep/disk").is_block_device(), "no device node is made on the host"
    shared.call("delete", "--force", "d1")


def test_the_device_cgroup_allows_what_the_spec_allows_and_no_other_disk(shared: Engine, disk: LoopDisk) -> None:
    shared.run("owner", ["sleep", "1000"], **member(linux=dict(
        devices=[device(disk, "/dev/disk")], resources={"devices": [DENY, rule(disk, "rw")]})))  # fmt: skip
    number = shared.exec("owner", "stat", "-c", "%t %T", "/dev/disk").out.split()
    guest = [int(part, 16) for part in number]
    # A rule and a node with the guest's own number: the number of somebody else's disk means nothing here.
    foreign = {"allow": True, "type": "b", "major": guest[0], "minor": guest[1], "access": "rwm"}
    shared.run("other", ["sleep", "1000"], **member(
        linux=dict(resources={"devices": [DENY, {"allow": True, "type": "b", "access": "m"}, foreign]}),
        process={"capabilities": {kind: ["CAP_MKNOD"] for kind in ("bounding", "effective", "permitted")}},
    ))  # fmt: skip
    shared.exec("other", "mknod", "/dev/stolen", "b", *map(str, guest))
    denied = shared.exec("other", "head", "-c", "1", "/dev/stolen", check=False)
    assert denied.code != 0 and "Operation not permitted" in denied.err
    assert shared.exec("owner", "head", "-c", "1", "/dev/disk").code == 0
    for name in ("owner", "other"):
        shared.call("delete", "--force", name)


@pytest.mark.parametrize("options", [["ro"], []])
def test_a_bind_mount_of_a_block_device_is_a_disk(shared: Engine, disk: LoopDisk, options: list[str]) -> None:
    shared.run("b1", ["sleep", "1000"], **member(
        more_mounts=[bind(disk, "/data/disk", *options)], linux=dict(resources={"devices": [DENY]})))  # fmt: skip
    assert shared.exec("b1", "blockdev", "--getsize64", "/data/disk").out == f"{16 << 20}\n"
    written = shared.exec("b1", "dd", "if=/dev/zero", "of=/data/disk", "bs=512", "count=1", check=False)
    assert (written.code == 0) == (not options), written
    assert disks_of(shared)[0]["readonly"] == bool(options)
    shared.call("delete", "--force", "b1")


def test_containers_share_a_disk_until_the_last_one_goes(shared: Engine, disk: LoopDisk) -> None:
    shared.run("s1", ["sleep", "1000"], **member(more_mounts=[bind(disk, "/disk")]))
    shared.run("s2", ["sleep", "1000"], **member(
        more_mounts=[bind(disk, "/disk", "ro")], linux=dict(resources={"devices": [DENY]})))  # fmt: skip
    (only,) = disks_of(shared)
    assert only["containers"] == ["s1", "s2"]
    shared.exec("s1", "sh", "-c", "printf shared | dd of=/disk bs=512 conv=notrunc,fsync")
    assert shared.exec("s2", "head", "-c", "6", "/disk").out == "shared"
    assert shared.exec("s2", "dd", "if=/dev/zero", "of=/disk", "count=1", check=False).code != 0
    shared.call("delete", "--force", "s1")
    assert disks_of(shared)[0]["containers"] == ["s2"]
    assert shared.exec("s2", "head", "-c", "6", "/disk").out == "shared"
    shared.call("delete", "--force", "s2")


def test_limits_of_the_spec_hold_for_the_guests_disk(shared: Engine, disk: LoopDisk) -> None:
    number = {"major": disk.number[0], "minor": disk.number[1]}
    limits = {
        "throttleReadBpsDevice": [{**number, "rate": 1 << 20}],
        "throttleWriteIOPSDevice": [{**number, "rate": 50}],
    }
    shared.run("l1", ["sleep", "1000"], **member(
        more_mounts=[bind(disk, "/disk"), {"destination": "/cg", "type": "cgroup2", "source": "cgroup2"}],
        linux=dict(resources={"blockIO": limits})))  # fmt: skip
    major, minor = (int(part, 16) for part in shared.exec("l1", "stat", "-c", "%t %T", "/disk").out.split())
    assert shared.exec("l1", "cat", "/cg/io.max").out == f"{major}:{minor} rbps=1048576 wbps=max riops=max wiops=50\n"
    more = {"throttleReadBpsDevice": [{**number, "rate": 2 << 20}, {"major": 259, "minor": 77, "rate": 5}]}
    result = shared.call("update", "--resources", "-", "l1", stdin=json.dumps({"blockIO": more}))
    assert "259:77 of the host is not a disk of this container" in result.err
    assert "rbps=2097152" in shared.exec("l1", "cat", "/cg/io.max").out
    shared.call("delete", "--force", "l1")


def test_what_only_the_host_has_is_refused_in_one_line(shared: Engine) -> None:
    kvm = {"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232}
    numbers = (tuple(map(int, path.name.split(":"))) for path in Path("/sys/dev/char").iterdir())
    major, minor = next(number for number in numbers if number[0] not in (1, 4, 5, 10, *range(136, 144)))
    other = {"path": "/dev/other", "type": "c", "major": major, "minor": minor}
    for refused, words in (
        (kvm, "linux.devices[0] /dev/kvm: a virtual machine has no /dev/kvm to give (leave it out,"),
        (other, f"linux.devices[0] /dev/other: character device {major}:{minor} of the host cannot be given to"),
    ):
        shared.log_path("r1").unlink(missing_ok=True)
        result = shared.create("r1", ["true"], check=False, **member(linux=dict(devices=[refused])))
        assert result.code != 0 and words in result.err and result.err.count("\n") == 1
    fuse = {"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666}
    tun = {"path": "/dev/net/tun", "type": "c", "major": 10, "minor": 200}
    shared.run("r2", ["sleep", "1000"], **member(linux=dict(devices=[fuse, tun])))
    assert shared.exec("r2", "stat", "-c", "%t:%T", "/dev/fuse", "/dev/net/tun").out == "a:e5\na:c8\n"
    shared.exec("r2", "sh", "-c", "exec 3<>/dev/fuse 4<>/dev/net/tun")  # the guest loads what they need
    shared.call("delete", "--force", "r2")


def test_a_privileged_container_gets_no_disk_of_the_host_unless_it_is_asked_for(shared: Engine, disk: LoopDisk) -> None:
    everything = [device(disk, disk.path), {"path": "/dev/kvm", "type": "c", "major": 10, "minor": 232}]
    asked_for = device(disk, "/dev/wanted")
    allow_all = {"devices": [{"allow": True, "access": "rwm"}]}
    shared.run("p1", ["sleep", "1000"], **member(linux=dict(devices=everything, resources=allow_all)))
    assert disks_of(shared) == []
    assert "kvm" not in shared.exec("p1", "ls", "/dev").out
    shared.run("p2", ["sleep", "1000"], **member(linux=dict(devices=[*everything, asked_for], resources=allow_all)))
    assert shared.exec("p2", "blockdev", "--getsize64", "/dev/wanted").out == f"{16 << 20}\n"
    for name in ("p1", "p2"):
        shared.call("delete", "--force", name)


def test_a_failed_creation_leaves_no_disk(shared: Engine, disk: LoopDisk) -> None:
    result = shared.create("f1", ["/no/such/program"], check=False, **member(more_mounts=[bind(disk, "/disk")]))
    assert result.code != 0
    assert disks_of(shared) == []


def test_a_disk_that_vanishes_is_an_error_of_its_reader_and_nobody_elses(shared: Engine, tmp_path: Path) -> None:
    with loop_disk(tmp_path / "image") as vanishing:
        shared.run("v1", ["sleep", "1000"], **member(more_mounts=[bind(vanishing, "/disk")]))
        vanishing.image.open("r+b").truncate(1 << 20)
        failed = shared.exec("v1", "dd", "if=/disk", "of=/dev/null", "bs=1M", "skip=8", "count=1", check=False)
        assert failed.code != 0 and "Input/output error" in failed.err
        assert shared.exec("pod", "true").code == 0
        shared.call("delete", "--force", "v1")
    assert str(tmp_path / "image") not in used_loops()
