"""Devices of a spec: what becomes of each, the host's half of the rewriting, and the guest's."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.errors import InvalidInput
from oci_runtime.guest.disks import plan_disks, translate_resources
from oci_runtime.storage.device_kinds import is_privileged, keep_rule, kind_of_device, may_write
from oci_runtime.storage.rewrite_devices import rewrite_devices

CONFIGS = sorted((Path(__file__).parents[1] / "data" / "configs").glob("*config*.json"))
ALL = {"allow": True, "access": "rwm"}
NONE = {"allow": False, "access": "rwm"}


def device(kind: str, major: int, minor: int, path: str = "/dev/x") -> dict[str, Any]:
    return {"path": path, "type": kind, "major": major, "minor": minor}


def rule(access: str, kind: str, major: int | None = None, minor: int | None = None) -> dict[str, Any]:
    numbers = {"major": major, "minor": minor}
    return {"allow": True, "type": kind, "access": access} | {key: n for key, n in numbers.items() if n is not None}


@pytest.mark.parametrize(
    ("entry", "kind", "in_privileged"),
    [
        (device("c", 1, 3), "guest", "guest"),
        (device("u", 5, 0), "guest", "guest"),
        (device("c", 10, 229), "guest", "guest"),
        (device("c", 10, 200, "/dev/net/tun"), "guest", "guest"),
        (device("p", 0, 0), "guest", "guest"),
        (device("c", 10, 232, "/dev/kvm"), "refuse", "drop"),
        (device("c", 195, 0), "refuse", "drop"),
        (device("c", 4, 1, "/dev/tty1"), "guest", "guest"),
        (device("c", 4, 64, "/dev/ttyS0"), "refuse", "drop"),
        (device("b", 8, 0, "/dev/sda"), "disk", "drop"),
        (device("b", 8, 0, "/dev/wanted"), "disk", "disk"),
        (device("b", 7, 3, "/dev/loop3"), "disk", "guest"),
    ],
)
def test_what_becomes_of_a_device(entry: dict[str, Any], kind: str, in_privileged: str) -> None:
    host_name = {8: "/dev/sda", 7: "/dev/loop3"}.get(entry["major"], "")
    assert kind_of_device(entry, privileged=False, host_name=host_name) == kind
    assert kind_of_device(entry, privileged=True, host_name=host_name) == in_privileged


def test_a_node_for_a_device_of_the_guests_own_is_refused() -> None:
    numbers = (tuple(map(int, path.name.split(":"))) for path in Path("/sys/dev/char").iterdir())
    major, minor = next(number for number in numbers if number[0] not in (1, 4, 5, 10, *range(136, 144)))
    spec = {"linux": {"devices": [device("c", major, minor)]}}
    with pytest.raises(InvalidInput, match=f"{major}:{minor} is that of a device of the guest"):
        plan_disks(spec, {}, "/dev/vmpod/c", [])
    free = {"linux": {"devices": [device("b", 8, 666), device("c", 1, 3), device("p", 0, 0)]}}
    assert plan_disks(free, {}, "/dev/vmpod/c", []) == []


@pytest.mark.parametrize(
    ("rules", "privileged"),
    [
        ([], False),
        ([ALL], True),
        ([NONE, {"allow": True, "type": "a", "access": "mrw"}], True),
        ([ALL, NONE], False),
        ([NONE, rule("rwm", "b")], False),
        ([{"allow": True, "access": "rw"}], False),
    ],
)
def test_a_container_is_privileged_if_its_rules_allow_everything(rules: list[dict[str, Any]], privileged: bool) -> None:
    assert is_privileged(rules) == privileged


@pytest.mark.parametrize(
    ("rules", "writable"),
    [
        ([], True),
        ([NONE], False),
        ([NONE, rule("r", "b", 8, 0)], False),
        ([NONE, rule("rw", "b", 8, 0)], True),
        ([NONE, rule("rwm", "b", 8)], True),
        ([NONE, rule("rw", "b", 8, 1)], False),
        ([NONE, rule("rw", "c", 8, 0)], False),
        ([ALL, {**rule("w", "b", 8, 0), "allow": False}], False),
    ],
)
def test_a_disk_that_no_rule_lets_write_is_read_only(rules: list[dict[str, Any]], writable: bool) -> None:
    assert may_write(rules, 8, 0) == writable


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (ALL, True),
        (rule("m", "c"), True),
        (rule("rw", "c", 1, 3), True),
        (rule("rw", "c", 136), True),
        (rule("rw", "c", 10, 229), True),
        (rule("rw", "c", 10), False),
        (rule("rw", "c", 10, 232), False),
        (rule("rw", "c", 250, 0), False),
        ({**rule("rw", "c", 250, 0), "allow": False}, True),
        (rule("rw", "b", 8, 0), True),
    ],
)
def test_rules_for_numbers_that_only_the_host_assigns_are_left_out(given: dict[str, Any], kept: bool) -> None:
    assert keep_rule(given) == kept


def disk(readonly: bool = False, **place: int) -> dict[str, Any]:
    return {
        "kind": "disk", "readonly": readonly, "major": 8, "minor": 16, "mode": 0o660, "uid": 0, "gid": 6, **place,
    }  # fmt: skip


def test_a_bind_mount_of_a_disk_becomes_a_device_with_its_rule() -> None:
    spec = {
        "mounts": [{"destination": "/a"}, {"destination": "/disk", "type": "bind"}, {"destination": "/b"}],
        "linux": {"devices": [device("c", 10, 232), device("c", 1, 3)], "resources": {"devices": [NONE]}},
    }
    before = copy.deepcopy(spec)
    made = rewrite_devices(spec, [disk(readonly=True, mount=1)], [{"kind": "no-device", "index": 0}])
    assert spec == before
    numbers = {"type": "b", "major": 8, "minor": 16}
    assert made == {
        "mounts": [{"destination": "/a"}, {"destination": "/b"}],
        "linux": {
            "devices": [device("c", 1, 3), {"path": "/disk", **numbers, "fileMode": 0o660, "uid": 0, "gid": 6}],
            "resources": {"devices": [NONE, {"allow": True, **numbers, "access": "r"}]},
        },
    }


def test_without_rules_none_is_added_because_everything_is_allowed() -> None:
    made = rewrite_devices({"mounts": [{"destination": "/d"}]}, [disk(mount=0)])
    assert made["linux"] == {"devices": [{"path": "/d", "type": "b", "major": 8, "minor": 16,
                                          "fileMode": 0o660, "uid": 0, "gid": 6}]}  # fmt: skip


@pytest.mark.parametrize("disks", [[disk(mount=1)], [disk(mount=-1)]])
def test_an_index_that_the_spec_lacks_is_refused(disks: list[dict[str, Any]]) -> None:
    with pytest.raises(InvalidInput, match="the spec has 1"):
        rewrite_devices({"mounts": [{"destination": "/d"}]}, disks)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_real_engines_spec_stays_as_it_is_but_for_devices_of_the_host(path: Path) -> None:
    spec = json.loads(path.read_text())
    made = rewrite_devices(spec, [])
    linux = spec["linux"]
    assert made["mounts"] == spec["mounts"] and made["linux"]["devices"] == linux.get("devices", [])
    assert made["linux"]["resources"] == linux["resources"]


NUMBERS = {(8, 16): (254, 0), (8, 17): (254, 32)}


def planned(spec: dict[str, Any]) -> tuple[list[tuple[Any, ...]], list[str]]:
    warnings: list[str] = []
    nodes = plan_disks(spec, NUMBERS, "/dev/vmpod/c", warnings)
    return [(node.path, node.mode, node.uid, node.gid, node.number) for node in nodes], warnings


def test_a_disk_is_bound_from_a_node_with_the_guests_number() -> None:
    spec = {
        "mounts": [{"destination": "/a"}],
        "linux": {"devices": [
            device("c", 1, 3),
            {**device("b", 8, 17, "/dev/xvda"), "fileMode": 0o100640, "uid": 5, "gid": 6},
            device("b", 9, 0),
        ]},
    }  # fmt: skip
    nodes, warnings = planned(spec)
    assert nodes == [("/dev/vmpod/c/1", 0o640, 5, 6, (254, 32))] and warnings == []
    assert spec["linux"]["devices"] == [device("c", 1, 3), device("b", 9, 0)]  # type: ignore[index]
    bind = {"destination": "/dev/xvda", "type": "bind", "source": "/dev/vmpod/c/1", "options": ["bind"]}
    assert spec["mounts"] == [{"destination": "/a"}, bind]


def test_the_owner_of_a_node_is_the_containers() -> None:
    mappings = [{"containerID": 0, "hostID": 100000, "size": 10}]
    linux = {"devices": [{**device("b", 8, 16), "uid": 3, "gid": 50}], "uidMappings": mappings, "gidMappings": mappings}
    assert planned({"linux": linux})[0][0][1:4] == (0o666, 100003, 50)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (ALL, [ALL]),
        (rule("m", "b"), [rule("m", "b")]),
        (rule("rw", "c", 8, 16), [rule("rw", "c", 8, 16)]),
        (rule("rw", "b", 8, 16), [rule("rw", "b", 254, 0)]),
        (rule("rw", "b", 8), [rule("rw", "b", 254, 0), rule("rw", "b", 254, 32)]),
        (rule("rw", "b", 254, 0), []),
        (rule("rw", "a", 254, 0), []),
        (rule("rw", "b", 8, 99), []),
    ],
)
def test_rules_get_the_guests_numbers_or_go(given: dict[str, Any], expected: list[dict[str, Any]]) -> None:
    resources = {"devices": [NONE, given]}
    translate_resources(resources, NUMBERS, [])
    assert resources["devices"] == [NONE, *expected]


def test_limits_get_the_guests_numbers_or_go_with_a_warning() -> None:
    warnings: list[str] = []
    resources: dict[str, Any] = {
        "blockIO": {
            "weight": 5,
            "throttleReadBpsDevice": [{"major": 8, "minor": 16, "rate": 9}, {"major": 254, "minor": 0, "rate": 9}],
        },
        "unified": {"io.max": "8:17 rbps=7\n254:0 rbps=1", "io.latency": "9:9 target=1", "io.weight": "default 50"},
    }
    translate_resources(resources, NUMBERS, warnings)
    assert resources == {
        "blockIO": {"weight": 5, "throttleReadBpsDevice": [{"major": 254, "minor": 0, "rate": 9}]},
        "unified": {"io.max": "254:32 rbps=7", "io.weight": "default 50"},
    }
    assert [warning.split()[0:2] for warning in warnings] == [
        ["linux.resources.blockIO.throttleReadBpsDevice:", "254:0"],
        ["linux.resources.unified", "io.max:"],
        ["linux.resources.unified", "io.latency:"],
    ]


@pytest.mark.parametrize("linux", [{"devices": [5]}, {"resources": {"devices": ["x"]}}, {"devices": 5}])
def test_values_of_the_wrong_type_are_invalid_input(linux: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        planned({"linux": linux})
