"""Pods whose share QEMU serves itself, over 9p, to a guest kernel that has 9p."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from oci_runtime.control.client import Client
from oci_runtime.errors import Unsupported
from oci_runtime.host import syscalls
from oci_runtime.host.mounts import detach_mount
from tests.conmon import Conmon
from tests.engine import Engine, crio, is_running, kill, wait_until
from tests.network_lab import Netns, join_namespaces
from tests.storage_lab import bind, capable, private_mounts, run_checks  # noqa: F401 - a fixture

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("private_mounts")]
MEMBER = {"annotations": crio("container", "pod")}
SLEEP = ["sleep", "100000"]
IMAGE = "test-9p"
CAPABLE = capable("CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "SETUID", "SETGID", "SETFCAP", "KILL", "MKNOD")
# CHOWN, DAC_OVERRIDE, FOWNER, FSETID and SETFCAP.
HELD = "000000008000001b"


@pytest.fixture(scope="module")
def engine_9p(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A pod whose share is mounted over 9p. The guest image with Debian's full kernel is built unless it is there."""
    command = [sys.executable, "-m", "oci_runtime.image", "build", "--name", IMAGE]
    subprocess.run([*command, "--kernel-package", "linux-image-amd64"], check=True, capture_output=True)
    directory = tmp_path_factory.mktemp("9p") / "lab"
    directory.mkdir()
    config = directory / "config.toml"
    config.write_text(f'[image]\nname = "{IMAGE}"\n[storage]\nshared_fs = "virtio-9p"\nmsize_9p = 262144\n')
    engine = Engine(directory / "engine", config=config)
    with Netns() as netns, Netns() as outside:
        join_namespaces(netns, "eth0", outside, "peer")
        netns.run("ip addr add 192.0.2.2/24 dev eth0")
        outside.run("ip addr add 192.0.2.1/24 dev peer")
        namespaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
        namespaces.append({"type": "network", "path": netns.path})
        raw = capable("NET_RAW")
        pod = {"annotations": crio("sandbox", "pod"), "linux": {"namespaces": namespaces}, "process": raw}
        engine.run("pod", SLEEP, **pod)
        yield engine
        engine.clean()
        wait_until(lambda: not engine.leftovers(), f"nothing left: {engine.leftovers()}", 10)
        shutil.rmtree(directory)


def test_the_setting_of_the_message_size_has_effect(engine_9p: Engine) -> None:
    mounts = engine_9p.exec("pod", "cat", "/proc/mounts").out.splitlines()
    (mount,) = [line for line in mounts if line.split()[1] == "/"]
    assert mount.split()[2] == "9p" and "msize=262144" in mount


