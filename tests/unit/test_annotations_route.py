"""Routing: what every engine's annotations lead to, and what contradicts itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oci_runtime.annotations.keys import (
    CRI_SANDBOX_ID,
    CRI_TYPE,
    CRI_UNTRUSTED,
    CRIO_HOST_NETWORK,
    CRIO_SANDBOX_ID,
    CRIO_TRUSTED,
    CRIO_TYPE,
    DOCKERSHIM_SANDBOX_ID,
    DOCKERSHIM_TYPE,
)
from oci_runtime.annotations.route import Policy, Route, find_host_namespaces, host_refusal, identify, route
from oci_runtime.bundle.decode import decode_spec
from oci_runtime.bundle.model import Spec
from oci_runtime.errors import InvalidInput, Unsupported

CONFIGS = Path(__file__).parent.parent / "data" / "configs"
ALL = ("pid", "network", "ipc", "uts", "mount")
CRUN = "/usr/bin/crun"
UNTRUSTED_ONLY = Policy(vm="untrusted", namespace_runtime=CRUN)


def golden(name: str) -> Spec:
    return decode_spec(json.loads((CONFIGS / f"{name}.json").read_text()), name)


def spec(annotations: dict[str, str] | None = None, namespaces: tuple[str, ...] = ALL) -> Spec:
    raw = {
        "ociVersion": "1.0.2",
        "root": {"path": "rootfs"},
        "annotations": annotations or {},
        "linux": {"namespaces": [{"type": name} for name in namespaces]},
    }
    return decode_spec(raw, "config.json")


@pytest.mark.parametrize(
    ("name", "kind", "sandbox"),
    [
        ("cri-config-sandbox", "sandbox", "me"),
        ("cri-config-container", "member", "1882d3518da04587fe886e301907e22f3f4263d028c2f76d2c08aad86a7ef0d4"),
        (
            "cri-config-container-privileged",
            "member",
            "67dd759c1c929b4bc8ff2c25bae560db93df733d87246aa48d44a87e3899d36b",
        ),
        ("cri-o-config-sandbox", "sandbox", "me"),
        ("cri-o-config-sandbox-privileged", "sandbox", "me"),
        ("cri-o-config-container", "member", "6cf8a4925c1ffda0c168e9bde1f908c41152ff7bd7eddf126bc13a45e71db490"),
        ("cri-o-config-container-tty", "member", "c8327c73b0ffd103c71a6b908a741b6f7baed6babd8025a16fc82f9f55e1ca73"),
        (
            "cri-o-config-container-shared-pid",
            "member",
            "e836d5a9666dc9fbad82a4190bc90dc4dde99a03139578d68f067f9c6186899d",
        ),
        ("podman-config-pod-infra", "single", "me"),
        ("podman-config-pod-member", "member", "82eca22c94174209db5f419be6fa85ff8376e1a89efa1c5071bc776a4d1fa1a9"),
        ("podman-config-run", "single", "me"),
        ("docker-config-bridge", "single", "me"),
        ("docker-config-nonet", "single", "me"),
        ("ctr-config-run", "single", "me"),
    ],
)
def test_routes_of_what_engines_write(name: str, kind: str, sandbox: str) -> None:
    found = route(golden(name), "me", Policy())
    assert (found.kind, found.sandbox_id, found.delegated) == (kind, sandbox, False)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("cri-o-config-sandbox-hostnetwork", "network"),
        ("cri-o-config-container-hostnetwork", "network"),
        ("docker-config-privileged", "pid"),
    ],
)
def test_host_namespaces_are_refused_by_default(name: str, word: str) -> None:
    with pytest.raises(Unsupported) as caught:
        route(golden(name), "me", Policy())
    assert caught.value.message == (
        f"container me asks for the host's {word} namespace, which a virtual machine cannot share: "
        f'give it one of its own, or set host_{word} = "namespace" in [runtime] of the configuration'
    )


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({}, ("single", "me")),
        ({"other": "x"}, ("single", "me")),
        ({CRI_TYPE: "sandbox"}, ("sandbox", "me")),
        ({CRIO_TYPE: "sandbox", CRIO_SANDBOX_ID: "other"}, ("sandbox", "me")),
        ({DOCKERSHIM_TYPE: "podsandbox"}, ("sandbox", "me")),
        ({CRI_TYPE: "container", CRI_SANDBOX_ID: "pod"}, ("member", "pod")),
        ({CRIO_TYPE: "container", CRIO_SANDBOX_ID: "pod"}, ("member", "pod")),
        ({DOCKERSHIM_TYPE: "container", DOCKERSHIM_SANDBOX_ID: "pod"}, ("member", "pod")),
        (
            {CRI_TYPE: "container", CRIO_TYPE: "container", CRIO_SANDBOX_ID: "pod", CRI_SANDBOX_ID: "pod"},
            ("member", "pod"),
        ),
        ({CRI_TYPE: "sandbox", DOCKERSHIM_TYPE: "podsandbox"}, ("sandbox", "me")),
        ({CRIO_TYPE: "container", CRIO_SANDBOX_ID: "", CRI_SANDBOX_ID: "pod"}, ("member", "pod")),
        ({CRIO_SANDBOX_ID: "pod"}, ("single", "me")),
    ],
)
def test_kinds(annotations: dict[str, str], expected: tuple[str, str]) -> None:
    assert identify(annotations, "me") == expected


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        ({CRI_TYPE: "pod"}, f'annotation {CRI_TYPE} is "pod": it must be "sandbox" or "container"'),
        ({CRIO_TYPE: ""}, f'annotation {CRIO_TYPE} is "": it must be "sandbox" or "container"'),
        ({CRIO_TYPE: "Sandbox"}, f'annotation {CRIO_TYPE} is "Sandbox": it must be "sandbox" or "container"'),
        (
            {DOCKERSHIM_TYPE: "sandbox"},
            f'annotation {DOCKERSHIM_TYPE} is "sandbox": it must be "podsandbox" or "container"',
        ),
        (
            {CRI_TYPE: "sandbox", CRIO_TYPE: "container", CRIO_SANDBOX_ID: "pod"},
            f'annotations {CRI_TYPE} = "sandbox" and {CRIO_TYPE} = "container" contradict each other',
        ),
        (
            {CRIO_TYPE: "container", CRIO_SANDBOX_ID: "a", CRI_SANDBOX_ID: "b"},
            f'annotations {CRI_SANDBOX_ID} = "b" and {CRIO_SANDBOX_ID} = "a" contradict each other',
        ),
        (
            {CRIO_TYPE: "container"},
            f'annotation {CRIO_TYPE} is "container", but no annotation names the sandbox: '
            f"one of {CRI_SANDBOX_ID}, {CRIO_SANDBOX_ID}, {DOCKERSHIM_SANDBOX_ID} must be set",
        ),
        (
            {CRI_TYPE: "container", CRI_SANDBOX_ID: "../../etc"},
            f"invalid sandbox id in annotation {CRI_SANDBOX_ID} '../../etc': it must be 1 to 255 letters, digits, "
            "'_', '.', '+' or '-', the first one a letter or digit",
        ),
        ({CRI_TYPE: "x\ny\x1b" + "z" * 200}, f'annotation {CRI_TYPE} is "x\\ny\\x1bzzz'),
    ],
)
def test_contradictions_name_key_and_value(annotations: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        route(spec(annotations), "me", Policy())
    assert caught.value.message.startswith(message)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 300


def test_policy_untrusted_hands_trusted_pods_to_the_namespace_runtime() -> None:
    assert route(spec(), "me", UNTRUSTED_ONLY).runtime == CRUN
    assert route(spec({CRIO_TYPE: "sandbox", CRIO_TRUSTED: "true"}), "me", UNTRUSTED_ONLY).runtime == CRUN
    assert route(spec({CRI_TYPE: "sandbox", CRI_UNTRUSTED: "1"}), "me", UNTRUSTED_ONLY).runtime == CRUN
    assert route(spec(namespaces=("mount",)), "me", UNTRUSTED_ONLY).runtime == CRUN


@pytest.mark.parametrize("annotations", [{CRI_UNTRUSTED: "true"}, {CRIO_TRUSTED: "false"}])
def test_untrusted_pods_get_a_machine_under_both_policies(annotations: dict[str, str]) -> None:
    for policy in (Policy(), UNTRUSTED_ONLY):
        found = route(spec({CRI_TYPE: "sandbox", **annotations}), "me", policy)
        assert found == Route(kind="sandbox", sandbox_id="me", untrusted=True, reason="it is the sandbox of a pod")


@pytest.mark.parametrize("missing", ["network", "pid", "ipc"])
def test_untrusted_pods_never_share_with_the_host(missing: str) -> None:
    namespaces = tuple(name for name in ALL if name != missing)
    for policy in (Policy(), UNTRUSTED_ONLY, Policy(host_network="namespace", host_pid="vm", host_ipc="vm")):
        with pytest.raises(
            InvalidInput, match=f"container me is marked untrusted, yet asks for the host's {missing} name"
        ):
            route(spec({CRI_UNTRUSTED: "true"}, namespaces), "me", policy)


def test_the_mark_of_trust_must_be_a_truth_value() -> None:
    with pytest.raises(InvalidInput, match=f'annotation {CRIO_TRUSTED} is "no": it must be "true" or "false"'):
        route(spec({CRIO_TRUSTED: "no"}), "me", Policy())


def test_members_follow_their_sandbox() -> None:
    member = spec({CRI_TYPE: "container", CRI_SANDBOX_ID: "pod"})
    assert route(member, "me", UNTRUSTED_ONLY, sandbox_runtime="").runtime == ""
    assert route(member, "me", Policy(), sandbox_runtime="/usr/sbin/runc").runtime == "/usr/sbin/runc"
    assert route(member, "me", UNTRUSTED_ONLY, sandbox_runtime=None).runtime == CRUN
    assert route(member, "me", Policy(), sandbox_runtime=None).runtime == ""


def test_what_is_known_of_a_sandbox_says_nothing_about_others() -> None:
    assert route(spec({CRI_TYPE: "sandbox"}), "me", Policy(), sandbox_runtime=CRUN).runtime == ""


def test_a_member_of_a_machine_is_never_delegated_for_its_namespaces() -> None:
    member = spec({CRI_TYPE: "container", CRI_SANDBOX_ID: "pod"}, ("pid", "ipc", "uts", "mount"))
    with pytest.raises(Unsupported, match="host's network namespace"):
        route(member, "me", Policy(host_network="namespace"), sandbox_runtime="")


def test_host_namespaces_by_policy() -> None:
    host_network = spec(namespaces=("pid", "ipc", "uts", "mount"))
    assert route(host_network, "me", Policy(host_network="namespace")).runtime == CRUN
    host_pid = spec(namespaces=("network", "ipc", "uts", "mount"))
    assert route(host_pid, "me", Policy(host_pid="namespace")).runtime == CRUN
    assert route(host_pid, "me", Policy(host_pid="vm")).runtime == ""
    with pytest.raises(Unsupported, match="host's pid namespace"):
        route(host_pid, "me", Policy(host_network="namespace", host_ipc="vm"))
    both = spec(namespaces=("ipc", "uts", "mount"))
    assert route(both, "me", Policy(host_network="namespace", host_pid="refuse")).runtime == CRUN
    with pytest.raises(Unsupported, match="host's network namespace"):
        route(both, "me", Policy(host_pid="vm"))


def test_interfaces_of_the_host_are_refused_unless_the_namespace_runtime_takes_them() -> None:
    raw = {"ociVersion": "1.3.0", "root": {"path": "/r"}, "linux": {"netDevices": {"eth7": {"name": "lan"}}}}
    namespaces = [{"type": name} for name in ALL]
    moved = decode_spec({**raw, "linux": {**raw["linux"], "namespaces": namespaces}}, "x")  # type: ignore[dict-item]
    with pytest.raises(Unsupported, match=r'interface "eth7" \(linux\.netDevices\)'):
        route(moved, "me", Policy())
    assert route(moved, "me", UNTRUSTED_ONLY).delegated


def test_delegation_needs_a_runtime() -> None:
    with pytest.raises(InvalidInput, match=r"none is configured: set namespace_runtime in \[runtime\]"):
        route(spec(namespaces=()), "me", Policy(host_network="namespace", namespace_runtime=""))


def test_host_namespaces_of_a_spec() -> None:
    assert find_host_namespaces(spec()) == ()
    assert find_host_namespaces(spec(namespaces=("mount",))) == ("network", "pid", "ipc")
    assert find_host_namespaces(spec({CRIO_HOST_NETWORK: "true"})) == ("network",)
    assert find_host_namespaces(spec({CRIO_HOST_NETWORK: "true"}, ("mount", "pid"))) == ("network", "ipc")
    assert find_host_namespaces(golden("cri-o-config-sandbox")) == ()


def test_one_text_for_both_ways_to_find_the_host_network() -> None:
    with pytest.raises(Unsupported) as caught:
        route(spec(namespaces=("pid", "ipc")), "me", Policy())
    assert caught.value.message == host_refusal("me", "network")
