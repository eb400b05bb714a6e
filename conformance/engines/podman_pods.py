"""podman's networks, pods and `play kube`."""

from __future__ import annotations

import json
from functools import partial

from conformance import host, leftovers
from conformance.case import Case
from conformance.engines.box import SERVE, wait_fetch
from conformance.engines.daemons import Client, podman
from conformance.engines.image import NAME, write_image
from conformance.engines.podman_box import PODMAN, Box, suite
from conformance.session import Session


def serving(session: Session) -> Box:
    """A server in podman's own network, with a published port."""
    made = Box(session, "sh", "-c", SERVE, flags=("--publish", "127.0.0.1:18080:80"))
    session.defer(made.remove)
    return made


@suite.check("network", PODMAN, "bridge network: address, gateway, published port, stats of the interface")
def network(case: Case) -> None:
    box = case.shared(serving)
    address = box.inspect("{{.NetworkSettings.IPAddress}}")
    case.contains(box.inside("ip -o -4 address show"), address, "addresses inside")
    case.equal(wait_fetch(case, f"http://{address}/"), "page\n", "page at the container's address")
    case.equal(wait_fetch(case, "http://127.0.0.1:18080/"), "page\n", "page at the published port")
    gateway = box.inspect("{{.NetworkSettings.Gateway}}")
    case.contains(box.inside(f"ping -c 1 -W 5 {gateway}"), "1 packets received", "ping of the gateway")


@suite.check("connect", PODMAN, "network connect and disconnect of a running container")
def connect(case: Case) -> None:
    box = case.shared(serving)
    box.client.must("network", "create", "--disable-dns", "--subnet", "10.77.96.0/24", "late")
    case.defer(lambda: box.client.run("network", "rm", "late"))
    box.client.must("network", "connect", "--ip", "10.77.96.7", "late", box.name)

    def has_address() -> bool:
        return "10.77.96.7" in box.inside("ip -o -4 address")

    seen = host.poll_until(has_address, case.runtime.deadline(15), 0.3)
    case.expect(seen, f"the address did not appear: {box.inside('ip -o address')}")
    case.equal(wait_fetch(case, "http://10.77.96.7/"), "page\n", "page at the new address")
    box.client.must("network", "disconnect", "late", box.name)
    gone = host.poll_until(lambda: not has_address(), case.runtime.deadline(15), 0.3)
    case.expect(gone, "the address stayed")
    case.equal(wait_fetch(case, "http://127.0.0.1:18080/"), "page\n", "page at the published port")


@suite.check("network-two", PODMAN, "two containers in a network of their own reach each other")
def network_two(case: Case) -> None:
    client = case.shared(podman)
    client.must("network", "create", "--disable-dns", "--subnet", "10.77.95.0/24", "pair")
    case.defer(lambda: client.run("network", "rm", "--force", "pair"))
    server = Box(case.session, "sh", "-c", SERVE, flags=("--network", "pair", "--ip", "10.77.95.10"))
    case.defer(server.remove)
    case.session.count_create(False)
    script = "for i in $(seq 20); do wget -q -O - http://10.77.95.10/ && exit; sleep 0.5; done"
    done = client.run("run", "--rm", "--network", "pair", NAME, "sh", "-c", script, deadline_s=120)
    case.equal(done.out, "page\n", f"page of the other container ({done.err})")


@suite.check(
    "pod", PODMAN, "a pod with two containers: one boot id, network, hostname; a published port; stop and start"
)
def pod(case: Case) -> None:
    client = case.shared(podman)
    name = case.session.new_name("pod")
    flags = ("--infra-image", NAME, "--infra-command", "sleep 100000", "--publish", "127.0.0.1:18083:80")
    client.must("pod", "create", "--name", name, *flags)
    case.defer(lambda: client.run("pod", "rm", "--force", "--time", "0", name, deadline_s=120))
    case.session.count_create(False)
    first = Box(case.session, "sh", "-c", SERVE, flags=("--pod", name))
    second = Box(case.session, "sleep", "1000", flags=("--pod", name))
    _expect_one_pod(case, first, second, "http://127.0.0.1:18083/")
    case.contains(client.must("pod", "ps"), name, "podman pod ps")
    client.must("pod", "stop", "--time", "1", name, deadline_s=120)
    case.matches(client.must("pod", "ps", "--filter", f"name={name}"), "Exited", "podman pod ps")
    client.must("pod", "start", name, deadline_s=120)
    _expect_one_pod(case, first, second, "http://127.0.0.1:18083/")


