"""Configuration files: order, drop-ins, and a clear error for whatever is wrong in them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from oci_runtime.config import load, model
from oci_runtime.config.derive import route_policy, size_limits
from oci_runtime.config.load import build, load_config, load_files, origin
from oci_runtime.config.settings import BY_NAME, SECTIONS, SETTINGS
from oci_runtime.config.show import from_json, render_reference, render_text, to_json
from oci_runtime.errors import HostError, InvalidInput, NotFound

ROOT = Path(__file__).parent.parent.parent
DEFAULTS = build({}, {})


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tree in which /usr/share/vmpod and /etc/vmpod are looked for."""
    monkeypatch.setattr(load, "VENDOR_FILE", str(tmp_path / "share" / "config.toml"))
    monkeypatch.setattr(load, "ADMIN_FILE", str(tmp_path / "etc" / "config.toml"))
    monkeypatch.delenv("VMPOD_CONFIG", raising=False)
    for name in ("share", "etc"):
        (tmp_path / name / "config.d").mkdir(parents=True)
    return tmp_path


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_without_files_there_are_defaults(places: Path) -> None:
    config = load_config()
    assert config == DEFAULTS
    assert (config.vm.machine, config.vm.default_vcpus, config.vm.default_memory_mib) == ("q35", 1, 512)
    assert (config.vm.root_ports, config.vm.accel, config.runtime.vm) == (8, "auto", "always")
    assert config.files == ()


def test_the_order_of_files(places: Path) -> None:
    def setting(value: int) -> str:
        return f"[vm]\ndefault_vcpus = {value}\n"

    files = [
        write(places / "share" / "config.toml", setting(2) + "root_ports = 2\n"),
        write(places / "share" / "config.d" / "50-a.toml", setting(3) + "machine = 'pc'\n"),
        write(places / "etc" / "config.toml", setting(4)),
        write(places / "etc" / "config.d" / "10-b.toml", setting(5)),
        write(places / "etc" / "config.d" / "20-a.toml", setting(6)),
    ]
    write(places / "etc" / "config.d" / "99-ignored.toml.bak", "broken")
    write(places / "etc" / "config.d" / ".99-ignored.toml", "broken")
    config = load_config()
    assert config.files == tuple(files)
    assert (config.vm.default_vcpus, config.vm.root_ports, config.vm.machine) == (6, 2, "pc")
    assert origin(config, "vm.default_vcpus") == files[4]
    assert origin(config, "vm.machine") == files[1]
    assert origin(config, "vm.accel") == "default"
    for index in range(4, 0, -1):
        os.unlink(files[index])
        assert load_config().vm.default_vcpus == index + 1


def test_drop_ins_work_without_the_file_beside_them(places: Path) -> None:
    write(places / "etc" / "config.d" / "x.toml", "[vm]\ndebug = true\n")
    assert load_config().vm.debug


