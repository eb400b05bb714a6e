"""ctr, asked for what not every runtime can give."""

from __future__ import annotations

from conformance.engines.ctr import CTR, run_once, suite
from conformance.engines.refusals import add_host_device, add_host_requests

add_host_requests(
    suite,
    CTR,
    run_once,
    {"network": ("--net-host",)}
    | {kind: ("--with-ns", f"{kind}:/proc/self/ns/{kind}") for kind in ("ipc", "pid", "cgroup", "uts")},
)
add_host_device(suite, CTR, run_once)
