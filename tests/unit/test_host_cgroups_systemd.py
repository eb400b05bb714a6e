"""The systemd driver: names, slices, and the messages that busctl really puts on a bus."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.errors import InvalidInput
from oci_runtime.host.cgroup_systemd import (
    Scope,
    expand_slice,
    machine_path,
    parse_path,
    plan_properties,
    plan_start,
    plan_update,
)

UINT64_MAX = str(2**64 - 1)


@pytest.mark.parametrize(
    ("path", "slice_", "unit", "cgroup"),
    [
        ("system.slice:docker:abc", "system.slice", "docker-abc.scope", "/system.slice/docker-abc.scope"),
        (
            "kubepods-burstable-podx.slice:crio:abc",
            "kubepods-burstable-podx.slice",
            "crio-abc.scope",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podx.slice/crio-abc.scope",
        ),
        ("machine.slice:libpod:0a", "machine.slice", "libpod-0a.scope", "/machine.slice/libpod-0a.scope"),
        (":vmpod:c1", "system.slice", "vmpod-c1.scope", "/system.slice/vmpod-c1.scope"),
        ("user.slice::c1", "user.slice", "c1.scope", "/user.slice/c1.scope"),
        ("-.slice:p:c1", "-.slice", "p-c1.scope", "/p-c1.scope"),
        ("a.slice:p:a-b.slice", "a.slice", "a-b.slice", "/a.slice/a-b.slice"),
        ("", "system.slice", "vmpod-c1.scope", "/system.slice/vmpod-c1.scope"),
    ],
)
def test_paths(path: str, slice_: str, unit: str, cgroup: str) -> None:
    scope = parse_path(path, "c1")
    assert (scope.slice, scope.unit, scope.cgroup) == (slice_, unit, cgroup)


@pytest.mark.parametrize(
    "path",
    [
        *("/a/b", "a:b", "a.slice:b:", "a.slice:b:c:d", "a:b:c", ".slice:b:c", "a--b.slice:b:c", "a-.slice:b:c"),
        *("a.slice:b:x/y", "a/b.slice:b:c", "a.slice:b:" + "c" * 256, "a.slice::.c", "a.slice:b:c\n"),
    ],
)
def test_bad_paths(path: str) -> None:
    with pytest.raises(InvalidInput, match=r"^(cgroupsPath|slice|'.*' cannot)"):
        parse_path(path, "c1")


def test_slices() -> None:
    assert expand_slice("-.slice") == "/"
    assert expand_slice("a-b-c.slice") == "/a.slice/a-b.slice/a-b-c.slice"


def test_a_machine_without_container_is_a_scope_of_the_pod_s_slice() -> None:
    path = machine_path("kubepods-podx.slice:crio:abc", "0123")
    assert parse_path(path, "").cgroup == "/kubepods.slice/kubepods-podx.slice/vmpod-0123.scope"


LIMITS: dict[str, Any] = {
    "memory": {"limit": 64 << 20, "reservation": 1 << 20, "swap": 128 << 20},
    "cpu": {"shares": 512, "quota": 25000, "period": 100000, "cpus": "0-2,8", "mems": "0"},
    "pids": {"limit": 100},
    "blockIO": {"weight": 500},
}


def test_limits_of_both_versions() -> None:
    assert plan_properties(LIMITS, 1) == [
        ("MemoryLimit", "t", ("67108864",)),
        ("CPUShares", "t", ("512",)),
        ("CPUQuotaPeriodUSec", "t", ("100000",)),
        ("CPUQuotaPerSecUSec", "t", ("250000",)),
        ("TasksMax", "t", ("100",)),
        ("BlockIOWeight", "t", ("500",)),
    ]
    assert plan_properties(LIMITS, 2) == [
        ("MemoryMax", "t", ("67108864",)),
        ("MemoryLow", "t", ("1048576",)),
        ("MemorySwapMax", "t", ("67108864",)),
        ("CPUWeight", "t", ("20",)),
        ("CPUQuotaPeriodUSec", "t", ("100000",)),
        ("CPUQuotaPerSecUSec", "t", ("250000",)),
        ("TasksMax", "t", ("100",)),
        ("IOWeight", "t", ("4950",)),
        ("AllowedCPUs", "ay", ("2", "7", "1")),
        ("AllowedMemoryNodes", "ay", ("1", "1")),
    ]
    assert plan_properties({}, 1) == plan_properties({name: None for name in LIMITS}, 2) == []


def test_no_limit_is_infinity() -> None:
    unlimited = {"memory": {"limit": -1, "swap": -1}, "cpu": {"quota": -1}, "pids": {"limit": -1}}
    assert plan_properties(unlimited, 2) == [
        ("MemoryMax", "t", (UINT64_MAX,)),
        ("MemorySwapMax", "t", (UINT64_MAX,)),
        ("CPUQuotaPerSecUSec", "t", (UINT64_MAX,)),
        ("TasksMax", "t", (UINT64_MAX,)),
    ]


@pytest.mark.parametrize(
    ("quota", "period", "expected"),
    [
        (25_000, 100_000, "250000"),
        (1_000, 100_000, "10000"),
        (33_333, 100_000, "340000"),
        (150_000, None, "1500000"),
        (1, 3, "340000"),
    ],
)
def test_quota_per_second_is_rounded_up_to_what_systemd_keeps(quota: int, period: int | None, expected: str) -> None:
    properties = dict(
        (name, value) for name, _, value in plan_properties({"cpu": {"quota": quota, "period": period}}, 2)
    )
    assert properties["CPUQuotaPerSecUSec"] == (expected,)


def test_garbage_in_a_cpu_list() -> None:
    for text in ("a", "3-1", "1-", "-1", "99999999"):
        with pytest.raises(InvalidInput, match="is not a list such as 0-3,7"):
            plan_properties({"cpu": {"cpus": text}}, 2)


SCOPE = Scope(slice="a-b.slice", unit="p-c1.scope")


def test_the_calls_that_start_update_and_stop() -> None:
    manager = ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"]
    prefix = ["busctl", "--system", "--quiet", "--", "call", *manager]
    reset, start = plan_start(SCOPE, (7, 8), {"pids": {"limit": 5}}, 1)
    assert list(reset) == [*prefix, "ResetFailedUnit", "s", "p-c1.scope"]
    assert list(start) == [
        *prefix, "StartTransientUnit", "ssa(sv)a(sa(sv))", "p-c1.scope", "replace", "10",
        "Description", "s", "vmpod container p-c1.scope", "Slice", "s", "a-b.slice", "Delegate", "b", "true",
        "PIDs", "au", "2", "7", "8", "MemoryAccounting", "b", "true", "CPUAccounting", "b", "true",
        "TasksAccounting", "b", "true", "BlockIOAccounting", "b", "true", "DefaultDependencies", "b", "false",
        "TasksMax", "t", "5", "0",
    ]  # fmt: skip
    assert plan_update(SCOPE, {}, 2) == ()
    (update,) = plan_update(SCOPE, {"pids": {"limit": 5}}, 2)
    assert list(update) == [*prefix, "SetUnitProperties", "sba(sv)", "p-c1.scope", "true", "1", "TasksMax", "t", "5"]


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[str]:
    """A message bus of the test's own, on which nobody owns systemd's name."""
    config = tmp_path / "bus.conf"
    config.write_text(
        '<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"\n'
        ' "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">\n'
        f"<busconfig><type>session</type><listen>unix:path={tmp_path}/bus</listen><auth>EXTERNAL</auth>"
        '<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/>'
        '<allow own="*"/><allow user="*"/>'
        "</policy></busconfig>\n"
    )
    daemon = subprocess.Popen(
        ["dbus-daemon", f"--config-file={config}", "--nofork", "--nopidfile", "--print-address"], stdout=subprocess.PIPE
    )
    assert daemon.stdout is not None
    daemon.stdout.readline()
    yield f"unix:path={tmp_path}/bus"
    daemon.terminate()
    daemon.wait(10)
    daemon.stdout.close()


def record(bus: str, calls: list[tuple[str, ...]]) -> list[str]:
    """Send calls through busctl and return what a monitor saw of the method calls to systemd."""
    monitor = subprocess.Popen(
        ["timeout", "60", "dbus-monitor", "--address", bus, "type='method_call',path='/org/freedesktop/systemd1'"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert monitor.stdout is not None
    try:
        for line in monitor.stdout:
            if "NameLost" in line:
                break  # from here on it monitors
        for call in calls:
            command = [call[0], f"--address={bus}", *call[2:]]
            result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
            assert "The name org.freedesktop.systemd1 was not provided" in result.stderr, result.stderr
        marker = ["busctl", f"--address={bus}", "call", "x.y", "/org/freedesktop/systemd1", "x.y", "End", "s", ""]
        subprocess.run(marker, capture_output=True, check=False, timeout=30)
        lines = []
        for line in monitor.stdout:
            if "member=End" in line:
                break
            lines.append(line.rstrip())
    finally:
        monitor.terminate()
        monitor.wait(10)
        monitor.stdout.close()
    return lines


def squeeze(lines: list[str]) -> str:
    return re.sub(r"\s+", " ", " ".join(lines))


def test_what_busctl_puts_on_the_bus(bus: str) -> None:
    calls = [*plan_start(SCOPE, (7, 8), LIMITS, 2), *plan_update(SCOPE, LIMITS, 1)]
    seen = squeeze(record(bus, list(calls)))
    members = re.findall(r"interface=org.freedesktop.systemd1.Manager; member=(\w+)", seen)
    assert members == ["ResetFailedUnit", "StartTransientUnit", "SetUnitProperties"]
    start, update = (seen.partition(f"member={name} ")[2].partition("method call")[0] for name in members[1:3])
    assert start.startswith(
        'string "p-c1.scope" string "replace" array [ struct { string "Description" variant string '
    )
    for expected in (
        'struct { string "Slice" variant string "a-b.slice" }',
        'struct { string "Delegate" variant boolean true }',
        'struct { string "PIDs" variant array [ uint32 7 uint32 8 ] }',
        'struct { string "DefaultDependencies" variant boolean false }',
        'struct { string "MemoryMax" variant uint64 67108864 }',
        'struct { string "CPUQuotaPerSecUSec" variant uint64 250000 }',
        'struct { string "AllowedCPUs" variant array of bytes [ 07 01 ] }',
    ):
        assert expected in start
    assert start.endswith("] array [ ] ")
    assert update.startswith('string "p-c1.scope" boolean true array [ struct { string "MemoryLimit" variant uint64 ')
