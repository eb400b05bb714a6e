"""The share on the host: what is attached where, what is refused, and that nothing stays."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from types import FrameType

import pytest

from oci_runtime.errors import AlreadyExists, HostError, InvalidInput
from oci_runtime.host import syscalls
from oci_runtime.host.mounts import detach_mount, list_mounts
from oci_runtime.storage.share import Share
from tests.storage_lab import attach_path, private_mounts  # noqa: F401 - a fixture

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("private_mounts")]


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path: Path) -> Iterator[None]:
    descriptors = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == descriptors
    assert list_mounts(str(tmp_path)) == []


@pytest.fixture
def share(tmp_path: Path) -> Iterator[Share]:
    directory = tmp_path / "sandbox"
    directory.mkdir(mode=0o700)
    share = Share.create(directory)
    yield share
    share.close()
    assert os.listdir(directory) == []


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    (source / "sub").mkdir(parents=True)
    (source / "file").write_text("content")
    return source


def seen(share: Share, guest_path: str) -> Path:
    """Where virtiofsd sees what the guest sees at a path."""
    return share.served / Path(guest_path).relative_to("/run/vmpod/share")


def test_what_is_attached_appears_in_what_is_served(share: Share, source: Path) -> None:
    tree = attach_path(share, source, "c1", "rootfs")
    file = attach_path(share, source / "file", "c1", "m0")
    assert tree == "/run/vmpod/share/c1.1/rootfs"
    assert file == "/run/vmpod/share/c1.1/m0"
    assert (seen(share, tree) / "file").read_text() == seen(share, file).read_text() == "content"
    (seen(share, tree) / "sub" / "new").write_text("new")
    assert (source / "sub" / "new").read_text() == "new"


def test_the_served_root_cannot_be_written_not_even_by_root(share: Share, source: Path) -> None:
    path = seen(share, attach_path(share, source, "c1", "rootfs"))
    for directory in (share.served, path.parent):
        with pytest.raises(OSError, match="Read-only file system"):
            (directory / "new").mkdir()


def test_read_only_is_for_this_place_alone(share: Share, source: Path) -> None:
    readonly = seen(share, attach_path(share, source, "c1", "m0", readonly="top"))
    writable = seen(share, attach_path(share, source, "c1", "m1"))
    with pytest.raises(OSError, match="Read-only file system"):
        (readonly / "file").write_text("changed")
    (writable / "file").write_text("changed")
    (source / "file").write_text("again")


@pytest.mark.parametrize(("readonly", "inner_is_writable"), [("top", True), ("tree", False)])
def test_read_only_of_the_whole_tree_or_of_its_top(
    share: Share, source: Path, readonly: str, inner_is_writable: bool
) -> None:
    syscalls.mount("inner", str(source / "sub"), "tmpfs")
    path = seen(share, attach_path(share, source, "c1", "m0", readonly=readonly))
    with pytest.raises(OSError, match="Read-only file system"):
        (path / "new").touch()
    if inner_is_writable:
        (path / "sub" / "new").touch()
    else:
        with pytest.raises(OSError, match="Read-only file system"):
            (path / "sub" / "new").touch()
    (source / "sub" / "own").touch()
    share.detach_container("c1")
    syscalls.umount(str(source / "sub"))


def test_what_the_hosts_kernel_has_inside_a_tree_is_left_out(share: Share, source: Path) -> None:
    syscalls.mount("proc", str(source / "sub"), "proc")
    (source / "data").mkdir()
    syscalls.mount("data", str(source / "data"), "tmpfs")
    (source / "data" / "file").touch()
    path = seen(share, attach_path(share, source, "c1", "rootfs"))
    assert os.listdir(path / "sub") == [] and os.listdir(path / "data") == ["file"]
    assert "self" in os.listdir(source / "sub"), "the host keeps it"
    for name in ("sub", "data"):
        syscalls.umount(str(source / name), syscalls.MNT_DETACH)


def test_a_source_in_common_is_attached_once_until_its_last_user_goes(share: Share, source: Path) -> None:
    first = attach_path(share, source, "c1", "m0", pool="p")
    assert first == "/run/vmpod/share/volume.1/data"
    assert attach_path(share, source, "c2", "m7", pool="p") == first
    assert attach_path(share, source, "c2", "m8", readonly="top", pool="p") == first, "reading takes part in writing"
    assert attach_path(share, source / "file", "c2", "m9", pool="q") != first
    share.detach_container("c1")
    assert (seen(share, first) / "file").exists()
    share.detach_container("c2")
    assert share.attached() == [] and os.listdir(share.root) == []
    assert attach_path(share, source, "c1", "m0", pool="p") != first, "a new place: the guest may remember the old one"


def test_whoever_comes_while_the_last_user_goes_gets_a_volume_of_its_own(
    share: Share, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    going, go_on = threading.Event(), threading.Event()

    def slowly(path: str) -> None:
        going.set()
        go_on.wait(30)
        detach_mount(path)

    attach_path(share, source, "c1", "m0", pool="p")
    with ThreadPoolExecutor(2) as pool:
        with monkeypatch.context() as patch:
            patch.setattr("oci_runtime.storage.share.detach_mount", slowly)
            detached = pool.submit(share.detach_container, "c1")
            assert going.wait(30)
            attached = pool.submit(attach_path, share, source, "c2", "m0", pool="p")
            wait([attached], 0.2)  # without the lock it is there by now, in what goes
            go_on.set()
            detached.result(30)
        path = attached.result(30)
    assert (seen(share, path) / "file").read_text() == "content"


def test_a_source_keeps_its_name_where_the_guest_can_handle_it(share: Share, source: Path, tmp_path: Path) -> None:
    """Containers read it from mountinfo, as under other runtimes."""
    assert attach_path(share, source, "c1", "m0", pool="p", source=f"{source}/") == "/run/vmpod/share/volume.1/source"
    file = attach_path(share, source / "file", "c1", "m1", source=str(source / "file"))
    assert file == "/run/vmpod/share/volume.2/file"
    assert seen(share, file).read_text() == "content"
    # The same source once more, with mounts inside that only this container sees: a tree of its own.
    assert attach_path(share, source, "c1", "m2", source=str(source)) == "/run/vmpod/share/volume.3/source"
    for number, name in enumerate(("with space", "..", "/", "new\nline", "x" * 256), 4):
        assert attach_path(share, source, "c1", f"m{number}", source=name) == f"/run/vmpod/share/volume.{number}/data"
    share.detach_container("c1")
    assert share.attached() == [] and os.listdir(share.root) == []


def test_a_writer_never_joins_what_is_read_only(share: Share, source: Path) -> None:
    reader = attach_path(share, source, "c1", "m0", readonly="top", pool="p")
    writer = attach_path(share, source, "c2", "m0", pool="p")
    assert reader != writer
    (seen(share, writer) / "new").touch()
    with pytest.raises(OSError, match="Read-only file system"):
        (seen(share, reader) / "newer").touch()


def test_root_of_a_user_namespace_may_pass_and_not_look_around(share: Share, source: Path) -> None:
    before = os.umask(0o077)
    path = seen(share, attach_path(share, source, "c1", "rootfs"))
    os.umask(before)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o711
    assert stat.S_IMODE(share.served.stat().st_mode) == 0o711
    assert stat.S_IMODE(share.served.parent.stat().st_mode) == 0o700, "but on the host nobody gets there"


@pytest.mark.parametrize("propagation", ["private", "slave", "shared"])
def test_mounts_inside_a_tree_come_along(share: Share, source: Path, propagation: str) -> None:
    """And stay on the host when the container goes, even where the host's mounts are shared."""
    syscalls.mount("outer", str(source), "tmpfs")
    syscalls.mount_setattr(str(source), 0, propagation=syscalls.MS_SHARED)
    for name in ("sub", "proc"):
        (source / name).mkdir()
    syscalls.mount("proc", str(source / "proc"), "proc")
    syscalls.mount("inner", str(source / "sub"), "tmpfs")
    (source / "sub" / "deep").touch()
    path = seen(share, attach_path(share, source, "c1", "m0", propagation=propagation))
    assert os.listdir(path / "sub") == ["deep"] and os.listdir(path / "proc") == []
    share.detach_container("c1")
    assert os.listdir(source / "sub") == ["deep"], "the host's own mount is untouched"
    assert (source / "proc" / "self").is_symlink()
    for target in (source / "proc", source / "sub", source):
        syscalls.umount(str(target))


