"""Resolve `auto`: which accelerator and which transport this host can give.

/dev/kvm may exist and open, yet run no stock guest (a host whose own hypervisor offers a paravirtual KVM only):
hardware virtualisation therefore also needs the CPU's vmx or svm flag.
"""

from __future__ import annotations

import os
import stat

from oci_runtime.errors import InvalidInput, Unsupported
from oci_runtime.record import Record


class HostFacts(Record):
    """What the decision rests on. kvm_problem: why KVM cannot be used, empty if it can. kvm_gid: the group that QEMU's
    uid needs to open /dev/kvm, None if it needs none. vhost_vsock: whether /dev/vhost-vsock can be opened by us."""

    kvm_problem: str
    kvm_gid: int | None
    vhost_vsock: bool


class Choice(Record):
    """value: the accelerator. warning: one line for the user, empty if there is nothing to say."""

    value: str
    warning: str = ""


def read_host_facts(
    kvm: str = "/dev/kvm", cpuinfo: str = "/proc/cpuinfo", vsock: str = "/dev/vhost-vsock"
) -> HostFacts:
    """Look at the host; never fails. The paths are parameters for tests."""
    problem, gid = _kvm_problem(kvm, cpuinfo)
    return HostFacts(kvm_problem=problem, kvm_gid=gid, vhost_vsock=os.access(vsock, os.R_OK | os.W_OK))


def read_tsc_khz(cpuinfo: str = "/proc/cpuinfo") -> int:
    """The rate of this host's time stamp counter, 0 when it is unknown; never fails.

    With a constant TSC the kernel computes its loops per jiffy, and thereby bogomips, from the TSC's rate.
    """
    try:
        with open(cpuinfo, encoding="ascii", errors="replace") as file:
            text = file.read(16 << 10).split("\n\n")[0]
    except OSError:
        return 0
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}
    if "constant_tsc" not in fields.get("flags", "").split():
        return 0
    try:
        return round(float(fields.get("bogomips", "0")) * 500)
    except ValueError:
        return 0


def choose_accel(wanted: str, facts: HostFacts) -> Choice:
    """Turn `auto|kvm|tcg` into kvm or tcg. Raises: Unsupported (kvm asked for, but not to be had), InvalidInput."""
    if wanted not in ("auto", "kvm", "tcg"):
        raise InvalidInput(f"accel = {wanted!r}: not one of auto, kvm, tcg")
    if wanted == "tcg":
        return Choice(value="tcg")
    if not facts.kvm_problem:
        return Choice(value="kvm")
    if wanted == "kvm":
        raise Unsupported(f"accel = 'kvm': {facts.kvm_problem}")
    return Choice(
        value="tcg", warning=f"no hardware virtualisation, machines are emulated and slow: {facts.kvm_problem}"
    )


def choose_transport(wanted: str, facts: HostFacts) -> str:
    """Turn `auto|serial|vsock` into serial or vsock. Raises: Unsupported, InvalidInput."""
    if wanted not in ("auto", "serial", "vsock"):
        raise InvalidInput(f"transport = {wanted!r}: not one of auto, serial, vsock")
    if wanted == "vsock" and not facts.vhost_vsock:
        raise Unsupported("transport = 'vsock': /dev/vhost-vsock cannot be opened (modprobe vhost_vsock)")
    if wanted == "auto":
        return "vsock" if facts.vhost_vsock else "serial"
    return wanted


def _kvm_problem(kvm: str, cpuinfo: str) -> tuple[str, int | None]:
    try:
        device = os.stat(kvm)
        os.close(os.open(kvm, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{kvm}: {error.strerror} (modprobe kvm_intel or kvm_amd)", None
    if not _has_virtualisation_flag(cpuinfo):
        return "the CPU has neither vmx nor svm (enable nested virtualisation if this host is a virtual machine)", None
    mode = stat.S_IMODE(device.st_mode)
    if mode & 0o006 == 0o006:
        return "", None
    if mode & 0o060 == 0o060 and device.st_gid != 0:
        return "", device.st_gid
    return f"{kvm} has mode {mode:04o}, QEMU's own uid cannot open it (chgrp kvm {kvm}; chmod 660 {kvm})", None


def _has_virtualisation_flag(cpuinfo: str) -> bool:
    try:
        with open(cpuinfo, encoding="ascii", errors="replace") as lines:
            for line in lines:
                if line.startswith("flags"):
                    return not {"vmx", "svm"}.isdisjoint(line.split())
    except OSError:
        return False
    return False
