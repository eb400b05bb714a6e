"""What podman says of a container's use: the figures have to contain what its processes really take."""

from __future__ import annotations

import json

from conformance import host
from conformance.case import Case
from conformance.engines.daemons import Client, podman
from conformance.engines.image import NAME
from conformance.engines.podman_box import PODMAN, Box, suite

MIB = 1 << 20
# Memory that is not given back, and a loop that does nothing but count.
BUSY = "head -c 64m /dev/zero >/dev/shm/full; echo full; while :; do :; done"


def _usage(client: Client, *arguments: str) -> tuple[int, float]:
    """Bytes of memory and percent of a processor of the containers that `stats` is asked about, summed up."""
    rows = json.loads(client.must("stats", "--no-stream", "--format", "json", *arguments))
    memory = sum(_bytes(row["mem_usage"].partition(" / ")[0]) for row in rows)
    return memory, sum(float(row["cpu_percent"].rstrip("%")) for row in rows)


def _bytes(text: str) -> int:
    units = {"B": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3}
    number = text.rstrip("kMGB")
    return int(float(number) * units[text[len(number) :]])


def _expect_busy(case: Case, client: Client, *arguments: str) -> None:
    memory, _ = _usage(client, *arguments)
    case.expect(memory >= 64 * MIB, f"memory {memory} bytes, but the container holds 64 MiB")
    seen = host.poll_until(lambda: _usage(client, *arguments)[1] > 10, case.runtime.deadline(20), 0.5)
    case.expect(seen, f"processor {_usage(client, *arguments)[1]} %, but the container does not rest")


@suite.check("stats-real", PODMAN, "stats shows the memory and the processor time that a container takes")
def stats_real(case: Case) -> None:
    box = Box(case.session, "sh", "-c", BUSY, flags=("--network", "none", "--shm-size", "80m"))
    case.defer(box.remove)
    case.contains(box.wait_log("full"), "full", "log")
    _expect_busy(case, box.client, box.name)


@suite.check("stats-pod", PODMAN, "stats of a pod's containers add up to what they take")
def stats_pod(case: Case) -> None:
    client = case.shared(podman)
    pod = case.session.new_name("pod")
    flags = ("--infra-image", NAME, "--infra-command", "sleep 100000", "--network", "none", "--shm-size", "80m")
    client.must("pod", "create", "--name", pod, *flags)
    case.defer(lambda: client.run("pod", "rm", "--force", "--time", "0", pod, deadline_s=120))
    case.session.count_create(False)
    box = Box(case.session, "sh", "-c", BUSY, flags=("--pod", pod))
    case.contains(box.wait_log("full"), "full", "log")
    infra = client.must("pod", "inspect", "--format", "{{.InfraContainerID}}", pod).strip()
    _expect_busy(case, client, infra, box.name)


@suite.check("oom", PODMAN, "a container that exceeds its memory ends with 137")
def oom(case: Case) -> None:
    box = Box(case.session, "tail", "/dev/zero", flags=("--network", "none", "--memory", "24m", "--memory-swap", "24m"))
    case.defer(box.remove)
    case.equal(box.client.must("wait", box.name, deadline_s=90).strip(), "137", "exit code")
