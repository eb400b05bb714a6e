"""Building: the second stage for real, from the Debian tree that the set-up has cached, and what can fail."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from oci_runtime.errors import HostError, NotFound, OciRuntimeError
from oci_runtime.host import syscalls
from oci_runtime.image import debian, tools
from oci_runtime.image.build import BuildSettings, build_image, expected_image_hash, tree_key
from oci_runtime.image.command import run_image
from oci_runtime.image.recipe import KERNEL_PACKAGE
from oci_runtime.image.store import DEFAULT_STORE, find_image, read_manifest

pytestmark = pytest.mark.root
ROOT = Path(__file__).parents[2]
CACHE = Path(os.environ.get("VMPOD_IMAGE_STORE") or DEFAULT_STORE)


def quiet(_: str) -> None:
    """Progress that nobody reads."""


def link_or_copy(source: str, target: str) -> None:
    """A hard link where the file system allows it: no test changes a tree's files."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of the test's own that has the cached Debian tree."""
    tree = CACHE / ".trees" / tree_key(KERNEL_PACKAGE)
    assert tree.is_dir(), "build the image first: make image"
    store = tmp_path / "images"
    (store / ".trees").mkdir(parents=True)
    shutil.copytree(tree, store / ".trees" / tree.name, symlinks=True, copy_function=link_or_copy)
    return store


def assets(store: Path, name: str = "default") -> object:
    return read_manifest(str((store / name).resolve()))["assets"]


def leftovers(store: Path) -> list[str]:
    return [str(path) for path in store.rglob(".build-*")]


def test_two_builds_of_the_same_inputs_are_the_same_bytes(store: Path, tmp_path: Path) -> None:
    first = build_image(BuildSettings(store), quiet)
    other = tmp_path / "a" / "longer" / "path"
    shutil.copytree(store / ".trees", other / ".trees", symlinks=True, copy_function=link_or_copy)
    os.umask(old := os.umask(0o077))
    os.umask(0o077)
    try:
        second = build_image(BuildSettings(other), quiet)
    finally:
        os.umask(old)
    assert first.hash == second.hash
    assert assets(store) == assets(other)
    assert leftovers(store) == leftovers(other) == []


def test_everyone_can_read_an_image_and_none_but_root_write_it(store: Path) -> None:
    os.umask(old := os.umask(0o077))
    os.umask(0o077)
    try:
        image = build_image(BuildSettings(store), quiet)
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(image.directory).st_mode) == 0o755
    for path in (image.kernel, image.initrd, image.rootfs, f"{image.directory}/manifest.json"):
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o644, path


def test_a_second_build_does_nothing(store: Path) -> None:
    image = build_image(BuildSettings(store), quiet)
    before = os.stat(image.rootfs)
    said: list[str] = []
    build_image(BuildSettings(store), said.append)
    after = os.stat(image.rootfs)
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert said == []
    assert expected_image_hash(store) == image.hash


def test_force_writes_it_again(store: Path) -> None:
    image = build_image(BuildSettings(store), quiet)
    Path(image.kernel).write_bytes(b"broken")
    with pytest.raises(OciRuntimeError, match="corrupt guest image"):
        build_image(BuildSettings(store), quiet)
    assert build_image(BuildSettings(store, force=True), quiet).hash == image.hash
    assert find_image(store).kernel == image.kernel


def test_check_tells_whether_a_build_is_needed(store: Path) -> None:
    check = ["--store", str(store), "build", "--check"]
    assert run_image(check) == 3
    assert run_image(["--store", str(store), "build"]) == 0
    assert run_image(check) == 0
    assert run_image([*check, "--name", "other"]) == 3
    assert run_image([*check, "--kernel-package", "linux-image-amd64"]) == 3


def test_another_name_is_another_link_to_the_same_image(store: Path) -> None:
    one = build_image(BuildSettings(store), quiet)
    two = build_image(BuildSettings(store, name="two"), quiet)
    assert (one.directory, two.name) == (two.directory, "two")


def _build(store: str) -> None:
    build_image(BuildSettings(Path(store)), quiet)


def test_builds_at_once_do_not_disturb_each_other(store: Path) -> None:
    context = multiprocessing.get_context("spawn")
    builders = [context.Process(target=_build, args=(str(store),)) for _ in range(3)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join(120)
    assert [builder.exitcode for builder in builders] == [0, 0, 0]
    assert leftovers(store) == []
    find_image(store)


def test_what_a_killed_build_left_goes_with_the_next_one(store: Path) -> None:
    (store / ".build-dead/root/usr").mkdir(parents=True)
    (store / ".trees/.build-dead").mkdir()
    build_image(BuildSettings(store), quiet)
    assert leftovers(store) == []


def test_a_full_disk_leaves_nothing(store: Path, tmp_path: Path) -> None:
    """A store with room for the Debian tree and half an image."""
    tree_bytes = sum(path.lstat().st_size for path in store.rglob("*"))
    small = tmp_path / "small"
    small.mkdir()
    syscalls.mount("none", str(small), "tmpfs", 0, f"size={tree_bytes // 1024 + 40_000}k")
    try:
        shutil.copytree(store / ".trees", small / ".trees", symlinks=True)
        with pytest.raises(HostError, match="No space left on device") as caught:
            build_image(BuildSettings(small), quiet)
        assert "\n" not in str(caught.value)
        assert sorted(path.name for path in small.iterdir()) == [".lock", ".trees"]
    finally:
        syscalls.umount(str(small))


def test_missing_tools_are_named_with_their_packages(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tools, "PATH", "/nonexistent")
    with pytest.raises(NotFound, match="mkfs.erofs.* apt-get install .*erofs-utils.* mmdebstrap"):
        build_image(BuildSettings(store), quiet)


def test_a_mirror_that_does_not_answer_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    settings = BuildSettings(tmp_path / "images", mirror="http://127.0.0.1:1/debian")
    with pytest.raises(HostError, match=r"mmdebstrap bookworm: .*Failed to fetch .*127\.0\.0\.1:1"):
        build_image(settings, quiet)
    assert leftovers(tmp_path) == []
    assert not (tmp_path / "images/default").exists()
    mounts = Path("/proc/self/mounts").read_text()
    assert str(tmp_path) not in mounts


def test_an_unknown_kernel_package_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="Unable to locate package linux-image-of-nobody"):
        build_image(BuildSettings(tmp_path / "images", kernel_package="linux-image-of-nobody"), quiet)


def test_a_step_that_fails_leaves_the_old_image(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = build_image(BuildSettings(store), quiet)

    def refuse(*_: object) -> None:
        raise HostError("mmdebstrap", "", 0, hint="no network")

    monkeypatch.setattr(debian, "run_tool", refuse)
    with pytest.raises(HostError, match="no network"):
        build_image(BuildSettings(store, refresh=True), quiet)
    assert find_image(store) == image
    assert leftovers(store) == []


def test_without_root_it_says_so(tmp_path: Path) -> None:
    script = f"import sys; sys.path[:0] = {sys.path!r}; from oci_runtime.image.command import run_image; import os;"
    script += f"os.setuid(65534); sys.exit(run_image(['--store', {str(tmp_path)!r}, 'build']))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert done.stderr == "vmpod image: building a guest image needs root: run it as root or with sudo\n"


def test_a_store_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "images").write_text("")
    with pytest.raises(HostError, match="File exists"):
        build_image(BuildSettings(tmp_path / "images"), quiet)