def test_an_explicit_file_takes_the_place_of_all_others(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(places / "etc" / "config.toml", "[vm]\nroot_ports = 2\n")
    (places / "own" / "config.d").mkdir(parents=True)
    own = write(places / "own" / "vm.toml", "[vm]\ndefault_vcpus = 3\n")
    drop_in = write(places / "own" / "config.d" / "x.toml", "[vm]\ndebug = true\n")
    config = load_config(own)
    assert config.files == (own, drop_in)
    assert (config.vm.root_ports, config.vm.default_vcpus, config.vm.debug) == (8, 3, True)
    monkeypatch.setenv("VMPOD_CONFIG", own)
    assert load_config() == config
    assert load_config(str(places / "etc" / "config.toml")).vm.root_ports == 2
    monkeypatch.chdir(places / "own")
    assert load_config("vm.toml") == config


def test_a_missing_explicit_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="configuration file .*/x.toml does not exist"):
        load_config(str(tmp_path / "x.toml"))
    with pytest.raises(NotFound):
        load_config(environment={"VMPOD_CONFIG": str(tmp_path / "x.toml")})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[vm]\nmachine =", "is not TOML: Invalid value (at end of document)"),
        ("[vm]\nmachine = 'q35'\nmachine = 'pc'", "is not TOML: Cannot overwrite a value"),
        ("a = " + "[" * 2000 + "]" * 2000, "is not TOML: "),
        ("[vmm]\nx = 1", "unknown section vmm, did you mean vm?"),
        ("[hypervisor]\nx = 1", "unknown section hypervisor"),
        ("machine = 'q35'", "unknown section machine"),
        ("vm = 'q35'", "vm must be a section, written [vm]"),
        ("[vm]\ndefault_vcpu = 1", "unknown setting vm.default_vcpu, did you mean vm.default_vcpus?"),
        ("[runtime]\ndefault_vcpus = 1", "unknown setting runtime.default_vcpus, did you mean vm.default_vcpus?"),
        ("[vm]\nxyzzy = 1", "unknown setting vm.xyzzy"),
        ("[vm]\ndefault_vcpus = 0", "vm.default_vcpus must be from 1 to 255, not 0"),
        ("[vm]\ndefault_vcpus = '1'", "vm.default_vcpus must be a whole number, not '1'"),
        ("[vm]\ndefault_vcpus = true", "vm.default_vcpus must be a whole number, not true"),
        ("[vm]\ndefault_vcpus = 1.0", "vm.default_vcpus must be a whole number, not 1.0"),
        ("[vm]\ndebug = 1", "vm.debug must be true or false, not 1"),
        ("[vm]\nmachine = 'microvm'", "vm.machine must be one of q35, pc, not 'microvm'"),
        ("[vm]\nmachine = 5", "vm.machine must be a string, not 5"),
        ("[vm]\nqemu = ''", "vm.qemu must be an absolute path, not ''"),
        ("[vm]\nqemu = 'qemu'", "vm.qemu must be an absolute path, not 'qemu'"),
        ("[vm]\nqemu = '/usr/../bin/x'", "vm.qemu must be a path without .., not '/usr/../bin/x'"),
        ('[vm]\nkernel_parameters = "a\\nb"', "vm.kernel_parameters must be free of control characters"),
        ("[runtime]\nenable_annotations = 'x'", "runtime.enable_annotations must be a list of strings, not 'x'"),
        ("[runtime]\nenable_annotations = ['(']", "runtime.enable_annotations: '(' is not a regular expression: "),
        ("[runtime]\nenable_annotations = ['']", "runtime.enable_annotations must be a list of strings that are not"),
        ("[runtime]\nvalid_qemu_paths = ['qemu*']", "runtime.valid_qemu_paths must be absolute paths, which may hold"),
        ("[agent]\nkernel_modules = [1]", "agent.kernel_modules must be a list of strings that are not empty, not 1"),
    ],
    ids=lambda value: value[:40],
)
def test_errors_name_file_and_key(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path / "c.toml", text)
    with pytest.raises(InvalidInput) as caught:
        load_files([file])
    assert caught.value.message.startswith(file)
    assert message in caught.value.message
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[vm]\ndefault_vcpus = 4\nmax_vcpus = 2",
            r"vm\.default_vcpus = 4 \(.*c\.toml\) is more than vm\.max_vcpus = 2",
        ),
        (
            "[vm]\nmax_memory_mib = 256",
            r"vm\.default_memory_mib = 512 \(default\) is more than vm\.max_memory_mib = 256",
        ),
        ("[vm]\nuid_base = 4294967290", r"go beyond the last user id"),
        (
            "[runtime]\nvm = 'untrusted'\nnamespace_runtime = ''",
            r'runtime\.vm = "untrusted" needs runtime\.namespace_runt',
        ),
    ],
)
def test_settings_that_do_not_fit_together(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        load_files([write(tmp_path / "c.toml", text)])


def test_files_that_are_not_what_they_should_be(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.toml")
    with pytest.raises(InvalidInput, match="is not a regular file"):
        load_files([str(tmp_path / "fifo.toml")])
    (tmp_path / "latin.toml").write_bytes(b"# \xe9")
    with pytest.raises(InvalidInput, match="is not UTF-8: byte 2 is 0xe9"):
        load_files([str(tmp_path / "latin.toml")])
    (tmp_path / "big.toml").write_bytes(b"#" * (load.MAX_FILE_BYTES + 1))
    with pytest.raises(InvalidInput, match="is larger than"):
        load_files([str(tmp_path / "big.toml")])
    (tmp_path / "open.toml").touch()
    (tmp_path / "open.toml").chmod(0o666)
    with pytest.raises(InvalidInput, match="can be written by everybody: chmod o-w"):
        load_files([str(tmp_path / "open.toml")])
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    with pytest.raises(HostError, match="Too many levels"):
        load_files([str(tmp_path / "loop.toml")])


def test_table_and_models_agree() -> None:
    config = DEFAULTS
    assert set(SECTIONS) == config._names - {"origins", "files"}
    kinds = {"bool": "bool", "integer": "int", "string": "str", "path": "str", "list of strings": "tuple[str, ...]"}
    for section in SECTIONS:
        declared = dict(type(getattr(config, section)).__annotations__)
        assert declared == {s.key: kinds[s.kind] for s in SETTINGS if s.section == section}


def test_defaults_obey_their_own_rules(tmp_path: Path) -> None:
    text = render_text(DEFAULTS)
    assert load_files([write(tmp_path / "c.toml", text)]).replace(origins={}, files=()) == DEFAULTS
    assert len(tomllib.loads(text)) == len(SECTIONS)


def test_guards_are_lists_of_globs() -> None:
    for setting in SETTINGS:
        assert setting.help.endswith(".")
        if setting.guard:
            assert BY_NAME[f"runtime.{setting.guard}"].items == "glob"
        if setting.section == "runtime":
            assert not setting.pod, "what protects the host is never up to a pod"


def test_show_says_where_values_came_from(tmp_path: Path) -> None:
    file = write(
        tmp_path / "c.toml", "[vm]\ndefault_vcpus = 2\nkernel_parameters = 'a=\"b\"'\n[agent]\nkernel_modules=['x']"
    )
    config = load_files([file])
    lines = render_text(config).splitlines()
    assert lines[0] == f"# read: {file}"
    assert [line for line in lines if line.startswith("default_vcpus")] == [f"default_vcpus = 2{' ' * 27} # {file}"]
    assert tomllib.loads(render_text(config))["vm"]["kernel_parameters"] == 'a="b"'
    shown = json.loads(json.dumps(to_json(config)))
    assert shown["settings"]["vm"]["default_vcpus"] == {"value": 2, "origin": file}
    assert shown["settings"]["vm"]["accel"] == {"value": "auto", "origin": "default"}
    assert from_json(shown) == config


def test_what_other_parts_need() -> None:
    config = DEFAULTS.replace(runtime=DEFAULTS.runtime.replace(vm="untrusted", host_pid="vm"))
    policy = route_policy(config)
    assert (policy.vm, policy.host_network, policy.host_pid) == ("untrusted", "refuse", "vm")
    limits = size_limits(config, 3, 4096)
    assert (limits.host_cpus, limits.host_memory_mib, limits.default_memory_mib) == (3, 4096, 512)
    own = size_limits(config)
    assert own.host_cpus == os.cpu_count()
    assert own.host_memory_mib > 128


def test_the_documentation_has_the_table_of_settings() -> None:
    assert render_reference().strip() in (ROOT / "docs" / "configuration.md").read_text()


def test_values_are_frozen() -> None:
    with pytest.raises(AttributeError, match="VmConfig.machine is read-only"):
        DEFAULTS.vm.machine = "pc"  # type: ignore[misc]
    with pytest.raises(TypeError, match="LogConfig: unknown or missing fields: levels, max_console_kib"):
        model.LogConfig(levels="x", level="y")  # type: ignore[call-arg]


def test_loading_without_a_file_imports_little(tmp_path: Path) -> None:
    program = (
        "import __future__, errno, os, stat, sys; before = set(sys.modules); "
        "from oci_runtime.config.load import load_config; load_config(); "
        "print(sorted(name for name in set(sys.modules) - before if not name.startswith('oci_runtime')))"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT, capture_output=True, text=True, check=True, timeout=60, env={"PATH": "/usr/bin"},
    )  # fmt: skip
    assert result.stdout == "[]\n"


def test_every_setting_is_read_by_something() -> None:
    """A setting without effect looks like one that works."""
    tables = {"config/settings.py", "config/model.py", "annotations/settings.py"}
    package = ROOT / "oci_runtime"
    texts = [path.read_text() for path in package.rglob("*.py") if str(path.relative_to(package)) not in tables]
    # valid_*: named as guards of the paths that they allow.
    guards = {setting.guard for setting in SETTINGS}
    unread = {
        setting.name
        for setting in SETTINGS
        if setting.key not in guards and not any(re.search(rf"\.{setting.key}\b", text) for text in texts)
    }
    assert unread == set()
