"""A guest that wants more of the host than its specs name, and volumes that fill up or vanish under a running pod."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.host.mounts import list_mounts
from oci_runtime.storage.virtiofsd import find_virtiofsd, is_rust
from tests.engine import Engine, crio, wait_until
from tests.fuse_lab import FuseLab
from tests.loop_lab import make_image
from tests.storage_lab import HOST_PYTHON, bind, capable, private_mounts  # noqa: F401 - a fixture

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("private_mounts")]
MEMBER = {"annotations": crio("container", "pod")}
SLEEP = ["sleep", "100000"]


def test_links_swapped_while_mounts_are_made_lead_nowhere_on_the_host(shared: Engine, tmp_path: Path) -> None:
    """One container flips a path in another one's root file system between a directory and links out of it."""
    rootfs, outside = tmp_path / "rootfs", tmp_path / "outside"
    subprocess.run(["cp", "-a", str(shared.rootfs), str(rootfs)], check=True)
    outside.mkdir()
    (tmp_path / "data").mkdir()
    swap = f"""if True:
        import os
        print("swapping", flush=True)
        def attempt(call, *names):
            try:
                call(*names)
            except OSError:  # whoever makes the mounts was quicker
                if os.path.lexists(names[-1]):
                    os.rename(names[-1], f"/victim/aside{{os.urandom(8).hex()}}")
        while True:
            for target in ("{outside}", "../../../../../../..{outside}", "/run/vmpod/share", "/proc/self/root"):
                attempt(os.mkdir, "/victim/made")
                attempt(os.rename, "/victim/made", "/victim/at")
                attempt(os.symlink, target, "/victim/link")
                attempt(os.rename, "/victim/at", "/victim/made")
                attempt(os.rename, "/victim/link", "/victim/at")
                attempt(os.unlink, "/victim/at")
                attempt(os.rmdir, "/victim/made")
    """
    mounts = [*HOST_PYTHON, bind(rootfs, "/victim", "rw")]
    shared.run("swapper", ["/usr/bin/python3", "-c", swap], more_mounts=mounts, **MEMBER)
    wait_until(lambda: "swapping" in shared.log("swapper"), "the attack has begun")
    before = list_mounts("/")
    for _ in range(6):
        result = shared.create(
            "victim", ["true"], check=False, root={"path": str(rootfs)},
            more_mounts=[bind(tmp_path / "data", "/at/deep/er"), bind(tmp_path / "data", "/at/file")], **MEMBER,
        )  # fmt: skip
        assert result.code in (0, 1)
        shared.call("delete", "--force", "victim")
        assert os.listdir(outside) == [] and os.listdir(tmp_path / "data") == []
        assert list_mounts("/") == before
    assert shared.state("swapper")["status"] == "running", shared.log("swapper")
    shared.log_path("victim").unlink()
    shared.call("delete", "--force", "swapper")


