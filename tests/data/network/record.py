"""Record what a kernel says about a namespace with kinds of interfaces that not every machine has.

Run as root on a kernel with dummy, vlan, ipvlan and macvlan (a guest of ours is one); writes kinds.json beside itself,
or to the path given. The messages are kept as the kernel sent them, so that a test reads them with our own decoder.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from oci_runtime.netlink import requests  # noqa: E402
from oci_runtime.netlink.connection import Connection  # noqa: E402
from tests.network_lab import Netns  # noqa: E402

DUMPS = {
    "links": (requests.RTM_GETLINK, requests.DUMP_LINKS),
    "addresses": (requests.RTM_GETADDR, requests.DUMP_ADDRESSES),
    "routes": (requests.RTM_GETROUTE, requests.DUMP_ROUTES),
    "rules": (requests.RTM_GETRULE, requests.DUMP_RULES),
    "neighbours": (requests.RTM_GETNEIGH, requests.DUMP_NEIGHBOURS),
    "proxies": (requests.RTM_GETNEIGH, requests.DUMP_PROXY_NEIGHBOURS),
}


def dump() -> dict[str, list[str]]:
    """All dumps of the calling thread's namespace, in hexadecimal."""
    with Connection() as connection:
        return {name: [body.hex() for body in connection.dump(*request)] for name, request in DUMPS.items()}


def main(target: Path) -> None:
    """Build the namespaces, record them, write the file."""
    with Netns() as parent, Netns() as pod, Netns() as odd:
        parent.run("ip link add base type dummy")
        parent.run("ip link set base address 02:00:00:00:10:00 up")
        parent.run(f"ip link add link base name eth0 netns {pod.path} type ipvlan mode l2")
        parent.run(f"ip link add link base name ipv1 netns {pod.path} type ipvlan mode l2")
        parent.run(f"ip link add link base name vlan7 netns {pod.path} type vlan id 7")
        parent.run("ip link add base2 type dummy")  # one parent has either ipvlan or macvlan devices
        parent.run("ip link set base2 up")
        parent.run(f"ip link add link base2 name mac1 netns {pod.path} type macvlan mode bridge")
        pod.run("ip link set mac1 address 02:00:00:00:10:03")
        pod.run("ip link set vlan7 mtu 1400")
        for name, address in (("eth0", "10.1.0.2"), ("ipv1", "10.2.0.2"), ("vlan7", "10.3.0.2"), ("mac1", "10.4.0.2")):
            pod.run(f"ip link set {name} up")
            pod.run(f"ip addr add {address}/24 brd + dev {name}")
        pod.run("ip addr add fd00:1::2/64 dev eth0 nodad")
        pod.run("ip link set lo up")
        pod.run("ip route add default via 10.1.0.1")
        pod.run("ip -6 route add default via fd00:1::1")
        pod.run("ip rule add from 10.4.0.2 lookup 100 prio 500")
        pod.run("ip route add default via 10.4.0.1 dev mac1 table 100")
        odd.run("ip link add dum0 type dummy")
        odd.run("ip link set dum0 up")
        recorded = {"kernel": Path("/proc/sys/kernel/osrelease").read_text().strip()}
        target.write_text(json.dumps(recorded | {"pod": pod.call(dump), "odd": odd.call(dump)}, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("kinds.json"))
