"""Words that engines look for in our messages, letter by letter. A test keeps them.

CRI-O: `container not running`, `no such process`, `invalid process`; containerd: `does not exist`, `container not
running`, `no such process`; Docker and Podman (exit codes 127 and 126): `no such file or directory`,
`executable file not found in $PATH`, `permission denied`.
"""

from __future__ import annotations

DOES_NOT_EXIST = "does not exist"
NOT_RUNNING = "container not running"
ALREADY_RUNNING = "cannot start an already running container"
HAS_STOPPED = "cannot start a container that has stopped"
NO_SUCH_PROCESS = "no such process"
EXECUTABLE_NOT_FOUND = "executable file not found in $PATH"
NO_SUCH_FILE = "no such file or directory"
PERMISSION_DENIED = "permission denied"


def not_stopped(container_id: str, status: str) -> str:
    """Return what `delete` says about a container that still lives."""
    return f"cannot delete container {container_id} that is not stopped: {status}"
