"""Why a pod has ended (`error.json`): left by its sandbox process, read by the commands that come too late."""

from __future__ import annotations

import os

from oci_runtime import json_text
from oci_runtime.errors import HostError, InvalidInput, OciRuntimeError, from_wire, to_wire
from oci_runtime.host.files import read_limited, write_atomic
from oci_runtime.host.processes import find_lock_holders, is_alive
from oci_runtime.log import get_logger
from oci_runtime.state.layout import ERROR_FILE, LOCK_FILE
from oci_runtime.state.sandboxes import SandboxRecord

log = get_logger(__name__)
_MAX_BYTES = 1 << 20


def leave_reason(directory: str, error: OciRuntimeError) -> None:
    """Leave why the pod has ended in its directory; a failure is logged, the pod's log says the same."""
    try:
        write_atomic(os.path.join(directory, ERROR_FILE), json_text.dumps(to_wire(error)).encode(), sync=False)
    except HostError as failure:
        log.warning(failure.message)


def find_reason(directory: str) -> OciRuntimeError | None:
    """Return what the sandbox process has left; None when it has left nothing that can be read."""
    try:
        reason = json_text.loads(read_limited(os.path.join(directory, ERROR_FILE), _MAX_BYTES))
        return from_wire(str(reason["kind"]), str(reason["message"]), str(reason.get("detail") or ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def explain_end(directory: str) -> str:
    """Return in a few words why the pod of a directory is over, "" while its sandbox process lives."""
    try:
        record = SandboxRecord.load(directory)
    except (InvalidInput, HostError):
        record = None
    if record is not None and not record.is_of_this_boot:
        return "the host was restarted"
    pid, start = (int(record.values.get(key) or 0) for key in ("pid", "pid_start")) if record is not None else (0, 0)
    reason = find_reason(directory)
    if reason is not None:
        return " ".join(reason.message.split())
    if pid:
        return "" if is_alive(pid, start) else "its sandbox process was killed"
    # The first thing that a sandbox process does is to record itself.
    return "" if find_lock_holders(os.path.join(directory, LOCK_FILE)) else "its boot was interrupted"
