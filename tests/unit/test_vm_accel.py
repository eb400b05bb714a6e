"""Which accelerator and transport `auto` becomes."""

from __future__ import annotations

from pathlib import Path

import pytest

from oci_runtime.errors import InvalidInput, Unsupported
from oci_runtime.vm.accel import HostFacts, choose_accel, choose_transport, read_host_facts, read_tsc_khz

WITH_KVM = HostFacts(kvm_problem="", kvm_gid=105, vhost_vsock=True)
WITHOUT = HostFacts(kvm_problem="/dev/kvm: Permission denied", kvm_gid=None, vhost_vsock=False)


def test_auto_takes_kvm_where_it_works() -> None:
    assert choose_accel("auto", WITH_KVM).value == "kvm"
    assert choose_accel("auto", WITH_KVM).warning == ""


def test_auto_emulates_with_one_warning_otherwise() -> None:
    choice = choose_accel("auto", WITHOUT)
    assert choice.value == "tcg"
    assert choice.warning.endswith("emulated and slow: /dev/kvm: Permission denied")


def test_tcg_on_request_needs_no_warning() -> None:
    assert choose_accel("tcg", WITH_KVM).warning == ""


def test_kvm_on_request_says_why_it_cannot_be() -> None:
    with pytest.raises(Unsupported, match="accel = 'kvm': /dev/kvm: Permission denied"):
        choose_accel("kvm", WITHOUT)


@pytest.mark.parametrize(
    ("wanted", "facts", "chosen"),
    [("auto", WITH_KVM, "vsock"), ("auto", WITHOUT, "serial"), ("serial", WITH_KVM, "serial")],
)
def test_transport(wanted: str, facts: HostFacts, chosen: str) -> None:
    assert choose_transport(wanted, facts) == chosen


def test_vsock_on_request_needs_the_device() -> None:
    with pytest.raises(Unsupported, match="modprobe vhost_vsock"):
        choose_transport("vsock", WITHOUT)


@pytest.mark.parametrize("choose", [choose_accel, choose_transport])
def test_unknown_values_name_the_known_ones(choose: object) -> None:
    with pytest.raises(InvalidInput, match="'xen': not one of auto, "):
        choose("xen", WITHOUT)  # type: ignore[operator]


def device(tmp_path: Path, mode: int) -> str:
    path = tmp_path / "kvm"
    path.touch()
    path.chmod(mode)
    return str(path)


def cpuinfo(tmp_path: Path, flags: str) -> str:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\nflags\t\t: fpu {flags} sse\n")
    return str(path)


@pytest.mark.parametrize("flag", ["vmx", "svm"])
def test_host_with_hardware_virtualisation(tmp_path: Path, flag: str) -> None:
    facts = read_host_facts(device(tmp_path, 0o666), cpuinfo(tmp_path, flag), str(tmp_path / "none"))
    assert facts == HostFacts(kvm_problem="", kvm_gid=None, vhost_vsock=False)


def test_a_kvm_device_without_the_cpu_flag_does_not_count(tmp_path: Path) -> None:
    facts = read_host_facts(device(tmp_path, 0o666), cpuinfo(tmp_path, "hypervisor"), "/dev/null")
    assert "neither vmx nor svm" in facts.kvm_problem
    assert facts.vhost_vsock


def test_missing_device_names_the_module(tmp_path: Path) -> None:
    facts = read_host_facts(str(tmp_path / "kvm"), cpuinfo(tmp_path, "vmx"), "/dev/null")
    assert "No such file or directory (modprobe kvm_intel or kvm_amd)" in facts.kvm_problem


def test_a_device_for_root_alone_is_no_use_to_qemus_uid(tmp_path: Path) -> None:
    facts = read_host_facts(device(tmp_path, 0o600), cpuinfo(tmp_path, "vmx"), "/dev/null")
    assert "has mode 0600" in facts.kvm_problem and "chmod 660" in facts.kvm_problem


def test_the_group_of_the_device_is_what_qemu_needs(tmp_path: Path) -> None:
    import os

    path = device(tmp_path, 0o660)
    if os.geteuid() == 0:
        os.chown(path, 0, 105)
        assert read_host_facts(path, cpuinfo(tmp_path, "vmx"), "/dev/null") == HostFacts(
            kvm_problem="", kvm_gid=105, vhost_vsock=True
        )
    else:
        assert read_host_facts(path, cpuinfo(tmp_path, "vmx"), "/dev/null").kvm_gid == os.getegid()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (
            "processor\t: 0\nflags\t\t: fpu constant_tsc vme\nbogomips\t: 5192.26\n\nprocessor\t: 1\nbogomips : 1\n",
            2596130,
        ),
        ("processor\t: 0\nflags\t\t: fpu vme\nbogomips\t: 5192.26\n", 0),
        ("flags : constant_tsc\nbogomips : many\n", 0),
        ("flags : constant_tsc\n", 0),
        ("", 0),
    ],
)
def test_the_rate_of_the_time_stamp_counter(tmp_path: Path, text: str, wanted: int) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    assert read_tsc_khz(str(path)) == wanted
    assert read_tsc_khz(str(tmp_path / "none")) == 0
