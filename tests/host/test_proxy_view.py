"""What those see who enter the mount namespace of a container's proxy: its files, and nothing of the host."""

from __future__ import annotations

import os
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.host import syscalls
from oci_runtime.host.mounts import detach_mount, list_mounts
from tests.engine import wait_until
from tests.host.conftest import FakeEngine
from tests.storage_lab import private_mounts  # noqa: F401 - a fixture

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("private_mounts")]
MOUNTS = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
]


def bind(source: Path, destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind", *options]}


def create(engine: FakeEngine, *mounts: dict[str, Any], readonly: bool = False) -> Path:
    """Create a container `c1` on a rootfs with the usual directories; return its root as the host can look at it."""
    for name in ("proc", "dev", "data", "etc"):
        (engine.rootfs / name).mkdir(exist_ok=True)
    (engine.rootfs / "etc" / "name").write_text("of the container\n")
    root = {"path": str(engine.rootfs), "readonly": readonly}
    engine.bundle("c1", ["sleep", "1000"], root=root, mounts=[*MOUNTS, *mounts])
    engine.create("c1", ["sleep", "1000"], root=root, mounts=[*MOUNTS, *mounts])
    return Path(f"/proc/{engine.pids['c1']}/root")


def inside(engine: FakeEngine, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a program of the host in the proxy's mount and pid namespaces, as podman does with itself."""
    pid = engine.pids["c1"]
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from oci_runtime.host import syscalls;"
        "fds = [os.open(f'/proc/{sys.argv[2]}/ns/' + n, os.O_RDONLY) for n in ('pid', 'mnt')];"
        "syscalls.setns(fds[0]); syscalls.setns(fds[1]);"
        "exec(sys.argv[3])"
    )
    repository = str(Path(__file__).parents[2])
    argv = ["/usr/bin/python3", "-c", code, repository, str(pid), *command]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def test_root_and_volumes_are_the_containers(engine: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume" / "kept").write_text("in the volume\n")
    (tmp_path / "hosts").write_text("hosts\n")
    (engine.rootfs / "etc").mkdir()
    (engine.rootfs / "etc" / "hosts").touch()
    root = create(engine, bind(tmp_path / "volume", "/data"), bind(tmp_path / "hosts", "/etc/hosts", "ro"))
    done = inside(engine, "print(sorted(os.listdir('/')), open('/etc/name').read(), open('/data/kept').read())")
    assert done.stdout == "['data', 'dev', 'etc', 'proc'] of the container\n in the volume\n\n", done.stderr
    (root / "data" / "new").write_text("written\n")
    (root / "etc" / "new").write_text("written\n")
    assert (tmp_path / "volume" / "new").read_text() == (engine.rootfs / "etc" / "new").read_text() == "written\n"
    with pytest.raises(OSError, match="Read-only"):
        (root / "etc" / "hosts").write_text("changed\n")


def test_proc_shows_the_proxy_alone_and_changes_nothing(engine: FakeEngine) -> None:
    create(engine)
    done = inside(engine, "print([n for n in os.listdir('/proc') if n.isdigit()], open('/proc/1/cmdline').read())")
    assert done.stdout.split("\0")[0] == "['1'] sleep", done.stderr
    done = inside(engine, "open('/proc/sys/vm/swappiness', 'w')")
    assert "Read-only" in done.stderr


def test_what_only_the_guest_has_is_empty_and_cannot_be_written(engine: FakeEngine) -> None:
    root = create(engine)
    (engine.rootfs / "dev" / "below").touch()
    assert os.listdir(root / "dev") == []
    with pytest.raises(OSError, match="Read-only"):
        (root / "dev" / "file").touch()


def test_a_read_only_root_is_read_only_and_its_volumes_are_not(engine: FakeEngine, tmp_path: Path) -> None:
    (tmp_path / "volume").mkdir()
    root = create(engine, bind(tmp_path / "volume", "/data"), readonly=True)
    with pytest.raises(OSError, match="Read-only"):
        (root / "etc" / "new").touch()
    (root / "data" / "new").touch()


def test_links_of_the_container_lead_nowhere_else(engine: FakeEngine, tmp_path: Path) -> None:
    """A volume's destination that is a link to a directory of the host is looked up inside the root."""
    outside, volume = tmp_path / "outside", tmp_path / "volume"
    outside.mkdir()
    volume.mkdir()
    (volume / "kept").touch()
    (engine.rootfs / "absolute").symlink_to(outside)
    (engine.rootfs / "relative").symlink_to("../../../../../../../../../data")
    root = create(engine, bind(volume, "/absolute"), bind(volume, "/relative"), bind(volume, "/missing/x"))
    assert os.listdir(root / "data") == ["kept"]
    assert os.listdir(outside) == []


def test_devices_and_set_id_bits_do_not_work(engine: FakeEngine) -> None:
    root = create(engine)
    os.mknod(engine.rootfs / "null", 0o020666, os.makedev(1, 3))
    with pytest.raises(PermissionError):
        (root / "null").read_bytes()
    mounts = Path(f"/proc/{engine.pids['c1']}/mountinfo").read_text().splitlines()
    assert all("nosuid" in line.split()[5] for line in mounts), mounts


def test_no_mount_of_the_host_stays_in_the_namespace(engine: FakeEngine, tmp_path: Path) -> None:
    """An unrelated file system of the host must not be held by a container that runs for months."""
    create(engine)
    mounts = Path(f"/proc/{engine.pids['c1']}/mountinfo").read_text().splitlines()
    assert sorted(line.split()[4] for line in mounts) == ["/", "/dev", "/proc"]


def test_the_rootfs_can_be_unmounted_after_delete_and_follows_the_host(
    engine: FakeEngine, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Engines mount below a volume, take it away again, and unmount the root file system in the end: never busy."""
    request.addfinalizer(partial(syscalls.mount, "", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE))
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_SHARED)
    syscalls.mount("test-rootfs", str(engine.rootfs), "tmpfs")
    request.addfinalizer(lambda: [*map(detach_mount, list_mounts(str(tmp_path)))])
    volume = tmp_path / "volume"
    (volume / "below").mkdir(parents=True)
    root = create(engine, bind(volume, "/data"))
    syscalls.mount("test-below", str(volume / "below"), "tmpfs")
    (volume / "below" / "file").touch()
    assert os.listdir(root / "data" / "below") == ["file"]
    syscalls.umount(str(volume / "below"))
    assert os.listdir(root / "data" / "below") == []
    engine.call("delete", "--force", "c1")
    wait_until(lambda: not root.exists(), "the proxy is gone")
    syscalls.umount(str(engine.rootfs))


def test_a_failure_ends_the_creation_in_words(engine: FakeEngine, tmp_path: Path) -> None:
    """Too long a destination stands for whatever the kernel may refuse."""
    (tmp_path / "volume").mkdir()
    with pytest.raises(AssertionError, match="the proxy's root: openat2 .*File name too long"):
        create(engine, bind(tmp_path / "volume", "/" + "x" * 300))