@pytest.mark.parametrize(("propagation", "arrives"), [("private", False), ("slave", True), ("shared", True)])
def test_propagation_from_the_host(share: Share, source: Path, propagation: str, arrives: bool) -> None:
    syscalls.mount("volume", str(source), "tmpfs")
    syscalls.mount_setattr(str(source), 0, propagation=syscalls.MS_SHARED)
    (source / "later").mkdir()
    path = seen(share, attach_path(share, source, "c1", "m0", propagation=propagation))
    syscalls.mount("later", str(source / "later"), "tmpfs")
    (source / "later" / "file").touch()
    assert os.listdir(path / "later") == (["file"] if arrives else [])
    syscalls.umount(str(source / "later"))
    assert os.listdir(path / "later") == []
    share.detach_container("c1")
    syscalls.umount(str(source))


def test_nothing_of_the_share_reaches_the_namespaces_that_follow_the_hosts(tmp_path: Path, source: Path) -> None:
    """On a host whose mounts are shared, services with mount namespaces of their own must not hold our containers."""
    host = tmp_path / "host"
    follower = tmp_path / "follower"
    for path in (host, follower):
        path.mkdir()
    syscalls.mount("host", str(host), "tmpfs")
    syscalls.mount_setattr(str(host), 0, propagation=syscalls.MS_SHARED)
    syscalls.mount(str(host), str(follower), flags=syscalls.MS_BIND | syscalls.MS_REC)
    sandbox = host / "sandbox"
    sandbox.mkdir(mode=0o700)
    share = Share.create(sandbox)
    attach_path(share, source, "c1", "rootfs")
    assert not [point for point in list_mounts(str(follower)) if "c1" in point]
    share.close()
    assert list_mounts(str(follower)) == [str(follower)]
    detach_mount(str(follower))
    detach_mount(str(host))