def _expect_one_pod(case: Case, server: Box, other: Box, published: str) -> None:
    """Both share kernel, hostname and interfaces; the server's page is at localhost and at the published port."""
    script = "cat /proc/sys/kernel/random/boot_id; hostname; ip -o -4 address"
    case.equal(server.inside(script), other.inside(script), "boot id, hostname and addresses")
    page = other.inside("for i in $(seq 20); do wget -q -O - http://127.0.0.1/ && exit; sleep 0.3; done")
    case.equal(page, "page\n", "page of the other container at localhost")
    case.equal(wait_fetch(case, published), "page\n", "page at the published port")


@suite.check("kube", PODMAN, "play kube: a network, a hostPort, localhost; generate kube and back; play kube --down")
def kube(case: Case) -> None:
    client = case.shared(podman)
    directory = case.directory("kube")
    manifest, again = directory / "pod.yaml", directory / "again.yaml"
    container = {"image": NAME, "imagePullPolicy": "Never"}
    wait = "trap 'exit 0' TERM; sleep 1000 & wait"
    serve = f"echo page >/tmp/index.html; httpd -p 80 -h /tmp; {wait}"
    fetch = f"until wget -q -O - http://127.0.0.1/; do sleep 0.3; done; {wait}"
    ports = [{"containerPort": 80, "hostPort": 18084, "hostIP": "127.0.0.1"}]
    server = container | {"name": "server", "command": ["sh", "-c", serve], "ports": ports}
    reader = container | {"name": "reader", "command": ["sh", "-c", fetch]}
    kube_pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "kubed"}}
    manifest.write_text(json.dumps(kube_pod | {"spec": {"containers": [server, reader]}}))
    _load_pause(client)
    case.defer(lambda: client.run("pod", "rm", "--force", "--time", "0", "kubed", deadline_s=120))
    # `generate kube` writes names with the pod's in front of them, and `play kube` puts that there once more.
    for document, name in ((manifest, "kubed-reader"), (again, "kubed-kubed-reader")):
        client.must("play", "kube", "--network", "podman", str(document), deadline_s=180)
        case.equal(wait_fetch(case, "http://127.0.0.1:18084/"), "page\n", "page at the host's port")
        seen = host.poll_until(partial(_has_log, client, name, "page"), case.runtime.deadline(20), 0.2)
        case.expect(seen, "no page at localhost, in the other container")
        again.write_text(client.must("generate", "kube", "kubed"))
        case.contains(again.read_text(), "hostPort: 18084", "generate kube")
        client.must("play", "kube", "--down", str(document), deadline_s=120)
        case.expect("kubed" not in client.must("pod", "ps"), "the pod is still there")


def _has_log(client: Client, name: str, marker: str) -> bool:
    return marker in client.must("logs", name)


def _load_pause(client: Client) -> None:
    """Load an image under the name that this podman builds its infra image as, so that it need not build one."""
    version = json.loads(client.must("version", "--format", "json"))["Client"]
    archive = client.session.scratch / "pause.tar"
    name = f"localhost/podman-pause:{version['Version']}-{version.get('Built', 0)}"
    write_image(archive, name, ("sleep", "100000"))
    client.must("load", "--input", str(archive))


@suite.check("clean", PODMAN, "after everything was removed, nothing is left")
def clean(case: Case) -> None:
    client = case.shared(podman)
    client.run("pod", "rm", "--all", "--force", "--time", "0", deadline_s=120)
    client.must("rm", "--all", "--force", "--time", "0", deadline_s=120)
    left = [name for name in leftovers.look(case.session).processes if "conmon" in name or "conformance" in name]
    case.equal(left, [], "processes")
    root = case.runtime.root
    containers = [path.name for path in root.iterdir() if not path.name.startswith(".")] if root.exists() else []
    case.equal(containers, [], "containers in the runtime's root")
