"""The sandbox process: `python -I -m oci_runtime.sandbox --boot-fd N --lock-fd N --listen-fd N`.

Spawned by `create`, it owns the pod until its end. QEMU and virtiofsd are started before anything heavy is imported.
boot-fd: a JSON document (BootRequest). lock-fd: the sandbox's flock, kept for life. listen-fd: the control socket.
Other pairs of arguments are for readers of `ps`. SIGTERM is blocked at first: the event loop ends the pod in order.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from oci_runtime.errors import HostError, OciRuntimeError
from oci_runtime.log import Sink, configure, get_logger
from oci_runtime.sandbox.launch import BootRequest, Launched, launch
from oci_runtime.state.endings import leave_reason
from oci_runtime.state.layout import SANDBOX_LOG

_MAX_BOOT_BYTES = 16 << 20


def main() -> int:
    """Boot the pod and serve it; return the process's exit code."""
    began_ns = time.monotonic_ns()
    fds = _parse(sys.argv[1:])
    _ignore_signals()
    _raise_descriptor_limit()
    request = BootRequest.parse(_read_all(fds["boot"]))
    configure(Sink(os.path.join(request.directory, SANDBOX_LOG), json_lines=True, level=request.config.log.level))
    log = get_logger(__name__)
    try:
        launched = launch(request, began_ns)
    except OciRuntimeError as error:
        log.error("cannot launch the virtual machine", reason=error.message, detail=error.detail)
        leave_reason(request.directory, error)
        return 1
    return _run(launched, fds["listen"])


def _run(launched: Launched, listen_fd: int) -> int:
    begin_ns = time.monotonic_ns()
    import asyncio

    from oci_runtime.sandbox.daemon import run_sandbox

    launched.timeline.add("sandbox process imports", begin_ns)
    return asyncio.run(run_sandbox(launched, listen_fd))


def _parse(arguments: list[str]) -> dict[str, int]:
    names = ("boot", "lock", "listen")
    values = dict(zip(arguments[::2], arguments[1::2], strict=False))
    try:
        return {name: int(values[f"--{name}-fd"]) for name in names}
    except (KeyError, ValueError):
        sys.exit("usage: python -m oci_runtime.sandbox --boot-fd N --lock-fd N --listen-fd N (started by vmpod create)")


def _ignore_signals() -> None:
    """The pod ends by request or with its containers, not because a terminal or a session went away."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)


def _raise_descriptor_limit() -> None:
    """Every exec and attached stream holds a descriptor: take as many as the host allows."""
    import resource

    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _read_all(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        data = file.read(_MAX_BOOT_BYTES + 1)
    if len(data) > _MAX_BOOT_BYTES:
        raise HostError("read", "boot request", 0, hint=f"larger than {_MAX_BOOT_BYTES} bytes")
    return data


if __name__ == "__main__":
    sys.exit(main())
