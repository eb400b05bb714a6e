"""Pods without a share: nothing of the host is served, files that containers need are copies."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conmon import Conmon
from tests.engine import Engine, crio, wait_until
from tests.storage_lab import HOST_PYTHON, bind, private_mounts  # noqa: F401 - a fixture

pytestmark = [pytest.mark.vm, pytest.mark.usefixtures("private_mounts")]
MEMBER = {"annotations": crio("container", "pod")}
SLEEP = ["sleep", "100000"]


def configured(directory: Path, text: str) -> Engine:
    directory.mkdir()
    (directory / "config.toml").write_text(text)
    return Engine(directory / "engine", config=directory / "config.toml")


def end(engine: Engine) -> None:
    engine.clean()
    wait_until(lambda: not engine.leftovers(), f"nothing left: {engine.leftovers()}", 10)
    shutil.rmtree(engine.directory.parent)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A pod without a share, whose containers have an image file as their root."""
    engine = configured(tmp_path_factory.mktemp("none") / "lab", '[storage]\nshared_fs = "none"\n')
    image = engine.directory / "image"
    subprocess.run(["mkfs.erofs", "--quiet", str(image), str(engine.rootfs)], check=True, capture_output=True)
    engine.run("pod", SLEEP, annotations=crio("sandbox", "pod"), root={"path": str(image)})
    yield engine
    end(engine)


def on_image(engine: Engine, *mounts: dict[str, Any]) -> dict[str, Any]:
    return {**MEMBER, "root": {"path": str(engine.directory / "image")}, "more_mounts": list(mounts)}


def test_without_a_share_nothing_serves_files_and_an_image_is_root(alone: Engine) -> None:
    assert "virtiofsd" not in alone.sandbox_record()
    assert not list(alone.root.glob(".sandboxes/*/share"))
    mounts = alone.exec("pod", "cat", "/proc/mounts").out
    assert "vmpod-share" not in mounts and "overlay / overlay rw" in mounts


def test_a_read_only_member_under_conmon_gets_the_mount_points_that_its_image_lacks(
    alone: Engine, tmp_path: Path
) -> None:
    """As CRI-O has it; the conformance checks of conmon with its own configurations passed without a share as well."""
    (tmp_path / "resolv.conf").write_text("nameserver 192.0.2.53\n")
    spec = on_image(alone, bind(tmp_path / "resolv.conf", "/etc/resolv.conf", "ro"))
    spec["root"]["readonly"] = True
    conmon = Conmon(alone)
    bundle = alone.bundle("k", ["sh", "-c", "cat /etc/resolv.conf; touch /etc/x || exit 5"], **spec)
    assert conmon.create("k", bundle) > 0, conmon.message
    alone.call("start", "k")
    assert conmon.exit_code("k") == 5
    assert conmon.log("k") == "nameserver 192.0.2.53\ntouch: /etc/x: Read-only file system\n"
    alone.call("delete", "k")


def test_files_are_copies_that_follow_the_host(alone: Engine, tmp_path: Path) -> None:
    """As an engine mounts /etc/hosts, and a ConfigMap is mounted."""
    hosts, config = tmp_path / "hosts", tmp_path / "pods" / "kubernetes.io~configmap" / "c"
    config.mkdir(parents=True)
    hosts.write_text("127.0.0.1 localhost\n")
    hosts.chmod(0o666)
    os.chown(hosts, 5, 6)
    (config / "key").write_text("value\n")
    mounts = [bind(hosts, "/etc/hosts", "rw"), bind(config, "/config", "ro")]
    for name in ("f1", "f2"):
        alone.run(name, SLEEP, **on_image(alone, *mounts))
    assert alone.exec("f1", "cat", "/etc/hosts", "/config/key").out == "127.0.0.1 localhost\nvalue\n"
    assert alone.exec("f1", "stat", "-c", "%a %u %g", "/etc/hosts").out == "666 5 6\n"
    alone.exec("f1", "sh", "-c", "echo 127.0.0.1 more >> /etc/hosts")
    assert "more" in alone.exec("f2", "cat", "/etc/hosts").out, "one copy for the pod"
    assert hosts.read_text() == "127.0.0.1 localhost\n", "the host never sees what the guest writes"
    hosts.write_text("127.0.0.1 changed\n")
    (config / "new").write_text("value\n")
    wait_until(lambda: "changed" in alone.exec("f2", "cat", "/etc/hosts").out, "the host's change", 20)
    wait_until(lambda: "new" in alone.exec("f2", "ls", "/config").out, "the host's new file", 20)
    for name in ("f1", "f2"):
        alone.call("delete", "--force", name)


def test_what_can_be_no_copy_is_refused_in_one_line(alone: Engine, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with (tmp_path / "large").open("w") as file:
        file.truncate(3 << 20)
    os.mkfifo(tmp_path / "pipe")
    for source, option, reason in (
        ("directory", "rw", "it is a directory that may be written, and the host would never see it"),
        ("large", "ro", "it has more than 2560 KiB"),
        ("pipe", "ro", "it is neither a file nor a directory"),
    ):
        spec = on_image(alone, bind(tmp_path / source, "/data", option))
        result = alone.create("refused", ["true"], check=False, **spec)
        line = f"mounts[3] /data can be no copy in the guest ({reason}), and storage.shared_fs = 'none': use virtio-fs"
        assert result.code == 1 and line in result.err
        alone.log_path("refused").unlink()
    result = alone.create("refused", ["true"], check=False, **MEMBER)
    assert result.code == 1 and "root.path of refused is a directory of the host, which needs a share" in result.err
