"""QEMU's command line: one golden file per combination, and refusals that name the setting.

VMPOD_UPDATE_GOLDEN=1 rewrites the golden files; read the difference before committing it.
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.errors import InvalidInput
from oci_runtime.vm.argv import ACCELERATORS, IMAGE_DEVICES, MACHINES, TRANSPORTS, QemuFds, VmSettings, plan_qemu_argv

GOLDEN = Path(__file__).parent.parent / "data" / "qemu-argv"
COMBINATIONS = list(itertools.product(MACHINES, ACCELERATORS, TRANSPORTS, IMAGE_DEVICES))


def settings(**changes: Any) -> VmSettings:
    base = VmSettings(
        kernel="/images/kernel",
        initrd="/images/initrd",
        image="/images/rootfs",
        image_bytes=64 << 20,
        kernel_parameters=("quiet", "panic=-1"),
        name="vmpod-0123456789abcdef",
        qemu="/usr/bin/qemu-system-x86_64",
    )
    return base.replace(**changes)


def fds(transport: str, **changes: Any) -> QemuFds:
    channel = {"agent": 5} if transport == "serial" else {"vhost_vsock": 5}
    return QemuFds(
        **({"qmp": 3, "console": 4, "kernel": 6, "initrd": 7, "image": 8, "firmware": 9} | channel | changes)
    )


@pytest.mark.parametrize("combination", COMBINATIONS, ids="-".join)
def test_command_line_is_the_golden_one(combination: tuple[str, str, str, str]) -> None:
    machine, accel, transport, image_device = combination
    cid = 77 if transport == "vsock" else 0
    argv = plan_qemu_argv(
        settings(machine=machine, accel=accel, transport=transport, image_device=image_device, cid=cid), fds(transport)
    )
    golden = GOLDEN / f"{'-'.join(combination)}.txt"
    if os.environ.get("VMPOD_UPDATE_GOLDEN"):
        golden.write_text("\n".join(argv) + "\n")
    assert golden.read_text().splitlines() == list(argv)


def test_a_share_over_9p_is_there_from_the_start_at_an_address_of_its_own() -> None:
    without = plan_qemu_argv(settings(), fds("serial"))
    argv = plan_qemu_argv(settings(share="/run/pods/share", share_tag="files"), fds("serial"))
    assert [word for word in argv if word not in without] == [
        "-fsdev",
        "local,id=share0,path=/share,security_model=passthrough,multidevs=remap",
        "virtio-9p-pci,id=share0.device,fsdev=share0,mount_tag=files,addr=0x7",
    ]
    addresses = [word.partition("addr=")[2].partition(",")[0] for word in argv if "addr=" in word]
    assert len(addresses) == len(set(addresses))


def test_golden_files_are_all_used() -> None:
    assert {path.stem for path in GOLDEN.iterdir()} == {"-".join(combination) for combination in COMBINATIONS}


@pytest.mark.parametrize("combination", COMBINATIONS, ids="-".join)
def test_every_machine_is_confined(combination: tuple[str, str, str, str]) -> None:
    machine, accel, transport, image_device = combination
    argv = plan_qemu_argv(
        settings(machine=machine, accel=accel, transport=transport, image_device=image_device, cid=77), fds(transport)
    )
    assert "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny" in argv
    assert {"-nodefaults", "-no-user-config", "-no-reboot"} <= set(argv)
    backend = next(word for word in argv if word.startswith("memory-backend-file"))
    assert "readonly=on" in backend and "share=on" in backend
    paths = [word for word in argv if "/images/" in word]
    assert not paths, "QEMU gets descriptors, not paths that could change after they were verified"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"machine": "microvm"}, "machine = 'microvm': not one of q35, pc"),
        ({"accel": "auto"}, "accel = 'auto': not one of kvm, tcg"),
        ({"transport": "pigeon"}, "transport = 'pigeon': not one of serial, vsock"),
        ({"image_device": "ide"}, "image_device = 'ide': not one of virtio-pmem, nvdimm"),
        ({"vcpus": 0}, "vcpus = 0: must be 1 to 255"),
        ({"memory_mib": 1}, "memory_mib = 1: must be 64 to 16777216"),
        ({"root_ports": 17}, "root_ports = 17: must be 1 to 16"),
        ({"tb_size_mib": 1}, "tb_size_mib = 1: must be 8 to 4096"),
        ({"image_bytes": 4096}, "image /images/rootfs: its size 4096 is not a multiple of 2 MiB"),
        ({"name": "a,b=c"}, "name = 'a,b=c': a comma has a meaning of its own for QEMU"),
    ],
)
def test_refuses_what_cannot_work(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        plan_qemu_argv(settings(**changes), fds("serial"))
    assert caught.value.message == message


def test_refuses_a_guest_address_that_is_reserved() -> None:
    with pytest.raises(InvalidInput, match="cid = 2: must be 3 to 4294967294"):
        plan_qemu_argv(settings(transport="vsock", cid=2), fds("vsock"))


@pytest.mark.parametrize(("transport", "given"), [("serial", "vsock"), ("vsock", "serial")])
def test_refuses_descriptors_of_the_other_transport(transport: str, given: str) -> None:
    with pytest.raises(InvalidInput, match="the descriptors given are for another one"):
        plan_qemu_argv(settings(transport=transport, cid=77), fds(given))


def test_kernel_parameters_of_the_settings_win() -> None:
    argv = plan_qemu_argv(settings(kernel_parameters=("console=hvc0",)), fds("serial"))
    assert argv[argv.index("-append") + 1] == "console=hvc0 nokaslr norandmaps noreplace-smp nolapic_timer"


def test_without_firmware_qemu_uses_its_own() -> None:
    assert "-bios" not in plan_qemu_argv(settings(), fds("serial", firmware=None))
