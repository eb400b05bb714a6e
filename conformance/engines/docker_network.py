"""Docker's networks: the default bridge, published ports, networks of one's own, live changes."""

from __future__ import annotations

from conformance import host, leftovers
from conformance.case import Case
from conformance.engines.box import SERVE, wait_fetch
from conformance.engines.daemons import docker
from conformance.engines.docker_box import DOCKER, Box, serving, suite
from conformance.engines.image import NAME
from conformance.runtime import Outcome
from conformance.session import Session


@suite.check("bridge", DOCKER, "default bridge: address, gateway, hosts file")
def bridge(case: Case) -> None:
    box = case.shared(serving)
    address = box.inspect("{{.NetworkSettings.IPAddress}}")
    case.contains(box.inside("ip -o -4 address show"), address, "addresses inside")
    case.contains(box.inside("cat /etc/hosts"), address, "/etc/hosts")
    gateway = box.inspect("{{.NetworkSettings.Gateway}}")
    case.contains(box.inside(f"ping -c 1 -W 5 {gateway}"), "1 packets received", "ping of the gateway")


@suite.check("publish", DOCKER, "a published port answers on the host")
def publish(case: Case) -> None:
    box = case.shared(serving)
    address = box.inspect("{{.NetworkSettings.IPAddress}}")
    case.equal(wait_fetch(case, f"http://{address}/"), "page\n", "page at the container's address")
    case.equal(wait_fetch(case, "http://127.0.0.1:18081/"), "page\n", "page at the published port")


def _fetch_in_network(case: Case, host_name: str) -> Outcome:
    """Fetch the page of the server in the user network from another container of that network."""
    case.session.count_create(False)
    script = f"for i in $(seq 10); do wget -q -O - http://{host_name}/ && break; sleep 0.5; done"
    client = case.shared(docker)
    return client.run("run", "--rm", "--network", "pair", NAME, "sh", "-c", script, deadline_s=120)


def paired(session: Session) -> Box:
    """A server with an alias in a network of its own."""
    client = session.shared(docker)
    client.must("network", "create", "--subnet", "10.88.96.0/24", "pair")
    session.defer(lambda: client.run("network", "rm", "pair"))
    server = Box(session, "sh", "-c", SERVE, flags=("--network", "pair", "--network-alias", "server"))
    session.defer(server.remove)
    return server


@suite.check("user-network", DOCKER, "a network of one's own: a pair of containers, one reaches the other")
def user_network(case: Case) -> None:
    address = case.shared(paired).inspect("{{.NetworkSettings.Networks.pair.IPAddress}}")
    done = _fetch_in_network(case, address)
    case.equal(done.out, "page\n", f"page at the address ({done.err})")


@suite.check("user-network-names", DOCKER, "in a network of one's own, containers find each other by name")
def user_network_names(case: Case) -> None:
    case.shared(paired)
    done = _fetch_in_network(case, "server")
    case.equal(done.out, "page\n", f"page at the name ({done.err})")


@suite.check("connect", DOCKER, "network connect and disconnect of a running container")
def connect(case: Case) -> None:
    box = case.shared(serving)
    box.client.must("network", "create", "--subnet", "10.88.95.0/24", "late")
    case.defer(lambda: box.client.run("network", "rm", "late"))
    box.client.must("network", "connect", "--ip", "10.88.95.7", "late", box.name)
    seen = host.poll_until(lambda: "10.88.95.7" in box.inside("ip -o -4 address"), case.runtime.deadline(15), 0.3)
    case.expect(seen, f"the address did not appear: {box.inside('ip -o address')}")
    case.equal(wait_fetch(case, "http://10.88.95.7/"), "page\n", "page at the new address")
    box.client.must("network", "disconnect", "late", box.name)
    gone = host.poll_until(lambda: "10.88.95.7" not in box.inside("ip -o -4 address"), case.runtime.deadline(15), 0.3)
    case.expect(gone, "the address stayed")


@suite.check(
    "shared-network", DOCKER, "--network container:OTHER works, or is refused in words that a user understands"
)
def shared_network(case: Case) -> None:
    box = case.shared(serving)
    script = "for i in $(seq 10); do wget -q -O - http://127.0.0.1/ && break; sleep 0.5; done"
    case.session.count_create(False)
    arguments = ("run", "--rm", "--network", f"container:{box.name}", NAME, "sh", "-c", script)
    done = box.client.run(*arguments, deadline_s=120)
    if done.ok:
        case.equal(done.out, "page\n", "page of the other container at localhost")
    else:
        case.matches(done.err, "network", "error")


@suite.check("clean", DOCKER, "after everything was removed, nothing is left")
def clean(case: Case) -> None:
    client = case.shared(docker)
    ids = client.must("ps", "--all", "--quiet").split()
    if ids:
        client.must("rm", "--force", *ids, deadline_s=120)

    def left() -> list[str]:
        names = leftovers.look(case.session)
        processes = [name for name in names.processes if "containerd-shim" in name or case.runtime.path in name]
        return [*processes, *(name for name in names.cgroups if f"/{case.session.tag}" in name)]

    case.expect(host.poll_until(lambda: not left(), case.runtime.deadline(15), 0.3), f"left: {left()}")
