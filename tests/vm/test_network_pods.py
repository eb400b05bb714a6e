"""Two pods on a bridge that CNI made, and all that such pods have to do with their network."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.engine import wait_until
from tests.network_lab import Netns, join_namespaces
from tests.network_site import BURST_BITS, RATE_BPS, Site, two_pods

pytestmark = pytest.mark.vm

MIB = 1 << 20
LISTENS = "until netstat -ltn | grep -q ':{} '; do sleep 0.05; done"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with two_pods(tmp_path_factory.mktemp("network")) as made:
        yield made


def curl(netns: Netns, url: str, *, check: bool = True) -> str:
    return netns.start(["curl", "-sS", "-m", "30", "-g", url], check=check)


# What the guest looks like


@pytest.mark.parametrize("pod", ["a", "b"])
def test_the_guest_has_exactly_the_interfaces_of_the_namespace(site: Site, pod: str) -> None:
    netns = site.a if pod == "a" else site.b
    shown = site.interfaces(pod)
    expected = {link["ifname"]: link for link in netns.json("ip -j addr") if link["ifname"] not in ("lo",)}
    expected = {name: link for name, link in expected.items() if not name.startswith("vmtap")}
    assert set(shown) == set(expected) >= {"eth0"}
    for name, link in expected.items():
        assert (shown[name]["mac"], shown[name]["mtu"], shown[name]["up"]) == (link["address"], link["mtu"], True)
        wanted = [(entry["local"], entry["prefixlen"], entry["scope"]) for entry in link["addr_info"]]
        found = [(entry["address"], entry["prefix_length"], entry["scope"]) for entry in shown[name]["addresses"]]
        assert sorted(found) == sorted(wanted)


@pytest.mark.parametrize("pod", ["a", "b"])
def test_the_guest_has_exactly_the_routes_of_the_namespace(site: Site, pod: str) -> None:
    netns = site.a if pod == "a" else site.b
    expected = set()
    for command in ("ip -j route show table all", "ip -j -6 route show table all"):
        for route in netns.json(command):
            if route.get("table") != "local" and not route.get("dev", "").startswith("vmtap"):
                key = (route["dst"], route.get("gateway", ""), route["dev"], route.get("protocol", "boot"))
                expected.add((*key, str(route.get("table", "254")), route.get("metric", 0)))
    found = {
        (
            route["destination"],
            route.get("gateway", ""),
            route["device"],
            route["protocol"],
            str(route["table"]),
            route.get("metric", 0),
        )
        for route in site.routes(pod)
    }

    def plain(routes: set[Any]) -> set[Any]:
        return {(route[0].removesuffix("/32").removesuffix("/128"), *route[1:]) for route in routes}

    assert plain(found) == plain(expected)
    assert len(found) > 4


def test_policy_rules_and_settings_are_carried(site: Site) -> None:
    assert "from 10.98.0.5 lookup" in site.guest("b", "ip rule")
    assert site.guest("a", "cat /proc/sys/net/core/somaxconn").strip() == "777"
    assert site.guest("a", "cat /proc/sys/net/ipv4/conf/eth0/arp_announce").strip() == "2"


def test_no_address_waits_for_duplicate_detection(site: Site) -> None:
    assert "tentative" not in site.guest("a", "ip addr")
    assert site.guest("a", "cat /proc/sys/net/ipv6/conf/eth0/accept_ra").strip() == "0"


# Traffic


@pytest.mark.parametrize("address", ["10.88.0.3", "fd88::3"])
def test_pods_reach_each_other(site: Site, address: str) -> None:
    assert "3 packets received" in site.guest("a", f"ping -c 3 -i 0.2 {address}")
    assert site.guest("a", f"wget -qO- http://{f'[{address}]' if ':' in address else address}/") == "b\n"


@pytest.mark.parametrize("address", ["10.88.0.2", "fd88::2"])
def test_the_host_reaches_a_pod_and_back(site: Site, address: str) -> None:
    assert "2 packets received" in site.host.run(f"busybox ping -c 2 -i 0.2 {address}")
    assert curl(site.host, f"http://{f'[{address}]' if ':' in address else address}/") == "a\n"
    gateway = "fd88::1" if ":" in address else "10.88.0.1"
    assert "2 packets received" in site.guest("a", f"ping -c 2 -i 0.2 {gateway}")


def test_http_through_portmap(site: Site) -> None:
    assert curl(site.outside, "http://192.0.2.1:8080/") == "a\n"
    assert curl(site.host, "http://10.88.0.1:8080/") == "a\n"


def test_the_outside_by_masquerading(site: Site) -> None:
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.client_address[0])
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = site.outside.call(lambda: http.server.HTTPServer(("192.0.2.2", 8000), Handler))
    with server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        site.guest("a", "wget -qO- http://192.0.2.2:8000/")
        thread.join()
    assert seen == ["192.0.2.1"]


def test_udp_both_ways(site: Site) -> None:
    client = site.host.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    with client:
        client.settimeout(60)
        for size in (1, 100, 1372, 1373, 9000):
            message = os.urandom(size)
            client.sendto(message, ("10.88.0.2", 5353))
            assert client.recvfrom(65536) == (message, ("10.88.0.2", 5353))


def test_the_second_interface_answers_by_its_own_way(site: Site) -> None:
    assert "2 packets received" in site.host.run("busybox ping -c 2 -i 0.2 10.98.0.5")
    assert curl(site.host, "http://10.98.0.5/") == "b\n"


def test_the_bandwidth_that_cni_grants(site: Site) -> None:
    """As of annotations kubernetes.io/ingress-bandwidth and egress-bandwidth; too fast is all that can be wrong."""
    kinds = [entry["kind"] for entry in site.host.json("tc -j qdisc")]
    assert kinds.count("tbf") == 2  # on the host's end of the pair, and on the ifb device for the way out
    data = bytes(4 * MIB)
    at_least_s = (len(data) * 8 - BURST_BITS) / RATE_BPS * 0.9
    site.guest("b", f"dd if=/dev/zero of=/tmp/www/large bs=1M count={len(data) // MIB} 2>&1")
    begin = time.monotonic()
    assert len(curl(site.host, "http://10.98.0.5/large")) == len(data)
    assert time.monotonic() - begin > at_least_s
    site.guest("b", f"nc -l -p 9005 -e wc -c & {LISTENS.format(9005)}")
    with site.host.call(lambda: socket.create_connection(("10.98.0.5", 9005), timeout=60)) as client:
        begin = time.monotonic()
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100, socket.MSG_WAITALL) == f"{len(data)}\n".encode()
        assert time.monotonic() - begin > at_least_s


def test_the_macvlan_interface(site: Site) -> None:
    assert "2 packets received" in site.outside.run("busybox ping -c 2 -i 0.2 10.99.0.5")
    assert curl(site.outside, "http://10.99.0.5/") == "b\n"


@pytest.mark.parametrize(("address", "fits", "too_large"), [("10.88.0.1", 1372, 1373), ("10.98.0.1", 8972, 8973)])
def test_mtu(site: Site, address: str, fits: int, too_large: int) -> None:
    """The guest cuts packets at the interface's MTU: one that fits arrives whole, a larger one in two."""
    pod = "a" if address == "10.88.0.1" else "b"
    for size, pieces in ((fits, 1), (too_large, 2)):
        before = counters(site.host)
        # The second interface's networks are known to the rule for its own address only.
        source = {"a": "10.88.0.2", "b": "10.98.0.5"}[pod]
        assert "1 packets received" in site.guest(pod, f"ping -c 1 -s {size} -I {source} {address}")
        assert counters(site.host)["ReasmReqds"] - before["ReasmReqds"] == (0 if pieces == 1 else pieces)


