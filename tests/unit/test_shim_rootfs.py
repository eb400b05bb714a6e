"""Mounts of a root file system: what containerd's options mean, and what is refused."""

from __future__ import annotations

import pytest

from oci_runtime.errors import InvalidInput
from oci_runtime.host import syscalls
from oci_runtime.shim.proto.types_pb2 import Mount
from oci_runtime.shim.rootfs import MAX_DATA_BYTES, PlannedMount, plan_mount, plan_mounts


def plan(fstype: str, *options: str, source: str = "src", target: str = "") -> PlannedMount:
    return plan_mount(Mount(type=fstype, source=source, target=target, options=options))


def test_overlay() -> None:
    planned = plan("overlay", "index=off", "workdir=/w", "upperdir=/u", "lowerdir=/l1:/l2", source="overlay")
    assert planned == PlannedMount("overlay", "", "overlay", 0, "index=off,workdir=/w,upperdir=/u,lowerdir=/l1:/l2")


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        (("rbind", "rw"), syscalls.MS_BIND | syscalls.MS_REC),
        (("rbind", "ro"), syscalls.MS_BIND | syscalls.MS_REC | syscalls.MS_RDONLY),
        (("bind",), syscalls.MS_BIND),
        ((), syscalls.MS_BIND),
        (("bind", "nosuid", "nodev", "suid"), syscalls.MS_BIND | syscalls.MS_NODEV),
    ],
)
def test_binds(options: tuple[str, ...], flags: int) -> None:
    planned = plan("bind", *options, source="/snapshot")
    assert (planned.flags, planned.fstype, planned.data) == (flags, "", "")


def test_a_file_system_on_a_device() -> None:
    planned = plan("ext4", "ro", "noatime", "data=ordered", "defaults", source="/dev/mapper/x")
    assert planned.flags == syscalls.MS_RDONLY | 1024
    assert (planned.fstype, planned.data, planned.loop) == ("ext4", "data=ordered", False)
    assert plan("ext4", "loop", source="/image").loop


def test_propagation_is_a_call_of_its_own() -> None:
    planned = plan("bind", "rbind", "rslave")
    assert planned.propagation == syscalls.MS_SLAVE | syscalls.MS_REC
    assert planned.flags == syscalls.MS_BIND | syscalls.MS_REC


@pytest.mark.parametrize("target", ["../x", "/../../x", "a/../../x", ".."])
def test_targets_outside_of_the_root_file_system(target: str) -> None:
    with pytest.raises(InvalidInput, match="outside"):
        plan("tmpfs", target=target)


def test_targets_inside() -> None:
    assert plan("tmpfs", target="/a/b").target == "a/b"
    assert {plan("tmpfs", target=target).target for target in ("", "/", ".", "a/..")} == {""}


def test_many_layers_become_relative_to_their_common_directory() -> None:
    base = "/var/lib/containerd/io.containerd.snapshotter.v1.overlayfs/snapshots"
    lower = ":".join(f"{base}/{number}/fs" for number in range(100))
    planned = plan("overlay", f"workdir={base}/200/work", f"upperdir={base}/200/fs", f"lowerdir={lower}", "index=off")
    assert planned.cwd == base
    assert len(planned.data) <= MAX_DATA_BYTES
    assert planned.data.startswith("workdir=200/work,upperdir=200/fs,lowerdir=0/fs:1/fs:")
    assert planned.data.endswith("index=off")


def test_too_many_layers_are_refused() -> None:
    lower = ":".join(f"/x/{'y' * 50}{number}/fs" for number in range(200))
    with pytest.raises(InvalidInput, match="fewer layers"):
        plan("overlay", f"lowerdir={lower}")


def test_too_many_mounts_are_refused() -> None:
    with pytest.raises(InvalidInput, match="more than"):
        plan_mounts([Mount(type="bind", source="/x")] * 200)
