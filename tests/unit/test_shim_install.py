"""`vmpod install`: what it writes, that engines take it, and that it can be undone to the byte."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from oci_runtime.errors import InvalidInput
from oci_runtime.install import containerd, crio, docker, podman
from oci_runtime.install.changes import BACKUP_SUFFIX
from oci_runtime.install.command import ENGINES, run_install

ROOT = Path(__file__).parent.parent.parent
EXISTING = b"""version = 2  # kept
[plugins]
  [plugins."io.containerd.grpc.v1.cri"]
    sandbox_image = "pause:x"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
"""


class Place:
    """A directory that plays the root of a host."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "etc" / "containerd" / "config.toml"
        self.daemon_json = path / "etc" / "docker" / "daemon.json"
        self.drop_ins = path / "etc" / "crio" / "crio.conf.d"
        self.links = path / "usr" / "local" / "bin"
        binaries = path / "lib" / "vmpod" / "bin"
        binaries.mkdir(parents=True)
        for name in ("vmpod", containerd.SHIM):
            (binaries / name).write_text("#!/bin/sh\n")
            (binaries / name).chmod(0o755)
        self.options = [
            *("--config", str(self.config), "--drop-ins", str(self.drop_ins), "--bin-dir", str(binaries)),
            *("--link-dir", str(self.links), "--journals", str(path / "journals")),
        ]

    def run(self, *words: str) -> int:
        docker = ["--config", str(self.daemon_json)] if words[0] == "docker" else []
        return run_install([*words, *self.options, *docker])

    def snapshot(self) -> dict[str, bytes | str | None]:
        """Everything below the root, but the journals' directory."""
        found: dict[str, bytes | str | None] = {}
        for directory, names, files in os.walk(self.path):
            for name in [*names, *files]:
                path = Path(directory) / name
                if "journals" not in path.parts:
                    found[str(path)] = (
                        os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
                    )
        return found


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def handlers(config: Path) -> dict[str, dict[str, object]]:
    """The runtimes that containerd itself sees in a configuration."""
    dump = subprocess.run(
        ["containerd", "-c", str(config), "config", "dump"], capture_output=True, text=True, check=True
    ).stdout
    runtimes: dict[str, dict[str, object]] = tomllib.loads(dump)["plugins"]["io.containerd.grpc.v1.cri"]["containerd"][
        "runtimes"
    ]
    return runtimes


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("existing", [EXISTING, EXISTING.rstrip(b"\n"), None], ids=["file", "no-newline", "nothing"])
def test_uninstall_restores_every_byte(place: Place, engine: str, existing: bytes | None) -> None:
    if existing is not None:
        place.config.parent.mkdir(parents=True)
        place.config.write_bytes(existing)
        place.config.chmod(0o600)
    before = place.snapshot()
    assert place.run(engine) == 0
    assert place.snapshot() != before
    assert place.run(engine, "--uninstall") == 0
    assert place.snapshot() == before
    if existing is not None:
        assert place.config.stat().st_mode & 0o777 == 0o600
    assert place.run(engine, "--uninstall") == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_a_dry_run_changes_nothing_and_shows_everything(
    place: Place, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = place.snapshot()
    assert place.run(engine, "--dry-run") == 0
    assert place.snapshot() == before and not (place.path / "journals").exists()
    shown = capsys.readouterr().out
    assert "\n+" in shown and "link " in shown and "vmpod" in shown


def test_twice_is_once(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.config.parent.mkdir(parents=True)
    place.config.write_bytes(EXISTING)
    assert place.run("containerd") == 0
    first = place.config.read_bytes()
    assert place.run("containerd") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert place.config.read_bytes() == first
    assert place.run("containerd", "--uninstall") == 0
    assert place.config.read_bytes() == EXISTING


def test_a_newer_block_replaces_the_older_one_and_the_first_backup_stays(place: Place) -> None:
    place.config.parent.mkdir(parents=True)
    place.config.write_bytes(EXISTING)
    special = place.path / "vmpod.toml"
    special.write_text("")
    assert place.run("containerd") == 0
    assert place.run("containerd", "--vmpod-config", str(special)) == 0
    assert place.config.read_bytes().count(b"# vmpod: begin") == 1
    options = handlers(place.config)["vmpod"]["options"]
    assert options == {"TypeUrl": "runtimeoptions.v1.Options", "ConfigPath": str(special)}
    assert place.run("containerd", "--uninstall") == 0
    assert place.config.read_bytes() == EXISTING


def test_an_edited_configuration_keeps_its_edits(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.config.parent.mkdir(parents=True)
    place.config.write_bytes(EXISTING)
    assert place.run("containerd") == 0
    place.config.write_bytes(b"# edited\n" + place.config.read_bytes())
    assert place.run("containerd", "--uninstall") == 0
    assert place.config.read_bytes() == b"# edited\n" + EXISTING
    assert "edited since" in capsys.readouterr().err
    assert Path(str(place.config) + BACKUP_SUFFIX).read_bytes() == EXISTING


def test_containerd_takes_the_configuration(place: Place) -> None:
    place.config.parent.mkdir(parents=True)
    place.config.write_bytes(EXISTING)
    assert place.run("containerd") == 0
    found = handlers(place.config)
    assert set(found) == {"runc", "vmpod", "untrusted"}
    for name in ("vmpod", "untrusted"):
        assert found[name]["runtime_type"] == "io.containerd.vmpod.v2"
        assert found[name]["privileged_without_host_devices"] is True
        assert found[name]["pod_annotations"] == ["io.vmpod.*", "io.katacontainers.*"]


def test_containerd_without_a_configuration_gets_one(place: Place) -> None:
    assert place.run("containerd") == 0
    assert "vmpod" in handlers(place.config)


def test_the_drop_ins_of_the_repository_are_what_is_installed(place: Place) -> None:
    rendered = crio.render_drop_ins()
    for path in (ROOT / "crio.conf.d").glob("*.conf"):
        assert rendered.pop(path.name).decode() == path.read_text()
    assert not rendered
    assert containerd.render_block(2) in (ROOT / "containerd" / "vmpod.toml").read_text()
    assert tomllib.loads((ROOT / "containerd" / "vmpod.toml").read_text())


def test_links_are_left_alone_when_they_are_somebody_elses(place: Place) -> None:
    place.links.mkdir(parents=True)
    (place.links / "vmpod").write_text("something else")
    assert place.run("crio") == 1
    assert (place.links / "vmpod").read_text() == "something else"
    assert not place.drop_ins.exists()


def test_version_3_names_the_other_plugin() -> None:
    after = containerd.plan_config(b"version = 3\n")
    parsed = tomllib.loads(after.decode())
    assert set(parsed["plugins"]) == {"io.containerd.cri.v1.runtime"}


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"version = 1\n", "version 1"),
        (b"[plugins]\n", "version 1"),
        (b"not toml", "not TOML"),
        (b"\xff", "not TOML"),
        (EXISTING + b'[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.vmpod]\n', "already"),
        (b'version = 2\nplugins = {"io.containerd.grpc.v1.cri" = {}}\n', "by hand"),
    ],
)
def test_configurations_that_cannot_be_extended(content: bytes, word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        containerd.plan_config(content)


DAEMON_JSON = b"""{
  "bridge": "none",
  "runtimes": {"other": {"path": "/bin/other", "runtimeArgs": ["--x"]}}
}
"""


@pytest.mark.parametrize("content", [DAEMON_JSON, b"{}", b"", b'{"runtimes": {}}'])
def test_docker_keeps_its_other_settings_and_gets_its_bytes_back(place: Place, content: bytes) -> None:
    place.daemon_json.parent.mkdir(parents=True)
    place.daemon_json.write_bytes(content)
    assert place.run("docker") == 0
    after = json.loads(place.daemon_json.read_bytes())
    assert after["runtimes"].pop("vmpod") == {"path": str(place.links / "vmpod")}
    assert after == {"runtimes": {}} | json.loads(content or b"{}")
    assert place.run("docker", "--uninstall") == 0
    assert place.daemon_json.read_bytes() == content


def test_docker_keeps_what_was_edited_since(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.daemon_json.parent.mkdir(parents=True)
    place.daemon_json.write_bytes(DAEMON_JSON)
    assert place.run("docker") == 0
    edited = json.loads(place.daemon_json.read_bytes()) | {"debug": True}
    place.daemon_json.write_text(json.dumps(edited))
    assert place.run("docker", "--uninstall") == 0
    assert json.loads(place.daemon_json.read_bytes()) == json.loads(DAEMON_JSON) | {"debug": True}
    assert "edited since" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"[]", "no JSON object"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"runtimes": []}', "no object"),
        (b'{"runtimes": {"vmpod": {"path": "/opt/other"}}}', "already"),
        (b'{"runtimes": {"vmpod": {"path": "/opt/vmpod", "runtimeArgs": ["--debug"]}}}', "already"),
    ],
)
def test_docker_configurations_that_cannot_be_extended(content: bytes, word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        docker.plan_config(content, "/usr/local/bin")


def test_podman_gets_a_runtime_of_that_name() -> None:
    drop_in = tomllib.loads(podman.render_drop_in('/opt/"odd" place').decode())
    assert drop_in == {"engine": {"runtimes": {"vmpod": ['/opt/"odd" place/vmpod']}}}


def test_links_go_with_the_last_engine_that_needs_them(place: Place) -> None:
    before = place.snapshot()
    for engine in ("docker", "crio"):
        assert place.run(engine) == 0
    assert place.run("docker", "--uninstall") == 0
    assert (place.links / "vmpod").is_symlink() and not place.daemon_json.exists()
    assert place.run("crio", "--uninstall") == 0
    assert place.snapshot() == before


def test_wrong_words(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_install(["containerd", "--bin-dir", str(place.path), "--config", str(place.config)]) == 1
    assert "--bin-dir" in capsys.readouterr().err
    assert place.run("containerd", "--vmpod-config", "/no/such/file") == 1
    with pytest.raises(SystemExit):
        run_install(["nonsense"])


def test_a_damaged_journal_is_an_error(place: Place) -> None:
    (place.path / "journals").mkdir()
    (place.path / "journals" / "crio.json").write_text("{")
    assert place.run("crio", "--uninstall") == 1
    (place.path / "journals" / "crio.json").write_text(json.dumps([1]))
    assert place.run("crio", "--uninstall") == 1