def test_names_that_could_lead_elsewhere_are_refused(share: Share, source: Path) -> None:
    for container, name in (("..", "x"), ("c1", ".."), ("c1", "a/b"), ("/c1", "x"), ("c1", ""), ("c" * 256, "x")):
        with pytest.raises(InvalidInput, match=r"letters, digits and _ \. \+ - only"):
            attach_path(share, source, container, name)
    assert share.attached() == []


def test_the_longest_container_id_fits(share: Share, source: Path) -> None:
    first = attach_path(share, source, "c" * 255, "rootfs")
    second = attach_path(share, source, "c" * 254 + "d", "rootfs")
    assert first != second
    assert (seen(share, second) / "file").exists()


def test_a_name_is_taken_once(share: Share, source: Path) -> None:
    attach_path(share, source, "c1", "m0")
    with pytest.raises(AlreadyExists, match=r"share name 'm0' of c1\.1: attached already"):
        attach_path(share, source / "file", "c1", "m0")
    assert share.attached() == ["c1.1/m0"]


def test_the_same_container_id_gets_a_new_place(share: Share, source: Path) -> None:
    first = attach_path(share, source, "c1", "rootfs")
    share.detach_container("c1")
    second = attach_path(share, source, "c1", "rootfs")
    assert first != second and not seen(share, first).exists()


