"""What an engine's user asks for that a runtime may be unable to give: it works, or one line says why not."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial

from conformance.case import Case
from conformance.registry import Suite
from conformance.runtime import Outcome

Run = Callable[..., Outcome]

# Flags of podman's and Docker's `run` that ask for namespaces of the host.
_HOST_REQUESTS = {
    "network": ("--network=host",),
    "ipc": ("--network=none", "--ipc=host"),
    "pid": ("--network=none", "--pid=host"),
    "cgroup": ("--network=none", "--cgroupns=host"),
    "uts": ("--network=none", "--uts=host"),
}
# A device of the host's own processor, in every ordinary kernel.
HOST_DEVICE = "/dev/cpu_dma_latency"


def add_refusals(suite: Suite, clause: str, run: Run) -> None:
    """Add the checks of engines with podman's flags. run(case, *command, flags=...) is `run --rm` of an image."""
    add_host_requests(suite, clause, run, _HOST_REQUESTS)
    suite.add("device", clause, "--device of a device that is the same everywhere works", partial(_device, run))
    add_host_device(suite, clause, run, "--network=none")


def add_host_requests(suite: Suite, clause: str, run: Run, requests: Mapping[str, tuple[str, ...]]) -> None:
    """Add a check for each kind of namespace; `requests` has the flags that ask for the host's."""
    for kind, flags in requests.items():
        title = f"{' '.join(flags)}: the host's {kind} namespace, or one line says why not"
        suite.add(f"host-{kind}", clause, title, partial(_request, run, flags, f"host.*{kind}"))


def add_host_device(suite: Suite, clause: str, run: Run, *flags: str) -> None:
    """Add a check for a device that a machine does not have."""
    title = "--device of a device that only the host has works, or one line says why not"
    suite.add("device-host", clause, title, partial(_host_device, run, flags))


def expect_one_line(case: Case, done: Outcome, words: str) -> None:
    """Fail unless the command failed with one line that matches `words`, besides a pointer to the command's help."""
    case.refused(done, words)
    lines = [line for line in done.err.splitlines() if line.strip() and not line.startswith(("See ", "Run '"))]
    case.equal(len(lines), 1, f"lines of the refusal {done.err!r}")


def _request(run: Run, flags: tuple[str, ...], words: str, case: Case) -> None:
    _expect_or_refusal(case, run(case, "echo", "fine", flags=flags), "fine\n", words)


def _device(run: Run, case: Case) -> None:
    flags = ("--network=none", "--device", "/dev/zero:/dev/source")
    done = run(case, "sh", "-c", "head -c 4 /dev/source | wc -c", flags=flags)
    case.equal(done.out.strip(), "4", f"bytes from the device ({done.err})")


def _host_device(run: Run, flags: tuple[str, ...], case: Case) -> None:
    number = os.stat(HOST_DEVICE).st_rdev
    done = run(case, "stat", "-c", "%t:%T", HOST_DEVICE, flags=(*flags, "--device", HOST_DEVICE))
    _expect_or_refusal(case, done, f"{os.major(number):x}:{os.minor(number):x}\n", "device")


def _expect_or_refusal(case: Case, done: Outcome, output: str, words: str) -> None:
    if done.ok:
        case.equal(done.out, output, "output")
    else:
        expect_one_line(case, done, words)
