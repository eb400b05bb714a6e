"""What an engine's user asks for that a runtime may be unable to give: it works, or one line says why not."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from conformance.case import Case
from conformance.registry import Suite
from conformance.runtime import Outcome

Run = Callable[..., Outcome]

# Flags of `run` that ask for something of the host, the words that a refusal has to contain, and what they are about.
_HOST_REQUESTS = {
    "host-network": (("--network=host",), "host.*network", "--network host"),
    "host-ipc": (("--network=none", "--ipc=host"), "host.*ipc", "--ipc host"),
    "host-pid": (("--network=none", "--pid=host"), "host.*pid", "--pid host"),
    "host-cgroup": (("--network=none", "--cgroupns=host"), "host.*cgroup", "--cgroupns host"),
    "host-uts": (("--network=none", "--uts=host"), "host.*uts", "--uts host"),
}
# A device of the host's own processor, in every ordinary kernel.
_HOST_DEVICE = "/dev/cpu_dma_latency"


def add_refusals(suite: Suite, clause: str, run: Run) -> None:
    """Add the checks that are the same for all engines. run(case, *command, flags=...) is `run --rm` of an image."""
    for name, (flags, words, title) in _HOST_REQUESTS.items():
        check = partial(_request, run, flags, words)
        suite.add(name, clause, f"{title} works, or one line says why not", check)
    suite.add("device", clause, "--device of a device that is the same everywhere works", partial(_device, run))
    title = "--device of a device that only the host has works, or one line says why not"
    suite.add("device-host", clause, title, partial(_host_device, run))


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


def _host_device(run: Run, case: Case) -> None:
    number = os.stat(_HOST_DEVICE).st_rdev
    flags = ("--network=none", "--device", f"{_HOST_DEVICE}:/dev/given")
    done = run(case, "stat", "-c", "%t:%T", "/dev/given", flags=flags)
    _expect_or_refusal(case, done, f"{os.major(number):x}:{os.minor(number):x}\n", "device")


def _expect_or_refusal(case: Case, done: Outcome, output: str, words: str) -> None:
    if done.ok:
        case.equal(done.out, output, "output")
    else:
        expect_one_line(case, done, words)
