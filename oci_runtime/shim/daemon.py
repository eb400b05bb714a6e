"""The process that stays behind: leaves the engine's surroundings, starts the virtual machine, then loads the rest.

Under containerd the options are known now, so QEMU boots while asyncio and protobuf are imported and before the engine
has sent Create. CRI-O sends them with Create: there the machine starts in it.
"""

from __future__ import annotations

import os
import signal
import sys
import time

from oci_runtime.errors import OciRuntimeError
from oci_runtime.log import configure, get_logger
from oci_runtime.shim.boot import options_path
from oci_runtime.shim.logfifo import FifoSink
from oci_runtime.shim.pod_start import start_pod
from oci_runtime.state.layout import SANDBOX_LOG

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.shim.bootstrap import Handover
    from oci_runtime.shim.pod_start import StartedPod

log = get_logger(__name__)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def serve_pod(handover: Handover) -> int:
    """Serve the pod to its end; return the exit code of the process."""
    began_ns = time.monotonic_ns()
    _leave(handover)
    arguments = handover.arguments
    sink = FifoSink(
        os.path.join(handover.bundle, "log"),
        level="debug" if arguments.debug else "info",
        fields={"id": handover.sandbox_id, "namespace": arguments.namespace, "runtime": "io.containerd.vmpod.v2"},
    )
    configure(sink)
    log.info("starting", pid=os.getpid())
    started: StartedPod | None = None
    failure: OciRuntimeError | None = None
    if arguments.address:
        try:
            started = start_pod(handover, options_path(handover.options), began_ns)
        except OciRuntimeError as error:
            log.error("cannot launch the virtual machine", reason=error.message, detail=error.detail)
            failure = error
    imports_ns = time.monotonic_ns()
    import asyncio

    from oci_runtime.shim.serving import serve

    if started is not None:
        started.launched.timeline.add("shim imports", imports_ns)
    return asyncio.run(serve(handover, started, failure))


def _leave(handover: Handover) -> None:
    """Session, directory, descriptors, signals, umask and OOM score of the engine are not ours."""
    os.setsid()
    os.chdir("/")
    os.umask(0o022)
    _replace_descriptors(handover)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    os.environ.setdefault("PATH", _PATH)
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write("0")
    except OSError:
        log.debug("keeps the engine's OOM score")


def _replace_descriptors(handover: Handover) -> None:
    """Standard input from nowhere, output and errors to a file of ours; all others but our own are closed."""
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    path = os.path.join(handover.directory, SANDBOX_LOG)
    output = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    for target, source in ((0, null), (1, output), (2, output)):
        os.dup2(source, target)
    keep = sorted({0, 1, 2, handover.lock, handover.listener, handover.control})
    for low, high in zip(keep, [*keep[1:], 1 << 20], strict=True):
        os.closerange(low + 1, high)
