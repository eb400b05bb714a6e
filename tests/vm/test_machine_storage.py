"""What containers of a real pod see of the host's files, and that the host gets them back."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.host import syscalls
from oci_runtime.host.mounts import list_mounts
from tests.engine import Engine, crio, wait_until
from tests.storage_lab import HOST_PYTHON, private_mounts  # noqa: F401 - a fixture

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("private_mounts")]
MEMBER = {"annotations": crio("container", "pod")}


def bind(source: Path, destination: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["rbind", *options]}


def ran(engine: Engine, container_id: str, script: str, **changes: Any) -> str:
    """Run a script in a member of the pod to its end, delete it, and return its output."""
    engine.run(container_id, ["sh", "-c", script], **MEMBER, **changes)
    assert engine.exit_code(container_id) == 0, engine.log(container_id)
    engine.call("delete", container_id)
    return engine.log(container_id)


def virtiofsd_files(engine: Engine) -> list[str]:
    """Mount ids of what the pod's virtiofsd holds open."""
    outer = engine.sandbox_record()["virtiofsd"]["pid"]
    (inner,) = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
    found = []
    for number in os.listdir(f"/proc/{inner}/fdinfo"):
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            info = Path(f"/proc/{inner}/fdinfo/{number}").read_text()
            found += [line.split()[1] for line in info.splitlines() if line.startswith("mnt_id")]
    return found