def test_devices_are_refused_and_sockets_are_not(share: Share, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="a device or symbolic link cannot be served"):
        attach_path(share, Path("/dev/null"), "c1", "m0")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        path = seen(share, attach_path(share, tmp_path / "socket", "c1", "m1"))
        assert path.is_socket()
    assert share.attached() == ["c1.2/m1"]


def test_unknown_propagation_is_refused(share: Share, source: Path) -> None:
    with pytest.raises(InvalidInput, match="propagation 'unbindable': not one of private, slave, shared"):
        attach_path(share, source, "c1", "m0", propagation="unbindable")


def test_a_tree_that_cannot_be_attached_leaves_no_mount_point(share: Share, source: Path) -> None:
    plain = os.open(source, os.O_PATH | os.O_CLOEXEC)  # no detached tree
    try:
        with pytest.raises(HostError):
            share.attach(plain, "c1", "rootfs")
    finally:
        os.close(plain)
    assert os.listdir(share.root) == []


def test_detaching_is_idempotent_and_by_container(share: Share, source: Path) -> None:
    for container in ("c1", "c2"):
        attach_path(share, source, container, "rootfs")
        attach_path(share, source / "file", container, "m0")
    share.detach_container("nobody")
    share.detach_container("c1")
    share.detach_container("c1")
    assert share.attached() == ["c2.2/rootfs", "c2.2/m0"]
    assert sorted(os.listdir(share.root)) == ["c2.2"]


def test_a_busy_tree_is_detached_all_the_same(share: Share, source: Path) -> None:
    path = share.root / Path(attach_path(share, source, "c1", "rootfs")).relative_to("/run/vmpod/share")
    with (path / "file").open() as busy:
        share.detach_container("c1")
        assert share.attached() == []
        assert busy.read() == "content"


def test_closing_takes_everything_along_and_may_be_repeated(tmp_path: Path, source: Path) -> None:
    directory = tmp_path / "sandbox"
    directory.mkdir()
    share = Share.create(directory)
    attach_path(share, source, "c1", "rootfs")
    attach_path(share, source / "file", "c1", "m0")
    share.close()
    share.close()
    assert list_mounts(str(directory)) == [] and os.listdir(directory) == []
    assert (source / "file").read_text() == "content", "files of the host are never removed"


def test_what_a_dead_process_left_is_taken_over(tmp_path: Path, source: Path) -> None:
    directory = tmp_path / "sandbox"
    directory.mkdir()
    attach_path(Share.create(directory), source, "c1", "rootfs")
    Share.adopt(directory).close()
    assert list_mounts(str(directory)) == [] and os.listdir(directory) == []
    assert (source / "file").read_text() == "content"


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=f"create share {tmp_path}/none: No such file or directory"):
        Share.create(tmp_path / "none")


def test_unmounting_names_with_spaces_and_stacked_mounts(tmp_path: Path) -> None:
    point = tmp_path / "with space\tand tab"
    point.mkdir()
    for _ in range(3):
        syscalls.mount("tmp", str(point), "tmpfs")
    assert list_mounts(str(tmp_path)) == [str(point)] * 3
    detach_mount(str(point))
    detach_mount(str(point))
    assert list_mounts(str(tmp_path)) == []


def test_a_sibling_with_the_same_beginning_stays_mounted(tmp_path: Path) -> None:
    for name in ("a", "ab"):
        (tmp_path / name).mkdir()
        syscalls.mount("tmp", str(tmp_path / name), "tmpfs")
    assert list_mounts(str(tmp_path / "a")) == [str(tmp_path / "a")]
    detach_mount(str(tmp_path / "a"))
    assert list_mounts(str(tmp_path)) == [str(tmp_path / "ab")]
    detach_mount(str(tmp_path / "ab"))