def counters(netns: Netns) -> dict[str, int]:
    """The IPv4 counters of a namespace."""
    names, values = [
        line.split()[1:] for line in netns.run("cat /proc/net/snmp").splitlines() if line.startswith("Ip:")
    ]
    return dict(zip(names, map(int, values), strict=True))


@pytest.mark.parametrize(("address", "times"), [("10.88.0.2", 50), ("fd88::2", 2)])
def test_much_data_out_of_the_pod_arrives_whole(site: Site, address: str, times: int) -> None:
    with site.host.call(lambda: socket.create_connection((address, 9001), timeout=60)) as client:
        client.sendall(f"{times}\n".encode())
        found = hashlib.sha256()
        left = times * 4 * MIB + found.digest_size
        while left > found.digest_size:
            data = client.recv(min(MIB, left - found.digest_size))
            assert data, f"{left} bytes are missing"
            found.update(data)
            left -= len(data)
        assert client.recv(100, socket.MSG_WAITALL) == found.digest()


@pytest.mark.parametrize(("address", "times"), [("10.88.0.2", 200), ("fd88::2", 10)])
def test_much_data_into_the_pod_arrives_whole(site: Site, address: str, times: int) -> None:
    block = os.urandom(MIB)
    with site.host.call(lambda: socket.create_connection((address, 9002), timeout=60)) as client:
        for _ in range(times):
            client.sendall(block)
        client.shutdown(socket.SHUT_WR)
        assert client.recv(100, socket.MSG_WAITALL) == hashlib.sha256(block * times).digest()