def test_root_of_the_guest_finds_nothing_but_its_own_pod_in_the_share(shared: Engine, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret of the host")
    (tmp_path / "volume").mkdir()
    script = f"""
        mkdir /mnt; mount -t virtiofs vmpod-share /mnt || exit 1
        ls /mnt | grep -v '^pod[.]\\|^root[.]\\|^volume[.]'
        cat /mnt{tmp_path}/secret /mnt/..{tmp_path}/secret /mnt/volume*/volume/..{tmp_path}/secret 2>/dev/null
        cd /mnt/volume*/volume || exit 2
        ln -s {tmp_path}/secret link; ls; cat link 2>/dev/null
        mkdir /mnt/x 2>/dev/null && echo made
        mv /mnt/volume* /mnt/moved 2>/dev/null && echo moved
        true
    """
    process = capable("SYS_ADMIN", "DAC_OVERRIDE")
    shared.run("root", ["sh", "-c", script], process=process, more_mounts=[bind(tmp_path / "volume", "/v")], **MEMBER)
    assert shared.exit_code("root") == 0, shared.log("root")
    assert shared.log("root") == "link\n"
    shared.call("delete", "root")


def test_a_full_disk_is_the_writers_error_and_nothing_synced_is_lost(shared: Engine, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    make_image(tmp_path / "image", size_mib=4)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-N", "64", str(tmp_path / "image")], check=True)
    subprocess.run(["mount", "-o", "loop", str(tmp_path / "image"), str(disk)], check=True)
    script = """if True:
        import errno, os
        kept = os.open("/disk/kept", os.O_CREAT | os.O_WRONLY)
        os.write(kept, b"k" * 500000)
        os.fsync(kept)
        big = os.open("/disk/big", os.O_CREAT | os.O_WRONLY)
        try:
            while True:
                os.write(big, bytes(100000))
        except OSError as error:
            print(errno.errorcode[error.errno])
        os.unlink("/disk/big")
        os.close(big)
        try:
            for number in range(100):
                open(f"/disk/inode{number}", "w").close()
        except OSError as error:
            print(errno.errorcode[error.errno])
        for number in range(10):
            os.unlink(f"/disk/inode{number}")
        with open("/disk/again", "wb") as file:
            file.write(b"a" * 500000)
        print("goes on")
    """
    arguments = ["/usr/bin/python3", "-c", script]
    shared.run("full", arguments, more_mounts=[*HOST_PYTHON, bind(disk, "/disk")], **MEMBER)
    assert shared.exit_code("full") == 0, shared.log("full")
    assert shared.log("full") == "ENOSPC\nENOSPC\ngoes on\n"
    assert (disk / "kept").read_bytes() == b"k" * 500000 and (disk / "again").stat().st_size == 500000
    shared.call("delete", "full")
    subprocess.run(["umount", "--lazy", str(disk)], check=True)  # virtiofsd holds on to what the guest has seen


def test_a_quota_of_the_host_is_the_writers_error(shared: Engine, tmp_path: Path) -> None:
    disk, image = tmp_path / "disk", tmp_path / "image"
    disk.mkdir()
    make_image(image, size_mib=128)
    for command in (
        ["mkfs.btrfs", "-q", str(image)],
        ["mount", "-o", "loop", str(image), str(disk)],
        ["btrfs", "quota", "enable", str(disk)],
        ["btrfs", "subvolume", "create", str(disk / "limited")],
        ["btrfs", "qgroup", "limit", "2M", str(disk / "limited")],
    ):
        subprocess.run(command, check=True, capture_output=True)
    arguments = ["dd", "if=/dev/zero", "of=/disk/big", "bs=64k", "count=100", "conv=fsync"]
    shared.run("quota", arguments, more_mounts=[bind(disk / "limited", "/disk")], **MEMBER)
    assert shared.exit_code("quota") == 1
    assert "Disk quota exceeded" in shared.log("quota") or "Quota exceeded" in shared.log("quota"), shared.log("quota")
    shared.call("delete", "quota")
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_volume_that_vanishes_is_an_error_of_its_users_alone(shared: Engine, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    (volume / "sub").mkdir(parents=True)
    (volume / "sub" / "file").write_text("content")
    shared.run("bereft", SLEEP, more_mounts=[bind(volume, "/data")], **MEMBER)
    assert shared.exec("bereft", "cat", "/data/sub/file").out == "content"
    shutil.rmtree(volume)

    def gone() -> bool:
        return "No such file or directory" in shared.exec("bereft", "cat", "/data/sub/file", check=False).err

    wait_until(gone, "the guest notices", 20)
    assert "No such file" in shared.exec("bereft", "touch", "/data/new", check=False).err
    assert shared.exec("bereft", "touch", "/tmp/other").code == 0
    assert shared.exec("pod", "true").code == 0
    shared.call("delete", "--force", "bereft")


def test_a_root_file_system_that_vanishes_ends_nothing_but_its_own_use(shared: Engine, tmp_path: Path) -> None:
    rootfs = tmp_path / "rootfs"
    subprocess.run(["cp", "-a", str(shared.rootfs), str(rootfs)], check=True)
    shared.run("rootless", SLEEP, root={"path": str(rootfs)}, **MEMBER)
    assert shared.exec("rootless", "ls", "/etc").code == 0
    shutil.rmtree(rootfs)

    def gone() -> bool:
        return 'exec: "ls"' in shared.exec("rootless", "ls", "/etc", check=False).err

    wait_until(gone, "the guest notices", 20)
    assert shared.state("rootless")["status"] == "running", "what it has in memory goes on"
    assert shared.exec("pod", "true").code == 0
    shared.call("kill", "rootless", "KILL")
    assert shared.exit_code("rootless") == 137
    shared.call("delete", "rootless")


def test_a_server_that_goes_away_is_an_error_of_its_users_alone(shared: Engine, tmp_path: Path) -> None:
    served = FuseLab(tmp_path, b"content")
    shared.run("cut", SLEEP, more_mounts=[bind(tmp_path, "/data")], **MEMBER)
    assert shared.exec("cut", "cat", "/data/file").out == "content"
    served.vanish()
    read = shared.exec("cut", "cat", "/data/file", check=False)
    assert read.code == 1 and "not connected" in read.err
    assert shared.exec("cut", "touch", "/tmp/other").code == shared.exec("pod", "true").code == 0
    result = shared.create("late", ["true"], check=False, more_mounts=[bind(tmp_path, "/data")], **MEMBER)
    assert f"mounts[3] /data: source {tmp_path}: Transport endpoint is not connected (the process that" in result.err
    shared.log_path("late").unlink()
    shared.call("delete", "--force", "cut")
    served.close()


def test_a_server_that_hangs_keeps_nobody_from_deleting_its_pod(engine: Engine, tmp_path: Path) -> None:
    """Its own virtiofsd cannot even be killed before the server is gone, as nothing can that waits for it."""
    (tmp_path / "served").mkdir()
    served = FuseLab(tmp_path / "served", b"content")
    script = "cat /data/file; echo kept > /kept; while :; do echo x >> /data/file; done"
    root = tmp_path / "rootfs"
    subprocess.run(["cp", "-a", str(engine.rootfs), str(root)], check=True)
    volume: dict[str, Any] = {"root": {"path": str(root)}, "more_mounts": [bind(tmp_path / "served", "/data")]}
    engine.run("hung", ["sh", "-c", script], **volume)
    engine.cgroups = [f"{engine.group}-hung"]
    wait_until(lambda: "content" in engine.log("hung") and (root / "kept").exists(), "it works")
    served.hang()
    wait_until(lambda: served.waiting, "it waits")
    engine.call("delete", "--force", "hung")
    assert engine.exit_code("hung") == 137
    assert (root / "kept").read_text() == "kept\n"
    assert all("virtiofsd" in left for left in engine.leftovers())
    served.close()
    wait_until(lambda: not engine.leftovers(), "nothing left")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ('virtio_fs_extra_args = ["--announce-submounts"]', "submounts cannot be announced"),
        ('virtio_fs_extra_args = ["-o", "sandbox=chroot"]', "'-o sandbox=chroot' is not one of"),
    ],
)
def test_shares_that_cannot_be_are_refused_with_the_reason(engine: Engine, settings: str, message: str) -> None:
    engine.config = engine.directory / "config.toml"
    engine.config.write_text(f"[storage]\n{settings}\n")
    result = engine.create("none", ["true"], check=False)
    assert result.code == 1 and message in result.err


@pytest.mark.parametrize("cache", ["always", "never"])
def test_other_cache_policies_and_a_thread_pool_work(engine: Engine, tmp_path: Path, cache: str) -> None:
    engine.config = engine.directory / "config.toml"
    is_qemus = not is_rust(find_virtiofsd())
    arguments = ["-o", "no_readdirplus,flock,timeout=1"] if is_qemus else ["--no-readdirplus"]
    settings = json.dumps(["--thread-pool-size=2", "--rlimit-nofile=600", *arguments])
    engine.config.write_text(f'[storage]\nvirtio_fs_cache = "{cache}"\nvirtio_fs_extra_args = {settings}\n')
    data = tmp_path / "data"
    data.mkdir()
    (data / "file").write_text("content\n")
    volume: dict[str, Any] = {"more_mounts": [*HOST_PYTHON, bind(data, "/data")]}
    engine.run("c", ["sh", "-c", "cat /data/file; echo back > /data/answer; ls /data; sleep 1000"], **volume)
    wait_until(lambda: engine.log("c") == "content\nanswer\nfile\n", "its output", 20)
    command = Path(f"/proc/{engine.sandbox_record()['virtiofsd']['pid']}/cmdline").read_bytes().split(b"\0")
    assert b"--thread-pool-size=2" in command and any(word.endswith(b"readdirplus") for word in command)
    with (data / "file").open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        locked = engine.exec("c", "/usr/bin/flock", "--nonblock", "/data/file", "true", check=False)
        assert (locked.code, locked.err) == (1 if is_qemus else 0, ""), "-o flock lets locks pass"
    assert engine.exec("c", "/usr/bin/flock", "--nonblock", "/data/file", "true").code == 0
    if is_qemus:  # with `always`, too: names and attributes are looked at again after a second
        (data / "file").write_text("CONTENT\n")
        wait_until(lambda: engine.exec("c", "cat", "/data/file").out == "CONTENT\n", "what the host has written", 20)
    if cache == "always":
        script = "mkdir /data/many; cd /data/many; for i in $(seq 640); do echo x > $i || exit; done; cat * | wc -l"
        assert engine.exec("c", "sh", "-c", script).out == "640\n", "more files than virtiofsd can have open"
    else:
        (data / "late").touch()
        assert engine.exec("c", "ls", "/data").out == "answer\nfile\nlate\n", "seen at once"
