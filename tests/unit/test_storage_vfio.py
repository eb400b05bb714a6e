"""PCI devices of the host: IOMMU groups as a made-up sysfs has them, and what QEMU is told. No machine here has any."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest

from oci_runtime.errors import HostError, InvalidInput, NotFound, OciRuntimeError, Unsupported
from oci_runtime.sandbox.vfio import PodVfio
from oci_runtime.storage.disks import open_devices
from oci_runtime.storage.sources import Sources
from oci_runtime.storage.vfio import Function, group_of, is_common_node, open_group, plan_group, read_group
from oci_runtime.vm.argv import VmSettings
from oci_runtime.vm.hotplug import Hotplug
from oci_runtime.vm.qmp import Qmp


def function(address: str, driver: str = "vfio-pci", node: str = "vfio0", class_code: str = "0x020000") -> Function:
    return Function(address=address, class_code=class_code, driver=driver, node=node)


def make_group(sys: Path, number: str, *functions: Function) -> None:
    for one in functions:
        directory = sys / "kernel/iommu_groups" / number / "devices" / one.address
        directory.mkdir(parents=True)
        (directory / "class").write_text(one.class_code + "\n")
        if one.driver:
            (directory / "driver").symlink_to(f"../../../bus/pci/drivers/{one.driver}")
        if one.node:
            (directory / "vfio-dev" / one.node).mkdir(parents=True)


@pytest.mark.parametrize(
    ("path", "kind", "group"),
    [
        ("/dev/vfio/12", "c", "12"), ("/dev/vfio/12", "b", ""), ("/dev/vfio/vfio", "c", ""), ("/dev/vfio/1/2", "c", ""),
        ("/dev/vfio/../12", "c", ""), ("/dev/12", "c", ""), ("12", "c", ""), ("/dev/vfio/", "c", ""),
    ],
)  # fmt: skip
def test_which_devices_are_iommu_groups(path: str, kind: str, group: str) -> None:
    assert group_of({"path": path, "type": kind}) == group
    assert is_common_node({"path": path}) == (path == "/dev/vfio/vfio")


def test_a_group_is_read_whole(tmp_path: Path) -> None:
    bridge = function("0000:00:01.0", "pcieport", "", "0x060400")
    first, second = function("0000:01:00.0", node="vfio3"), function("0000:01:00.1", "", "")
    make_group(tmp_path, "12", bridge, second, first)
    assert read_group("12", str(tmp_path)) == (bridge, first, second)
    with pytest.raises(NotFound, match="the host has no IOMMU group 13 .is its IOMMU on"):
        read_group("13", str(tmp_path))


@pytest.mark.parametrize(
    ("functions", "words"),
    [
        ((function("a"), function("b", "e1000e")), "its device b belongs to e1000e .bind it to vfio-pci"),
        ((function("a", ""),), "its device a belongs to no driver"),
        ((function("a", node=""),), "device a has no node in /dev/vfio/devices"),
        ((function("a", "pcieport", "", "0x060400"),), "no device but bridges"),
        ((), "no device but bridges"),
    ],
)
def test_a_group_goes_whole_or_not_at_all(functions: tuple[Function, ...], words: str) -> None:
    with pytest.raises(Unsupported, match=f"^what: .*{words}"):
        plan_group("what", "12", functions)


def test_bridges_stay_with_the_host() -> None:
    bridge, card = function("0000:00:01.0", "pcieport", "", "0x060400"), function("0000:01:00.0")
    assert plan_group("what", "12", (bridge, card)) == (card,)


def test_the_devices_of_a_group_are_opened_with_the_iommu_first(tmp_path: Path) -> None:
    make_group(tmp_path, "12", function("0000:01:00.0", node="vfio3"))
    (tmp_path / "vfio/devices").mkdir(parents=True)
    (tmp_path / "vfio/devices/vfio3").touch()
    sources = Sources()
    with pytest.raises(HostError, match=f"open what: {tmp_path}/iommu: No such file"):
        open_group(sources, 4, "what", "12", str(tmp_path), str(tmp_path))
    (tmp_path / "iommu").touch()
    open_group(sources, 4, "what", "12", str(tmp_path), str(tmp_path))
    assert [description for description, _ in sources.descriptors] == [
        {"kind": "iommu"},
        {"kind": "vfio", "address": "0000:01:00.0"},
    ]
    assert {"kind": "no-device", "index": 4} in sources.guest_mounts
    sources.close()


def test_a_host_without_the_group_says_so_in_one_line() -> None:
    devices = [{"path": "/dev/vfio/vfio", "type": "c", "major": 10, "minor": 196},
               {"path": "/dev/vfio/99999", "type": "c", "major": 240, "minor": 1}]  # fmt: skip
    sources = Sources()
    with pytest.raises(NotFound, match=r"linux.devices\[1\] /dev/vfio/99999: the host has no IOMMU group 99999"):
        open_devices(sources, {"linux": {"devices": devices}})
    assert sources.guest_mounts == [{"kind": "no-device", "index": 0}]


class RecordingQmp:
    """Writes down what QEMU would be told; refuses what a test names."""

    def __init__(self, refuse: str = "", words: str = "") -> None:
        self.sent: list[tuple[str, dict[str, Any], int | None]] = []
        self.refuse = refuse
        self.words = words

    async def execute(self, command: str, arguments: Mapping[str, Any] | None = None, *, fd: int | None = None) -> Any:
        self.sent.append((command, dict(arguments or {}), fd))
        if command == self.refuse:
            raise OciRuntimeError(f"QEMU refused {command}: {self.words}")
        return {}


def hotplug(qmp: RecordingQmp) -> Hotplug:
    return Hotplug(cast(Qmp, qmp), VmSettings(kernel="", initrd="", image="", image_bytes=1, root_ports=2))


async def test_what_qemu_is_told() -> None:
    qmp = RecordingQmp()
    plugs = hotplug(qmp)
    iommu = await plugs.add_iommu(7)
    device = await plugs.plug_vfio(8, iommu, "0000:01:00.0")
    assert qmp.sent == [
        ("getfd", {"fdname": "iommu1"}, 7),
        ("object-add", {"qom-type": "iommufd", "id": "iommu1", "fd": "iommu1"}, None),
        ("getfd", {"fdname": "vfio2"}, 8),
        (
            "device_add",
            {"id": "vfio2", "bus": "rp0", "addr": "0x0", "driver": "vfio-pci", "fd": "vfio2", "iommufd": "iommu1"},
            None,
        ),
    ]
    assert (device.guest_path, device.undo) == ("08.0/00.0", ())


async def test_a_qemu_that_is_too_old_is_named_and_a_refused_device_gives_its_slot_back() -> None:
    qmp = RecordingQmp("object-add", "Invalid parameter: invalid object type: iommufd")
    with pytest.raises(Unsupported, match="PCI devices of the host need QEMU 9.0 or later"):
        await hotplug(qmp).add_iommu(7)
    assert qmp.sent[-1] == ("closefd", {"fdname": "iommu1"}, None)
    qmp = RecordingQmp("device_add", "vfio 0000:01:00.0: no")
    plugs = hotplug(qmp)
    for _ in range(3):  # more than there are slots
        with pytest.raises(OciRuntimeError, match="QEMU refused device_add"):
            await plugs.plug_vfio(8, "iommu1", "0000:01:00.0")
    assert qmp.sent[-1][0] == "closefd"


class FakeMachine:
    """Counts what a pod plugs and unplugs."""

    def __init__(self) -> None:
        self.plugs = hotplug(RecordingQmp())
        self.calls: list[str] = []

    async def add_iommu(self, descriptor: int) -> str:
        self.calls.append("iommu")
        return await self.plugs.add_iommu(descriptor)

    async def plug_vfio(self, descriptor: int, iommu: str, address: str) -> Any:
        self.calls.append(f"plug {address}")
        return await self.plugs.plug_vfio(descriptor, iommu, address)

    async def unplug(self, device: Any) -> None:
        self.calls.append(f"unplug {device.id}")


async def test_a_pod_has_one_iommu_and_gives_its_devices_back() -> None:
    machine, pod = FakeMachine(), PodVfio()
    with pytest.raises(InvalidInput, match="without the host's IOMMU"):
        await pod.attach(machine, "c0", [({"kind": "vfio", "address": "x"}, 0)])
    group = [({"kind": "iommu"}, 3), ({"kind": "vfio", "address": "a"}, 4), ({"kind": "vfio", "address": "b"}, 5)]
    await pod.attach(machine, "c1", cast(Any, group))
    await pod.attach(machine, "c2", [])
    for name in ("c2", "c1", "c1"):
        await pod.detach(machine, name)
    assert machine.calls == ["iommu", "plug a", "plug b", "unplug vfio3", "unplug vfio2"]