# localhost


@pytest.mark.parametrize("url", ["http://127.0.0.1:8081/", "http://[::1]:8082/", "http://localhost:80/"])
def test_port_forward_to_the_guests_localhost(site: Site, url: str) -> None:
    assert curl(site.a, url) == "a\n"


def test_a_port_without_a_server(site: Site) -> None:
    with pytest.raises(AssertionError, match="exit (7|56)"):  # curl may notice before or after it has sent its request
        curl(site.a, "http://127.0.0.1:9/")


def test_two_hundred_forwarded_connections_at_once(site: Site) -> None:
    clients = [site.a.call(lambda: socket.create_connection(("127.0.0.1", 9003), timeout=60)) for _ in range(200)]
    pieces = [f"{number} ".encode() * 500 for number in range(200)]
    for client, piece in zip(clients, pieces, strict=True):
        client.sendall(piece)
        client.shutdown(socket.SHUT_WR)
    for client, piece in zip(clients, pieces, strict=True):
        received = b""
        while data := client.recv(65536):
            received += data
        assert received == piece
        client.close()


def test_forwarded_data_arrives_whole(site: Site) -> None:
    site.guest("a", f"nc -l -p 9004 -w 60 < /dev/null > /tmp/in & {LISTENS.format(9004)}")
    data = os.urandom(4 * MIB)
    with site.a.call(lambda: socket.create_connection(("127.0.0.1", 9004), timeout=60)) as client:
        client.sendall(data)
    wait_until(lambda: site.guest("a", "stat -c %s /tmp/in").strip() == str(4 * MIB), "all bytes", 60)
    assert site.guest("a", "sha256sum /tmp/in; rm /tmp/in").split()[0] == hashlib.sha256(data).hexdigest()


# Changes while the pod runs


def test_an_interface_comes_changes_and_goes(site: Site) -> None:
    join_namespaces(site.a, "live0", site.host, "live0")
    site.a.run("ip addr add 10.77.0.2/24 dev live0")
    site.host.run("ip addr add 10.77.0.1/24 dev live0")
    wait_until(lambda: "live0" in site.interfaces("a"), "the interface")
    wait_until(lambda: site.interfaces("a")["live0"]["addresses"][:1], "its address")
    assert "2 packets received" in site.host.run("busybox ping -c 2 -i 0.2 10.77.0.2")

    site.a.run("ip link set live0 mtu 1300")
    wait_until(lambda: site.interfaces("a")["live0"]["mtu"] == 1300, "its MTU")
    site.a.run("ip addr add 10.77.0.9/24 dev live0")
    wait_until(lambda: "10.77.0.9" in str(site.interfaces("a")["live0"]), "another address")
    assert "2 packets received" in site.host.run("busybox ping -c 2 -i 0.2 10.77.0.9")
    site.a.run("ip addr del 10.77.0.9/24 dev live0")
    wait_until(lambda: "10.77.0.9" not in str(site.interfaces("a")["live0"]), "the address gone")
    site.a.run("ip route add 10.78.0.0/16 via 10.77.0.1")
    wait_until(lambda: "10.78.0.0/16" in str(site.routes("a")), "a route")
    site.a.run("ip route del 10.78.0.0/16")
    wait_until(lambda: "10.78.0.0/16" not in str(site.routes("a")), "the route gone")
    site.a.run("ip neigh add 10.77.0.33 lladdr 02:00:00:00:00:33 dev live0")
    wait_until(lambda: "02:00:00:00:00:33" in site.guest("a", "ip neigh"), "a static neighbour")

    site.a.run("ip link set live0 down")
    site.a.run("ip link set live0 name other0")
    site.a.run("ip link set other0 up")
    wait_until(lambda: site.interfaces("a").get("other0", {}).get("up"), "the new name")
    assert "live0" not in site.interfaces("a")
    site.a.run("ip link del other0")
    wait_until(lambda: "other0" not in site.interfaces("a"), "the interface gone")
    wait_until(lambda: "vmtap" not in site.a.run("ip link").replace("vmtap2:", ""), "its tap gone")
    assert "1 packets received" in site.guest("a", "ping -c 1 10.88.0.1")


