"""Volumes of a real pod: what containers have in common, what follows the host, what is the guest's own."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.host import syscalls
from tests.engine import Engine, crio, wait_until
from tests.fuse_lab import FuseLab
from tests.storage_lab import HOST_PYTHON, bind, private_mounts  # noqa: F401 - a fixture

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("private_mounts")]
MEMBER = {"annotations": crio("container", "pod")}
SLEEP = ["sleep", "100000"]


def ran(engine: Engine, container_id: str, script: str, *mounts: dict[str, Any], **changes: Any) -> str:
    """Run a script in a member of the pod to its end, delete it, and return its output."""
    engine.run(container_id, ["sh", "-c", script], **MEMBER, more_mounts=list(mounts), **changes)
    code = engine.exit_code(container_id)
    output = engine.log(container_id)
    engine.call("delete", container_id)
    engine.log_path(container_id).unlink()
    assert code == 0, output
    return output


def test_sockets_pipes_locks_and_maps_meet_in_a_volume_of_two_containers(shared: Engine, tmp_path: Path) -> None:
    """One attachment for both: else the guest has two inodes for each file, and nobody meets."""
    server = """if True:
        import fcntl, mmap, os, socket
        lock = open("/data/lock", "w")
        fcntl.flock(lock, fcntl.LOCK_EX)
        ranges = open("/data/ranges", "w+b")
        ranges.truncate(8192)
        fcntl.lockf(ranges, fcntl.LOCK_EX, 10, 100)
        memory = mmap.mmap(ranges.fileno(), 8192)
        memory[5000:5006] = b"mapped"
        os.mkfifo("/data/pipe")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind("/data/socket")
        listener.listen()
        print("ready", flush=True)
        connection, _ = listener.accept()
        connection.sendall(b"through a socket")
        with open("/data/pipe", "wb") as pipe:
            pipe.write(b"through a pipe")
        connection.recv(1)
        print(memory[6000:6004].decode(), flush=True)
    """
    client = """if True:
        import fcntl, mmap, socket
        connection = socket.socket(socket.AF_UNIX)
        connection.connect("/other/socket")
        print(connection.recv(100).decode())
        print(open("/other/pipe").read())
        try:
            fcntl.flock(open("/other/lock"), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("locked")
        ranges = open("/other/ranges", "r+b")
        memory = mmap.mmap(ranges.fileno(), 8192)
        print(memory[5000:5006].decode())
        memory[6000:6004] = b"back"
        fcntl.lockf(ranges, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 0)
        try:
            fcntl.lockf(ranges, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 105)
        except BlockingIOError:
            print("a part of it locked")
    """
    mounts = [*HOST_PYTHON, bind(tmp_path, "/data", "rw")]
    shared.run("server", ["/usr/bin/python3", "-c", server], more_mounts=mounts, **MEMBER)
    wait_until(lambda: "ready" in shared.log("server"), "the server listens")
    shared.run(
        "client",
        ["/usr/bin/python3", "-c", client],
        more_mounts=[*HOST_PYTHON, bind(tmp_path, "/other", "rw")],
        **MEMBER,
    )
    assert shared.exit_code("client") == 0, shared.log("client")
    words = "through a socket,through a pipe,locked,mapped,a part of it locked".split(",")
    assert shared.log("client").splitlines() == words
    assert shared.exit_code("server") == 0 and shared.log("server") == "ready\nback\n"
    for name in ("client", "server"):
        shared.call("delete", name)


def test_locks_of_the_host_do_not_reach_the_guest(shared: Engine, tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        script = "/usr/bin/flock --nonblock /data/lock echo got it"
        assert ran(shared, "lock", script, *HOST_PYTHON, bind(tmp_path, "/data")) == "got it\n"


def test_mounts_that_the_host_makes_later_appear_and_go(shared: Engine, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    syscalls.mount("volume", str(volume), "tmpfs")
    syscalls.mount_setattr(str(volume), 0, propagation=syscalls.MS_SHARED)
    (volume / "later").mkdir()
    mounts = [bind(volume, "/slave", "rslave"), bind(volume, "/private", "rprivate"), bind(volume, "/unsaid")]
    shared.run("follows", SLEEP, more_mounts=mounts, **MEMBER)
    look = ("exec", "follows", "sh", "-c", "ls /slave/later; echo -; ls /private/later; echo -; ls /unsaid/later")
    assert shared.call(*look).out == "-\n-\n"
    syscalls.mount("later", str(volume / "later"), "tmpfs")
    (volume / "later" / "file").touch()
    wait_until(lambda: shared.call(*look).out == "file\n-\n-\nfile\n", "the mount arrives", 10)
    syscalls.umount(str(volume / "later"), syscalls.MNT_DETACH)  # virtiofsd holds on to what the guest has seen
    wait_until(lambda: shared.call(*look).out == "-\n-\n", "the mount goes", 10)
    shared.call("delete", "--force", "follows")
    syscalls.umount(str(volume), syscalls.MNT_DETACH)


def test_recursive_read_only_includes_mounts_below(shared: Engine, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    syscalls.mount("sub", str(tmp_path / "sub"), "tmpfs")
    capabilities = {name: ["CAP_SYS_ADMIN"] for name in ("bounding", "effective", "permitted")}
    script = """
        mount -o remount,rw,bind /rro; mount -o remount,rw,bind /ro
        for path in /rro/x /rro/sub/x /ro/x /ro/sub/x; do touch $path 2>/dev/null && echo $path; done; true
    """
    output = ran(
        shared, "rro", script, bind(tmp_path, "/rro", "rro"), bind(tmp_path, "/ro", "ro"),
        process={"capabilities": capabilities},
    )  # fmt: skip
    syscalls.umount(str(tmp_path / "sub"))
    assert output == "/ro/sub/x\n", "the host itself refuses, whatever the guest believes"


def test_an_overlay_of_the_spec_is_the_hosts(shared: Engine, tmp_path: Path) -> None:
    """As podman has them for `--mount type=image` and volumes with `:O`."""
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower" / "file").write_text("below\n")
    layers = [f"lowerdir={tmp_path / 'lower'}", f"upperdir={tmp_path / 'upper'}", f"workdir={tmp_path / 'work'}"]
    mount = {"destination": "/both", "type": "overlay", "source": "overlay"}
    script = "cat /both/file; echo above > /both/file; rm /ro/file || cat /ro/file; grep -c lowerdir /proc/mounts; true"
    output = ran(
        shared, "overlay", script, mount | {"options": [*layers, "private"]},
        mount | {"destination": "/ro", "options": [f"lowerdir={tmp_path / 'lower'}:{tmp_path / 'work'}", "noexec"]},
    )  # fmt: skip
    assert output == "below\nrm: can't remove '/ro/file': Read-only file system\nbelow\n0\n"
    assert (tmp_path / "upper" / "file").read_text() == "above\n"
    assert (tmp_path / "lower" / "file").read_text() == "below\n"


def test_a_file_that_is_bound_stays_one_inode(shared: Engine, tmp_path: Path) -> None:
    """As /etc/hosts and resolv.conf: engines rewrite them in place."""
    hosts = tmp_path / "hosts"
    hosts.write_text("1\n")
    shared.run("hosts", SLEEP, more_mounts=[bind(hosts, "/etc/hosts"), bind(hosts, "/same")], **MEMBER)
    with hosts.open("a") as file:
        file.write("2\n")
    wait_until(lambda: shared.exec("hosts", "cat", "/etc/hosts").out == "1\n2\n", "what the host appends is seen", 10)
    shared.exec("hosts", "sh", "-c", "echo 3 >> /etc/hosts")
    assert hosts.read_text() == "1\n2\n3\n"
    assert shared.exec("hosts", "sh", "-c", "test /etc/hosts -ef /same; echo $?; cat /same").out == "0\n1\n2\n3\n"
    shared.call("delete", "--force", "hosts")


def test_noexec_nosuid_nodev_of_a_bind(shared: Engine, tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("#!/bin/sh\necho ran\n")
    (tmp_path / "tool").chmod(0o755)
    script = "/strict/tool 2>/dev/null; /plain/tool; grep -c ' /strict .*nosuid,nodev,noexec' /proc/mounts"
    mounts = [bind(tmp_path, "/strict", "noexec", "nosuid", "nodev"), bind(tmp_path, "/plain")]
    assert ran(shared, "flags", script, *mounts) == "ran\n1\n"


def test_a_user_namespace_reaches_its_root_and_its_volumes(shared: Engine, tmp_path: Path) -> None:
    rootfs, volume = tmp_path / "rootfs", tmp_path / "volume"
    subprocess.run(["cp", "-a", str(shared.rootfs), str(rootfs)], check=True)
    volume.mkdir()
    (volume / "roots").write_text("secret")
    (volume / "roots").chmod(0o600)
    for directory in (rootfs, *rootfs.iterdir(), volume):
        os.chown(directory, 100000, 100000, follow_symlinks=False)
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    roots = tmp_path / "roots"
    roots.mkdir()
    script = """
        id -u; touch /made /data/made; cat /data/roots 2>&1; stat -c %u /data/roots /data
        mkdir /mapped/made; stat -c %u /mapped /mapped/made
    """
    output = ran(
        shared, "userns", script, bind(volume, "/data"),
        bind(roots, "/mapped") | {"uidMappings": mapping, "gidMappings": mapping}, root={"path": str(rootfs)},
        linux={
            "namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount", "network", "user")],
            "uidMappings": mapping, "gidMappings": mapping,
        },
    )  # fmt: skip
    assert output.splitlines() == ["0", "cat: can't open '/data/roots': Permission denied", "65534", "0", "0", "0"]
    assert (roots / "made").stat().st_uid == 0, "an id-mapped mount's files have the ids of the container on disk"
    assert (rootfs / "made").stat().st_uid == (volume / "made").stat().st_uid == 100000


def test_a_mount_goes_where_a_link_of_the_image_leads_even_to_nothing(shared: Engine, tmp_path: Path) -> None:
    rootfs, volume = tmp_path / "rootfs", tmp_path / "volume"
    subprocess.run(["cp", "-a", str(shared.rootfs), str(rootfs)], check=True)
    (rootfs / "var").mkdir(exist_ok=True)
    (rootfs / "var" / "link").symlink_to("/absent/run")
    volume.mkdir()
    (volume / "file").write_text("content\n")
    mounts = [bind(volume, "/var/link/secrets"), bind(volume / "file", "/var/link/secret")]
    script = "cat /absent/run/secret /var/link/secrets/file; ls /var/link"
    output = ran(shared, "links", script, *mounts, root={"path": str(rootfs)})
    assert output == "content\ncontent\nsecret\nsecrets\n"


def mounted_tmpfs(path: Path, options: str) -> Path:
    """A tmpfs of the host."""
    path.mkdir(parents=True)
    syscalls.mount("tmpfs", str(path), "tmpfs", 0, options)
    return path


def test_a_volume_in_memory_belongs_to_the_pod(shared: Engine, tmp_path: Path) -> None:
    volume = mounted_tmpfs(tmp_path / "kubernetes.io~empty-dir/cache", "size=4m,mode=2777,gid=1234")
    (volume / "part").mkdir(mode=0o700)
    part = tmp_path / "volume-subpaths/cache/web/0"
    part.mkdir(parents=True)
    syscalls.mount(str(volume / "part"), str(part), flags=syscalls.MS_BIND)
    script = """
        stat -c '%a %g' /cache; df -m /cache | tail -n1; echo whole > /cache/file
        head -c 5m /dev/zero > /cache/big 2>/dev/null; cat /cache/* | wc -c; rm /cache/big
    """
    output = ran(shared, "writes", script, bind(volume, "/cache")).split()
    assert output[:2] == ["2777", "1234"] and output[3] == "4", "the host's mode, group and size"
    assert 3 << 20 < int(output[-1]) <= 4 << 20, "the size is a limit"
    script = "stat -c %a /part; echo part > /part/file; cat /cache/file /cache/part/file"
    assert ran(shared, "part", script, bind(part, "/part"), bind(volume, "/cache")) == "2700\nwhole\npart\n"
    assert os.listdir(volume) == ["part"] and os.listdir(part) == [], "the host's memory has none of it"
    for path in (part, volume):
        syscalls.umount(str(path))


def test_parts_of_a_volume_by_subpath_are_the_same_files(shared: Engine, tmp_path: Path) -> None:
    """As the kubelet gives them: mounted at a place of their own, a directory and a file."""
    volume, places = tmp_path / "kubernetes.io~empty-dir/data", tmp_path / "volume-subpaths/data/web"
    (volume / "part").mkdir(parents=True)
    (volume / "file").write_text("1\n")
    (places / "0").mkdir(parents=True)
    (places / "1").touch()
    for place, name in (("0", "part"), ("1", "file")):
        syscalls.mount(str(volume / name), str(places / place), flags=syscalls.MS_BIND)
    mounts = [bind(volume, "/v"), bind(places / "0", "/part"), bind(places / "1", "/file", "ro")]
    script = """
        echo new > /part/new; cat /v/part/new
        echo 2 >> /v/file; until grep 2 /file; do sleep 0.1; done
        (echo x > /file) 2>/dev/null || echo read-only
    """
    assert ran(shared, "subpath", script, *mounts) == "new\n2\nread-only\n"
    assert (volume / "part" / "new").read_text() == "new\n"
    for place in ("0", "1"):
        syscalls.umount(str(places / place), syscalls.MNT_DETACH)


def test_no_link_of_a_container_leads_out_of_a_volume_in_memory(shared: Engine, tmp_path: Path) -> None:
    volume = mounted_tmpfs(tmp_path / "kubernetes.io~empty-dir/trap", "size=1m")
    (volume / "part").mkdir()
    ran(shared, "trap", "ln -s /etc /trap/part", bind(volume, "/trap"))
    result = shared.create(
        "caught", ["ls", "/part"], check=False, more_mounts=[bind(volume / "part", "/part")], **MEMBER
    )
    assert result.code == 1 and "open inside volume part: Not a directory" in result.err
    shared.log_path("caught").unlink()
    syscalls.umount(str(volume))


def test_huge_pages_are_mapped_in_the_guest(shared: Engine, tmp_path: Path) -> None:
    huge = tmp_path / "huge"
    huge.mkdir()
    script = """if True:
        import mmap, os
        file = os.open("/huge/file", os.O_CREAT | os.O_RDWR)
        os.ftruncate(file, 4 << 20)
        memory = mmap.mmap(file, 4 << 20)
        memory[:4] = b"huge"
        memory[-1:] = b"!"
        print([line.split()[1] for line in open("/proc/meminfo") if line.startswith("HugePages_Total")])
    """
    syscalls.mount("nodev", str(huge), "hugetlbfs", 0, "pagesize=2M")
    shared.run("huge", ["/usr/bin/python3", "-c", script], more_mounts=[*HOST_PYTHON, bind(huge, "/huge")], **MEMBER)
    assert shared.exit_code("huge") == 0 and shared.log("huge") == "['2']\n", shared.log("huge")
    shared.call("delete", "huge")
    syscalls.umount(str(huge))
    syscalls.mount("nodev", str(huge), "hugetlbfs", 0, "pagesize=1G")
    result = shared.create("giant", ["true"], check=False, more_mounts=[bind(huge, "/huge")], **MEMBER)
    assert result.code == 1 and "huge pages of 1048576 kB: the guest cannot make them" in result.err
    shared.log_path("giant").unlink()
    syscalls.umount(str(huge))


def test_what_only_the_hosts_kernel_has_is_refused_in_one_line(shared: Engine) -> None:
    own = f"/proc/{os.getpid()}/mountinfo"
    result = shared.create("none", ["true"], check=False, more_mounts=[bind(Path(own), "/x")], **MEMBER)
    assert result.code == 1
    assert result.err.splitlines() == [
        f"vmpod: mounts[3] /x: the guest has no {own}, and what the host's kernel has there cannot be shared with a"
        " virtual machine"
    ]
    shared.log_path("none").unlink()


def test_a_bind_of_the_hosts_root_shows_nothing_of_its_kernel(shared: Engine, tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "data").mkdir()
    syscalls.mount("proc", str(tmp_path / "proc"), "proc")
    syscalls.mount("data", str(tmp_path / "data"), "tmpfs")
    (tmp_path / "data" / "file").touch()
    output = ran(shared, "root", "ls /host /host/proc /host/data", bind(tmp_path, "/host"))
    for name in ("proc", "data"):
        syscalls.umount(str(tmp_path / name), syscalls.MNT_DETACH)
    assert output.splitlines() == ["/host:", "data", "proc", "", "/host/data:", "file", "", "/host/proc:"]


def test_a_configmap_that_changes_wakes_its_watchers(shared: Engine, tmp_path: Path) -> None:
    volume = tmp_path / "kubernetes.io~configmap/settings"
    volume.mkdir(parents=True)

    def publish(generation: str, text: str) -> None:
        (volume / generation).mkdir()
        (volume / generation / "key").write_text(text)
        os.symlink(generation, volume / "..data_tmp")
        os.rename(volume / "..data_tmp", volume / "..data")

    publish("..1", "one\n")
    os.symlink("..data/key", volume / "key")
    script = """if True:
        import ctypes, os
        libc = ctypes.CDLL(None)
        watch = libc.inotify_init()
        assert libc.inotify_add_watch(watch, b"/config", 0x80) > 0  # IN_MOVED_TO
        print(open("/config/key").read().strip(), flush=True)
        name = os.read(watch, 4096)[16:].rstrip(b"\\0").decode()
        print(name, open("/config/key").read().strip())
        try:
            open("/config/key", "a")
        except OSError as error:
            print(error.strerror, flush=True)
        os.read(0, 1)
    """
    mounts = [bind(volume, "/config", "ro")]
    shared.run("watcher", ["/usr/bin/python3", "-c", script], more_mounts=[*HOST_PYTHON, *mounts], **MEMBER)
    shared.run("reader", SLEEP, more_mounts=mounts, **MEMBER)
    wait_until(lambda: "one" in shared.log("watcher"), "it watches")
    publish("..2", "two\n")
    wait_until(lambda: "Read-only" in shared.log("watcher"), "the watcher wakes")
    assert shared.log("watcher").splitlines()[:3] == ["one", "..data two", "Read-only file system"]
    assert shared.exec("reader", "cat", "/config/key").out == "two\n"
    (volume / "..1" / "key").unlink()
    (volume / "..1").rmdir()
    wait_until(lambda: shared.exec("reader", "ls", "-A", "/config").out == "..2\n..data\nkey\n", "the old one goes")
    for name in ("watcher", "reader"):
        shared.call("delete", "--force", name)


def test_a_large_projected_volume_is_shared_like_any_other(shared: Engine, tmp_path: Path) -> None:
    volume = tmp_path / "kubernetes.io~projected/big"
    volume.mkdir(parents=True)
    (volume / "file").write_bytes(os.urandom(3 << 20))
    assert ran(
        shared, "big", "grep -c ' /big virtiofs ' /proc/mounts; wc -c < /big/file", bind(volume, "/big", "ro")
    ) == (f"1\n{3 << 20}\n")


def test_a_file_system_that_a_process_of_the_host_serves_passes_through(shared: Engine, tmp_path: Path) -> None:
    """As NFS, sshfs and others that the host mounts, here for nobody but root: virtiofsd is root."""
    served = FuseLab(tmp_path, b"from a server\n")
    script = "ls /data; cat /data/file; echo from a guest > /data/file; stat -f -c %b /data"
    output = ran(shared, "served", script, bind(tmp_path, "/data"))
    assert output == "file\nfrom a server\n1000\n", "free space is the server's, too"
    assert served.content == b"from a guest\n"
    served.close()
