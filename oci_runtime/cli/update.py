"""`vmpod update`: change the limits of a container."""

from __future__ import annotations

from oci_runtime.cli import context as lookup
from oci_runtime.cli.options import Option, UsageError, parse_int
from oci_runtime.errors import Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Parsed

SUMMARY = "change the limits of a container"
USAGE = "[OPTIONS] ID"
_UNSUPPORTED = "accepted by runc; refused here: a virtual machine has no resctrl"
OPTIONS = (
    Option("resources r", "FILE", "JSON object as in config.json's linux.resources, - for standard input"),
    Option("memory", "BYTES", "memory limit"),
    Option("memory-reservation", "BYTES", "memory reservation"),
    Option("memory-swap", "BYTES", "limit of memory and swap together, -1 for none"),
    Option("kernel-memory", "BYTES", ""),
    Option("kernel-memory-tcp", "BYTES", ""),
    Option("cpu-period", "MICROSECONDS", "period of the quota"),
    Option("cpu-quota", "MICROSECONDS", "time in each period, -1 for no limit"),
    Option("cpu-share cpu-shares", "N", "weight against other containers of the pod"),
    Option("cpu-rt-period", "MICROSECONDS", "realtime period"),
    Option("cpu-rt-runtime", "MICROSECONDS", "realtime time in each period"),
    Option("cpu-idle", "0|1", "idle scheduling"),
    Option("cpuset-cpus", "LIST", "processors of the guest"),
    Option("cpuset-mems", "LIST", "memory nodes of the guest"),
    Option("pids-limit", "N", "number of processes"),
    Option("blkio-weight", "N", "block I/O weight, 10 to 1000, 0 to leave it"),
    Option("l3-cache-schema", "SCHEMA", _UNSUPPORTED),
    Option("mem-bw-schema", "SCHEMA", _UNSUPPORTED),
)
# Option to (section, key) of linux.resources; sizes take suffixes.
_NUMBERS = {
    "memory": ("memory", "limit"),
    "memory-reservation": ("memory", "reservation"),
    "memory-swap": ("memory", "swap"),
    "kernel-memory": ("memory", "kernel"),
    "kernel-memory-tcp": ("memory", "kernelTCP"),
    "cpu-period": ("cpu", "period"),
    "cpu-quota": ("cpu", "quota"),
    "cpu-share": ("cpu", "shares"),
    "cpu-rt-period": ("cpu", "realtimePeriod"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime"),
    "cpu-idle": ("cpu", "idle"),
    "pids-limit": ("pids", "limit"),
    "blkio-weight": ("blockIO", "weight"),
}
_LISTS = {"cpuset-cpus": ("cpu", "cpus"), "cpuset-mems": ("cpu", "mems")}
_SUFFIXES = {"k": 10, "m": 20, "g": 30, "t": 40}


def run(context: Context, parsed: Parsed) -> int:
    """Apply the new limits in the guest; what cannot be done there is said on standard error."""
    container_id = lookup.one_id(parsed)
    resources = read_resources(parsed)
    for warning in lookup.call(context, container_id, "update", resources=resources).get("warnings") or ():
        lookup.warn(str(warning))
    record = lookup.load(context, container_id)
    if record.cgroups and record.sandbox_id != record.id:
        from oci_runtime.cli.host_cgroup import mirror_limits

        mirror_limits(record.cgroups, resources)
    return 0


def read_resources(parsed: Parsed) -> dict[str, Any]:
    """Return the resources object: from --resources, which makes all other options ineffective, or from those."""
    for name in ("l3-cache-schema", "mem-bw-schema"):
        if parsed.get(name):
            raise Unsupported(f"--{name} cannot be applied: resctrl is the host's and does not reach into the guest")
    source = parsed.get("resources")
    if source:
        from oci_runtime.bundle.load import load_resources

        return load_resources("standard input", 0)[1] if source == "-" else load_resources(source)[1]
    resources: dict[str, Any] = {}
    for name, (section, key) in {**_NUMBERS, **_LISTS}.items():
        if parsed.given(name):
            text = parsed.get(name)
            value = parse_size(text, f"--{name}") if name in _NUMBERS else text
            _check(f"--{name} {text}", {section: {key: value}})
            resources.setdefault(section, {})[key] = value
    if not resources:
        raise UsageError("nothing to change: give --resources or one of the limits")
    return resources


def _check(given: str, resources: dict[str, Any]) -> None:
    """Raise InvalidInput that begins with what was given when the resources are out of their range."""
    from oci_runtime.bundle.decode import decode_resources

    decode_resources(resources, given)


def parse_size(text: str, what: str) -> int:
    """Return a number, which may end in k, m, g or t (with b behind it) for powers of 1024."""
    lower = text.lower()
    stem = lower.removesuffix("b")
    shift = _SUFFIXES.get(stem[-1:], 0)
    if not shift:
        return parse_int(text, what)
    return parse_int(stem[:-1], what) << shift