def test_what_a_container_did_to_its_network_survives_updates(site: Site) -> None:
    site.guest("b", "ip route add 10.66.0.0/16 via 10.88.0.1; ip addr add 10.65.0.1/32 dev lo")
    site.b.run("ip route add 10.67.0.0/16 via 10.88.0.1")
    wait_until(lambda: "10.67.0.0/16" in str(site.routes("b")), "the host's route")
    assert "10.66.0.0/16" in str(site.routes("b")) and "10.65.0.1" in site.guest("b", "ip addr show lo")
    site.b.run("ip route del 10.67.0.0/16")
    wait_until(lambda: "10.67.0.0/16" not in str(site.routes("b")), "the host's route gone")
    assert "10.66.0.0/16" in str(site.routes("b"))
    site.guest("b", "ip route del 10.66.0.0/16; ip addr del 10.65.0.1/32 dev lo")


def test_an_interface_of_no_use_to_a_machine_is_left_out(site: Site) -> None:
    site.a.run("ip link add odd0 type vxlan id 7 dstport 4789 local 10.88.0.2 remote 10.88.0.3")
    site.a.run("ip link set odd0 up")
    site.a.run("ip route add 10.68.0.0/16 via 10.88.0.1")
    wait_until(lambda: "10.68.0.0/16" in str(site.routes("a")), "what came after it")
    assert "odd0" not in site.interfaces("a")
    site.a.run("ip link del odd0")
    site.a.run("ip route del 10.68.0.0/16")


def test_by_hand(site: Site) -> None:
    def network(*words: str, value: Any = None, check: bool = True) -> Any:
        result = site.engine.call("network", *words, stdin=json.dumps(value), check=check)
        return json.loads(result.out) if result.code == 0 else result.err

    join_namespaces(site.a, "hand0", site.host, "hand0")
    site.host.run("ip addr add 10.76.0.1/24 dev hand0")
    wait_until(lambda: "hand0" in site.interfaces("a"), "the interface")
    wish = {"device": "hand0", "name": "data", "mtu": 1444, "addresses": [{"address": "10.76.0.2/24"}]}
    shown = {entry["name"]: entry for entry in network("add-iface", "a", value=wish)}
    assert "hand0" not in shown and shown["data"]["mtu"] == 1444
    assert "2 packets received" in site.host.run("busybox ping -c 2 -i 0.2 10.76.0.2")

    routes = network("list-routes", "a")
    added = {"destination": "10.75.0.0/16", "gateway": "10.76.0.1", "device": "data"}
    shown_routes = network("update-routes", "a", value=[*routes, added])
    assert "10.75.0.0/16" in [route["destination"] for route in shown_routes]
    assert len(shown_routes) == len(routes) + 1
    assert "10.75.0.0/16" not in str(network("update-routes", "a", value=routes))

    assert "data" not in [entry["name"] for entry in network("del-iface", "a", "data")]
    site.a.run("ip link set hand0 mtu 1333")
    site.a.run("ip route add 10.74.0.0/16 via 10.88.0.1")
    wait_until(lambda: "10.74.0.0/16" in str(site.routes("a")), "a later change of the namespace")
    assert "hand0" not in site.interfaces("a")
    assert "hand0" in [entry["name"] for entry in network("add-iface", "a", value={"device": "hand0"})]
    refused = network("add-iface", "a", value={"device": "hand0", "name": "eth0"}, check=False)
    assert "interface eth0 exists already, hand0 cannot have its name" in refused
    site.a.run("ip route del 10.74.0.0/16")
    site.a.run("ip link del hand0")
    wait_until(lambda: "hand0" not in site.interfaces("a"), "the interface gone")

    assert "interface none0 does not exist" in network("add-iface", "a", value={"device": "none0"}, check=False)
    assert "'none0' does not exist in the guest" in network("del-iface", "a", "none0", check=False)
    assert "unknown field 'colour'" in network("add-iface", "a", value={"colour": 1}, check=False)
    assert "the pod has no interface 'x'" in network("update-routes", "a", value=[{"device": "x"}], check=False)
    assert "not JSON" in site.engine.call("network", "update-routes", "a", stdin="[", check=False).err


