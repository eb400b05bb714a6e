"""`vmpod check` and `vmpod env`: what they find, and what they say about what is not there."""

from __future__ import annotations

import gzip
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.check import kernel
from oci_runtime.check.environment import summarise
from oci_runtime.check.guest import GuestFacts, check_guest
from oci_runtime.check.item import MISSING, OK, OPTIONAL, Item, render
from oci_runtime.check.qemu import ask_qemu
from oci_runtime.config.load import load_files
from oci_runtime.config.show import to_json
from oci_runtime.errors import InvalidInput, NotFound
from tests.engine import VMPOD

COMPLETE = "".join(f"CONFIG_{option.name}=y\n" for option in kernel.OPTIONS)
FEATURES = (
    "namespace:cgroup namespace:ipc namespace:mnt namespace:net namespace:pid namespace:user namespace:uts"
    " controller:cpu controller:cpuset controller:io controller:memory controller:pids filesystem:cgroup2"
    " filesystem:overlay filesystem:proc filesystem:sysfs filesystem:tmpfs filesystem:virtiofs"
    " seccomp:allow seccomp:errno seccomp:kill_process seccomp:log"
).split()


def vmpod(*words: str, config: Path | None = None) -> tuple[int, str]:
    """Exit code and standard output of a command line."""
    argv = [VMPOD, *(["--config", str(config)] if config else []), *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout


def settings(directory: Path, text: str) -> Path:
    path = directory / "config.toml"
    path.write_text(text)
    return path


def statuses(items: list[dict[str, str]]) -> dict[str, str]:
    return {item["name"]: item["status"] for item in items}


def test_this_machine_can_run_pods() -> None:
    code, out = vmpod("check", "--json")
    document = json.loads(out)
    assert code == 0 and document["ok"] is True
    found = statuses(document["items"])
    assert {
        name: found[name] for name in ("user", "qemu", "qemu features", "virtiofsd", "guest image", "tap", "tc")
    } == {name: OK for name in ("user", "qemu", "qemu features", "virtiofsd", "guest image", "tap", "tc")}
    code, out = vmpod("check")
    assert code == 0 and out.splitlines()[-1] == "pods can run here"
    assert {line.split()[0] for line in out.splitlines()[:-1]} <= {OK, OPTIONAL, "->"}


def test_what_is_missing_is_named_with_a_remedy_and_fails(tmp_path: Path) -> None:
    config = settings(
        tmp_path,
        '[vm]\nqemu = "/nowhere/qemu"\ntransport = "vsock"\nfirmware = "/nowhere/firmware"\n'
        '[image]\nname = "unheard-of"\n[storage]\nvirtiofsd = "/nowhere/virtiofsd"\n'
        '[runtime]\nvm = "untrusted"\nnamespace_runtime = "/nowhere/runtime"\n',
    )
    code, out = vmpod("check", "--json", config=config)
    document = json.loads(out)
    assert code == 1 and document["ok"] is False
    found = {item["name"]: item for item in document["items"]}
    for name in ("qemu", "guest image", "virtiofsd", "namespace runtime"):
        assert found[name]["status"] == MISSING and found[name]["remedy"], found[name]
    assert "/nowhere/qemu" in found["qemu"]["found"] and "unheard-of" in found["guest image"]["found"]
    code, out = vmpod("check", config=config)
    assert code == 1 and out.splitlines()[-1].startswith("missing: ") and "-> " in out


def test_a_firmware_that_is_not_there_and_devices_that_qemu_lacks(tmp_path: Path) -> None:
    code, out = vmpod("check", "--json", config=settings(tmp_path, '[vm]\nfirmware = "/nowhere/firmware"\n'))
    assert code == 1 and statuses(json.loads(out)["items"])["firmware"] == MISSING


def test_a_macvtap_network_is_tried(tmp_path: Path) -> None:
    _, out = vmpod("check", "--json", config=settings(tmp_path, '[network]\nmodel = "macvtap"\n'))
    assert statuses(json.loads(out)["items"])["macvtap"] == OK


@pytest.mark.parametrize("words", [["check", "more"], ["env", "more"], ["check", "--guess"]])
def test_wrong_words(words: list[str]) -> None:
    assert vmpod(*words) == (1, "")


def test_without_the_tun_device_taps_are_missing() -> None:
    script = f"mount --make-rprivate / && mount -t tmpfs none /dev/net && exec {VMPOD} check --json"
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    items = {item["name"]: item for item in json.loads(done.stdout)["items"]}
    assert done.returncode == 1
    assert items["tap"]["status"] == MISSING and "/dev/net/tun" in items["tap"]["found"]
    assert items["tc"] == {"name": "tc", "status": MISSING, "found": "not tried without tap devices"} | {
        "remedy": items["tc"]["remedy"]
    }


def test_qemu_is_asked_itself(tmp_path: Path) -> None:
    facts = ask_qemu("/usr/bin/qemu-system-x86_64", "")
    assert facts.is_recent and "q35" in facts.machines and "virtio-net-pci" in facts.types
    with pytest.raises(NotFound, match="apt install it"):
        ask_qemu("/nowhere/qemu", "apt install it")
    with pytest.raises(InvalidInput, match="does not work: exit code 1"):
        ask_qemu("/bin/false", "")
    impostor = tmp_path / "qemu"
    impostor.write_text('#!/bin/sh\necho \'{"return": [], "id": "query-version"}\'; echo []; echo no seccomp >&2\n')
    impostor.chmod(0o755)
    with pytest.raises(InvalidInput, match="does not work: no seccomp"):
        ask_qemu(str(impostor), "")


def test_the_kernel_configuration_is_read_where_it_is(tmp_path: Path) -> None:
    places = {"compressed": str(tmp_path / "config.gz"), "boot": str(tmp_path), "modules": str(tmp_path / "modules")}
    assert kernel.read_kernel_config("6.1", **places) is None
    (tmp_path / "config-6.1").write_text('CONFIG_TUN=m\n# CONFIG_MACVTAP is not set\nCONFIG_X="y"\nXCONFIG_KVM=y\n')
    assert kernel.read_kernel_config("6.1", **places) == (str(tmp_path / "config-6.1"), {"CONFIG_TUN": "m"})
    (tmp_path / "config.gz").write_bytes(b"no gzip")
    assert kernel.read_kernel_config("6.1", **places) == (str(tmp_path / "config-6.1"), {"CONFIG_TUN": "m"})
    (tmp_path / "config.gz").write_bytes(gzip.compress(b"CONFIG_KVM=y\n"))
    assert kernel.read_kernel_config("6.1", **places) == (str(tmp_path / "config.gz"), {"CONFIG_KVM": "y"})


def test_kernel_options_that_are_off() -> None:
    values = {name: value for name, value in (line.split("=") for line in COMPLETE.splitlines())}
    assert [item.status for item in kernel.check_config("6.1", ("config", values))] == [OK]
    del values["CONFIG_TUN"], values["CONFIG_VHOST_NET"]
    found = {item.name: item.status for item in kernel.check_config("6.1", ("config", values))}
    assert found == {"kernel config": OK, "CONFIG_TUN": MISSING, "CONFIG_VHOST_NET": OPTIONAL}
    assert [item.status for item in kernel.check_config("6.1", None)] == [OPTIONAL]
    assert kernel.check_version("5.10.0-1").status == MISSING and kernel.check_version("6.1.0").status == OK


def test_modules_that_are_neither_loaded_nor_installed(tmp_path: Path) -> None:
    values = {"CONFIG_TUN": "m", "CONFIG_VHOST_NET": "m", "CONFIG_NET_ACT_MIRRED": "m", "CONFIG_KVM": "y"}
    (tmp_path / "loaded" / "act_mirred").mkdir(parents=True)
    (tmp_path / "6.1").mkdir()
    (tmp_path / "6.1" / "modules.dep").write_text("kernel/drivers/net/tun.ko.xz:\n")
    items = kernel.check_modules("6.1", values, str(tmp_path), str(tmp_path / "loaded"))
    assert [(item.name, item.status) for item in items] == [("module vhost_net", OPTIONAL)]
    items = kernel.check_modules("6.2", values, str(tmp_path), str(tmp_path / "loaded"))
    assert [(item.name, item.status) for item in items] == [("module tun", MISSING), ("module vhost_net", OPTIONAL)]


def guest(*features: str, crun: str = "1.8") -> GuestFacts:
    return GuestFacts(
        kernel_release="6.1", agent_version="0", crun_version=crun, vcpus=1, memory_mib=1, boot_ms=1,
        features=frozenset(features),
    )  # fmt: skip


def test_what_a_guest_lacks() -> None:
    assert not [item for item in check_guest(guest(*FEATURES)) if item.status == MISSING]
    lacking = [item for item in check_guest(guest(*FEATURES[:-1], crun="")) if item.status == MISSING]
    assert [item.name for item in lacking] == ["guest crun", "guest seccomp log"]


def test_what_a_guest_says_stays_on_its_line() -> None:
    line = render([Item(name="guest", status=OK, found="6.1\n\x1b[31mok  all is well")])
    assert line.count("\n") == 1 and "\x1b" not in line


def test_env_tells_versions_places_and_host() -> None:
    code, out = vmpod("--root", "/run/some-root", "env", "--json")
    document: dict[str, Any] = json.loads(out)
    assert code == 0
    assert set(document) == {"vmpod", "config", "qemu", "virtiofsd", "image", "host", "engines", "pods"}
    assert document["vmpod"]["paths"]["root"] == "/run/some-root" and document["pods"] == {"count": 0}
    assert document["host"]["uid"] == 0 and document["qemu"]["path"].startswith("/")
    assert "podman version" in document["engines"]["podman"]
    code, out = vmpod("env")
    assert code == 0 and "\nhost:\n  system: " in out


def test_env_survives_what_is_broken_and_hides_what_may_be_private(tmp_path: Path) -> None:
    config = settings(tmp_path, '[vm]\nqemu = "/nowhere/qemu"\nkernel_parameters = "password=secret"\nmax_vcpus = 3\n')
    code, out = vmpod("env", "--json", config=config)
    document = json.loads(out)
    assert code == 0 and "/nowhere/qemu" in document["qemu"]["error"]
    assert "secret" not in out
    assert document["config"] == summarise(to_json(load_files([str(config)])))
    assert document["config"]["changed"]["vm.max_vcpus"] == {"value": 3, "origin": str(config)}
    assert document["config"]["changed"]["vm.kernel_parameters"]["origin"] == str(config)
