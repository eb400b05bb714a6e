"""The pure part of storage: virtiofsd's command lines, what becomes of a mount, the guest's spec."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.errors import InvalidInput, Unsupported
from oci_runtime.storage.mount_kinds import is_bind, options_of, propagation_of, readonly_of
from oci_runtime.storage.rewrite import GuestStorage, guest_storages, rewrite_spec
from oci_runtime.storage.virtiofsd import VirtiofsdSettings, plan_virtiofsd_argv

CONFIGS = sorted((Path(__file__).parents[1] / "data" / "configs").glob("*config*.json"))


def test_command_line_of_qemus_virtiofsd() -> None:
    assert plan_virtiofsd_argv("/usr/lib/qemu/virtiofsd", False, "/s/served", VirtiofsdSettings()) == (
        "/usr/lib/qemu/virtiofsd",
        "--fd=3",
        "-f",
        "--thread-pool-size=0",
        "-o",
        "source=/s/served,sandbox=namespace,cache=auto,xattr,log_level=err,posix_acl",
    )


def test_command_line_of_the_rust_virtiofsd() -> None:
    settings = VirtiofsdSettings(cache="never", threads=2, posix_acl=True)
    assert plan_virtiofsd_argv("/usr/libexec/virtiofsd", True, "/s/served", settings) == (
        "/usr/libexec/virtiofsd",
        "--shared-dir=/s/served",
        "--fd=3",
        "--sandbox=namespace",
        "--seccomp=kill",
        "--cache=never",
        "--xattr",
        "--log-level=error",
        "--no-announce-submounts",
        "--thread-pool-size=2",
        "--posix-acl",
    )


def test_cache_never_has_another_name_in_c() -> None:
    argv = plan_virtiofsd_argv("v", False, "/s", VirtiofsdSettings(cache="never", posix_acl=True))
    assert argv[-1].startswith("source=/s,sandbox=namespace,cache=none,") and argv[-1].endswith(",posix_acl")


@pytest.mark.parametrize(
    ("rust", "given", "expected"),
    [
        (False, ["--thread-pool-size=4", "-o", "writeback"], ("--thread-pool-size=4", "-o", "writeback")),
        (False, ["-onoflock", "-o timeout=1.5"], None),
        (False, ["-o", "no_flock,timeout=1.5"], ("-o", "no_flock", "-o", "timeout=1.5")),
        (True, ["--inode-file-handles=prefer", "--writeback"], ("--inode-file-handles=prefer", "--writeback")),
        (True, ["-o", "writeback"], None),
        (False, ["-o", "source=/"], None),
        (False, ["-o", "writeback,sandbox=chroot"], None),
        (False, ["--thread-pool-size=4,source=/"], None),
        (False, ["-o"], None),
        (True, ["--sandbox=none"], None),
        (True, ["--thread-pool-size"], None),
        (True, ["--announce-submounts"], "crashes"),
        (False, ["-o", "announce_submounts"], "crashes"),
    ],
)
def test_further_arguments_are_those_of_a_list(
    rust: bool, given: list[str], expected: tuple[str, ...] | str | None
) -> None:
    settings = VirtiofsdSettings(extra=tuple(given))
    if isinstance(expected, tuple):
        assert plan_virtiofsd_argv("v", rust, "/s", settings)[-len(expected) :] == expected
    elif expected:
        with pytest.raises(Unsupported, match=expected):
            plan_virtiofsd_argv("v", rust, "/s", settings)
    else:
        with pytest.raises(InvalidInput, match=r"storage\.virtio_fs_extra_args: "):
            plan_virtiofsd_argv("v", rust, "/s", settings)


def test_only_the_rust_daemon_caches_metadata_alone() -> None:
    settings = VirtiofsdSettings(cache="metadata")
    assert "--cache=metadata" in plan_virtiofsd_argv("v", True, "/s", settings)
    with pytest.raises(Unsupported, match="only auto, always and never"):
        plan_virtiofsd_argv("v", False, "/s", settings)


@pytest.mark.parametrize(
    ("rust", "served", "settings", "message"),
    [
        (True, "/s", VirtiofsdSettings(cache="maybe"),
         "virtiofsd cache 'maybe': not one of auto, always, never, metadata"),
        (True, "/s", VirtiofsdSettings(threads=65), "virtiofsd threads = 65: must be 0 to 64"),
        (False, "/s,o", VirtiofsdSettings(),
         "share /s,o: virtiofsd cannot serve a path with a comma (choose another --root)"),
    ],
)  # fmt: skip
def test_what_cannot_be_expressed_is_refused(
    rust: bool, served: str, settings: VirtiofsdSettings, message: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        plan_virtiofsd_argv("v", rust, served, settings)
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("mount", "expected"),
    [
        ({"type": "bind"}, True),
        ({"type": "none", "options": ["rbind", "ro"]}, True),
        ({"options": ["bind"]}, True),
        ({"type": "tmpfs", "options": ["size=1m"]}, False),
        ({"type": "proc"}, False),
        ({}, False),
        ({"type": "tmpfs", "options": "bind"}, False),
    ],
)
def test_what_is_a_bind_mount(mount: dict[str, Any], expected: bool) -> None:
    assert is_bind(mount) == expected


@pytest.mark.parametrize(
    ("options", "readonly"),
    [
        ([], ""),
        (["ro"], "top"),
        (["rro"], "tree"),
        (["ro", "rro"], "tree"),
        (["rro", "rrw"], ""),
        (["rw"], ""),
        (["ro", "rw"], ""),
        (["rw", "bind", "ro"], "top"),
    ],
)
def test_the_last_of_ro_and_rw_counts(options: list[str], readonly: str) -> None:
    assert readonly_of(options) == readonly


@pytest.mark.parametrize(
    ("options", "propagation"),
    [
        ([], "slave"),
        (["rslave"], "slave"),
        (["shared"], "shared"),
        (["rslave", "rprivate"], "private"),
        (["ro"], "slave"),
    ],
)
def test_the_last_propagation_counts(options: list[str], propagation: str) -> None:
    assert propagation_of(options) == propagation


def test_options_that_are_no_list_are_none() -> None:
    assert options_of({"options": {"a": 1}}) == []
    assert options_of({"options": ["ro", 5]}) == ["ro", "5"]


def test_paths_of_the_guest_take_the_places_of_the_hosts() -> None:
    spec = {
        "root": {"path": "/host/rootfs", "readonly": True},
        "process": {"args": ["sh"]},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/data", "type": "bind", "source": "/host/data", "options": ["rbind", "ro", "rslave"]},
            {"destination": "/dev/shm", "type": "bind", "source": "/host/shm", "options": ["nosuid"]},
            {"destination": "/host/sys", "source": "/sys", "options": ["bind"]},
        ],
    }
    before = copy.deepcopy(spec)
    share = "/run/vmpod/share/c.1"
    guest = rewrite_spec(
        spec,
        f"{share}/rootfs",
        {1: f"{share}/m1"},
        [
            {"kind": "shm", "index": 2, "key": "1f-2a", "size_bytes": 65536},
            {"kind": "guest", "index": 3, "source": "/sys"},
        ],
    )
    assert spec == before, "the host's spec is left alone"
    assert guest == {
        "root": {"path": "/run/vmpod/share/c.1/rootfs", "readonly": True},
        "process": {"args": ["sh"]},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/data", "type": "bind", "source": f"{share}/m1", "options": ["rbind", "ro", "rslave"]},
            {
                "destination": "/dev/shm",
                "type": "bind",
                "source": "/run/vmpod/shm/1f-2a",
                "options": ["bind", "nosuid"],
            },
            {"destination": "/host/sys", "type": "bind", "source": "/sys", "options": ["bind"]},
        ],
    }  # fmt: skip


def test_shared_memory_of_the_pod_is_a_tmpfs_of_its_size() -> None:
    entries = [
        {"kind": "guest", "index": 0, "source": "/sys"},
        {"kind": "shm", "index": 1, "key": "1f-2a", "size_bytes": 65536000},
        {"kind": "shm", "index": 2, "key": "1f-2b", "size_bytes": 0},
    ]
    options = ("nosuid", "nodev", "noexec", "mode=1777")
    assert guest_storages(entries) == (
        GuestStorage("tmpfs", "shm", "/run/vmpod/shm/1f-2a", "tmpfs", (*options, "size=65536000")),
        GuestStorage("tmpfs", "shm", "/run/vmpod/shm/1f-2b", "tmpfs", options),
    )


def test_volumes_in_memory_and_of_huge_pages_are_the_guests() -> None:
    memory = {"kind": "memory", "key": "2f-0", "size_bytes": 4096, "owner": [0o2775, 0, 12]}
    entries = [
        memory | {"index": 0},
        memory | {"index": 1, "below": "a, b/c", "below_owner": [0o755, 5, 6]},
        {"kind": "hugepages", "index": 2, "key": "30-1", "page_bytes": 2 << 20, "owner": [0o777, 0, 0]},
    ]
    volume = GuestStorage(
        "tmpfs", "memory", "/run/vmpod/memory/2f-0", "tmpfs", ("mode=2775", "uid=0", "gid=12", "size=4096")
    )
    *first, part, huge = guest_storages(entries)
    assert first == [volume, volume], "the composer mounts each target once"
    assert (part.driver, part.source) == ("subpath", volume.target)
    assert part.options == ("below=a, b/c", "mode=755", "uid=5", "gid=6")
    assert huge == GuestStorage(
        "hugetlbfs",
        "hugepages",
        "/run/vmpod/hugepages/30-1",
        "hugetlbfs",
        ("pagesize=2097152", "mode=777", "uid=0", "gid=0"),
    )
    spec = rewrite_spec(
        {"root": {}, "mounts": [{"destination": f"/{number}"} for number in range(3)]}, "/r", {}, entries
    )
    assert [mount["source"] for mount in spec["mounts"]] == [volume.target, part.target, huge.target]
    assert part.target.startswith("/run/vmpod/subpath/2f-0-")


@pytest.mark.parametrize(
    "entry",
    [
        {"kind": "shm", "index": 0, "key": "../../etc", "size_bytes": 1},
        {"kind": "memory", "index": 0, "key": "2f", "size_bytes": 1},
        {"kind": "shm", "index": 0, "size_bytes": 1},
        {"kind": "guest", "index": 0, "source": "relative"},
        {"kind": "disk", "index": 0},
        {"index": 0},
    ],
)
def test_descriptions_that_are_not_ours_are_refused(entry: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="guest mount of unknown kind"):
        rewrite_spec({"root": {}, "mounts": [{"destination": "/x"}]}, "/r", {}, [entry])


@pytest.mark.parametrize("index", [-1, 1, 99])
def test_an_index_without_a_mount_is_refused(index: int) -> None:
    with pytest.raises(InvalidInput, match="described, but the spec has 1 mounts"):
        rewrite_spec({"root": {}, "mounts": [{"destination": "/x"}]}, "/r", {index: "/p"})


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_no_path_of_the_host_is_left_in_a_real_engines_spec(path: Path) -> None:
    spec = json.loads(path.read_text())
    binds = {index: f"/run/vmpod/share/c.1/m{index}" for index, mount in enumerate(spec["mounts"]) if is_bind(mount)}
    guest = rewrite_spec(spec, "/run/vmpod/share/c.1/rootfs", binds)
    assert guest["root"]["path"] == "/run/vmpod/share/c.1/rootfs"
    assert len(guest["mounts"]) == len(spec["mounts"])
    for mount in guest["mounts"]:
        source = mount.get("source", "")
        assert not source.startswith("/") or source.startswith("/run/vmpod/share/")
    places = [mount["destination"] for mount in guest["mounts"]]
    assert places == [mount["destination"] for mount in spec["mounts"]]
