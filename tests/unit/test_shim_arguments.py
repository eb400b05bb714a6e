"""The shim's command line, places and options: pure parts."""

from __future__ import annotations

import pytest

from oci_runtime.errors import InvalidInput
from oci_runtime.shim.arguments import Arguments, parse_arguments
from oci_runtime.shim.boot import options_path
from oci_runtime.shim.location import layout_for, socket_path
from oci_runtime.shim.pod_start import plan_cgroup


def test_what_containerd_says() -> None:
    argv = "-namespace default -address /run/c.sock -publish-binary /usr/bin/containerd -id s1 -debug start".split()
    assert parse_arguments(argv) == Arguments(
        action="start",
        namespace="default",
        address="/run/c.sock",
        publish_binary="/usr/bin/containerd",
        id="s1",
        debug=True,
    )


def test_what_crio_says() -> None:
    argv = ["-namespace", "default", "-address", "", "-publish-binary", "/bin/crio", "-id", "x", "start"]
    parsed = parse_arguments(argv)
    assert (parsed.address, parsed.action) == ("", "start")


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["-id=a", "start"], Arguments(id="a", action="start")),
        (["--id", "a", "--debug=false", "delete"], Arguments(id="a", action="delete")),
        (["-id", "-x", "start"], Arguments(id="-x", action="start")),
        (["-v"], Arguments(version=True)),
        (["--version"], Arguments(version=True)),
        (["-info"], Arguments(info=True)),
        (["-bundle", "/b", "--", "delete"], Arguments(bundle="/b", action="delete")),
        (["-socket", "/s", "-debug-socket", "/d"], Arguments()),
        ([], Arguments()),
    ],
)
def test_flags_as_go_reads_them(argv: list[str], expected: Arguments) -> None:
    assert parse_arguments(argv) == expected


@pytest.mark.parametrize("argv", [["-nonsense"], ["-id"], ["-debug=maybe", "start"], ["start", "delete"]])
def test_wrong_flags(argv: list[str]) -> None:
    with pytest.raises(InvalidInput):
        parse_arguments(argv)


def test_each_engine_and_namespace_has_a_place_of_its_own() -> None:
    roots = {
        layout_for(namespace, address).root
        for namespace in ("default", "k8s.io", "x" * 70)
        for address in ("", "/run/containerd/containerd.sock", "/tmp/other.sock")
    }
    assert len(roots) == 9
    assert layout_for("default", "/run/containerd/containerd.sock").root == "/run/containerd/vmpod/default"
    assert layout_for("default", "unix:///run/containerd/containerd.sock").root == "/run/containerd/vmpod/default"


def test_socket_paths_fit_whatever_the_namespace_is() -> None:
    for namespace in ("a", "n" * 255):
        assert len(socket_path(layout_for(namespace, "/run/x.sock"), "s" * 255)) <= 107


@pytest.mark.parametrize("namespace", ["", "../x", "a/b", "."])
def test_namespaces_that_are_paths(namespace: str) -> None:
    with pytest.raises(InvalidInput):
        layout_for(namespace, "")


def encode(number: int, value: bytes) -> bytes:
    """A length-delimited field."""
    return bytes([number << 3 | 2, len(value)]) + value


@pytest.mark.parametrize(
    "url", ["runtimeoptions.v1.Options", "types.containerd.io/runtimeoptions.v1.Options", "/runtimeoptions.v1.Options"]
)
def test_options_name_a_configuration_file(url: str) -> None:
    options = encode(1, b"io.vmpod") + encode(2, b"/etc/x.toml") + encode(9, b"unknown")
    assert options_path(encode(1, url.encode()) + encode(2, options)) == "/etc/x.toml"


def test_foreign_or_absent_options_have_no_effect() -> None:
    assert options_path(b"") == ""
    assert options_path(encode(1, b"containerd.runc.v1.Options") + encode(2, encode(6, b"/usr/bin/crun"))) == ""


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\x05ab", encode(1, b"runtimeoptions.v1.Options") + encode(2, b"\xff")])
def test_broken_options(data: bytes) -> None:
    with pytest.raises(InvalidInput):
        options_path(data)


def test_systemd_paths_without_systemd_become_plain_ones() -> None:
    group = plan_cgroup("kubepods-pod1.slice:cri-containerd:abc", "abc", holds_machine=True).group
    ends = {leaf.directory.removeprefix(leaf.hierarchy.mount) for leaf in group.leaves}
    assert ends == {"/kubepods.slice/kubepods-pod1.slice/cri-containerd-abc.scope"}
