"""Volumes that the kubelet hands over as devices (`volumeDevices`): whole disks, not file systems."""

from __future__ import annotations

import subprocess
from pathlib import Path

from conformance.case import Case
from conformance.cri.lab import container_of, lab_of
from conformance.cri.proto import runtime_pb2 as cri
from conformance.registry import Suite

suite = Suite("cri-volumes", "cri")
CLAUSE = "Kubernetes CRI v1, ContainerConfig"
_SIZE_BYTES = 8 << 20


def _disk(case: Case) -> tuple[str, Path]:
    """A loop device and the file behind it; detached behind the check."""
    image = case.scratch / "disk"
    image.write_bytes(b"from the host".ljust(_SIZE_BYTES, b"\0"))
    command = ["losetup", "--find", "--show", str(image)]
    path = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    case.defer(lambda: subprocess.run(["losetup", "--detach", path], check=True))
    return path, image


@suite.check("block", CLAUSE, "two containers share a block volume: one may write to it, one may only read it")
def block(case: Case) -> None:
    path, image = _disk(case)
    written = cri.Device(container_path="/dev/xvda", host_path=path, permissions="mrw")
    read = cri.Device(container_path="/dev/disk", host_path=path, permissions="r")
    pod, writer = container_of(case, devices=[written])
    _, reader = container_of(case, devices=[read])
    case.contains(pod.out(writer, "stat", "-c", "%F", "/dev/xvda"), "block special file", "what is there")
    case.equal(pod.out(writer, "head", "-c", "13", "/dev/xvda"), "from the host", "what the host has written")
    pod.out(writer, "sh", "-c", "echo back | dd of=/dev/xvda bs=512 seek=4 conv=notrunc,fsync 2>/dev/null")
    case.equal(pod.out(reader, "sh", "-c", "dd if=/dev/disk bs=512 skip=4 count=1 2>/dev/null | head -n 1"), "back\n",
               "what the other container has written")  # fmt: skip
    refused = lab_of(case).client.exec(reader, "sh", "-c", "echo x | dd of=/dev/disk conv=notrunc")
    case.expect(refused.exit_code != 0, "the container that may only read wrote")
    case.contains(refused.stderr.decode(), "Operation not permitted", "why")
    case.equal(image.read_bytes()[2048:2053], b"back\n", "the bytes on the host")
