"""Per-pod settings: what annotations may change, and the refusals that say how to allow it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oci_runtime.annotations.settings import ALIASES, find_requests
from oci_runtime.config.load import ADMIN_FILE, build, load_files, origin
from oci_runtime.config.model import Config
from oci_runtime.config.override import apply_annotations
from oci_runtime.config.settings import BY_NAME
from oci_runtime.errors import InvalidInput

OWN = "io.vmpod.config."
THEIRS = "io.katacontainers.config."


def allowing(*patterns: str, **runtime: Any) -> Config:
    config = build({}, {})
    return config.replace(runtime=config.runtime.replace(enable_annotations=patterns, **runtime))


def test_without_annotations_nothing_changes() -> None:
    config = allowing()
    assert apply_annotations(config, {"io.kubernetes.cri.container-type": "sandbox"}) == (config, ())


def test_both_names_of_a_setting() -> None:
    for key in (OWN + "vm.default_vcpus", THEIRS + "hypervisor.default_vcpus"):
        config, warnings = apply_annotations(allowing(r"vm\.default_.*"), {key: "3"})
        assert config.vm.default_vcpus == 3
        assert origin(config, "vm.default_vcpus") == f"annotation {key}"
        assert warnings == ()


def test_ours_wins_over_the_reference_s() -> None:
    annotations = {OWN + "vm.machine": "pc", THEIRS + "hypervisor.machine_type": "q35"}
    assert apply_annotations(allowing("vm.machine"), annotations)[0].vm.machine == "pc"


def test_aliases_lead_to_settings_that_pods_may_have() -> None:
    assert {name for name in ALIASES.values() if name not in BY_NAME} == set()
    assert {name for name in ALIASES.values() if not BY_NAME[name].pod} == {"storage.virtio_fs_extra_args"}


def test_kinds_of_values() -> None:
    config, _ = apply_annotations(
        allowing(".*"),
        {
            OWN + "vm.debug": "true",
            THEIRS + "hypervisor.use_vsock": "false",
            THEIRS + "agent.kernel_modules": "e1000e EEE=1; i915 ;",
            OWN + "vm.max_memory_mib": "4096",
        },
    )
    assert config.vm.debug is True
    assert config.vm.transport == "serial"
    assert config.agent.kernel_modules == ("e1000e EEE=1", "i915")
    assert config.vm.max_memory_mib == 4096
    assert apply_annotations(allowing(".*"), {OWN + "agent.kernel_modules": '["a;b"]'})[0].agent.kernel_modules == (
        "a;b",
    )


def test_lists_of_the_administrator_are_extended_not_replaced() -> None:
    base = allowing(".*")
    base = base.replace(vm=base.vm.replace(kernel_parameters="lockdown=integrity"))
    base = base.replace(agent=base.agent.replace(kernel_modules=("a",)))
    config, _ = apply_annotations(base, {OWN + "vm.kernel_parameters": "quiet", OWN + "agent.kernel_modules": "a;b"})
    assert config.vm.kernel_parameters == "lockdown=integrity quiet"
    assert config.agent.kernel_modules == ("a", "b")


def test_what_the_reference_has_and_we_have_not_is_a_warning() -> None:
    config, warnings = apply_annotations(allowing(), {THEIRS + "hypervisor.enable_iommu": "true"})
    assert config == allowing()
    assert warnings == (f"annotation {THEIRS}hypervisor.enable_iommu has no equivalent in vmpod and no effect",)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            OWN + "vm.default_vcpus",
            "2",
            f'annotation {OWN}vm.default_vcpus = "2" is not allowed: add "vm.default_vcpus" to enable_annotations in '
            f"[runtime] of {ADMIN_FILE}",
        ),
        (
            THEIRS + "hypervisor.default_memory",
            "9",
            f'annotation {THEIRS}hypervisor.default_memory = "9" is not allowed: add "vm.default_memory_mib" to '
            f"enable_annotations in [runtime] of {ADMIN_FILE}",
        ),
        (
            OWN + "vm.default_vcpu",
            "2",
            f'annotation {OWN}vm.default_vcpu = "2": there is no setting vm.default_vcpu, did you mean '
            "vm.default_vcpus?",
        ),
        (
            OWN + "runtime.enable_annotations",
            '[".*"]',
            f'annotation {OWN}runtime.enable_annotations = "[".*"]": runtime.enable_annotations cannot be set by a '
            "pod, only in the configuration",
        ),
        (
            THEIRS + "hypervisor.virtio_fs_extra_args",
            "[]",
            f'annotation {THEIRS}hypervisor.virtio_fs_extra_args = "[]": storage.virtio_fs_extra_args cannot be set',
        ),
    ],
)
def test_refusals(key: str, value: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        apply_annotations(allowing("vm.machine", r"default_vcpus", r"vm\.default"), {key: value})
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("vm.default_vcpus", "many", "must be a whole number, not 'many'"),
        ("vm.default_vcpus", "²", "must be a whole number"),
        ("vm.default_vcpus", "9" * 5000, "must be a whole number"),
        ("vm.default_vcpus", "-1", "must be from 1 to 255, not -1"),
        ("vm.debug", "yes", "must be true or false, not 'yes'"),
        ("vm.machine", "none", "must be one of q35, pc, not 'none'"),
        ("image.name", "../../etc", "must be a name without slashes and without a dot at its start"),
        ("image.name", "..", "must be a name without slashes"),
        ("image.name", "", "must be a name without slashes"),
        ("vm.kernel_parameters", "a\nb", "must be free of control characters"),
        ("agent.kernel_modules", "[1]", "must be a list of strings that are not empty, not 1"),
        ("agent.kernel_modules", "[", "must be a list of strings, not '['"),
    ],
)
def test_wrong_values_name_the_annotation(name: str, value: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        apply_annotations(allowing(".*"), {OWN + name: value})
    assert caught.value.message.startswith(f"annotation {OWN}{name} {message}")
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 250


@pytest.mark.parametrize("value", ["/usr/bin/qemu-system-x86_64", "/opt/qemu/bin/qemu-system-x86_64"])
def test_paths_that_match_a_glob(value: str) -> None:
    config = allowing("vm.qemu", valid_qemu_paths=("/usr/bin/qemu-system-*", "/opt/*/bin/qemu-system-x86_64"))
    assert apply_annotations(config, {OWN + "vm.qemu": value})[0].vm.qemu == value


@pytest.mark.parametrize(
    "value",
    [
        "/bin/sh",
        "/usr/bin/qemu-system-x/../sh",
        "/usr/bin/qemu-system-x/sh",
        "/opt/a/b/bin/qemu-system-x86_64",
        "qemu",
        "",
    ],
)
def test_paths_that_do_not(value: str) -> None:
    config = allowing("vm.qemu", valid_qemu_paths=("/usr/bin/qemu-system-*", "/opt/*/bin/qemu-system-x86_64"))
    with pytest.raises(InvalidInput, match=r"annotation io\.vmpod\.config\.vm\.qemu "):
        apply_annotations(config, {OWN + "vm.qemu": value})


def test_a_refused_path_names_the_line_to_change(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[runtime]\nenable_annotations = ['vm.qemu']\n")
    with pytest.raises(InvalidInput) as caught:
        apply_annotations(load_files([str(file)]), {OWN + "vm.qemu": "/bin/sh"})
    assert caught.value.message == (
        f'annotation {OWN}vm.qemu = "/bin/sh" is not an allowed path: add it to valid_qemu_paths in [runtime] of {file}'
    )


def test_a_pod_can_lower_a_bound_but_not_raise_it() -> None:
    config = allowing(".*")
    config = config.replace(vm=config.vm.replace(max_vcpus=4, max_memory_mib=2048))
    assert apply_annotations(config, {OWN + "vm.max_vcpus": "2"})[0].vm.max_vcpus == 2
    for name, value in (("max_vcpus", "5"), ("max_vcpus", "0"), ("max_memory_mib", "0"), ("max_memory_mib", "2049")):
        with pytest.raises(InvalidInput, match=f'annotation {OWN}vm.{name} = "{value}" is more than vm.{name} = '):
            apply_annotations(config, {OWN + f"vm.{name}": value})


def test_a_pod_cannot_ask_for_more_than_the_bound() -> None:
    config = allowing(".*")
    config = config.replace(vm=config.vm.replace(max_vcpus=4))
    with pytest.raises(InvalidInput, match=r"vm\.default_vcpus = 5 \(annotation .*\) is more than vm\.max_vcpus = 4"):
        apply_annotations(config, {OWN + "vm.default_vcpus": "5"})


def test_hostile_keys_stay_on_one_short_line() -> None:
    for prefix in (OWN, THEIRS):
        key = f"{prefix}vm.x\n{'y' * 100_000}\x1b"
        try:
            _, warnings = apply_annotations(allowing(".*"), {key: "z" * 100_000})
        except InvalidInput as error:
            warnings = (error.message,)
        assert len(warnings) == 1
        assert warnings[0].isprintable()
        assert len(warnings[0]) < 1200


def test_requests_are_found_in_order() -> None:
    requests, warnings = find_requests(
        {OWN + "b": "1", THEIRS + "hypervisor.path": "/q", THEIRS + "x": "", "other": ""}
    )
    assert [(request.key, request.name, request.value) for request in requests] == [
        (THEIRS + "hypervisor.path", "vm.qemu", "/q"),
        (OWN + "b", "b", "1"),
    ]
    assert len(warnings) == 1