@contextlib.contextmanager
def after_every_step(look: Callable[[str], None]) -> Iterator[None]:
    """Have `look` called with the name of each function of `host` that returns: between any two system calls."""

    def notice(frame: FrameType, event: str, _: object) -> None:
        if event == "return" and "/oci_runtime/host/" in frame.f_code.co_filename:
            look(frame.f_code.co_name)

    sys.setprofile(notice)
    try:
        yield
    finally:
        sys.setprofile(None)


def test_what_the_hosts_kernel_has_is_never_served_not_for_a_moment(share: Share, source: Path) -> None:
    (source / "data").mkdir()
    for name, kind in (("sub", "proc"), ("data", "tmpfs")):
        syscalls.mount(name, str(source / name), kind)
    kinds: set[str] = set()

    def look(_: str) -> None:
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        kinds.update(line.split(" - ")[1].split()[0] for line in lines if f" {share.served}/" in line)

    with after_every_step(look):
        attach_path(share, source, "c1", "rootfs")
    assert "tmpfs" in kinds and "proc" not in kinds
    for name in ("sub", "data"):
        syscalls.umount(str(source / name), syscalls.MNT_DETACH)


def test_links_put_in_the_way_of_the_kernels_mounts_lead_to_no_mount_of_the_host(share: Share, source: Path) -> None:
    """A container that has the tree renames what /proc lies in as soon as the share has seen where it is."""
    victim = source.parent / "victim"
    for directory in (source / "sub" / "proc", victim / "proc"):
        directory.mkdir(parents=True)
        syscalls.mount("proc", str(directory), "proc")

    def swap(name: str) -> None:
        if name == "read_mounts" and not (source / "sub").is_symlink():
            (source / "sub").rename(source / "away")
            (source / "sub").symlink_to(victim)

    with after_every_step(swap):
        path = seen(share, attach_path(share, source, "c1", "rootfs"))
    assert (source / "sub").is_symlink()
    assert os.listdir(path / "away" / "proc") == []
    assert (victim / "proc" / "self").is_symlink()
    for directory in (source / "away", victim):
        syscalls.umount(str(directory / "proc"), syscalls.MNT_DETACH)


def test_links_put_into_a_tree_that_goes_lead_to_no_mount_of_the_host(share: Share, source: Path) -> None:
    victim = source.parent / "victim"
    for directory in (source / "sub" / "data", victim / "data"):
        directory.mkdir(parents=True)
        syscalls.mount("data", str(directory), "tmpfs")
    attach_path(share, source, "c1", "rootfs")

    def swap(_: str) -> None:
        if not (source / "sub").is_symlink():
            (source / "sub").rename(source / "away")
            (source / "sub").symlink_to(victim)

    with after_every_step(swap):
        share.detach_container("c1")
    assert share.attached() == [] and list_mounts(str(victim)) == [str(victim / "data")]
    for directory in (source / "away", victim):
        syscalls.umount(str(directory / "data"), syscalls.MNT_DETACH)


def test_a_mount_of_the_kernel_that_cannot_be_reached_is_no_part_of_a_share(share: Share, source: Path) -> None:
    for kind in ("proc", "tmpfs"):
        syscalls.mount(kind, str(source / "sub"), kind)
    with pytest.raises(InvalidInput, match="/sub in a bind's source is of the host's kernel and cannot be left out"):
        attach_path(share, source, "c1", "rootfs")
    assert share.attached() == [] and os.listdir(share.root) == []
    for _ in range(2):
        syscalls.umount(str(source / "sub"), syscalls.MNT_DETACH)


def test_nodes_of_devices_in_the_share_open_nothing_of_the_host(share: Share, source: Path) -> None:
    os.mknod(source / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    path = seen(share, attach_path(share, source, "c1", "rootfs"))
    assert stat.S_ISCHR((path / "null").stat().st_mode)
    with pytest.raises(PermissionError):
        (path / "null").read_bytes()
    assert (source / "null").read_bytes() == b""