# Firewall


def test_a_sidecar_takes_the_apps_traffic(site: Site) -> None:
    """As a mesh does it: one container redirects what comes in and what goes out to a proxy of its own."""
    proxy = "while :; do nc -l -p 15006 -e sh -c 'echo proxied by sidecar; wget -qO- http://127.0.0.1:80/'; done"
    site.engine.add_container("b", "proxy", ["sh", "-c", proxy])
    rules = (
        "iptables -t nat -A PREROUTING -i eth0 -p tcp --dport 7000 -j REDIRECT --to-ports 15006 && "
        "iptables -t nat -A OUTPUT -p tcp -d 192.0.2.77 -m owner ! --uid-owner 1337 -j REDIRECT --to-ports 15006 && "
        "ip6tables -t nat -A PREROUTING -p tcp --dport 7000 -j REDIRECT --to-ports 15006 && echo done"
    )
    site.engine.add_container("b", "init", ["sh", "-c", rules], tools=True)
    assert site.engine.exit_code("init") == 0, site.engine.log("init")
    assert site.engine.log("init").endswith("done\n")

    def through(netns: Netns, address: tuple[str, int]) -> str:
        with netns.call(lambda: socket.create_connection(address, timeout=60)) as client:
            received = b""
            while data := client.recv(4096):
                received += data
            return received.decode()

    def listens() -> bool:
        return ":15006 " in site.guest("b", "netstat -ltn")

    wait_until(listens, "the proxy listens")
    assert through(site.host, ("10.88.0.3", 7000)) == "proxied by sidecar\nb\n"
    wait_until(listens, "the proxy listens again")
    assert site.guest("b", "nc 192.0.2.77 5555 < /dev/null") == "proxied by sidecar\nb\n"

    saved = site.engine.call("iptables", "get", "b").out
    assert "--dport 7000 -j REDIRECT --to-ports 15006" in saved and "--uid-owner 1337" in saved
    assert "--dport 7000" in site.engine.call("iptables", "get", "b", "--v6").out
    site.engine.call("iptables", "set", "b", stdin=saved.replace("--dport 7000", "--dport 7001"))
    changed = site.engine.call("iptables", "get", "b").out
    assert "--dport 7001" in changed and "--dport 7000" not in changed
    wait_until(listens, "the proxy listens again")
    assert through(site.host, ("10.88.0.3", 7001)) == "proxied by sidecar\nb\n"

    refused = site.engine.call("iptables", "set", "b", stdin="*nat\n-A NOWHERE -j NOTHING\nCOMMIT\n", check=False)
    assert refused.code != 0 and "iptables" in refused.err
    assert rules_of(site.engine.call("iptables", "get", "b").out) == rules_of(changed)
    for name in ("proxy", "init"):
        site.engine.call("delete", "--force", name)


def rules_of(saved: str) -> list[str]:
    """Without the times and the counters."""
    return [line.partition(" [")[0] for line in saved.splitlines() if not line.startswith("#")]
