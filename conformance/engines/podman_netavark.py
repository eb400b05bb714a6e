"""podman with netavark's networks instead of CNI's: addresses, names, published ports."""

from __future__ import annotations

from conformance.case import Case
from conformance.engines.box import SERVE, wait_fetch
from conformance.engines.daemons import podman_netavark
from conformance.engines.image import NAME
from conformance.engines.podman_box import PODMAN, Box, suite


@suite.check("netavark", PODMAN, "netavark: two containers find each other by name; a published port answers")
def netavark(case: Case) -> None:
    client = case.shared(podman_netavark)
    client.must("network", "create", "--subnet", "10.77.98.0/24", "pair")
    case.defer(lambda: client.run("network", "rm", "--force", "pair"))
    flags = ("--network", "pair", "--publish", "127.0.0.1:18082:80")
    server = Box(case.session, "sh", "-c", SERVE, flags=flags, engine=podman_netavark)
    case.defer(server.remove)
    address = server.inspect("{{.NetworkSettings.Networks.pair.IPAddress}}")
    case.equal(wait_fetch(case, f"http://{address}/"), "page\n", "page at the container's address")
    case.equal(wait_fetch(case, "http://127.0.0.1:18082/"), "page\n", "page at the published port")
    case.session.count_create(False)
    script = f"for i in $(seq 20); do wget -q -O - http://{server.name}/ && exit; sleep 0.5; done"
    done = client.run("run", "--rm", "--network", "pair", NAME, "sh", "-c", script, deadline_s=120)
    case.equal(done.out, "page\n", f"page at the other container's name ({done.err})")
