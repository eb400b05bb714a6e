"""The size of a virtual machine: defaults, limits of pods and containers, bounds, and values that are garbage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.annotations.keys import (
    CRI_CPU_PERIOD,
    CRI_CPU_QUOTA,
    CRI_CPU_SHARES,
    CRI_MEMORY,
    CRIO_OVERHEAD,
    CRIO_RESOURCES,
)
from oci_runtime.annotations.sizing import SizeLimits, plan_size
from oci_runtime.bundle.decode import decode_spec
from oci_runtime.bundle.model import Spec
from oci_runtime.errors import InvalidInput

CONFIGS = Path(__file__).parent.parent / "data" / "configs"
HOST = SizeLimits(host_cpus=16, host_memory_mib=64 << 10)
MIB = 1 << 20


def spec(annotations: dict[str, str] | None = None, **resources: Any) -> Spec:
    raw = {
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "annotations": annotations or {},
        "linux": {"resources": resources},
    }
    return decode_spec(raw, "config.json")


def size(annotations: dict[str, str] | None = None, limits: SizeLimits = HOST, **resources: Any) -> tuple[int, int]:
    planned = plan_size(spec(annotations, **resources), limits)
    return planned.vcpus, planned.memory_mib


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cri-config-sandbox", (3, 512 + 256)),
        ("cri-config-sandbox-seccomp", (1, 512)),
        ("cri-o-config-sandbox", (2, 512 + 128)),
        ("cri-o-config-sandbox-privileged", (1, 512)),
        ("cri-o-config-container", (2, 512 + 64)),
        ("docker-config-bridge", (1, 512)),
        ("ctr-config-run", (1, 512)),
        ("podman-config-run", (1, 512)),
    ],
)
def test_sizes_of_what_engines_write(name: str, expected: tuple[int, int]) -> None:
    planned = plan_size(decode_spec(json.loads((CONFIGS / f"{name}.json").read_text()), name), HOST)
    assert (planned.vcpus, planned.memory_mib) == expected


def test_limits_of_a_single_container() -> None:
    assert size() == (1, 512)
    assert size(memory={"limit": 100 * MIB}) == (1, 612)
    assert size(memory={"limit": 100 * MIB + 1}) == (1, 613)
    assert size(cpu={"quota": 200_000, "period": 100_000}) == (3, 512)
    assert size(cpu={"quota": 200_001, "period": 100_000}) == (4, 512)
    assert size(cpu={"quota": 1000, "period": 100_000}) == (2, 512)
    assert size(cpu={"quota": 250_000}) == (4, 512)
    assert size(cpu={"shares": 4096}) == (1, 512)


def test_no_limit_has_many_forms() -> None:
    assert size(memory={"limit": -1}, cpu={"quota": -1, "period": 100_000}) == (1, 512)
    assert size(memory={"limit": 0}, cpu={"quota": 0}) == (1, 512)
    assert size(memory={"limit": 0x7FFFFFFFFFFFF000}) == (1, 512)
    assert size({CRI_MEMORY: "0", CRI_CPU_QUOTA: "0", CRI_CPU_PERIOD: "0", CRI_CPU_SHARES: "2"}) == (1, 512)
    assert size({CRIO_RESOURCES: "null", CRIO_OVERHEAD: "null"}) == (1, 512)
    assert size({CRIO_RESOURCES: "", CRIO_OVERHEAD: "{}"}) == (1, 512)


def test_limits_of_a_pod_take_the_place_of_the_container_s_own() -> None:
    pod = {CRI_MEMORY: str(1024 * MIB), CRI_CPU_QUOTA: "150000", CRI_CPU_PERIOD: "100000", CRI_CPU_SHARES: "8192"}
    assert size(pod, memory={"limit": 5 * MIB}, cpu={"quota": 1_000_000}) == (3, 1536)
    crio = {
        CRIO_RESOURCES: json.dumps({"memory_limit_in_bytes": 1024 * MIB, "cpu_quota": 150000, "cpu_period": 100000})
    }
    assert size(crio, memory={"limit": 5 * MIB}) == (3, 1536)


def test_shares_of_a_pod_count_where_no_quota_does() -> None:
    assert size({CRI_CPU_SHARES: "1023"}) == (1, 512)
    assert size({CRI_CPU_SHARES: "4096"}) == (5, 512)
    assert size({CRIO_RESOURCES: '{"cpu_shares": 2048}'}) == (3, 512)


def test_an_overhead_replaces_the_defaults_where_it_is_larger() -> None:
    overhead = json.dumps({"memory_limit_in_bytes": 1000 * MIB, "cpu_quota": 200000, "cpu_period": 100000})
    assert size({CRIO_OVERHEAD: overhead}) == (2, 1000)
    small = json.dumps({"memory_limit_in_bytes": 16 * MIB, "cpu_shares": 10240})
    assert size({CRIO_OVERHEAD: small, CRIO_RESOURCES: json.dumps({"memory_limit_in_bytes": 5 * MIB})}) == (1, 517)


def test_bounds() -> None:
    big: dict[str, Any] = {"memory": {"limit": 1 << 50}, "cpu": {"quota": 10**12, "period": 1}}
    assert size(limits=HOST, **big) == (16, 64 << 10)
    assert size(limits=HOST.replace(max_vcpus=4, max_memory_mib=2048), **big) == (4, 2048)
    assert size(limits=HOST.replace(max_vcpus=64, max_memory_mib=1 << 20), **big) == (16, 64 << 10)
    assert size(limits=HOST.replace(default_vcpus=4, default_memory_mib=256)) == (4, 256)
    assert size(limits=HOST.replace(host_cpus=1, default_vcpus=4)) == (1, 512)


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ({CRI_MEMORY: "1G"}, f'annotation {CRI_MEMORY} is "1G": it must be a whole number'),
        ({CRI_MEMORY: ""}, f'annotation {CRI_MEMORY} is "": it must be a whole number'),
        ({CRI_CPU_QUOTA: "--5"}, f'annotation {CRI_CPU_QUOTA} is "--5": it must be a whole number'),
        ({CRI_CPU_SHARES: "²"}, f'annotation {CRI_CPU_SHARES} is "\\xb2": it must be a whole number'),
        ({CRI_CPU_SHARES: "9" * 5000}, f'annotation {CRI_CPU_SHARES} is "99999'),
        ({CRI_CPU_QUOTA: "5", CRI_CPU_PERIOD: "0"}, f'annotation {CRI_CPU_PERIOD} is "0": a CPU quota needs a period'),
        ({CRIO_RESOURCES: "[]"}, f'annotation {CRIO_RESOURCES} is "[]": it must be a JSON object or null'),
        ({CRIO_OVERHEAD: "{"}, f'annotation {CRIO_OVERHEAD} is "{{": it must be a JSON object or null'),
        ({CRIO_OVERHEAD: "[" * 100_000}, f'annotation {CRIO_OVERHEAD} is "[[[['),
        (
            {CRIO_RESOURCES: '{"cpu_quota": "5"}'},
            f'annotation {CRIO_RESOURCES} has cpu_quota = "5": it must be a whole',
        ),
        (
            {CRIO_RESOURCES: '{"cpu_quota": 1e400}'},
            f'annotation {CRIO_RESOURCES} has cpu_quota = "inf": it must be a whole',
        ),
        ({CRIO_RESOURCES: '{"cpu_quota": 5}'}, f"annotation {CRIO_RESOURCES} is "),
    ],
    ids=lambda value: str(value)[:50],
)
def test_garbage_names_key_and_value(annotations: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        size(annotations)
    assert caught.value.message.startswith(message)
    assert len(caught.value.message) < 300