def test_qemu_has_few_rights_and_sees_the_planned_tree_alone(engine_9p: Engine, tmp_path: Path) -> None:
    (tmp_path / "secret").touch()
    qemu = Path("/proc") / str(engine_9p.sandbox_record()["qemu"]["pid"])
    status = dict(line.split(":\t", 1) for line in (qemu / "status").read_text().splitlines() if ":\t" in line)
    assert {status[f"Cap{kind}"] for kind in ("Eff", "Prm", "Amb")} == {HELD}
    assert int(status["Uid"].split()[0]) > 1_000_000 and status["Seccomp"] == "2" and status["NoNewPrivs"] == "1"
    root = qemu / "root"
    assert set(os.listdir(root)) <= {
        "bin",
        "sbin",
        "lib",
        "lib32",
        "lib64",
        "libx32",
        "usr",
        "etc",
        "dev",
        "proc",
        "share",
    }
    assert set(os.listdir(root / "dev")) <= {"null", "urandom", "kvm"}
    assert set(os.listdir(root / "etc")) <= {"ld.so.cache", "alternatives"}
    assert not os.path.lexists(f"{root}{tmp_path}/secret")
    points = {line.split()[4]: line.split()[5] for line in (qemu / "mountinfo").read_text().splitlines()}
    writable = {point for point, options in points.items() if "ro" not in options.split(",")}
    assert all(point.startswith(("/share/", "/dev/")) or point == "/proc" for point in writable), writable
    assert not any(point.startswith(("/run", "/sys", "/var", "/home", "/tmp", "/root")) for point in points)
    assert all("nodev" in options for point, options in points.items() if not point.startswith("/dev/"))
    proc = subprocess.run(
        ["nsenter", f"--mount={qemu}/ns/mnt", f"--root={qemu}/root", "/usr/bin/ls", "/proc"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert all(name.isdigit() or name in ("self", "thread-self") for name in proc.stdout.split())
    mount = next(line for line in (qemu / "mountinfo").read_text().splitlines() if line.split()[4] == "/proc")
    assert "hidepid=ptraceable" in mount
    for kind in ("net", "ipc", "uts", "mnt"):
        assert os.readlink(qemu / "ns" / kind) != os.readlink(f"/proc/self/ns/{kind}")


def test_binds_over_9p_are_what_their_options_say(engine_9p: Engine, tmp_path: Path) -> None:
    volume, file = tmp_path / "volume", tmp_path / "file"
    (volume / "later").mkdir(parents=True)
    file.write_text("one\n")
    syscalls.mount("volume", str(volume), "tmpfs")
    syscalls.mount_setattr(str(volume), 0, propagation=syscalls.MS_SHARED)
    (volume / "later").mkdir()
    mounts = [bind(volume, "/data", "rslave"), bind(volume, "/fixed", "ro"), bind(file, "/etc/file")]
    for name in ("b1", "b2"):
        engine_9p.run(name, SLEEP, more_mounts=mounts, **MEMBER)
    refused = engine_9p.exec("b1", "touch", "/fixed/x", check=False)
    assert refused.code != 0 and "Read-only file system" in refused.err
    engine_9p.exec("b1", "sh", "-c", "echo two >> /etc/file; echo x > /data/x; mv /data/x /data/y; ln /data/y /data/z")
    assert file.read_text() == "one\ntwo\n" and (volume / "z").stat().st_nlink == 2
    file.write_text("three\n")
    wait_until(lambda: engine_9p.exec("b2", "cat", "/etc/file").out == "three\n", "the host's change", 20)
    assert engine_9p.exec("b2", "cat", "/data/z").out == "x\n"
    syscalls.mount("later", str(volume / "later"), "tmpfs")
    (volume / "later" / "seen").touch()
    wait_until(lambda: engine_9p.exec("b1", "ls", "/data/later").out == "seen\n", "a later mount", 20)
    syscalls.umount(str(volume / "later"))
    wait_until(lambda: engine_9p.exec("b1", "ls", "/data/later").out == "", "and its end", 20)
    for name in ("b1", "b2"):
        engine_9p.call("delete", "--force", name)
    detach_mount(str(volume))


def test_links_of_a_container_lead_nowhere_on_the_host_over_9p(engine_9p: Engine, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret of the host")
    (tmp_path / "volume").mkdir()
    script = f"""
        cd /v; ln -s {tmp_path}/secret one; ln -s ../../../../../../../..{tmp_path}/secret two; ln -s /proc/1/root three
        cat one two three{tmp_path}/secret /v/../../..{tmp_path}/secret 2>/dev/null
        mkdir /mnt; mount -t 9p -o trans=virtio,version=9p2000.L vmpod-share /mnt 2>&1 | grep -o busy
        ls
    """
    volume = [bind(tmp_path / "volume", "/v")]
    process = capable("SYS_ADMIN", "DAC_OVERRIDE")
    engine_9p.run("guest", ["sh", "-c", script], process=process, more_mounts=volume, **MEMBER)
    assert engine_9p.exit_code("guest") == 0, engine_9p.log("guest")
    assert engine_9p.log("guest") == "busy\none\nthree\ntwo\n"
    engine_9p.call("delete", "guest")


def test_ownership_over_9p_is_that_of_who_makes_a_file(engine_9p: Engine, tmp_path: Path) -> None:
    """Among them what QEMU's proxy helper died of: root makes files for a group that is not root's."""
    volume = tmp_path / "volume"
    volume.mkdir()
    os.chown(volume, 0, 2000)
    volume.chmod(0o2775)
    script = """
        cd /v; mkdir a; mkdir a/b; echo x > a/b/c; ln -s c a/b/d; chown 7:8 a/b/c; chmod 640 a/b/c
        touch e; chown 5:6 e; chmod 4755 e; mknod n c 1 3 2>&1; mkfifo p 2>&1; mv e f
        echo y >> a/b/c; cat a/b/c
    """
    engine_9p.run("owner", ["sh", "-c", script], process=CAPABLE, more_mounts=[bind(volume, "/v", "rw")], **MEMBER)
    assert engine_9p.exit_code("owner") == 0, engine_9p.log("owner")
    refused = "mknod: n: Operation not permitted\nmkfifo: p: No such device or address\n"
    assert engine_9p.log("owner") == f"{refused}x\ny\n"
    engine_9p.call("delete", "owner")
    found = {}
    for name in ("a", "a/b", "a/b/c", "a/b/d", "f"):
        status = (volume / name).lstat()
        found[name] = (stat.filemode(status.st_mode), status.st_uid, status.st_gid)
    assert found == {
        "a": ("drwxr-sr-x", 0, 2000),
        "a/b": ("drwxr-sr-x", 0, 2000),
        "a/b/c": ("-rw-r-----", 7, 8),
        "a/b/d": ("lrwxrwxrwx", 0, 2000),
        "f": ("-rwsr-xr-x", 5, 6),
    }
    assert sorted(os.listdir(volume)) == ["a", "f"]


def test_taps_and_disks_come_to_a_confined_qemu_as_to_any_other(engine_9p: Engine) -> None:
    links = engine_9p.exec("pod", "ip", "-o", "addr").out
    assert "192.0.2.2/24" in links
    assert "64 bytes from 192.0.2.1" in engine_9p.exec("pod", "ping", "-c", "1", "192.0.2.1").out
    image = engine_9p.directory / "image"
    subprocess.run(["mkfs.erofs", "--quiet", str(image), str(engine_9p.rootfs)], check=True, capture_output=True)
    engine_9p.run("disk", SLEEP, root={"path": str(image)}, **MEMBER)
    assert "overlay / overlay rw" in engine_9p.exec("disk", "cat", "/proc/mounts").out
    engine_9p.call("delete", "--force", "disk")


def test_a_container_that_goes_leaves_no_mount_with_qemu(engine_9p: Engine, tmp_path: Path) -> None:
    table = Path("/proc") / str(engine_9p.sandbox_record()["qemu"]["pid"]) / "mountinfo"
    before = sorted(line.split()[4] for line in table.read_text().splitlines())
    (tmp_path / "kept").touch()
    engine_9p.run("brief", SLEEP, more_mounts=[bind(tmp_path, "/v", "rw")], **MEMBER)
    during = sorted(line.split()[4] for line in table.read_text().splitlines())
    assert len(during) == len(before) + 2, "its root and its volume"
    engine_9p.call("delete", "--force", "brief")
    assert sorted(line.split()[4] for line in table.read_text().splitlines()) == before
    assert os.listdir(tmp_path) == ["kept"]


def test_what_programs_do_to_files_over_9p(engine_9p: Engine, tmp_path: Path) -> None:
    runc, vmpod = (
        run_checks(
            engine_9p, tmp_path / runtime, runtime, files=500, seeds=1, process=CAPABLE, deadline_s=240, **MEMBER
        )
        for runtime in ("runc", "vmpod")
    )
    different = {name: (runc[name], vmpod[name]) for name in runc if runc[name] != vmpod[name]}
    assert set(different) == DIFFERENT, json.dumps(different, indent=1)


# What docs/storage.md says of 9p.
DIFFERENT = {
    "device_nodes",
    "extended_attributes",
    "memory_maps",
    "rename_flags",
    "sparse_files",
    "special_files",
    "supplementary_groups",  # by its pipes
    "times",
    "what_differs",
}


def test_a_member_under_conmon_with_files_of_the_pod(engine_9p: Engine, tmp_path: Path) -> None:
    """As CRI-O has it; the conformance checks of conmon with its own configurations passed over 9p as well."""
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n")
    conmon = Conmon(engine_9p)
    arguments = ["sh", "-c", "cat /etc/hosts; echo more >> /etc/hosts; exit 4"]
    bundle = engine_9p.bundle("k", arguments, more_mounts=[bind(tmp_path / "hosts", "/etc/hosts")], **MEMBER)
    assert conmon.create("k", bundle) > 0, conmon.message
    engine_9p.call("start", "k")
    assert conmon.exit_code("k") == 4
    assert conmon.log("k") == "127.0.0.1 localhost\n"
    assert (tmp_path / "hosts").read_text() == "127.0.0.1 localhost\nmore\n"
    engine_9p.call("delete", "k")


def test_pci_devices_of_the_host_are_refused_over_9p(engine_9p: Engine) -> None:
    """There is none to try: the request is what the command line would send."""
    (directory,) = engine_9p.root.glob(".sandboxes/*")
    null = os.open("/dev/null", os.O_RDWR)
    with Client.connect(str(directory), 60) as client, pytest.raises(Unsupported, match="QEMU sees none of them"):
        device = {"kind": "vfio", "address": "0000:00:1f.0"}
        client.call("create", [null], id="pci", bundle="/", spec={"mounts": []}, pid=os.getpid(), fds=[device])
    os.close(null)
    assert engine_9p.exec("pod", "true").code == 0


def test_a_kernel_without_9p_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[storage]\nshared_fs = "virtio-9p"\n')
    engine = Engine(tmp_path / "engine", config=tmp_path / "config.toml")
    result = engine.create("none", ["true"], check=False)
    assert result.code == 1 and "of guest image default has no 9p (set image.name to one made by: vmpod" in result.err
    engine.clean()


def test_the_end_of_the_pod_leaves_no_mount(engine_9p: Engine) -> None:
    """Last in this file: it ends the pod that the others use."""
    qemu = engine_9p.sandbox_record()["qemu"]["pid"]
    kill(qemu)
    assert engine_9p.exit_code("pod") == 137
    assert not is_running(qemu)
    engine_9p.call("delete", "--force", "pod")
    assert str(engine_9p.root) not in Path("/proc/self/mountinfo").read_text()