def test_directories_and_files_read_write_and_read_only(shared: Engine, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("from the host\n")
    (tmp_path / "single").write_text("single\n")
    mounts = [
        bind(tmp_path / "data", "/data", "rw"),
        bind(tmp_path / "data", "/ro/data", "ro"),
        bind(tmp_path / "single", "/etc/single"),
        bind(tmp_path / "single", "/etc/single-ro", "ro"),
    ]
    script = """
        cat /data/file /ro/data/file /etc/single /etc/single-ro
        echo from the guest > /data/new
        echo changed > /etc/single
        for path in /ro/data/file /ro/data/other /etc/single-ro; do
            (echo x > $path) 2>/dev/null && echo "$path was written"
        done
        mount -o remount,rw,bind /ro/data 2>/dev/null && echo remounted
        true
    """
    output = ran(shared, "binds", script, more_mounts=mounts)
    assert output == "from the host\nfrom the host\nsingle\nsingle\n"
    assert (tmp_path / "data" / "new").read_text() == "from the guest\n"
    assert (tmp_path / "single").read_text() == "changed\n"
    assert sorted(os.listdir(tmp_path / "data")) == ["file", "new"]


def test_read_only_holds_even_for_a_container_that_may_remount(shared: Engine, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    capabilities = {name: ["CAP_SYS_ADMIN"] for name in ("bounding", "effective", "permitted")}
    script = "mount -o remount,rw,bind /data; echo x > /data/file; ls /data"
    output = ran(
        shared,
        "remount",
        script,
        more_mounts=[bind(tmp_path / "data", "/data", "ro")],
        process={"capabilities": capabilities, "user": {"uid": 0, "gid": 0}},
    )
    assert "Read-only file system" in output
    assert os.listdir(tmp_path / "data") == [], "the host itself refuses, whatever the guest believes"


def test_order_of_mounts_and_mounts_upon_mounts(shared: Engine, tmp_path: Path) -> None:
    for name in ("outer", "inner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(name + "\n")
    mounts = [
        bind(tmp_path / "outer", "/m"),
        bind(tmp_path / "inner", "/m/deep"),
        bind(tmp_path / "inner/name", "/m/f"),
    ]
    assert ran(shared, "nested", "cat /m/name /m/deep/name /m/f", more_mounts=mounts) == "outer\ninner\ninner\n"


def test_mounts_below_a_bind_source_come_along_only_with_rbind(shared: Engine, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    syscalls.mount("sub", str(tmp_path / "sub"), "tmpfs", 0, "size=1m")
    (tmp_path / "sub" / "file").touch()
    plain = bind(tmp_path, "/plain") | {"options": ["bind"]}
    output = ran(shared, "rbind", "ls /deep/sub; ls /plain/sub", more_mounts=[bind(tmp_path, "/deep"), plain])
    syscalls.umount(str(tmp_path / "sub"))
    assert output == "file\n"


def test_root_file_system_read_only(shared: Engine) -> None:
    root = {"path": str(shared.rootfs), "readonly": True}
    script = "{ echo x > /file; } 2>/dev/null || echo refused; echo y > /tmp/file && echo fine"
    assert ran(shared, "readonly-root", script, root=root) == "refused\nfine\n"
    assert not (shared.rootfs / "file").exists()


def test_symbolic_links_of_a_container_stay_inside(shared: Engine, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "secret").write_text("secret")
    os.symlink(tmp_path / "secret", tmp_path / "data" / "absolute")
    os.symlink("../secret", tmp_path / "data" / "relative")
    script = "cat /data/absolute /data/relative /data/../secret 2>/dev/null; ls /data/../ | grep -c secret; true"
    assert ran(shared, "links", script, more_mounts=[bind(tmp_path / "data", "/data")]) == "0\n"


def test_shared_memory_is_the_guests_with_the_hosts_size(shared: Engine, tmp_path: Path) -> None:
    shm = tmp_path / "shm"
    shm.mkdir()
    syscalls.mount("shm", str(shm), "tmpfs", 0, "size=8m")
    (shm / "host-file").touch()
    mounts = [bind(shm, "/dev/shm", "rw")]
    first = ran(shared, "shm1", "df -m /dev/shm | tail -n1; echo hello > /dev/shm/x; ls /dev/shm", more_mounts=mounts)
    assert first.split()[1] == "8"
    assert first.split()[-1] == "x", "content stays in the guest"
    assert ran(shared, "shm2", "cat /dev/shm/x", more_mounts=mounts) == "hello\n", "one for all of the pod"
    assert os.listdir(shm) == ["host-file"]
    other = tmp_path / "other"
    other.mkdir()
    syscalls.mount("shm", str(other), "tmpfs", 0, "size=4m")
    assert ran(shared, "shm3", "ls /dev/shm", more_mounts=[bind(other, "/dev/shm")]) == "", "another one is another one"
    for path in (shm, other):
        syscalls.umount(str(path))


def test_kernel_file_systems_are_the_guests(shared: Engine) -> None:
    mounts = [
        bind(Path("/sys"), "/host/sys", "ro"),
        bind(Path("/proc"), "/host/proc", "ro"),
        bind(Path("/dev"), "/host/dev"),
    ]
    script = "cat /host/proc/sys/kernel/random/boot_id; ls -d /host/sys/class/net /host/dev/null; uname -r"
    output = ran(shared, "kernel", script, more_mounts=mounts).splitlines()
    assert output[0] != Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert output[1:3] == ["/host/sys/class/net", "/host/dev/null"] or output[1:3] == [
        "/host/dev/null",
        "/host/sys/class/net",
    ]


def test_device_nodes_are_the_guests(shared: Engine) -> None:
    output = ran(shared, "device", "head -c 3 /special | wc -c", more_mounts=[bind(Path("/dev/zero"), "/special")])
    assert output == "3\n"


def test_a_socket_or_pipe_of_the_host_is_mentioned_and_leads_nowhere(shared: Engine, tmp_path: Path) -> None:
    script = """if True:
        import os, socket
        try:
            socket.socket(socket.AF_UNIX).connect("/run/engine.sock")
        except OSError as error:
            print(error.strerror)
        try:
            os.open("/run/pipe", os.O_WRONLY | os.O_NONBLOCK)
        except OSError as error:
            print(error.strerror)
    """
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "engine.sock"))
        server.listen()
        mounts = [bind(tmp_path / "engine.sock", "/run/engine.sock"), bind(tmp_path / "pipe", "/run/pipe")]
        shared.arguments = ["--log", str(tmp_path / "log")]
        output = ran(shared, "socket", f"/usr/bin/python3 -c '{script}'", more_mounts=[*HOST_PYTHON, *mounts])
        shared.arguments = []
    os.close(reader)
    assert output == "Connection refused\nNo such device or address\n", "nobody listens or reads in the guest"
    for what in (f"socket {tmp_path}/engine.sock", f"pipe {tmp_path}/pipe"):
        assert f"{what} of the host is visible in the guest, but leads nowhere there" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("mount", "message"),
    [
        (bind(Path("/nowhere/data"), "/data"), "mounts[3] /data: source /nowhere/data: No such file or directory"),
        ({"destination": "/n", "type": "nfs"}, "mounts[3] /n: a virtual machine cannot mount type 'nfs'"),
        ({"destination": "/e", "type": "bind", "options": ["bind"]}, "mounts[3] /e: a bind mount without a source"),
    ],
)  # fmt: skip
def test_what_cannot_be_mounted_is_named(shared: Engine, mount: dict[str, Any], message: str) -> None:
    result = shared.create("bad", ["true"], check=False, more_mounts=[mount], **MEMBER)
    assert result.code == 1
    assert message in result.err
    shared.log_path("bad").unlink()
    assert shared.call("state", "bad", check=False).code == 1


def test_the_host_gets_its_file_systems_back(shared: Engine, tmp_path: Path) -> None:
    source = tmp_path / "volume"
    source.mkdir()
    syscalls.mount("volume", str(source), "tmpfs", 0, "size=1m")
    (source / "file").write_text("content")
    mounts_before = len(list_mounts("/"))
    files_before = set(virtiofsd_files(shared))
    ran(shared, "volume", "cat /data/file; cd /data; sleep 0.1", more_mounts=[bind(source, "/data")])
    assert len(list_mounts("/")) == mounts_before
    wait_until(
        lambda: set(virtiofsd_files(shared)) <= files_before, "virtiofsd lets go of the volume and the rootfs", 20
    )
    syscalls.umount(str(source))


def test_a_container_id_may_be_used_again_at_once(shared: Engine, tmp_path: Path) -> None:
    for number in range(3):
        source = tmp_path / str(number)
        source.mkdir()
        (source / "file").write_text(f"{number}\n")
        assert ran(shared, "again", "cat /data/file", more_mounts=[bind(source, "/data")]).splitlines()[-1] == str(
            number
        )


def test_a_big_file_is_the_same_on_both_sides(shared: Engine, tmp_path: Path) -> None:
    data = os.urandom(8 << 20)
    (tmp_path / "in").write_bytes(data)
    ran(shared, "big", "cp /data/in /data/out; sync", more_mounts=[bind(tmp_path, "/data")])
    assert (tmp_path / "out").read_bytes() == data


def test_many_mounts(shared: Engine, tmp_path: Path) -> None:
    mounts = []
    for number in range(60):
        (tmp_path / f"f{number}").write_text(f"{number}\n")
        mounts.append(bind(tmp_path / f"f{number}", f"/many/f{number}", "ro"))
    began = time.monotonic()
    output = ran(shared, "many", "cat /many/f* | sort -n | tail -n1; ls /many | wc -l", more_mounts=mounts)
    assert output == "59\n60\n", f"after {time.monotonic() - began:.1f} s"


def test_host_configuration_of_real_engines(shared: Engine, tmp_path: Path) -> None:
    """The mounts that CRI-O gives a container, with the paths of this test."""
    golden = Path(__file__).parent.parent / "data" / "configs" / "cri-o-config-container.json"
    mounts = []
    for mount in json.loads(golden.read_text())["mounts"]:
        if mount["type"] == "bind":
            source = tmp_path / Path(mount["source"]).name
            if mount["destination"] in ("/dev/shm", "/mnt/spec"):
                source.mkdir()
            else:
                source.write_text(mount["destination"] + "\n")
            mount["source"] = str(source)
        mounts.append(mount)
    script = (
        "cat /etc/resolv.conf /etc/hostname /run/.containerenv; grep -c ' /dev/mqueue ' /proc/mounts; ls -d /mnt/spec"
    )
    output = ran(shared, "crio", script, mounts=mounts)
    assert output == "/etc/resolv.conf\n/etc/hostname\n/run/.containerenv\n1\n/mnt/spec\n"
