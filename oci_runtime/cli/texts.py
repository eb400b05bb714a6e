"""Words of several commands that engines look for in our messages, letter by letter. A test keeps them."""

from __future__ import annotations

NOT_RUNNING = "container not running"
ALREADY_RUNNING = "cannot start an already running container"
HAS_STOPPED = "cannot start a container that has stopped"


def not_stopped(container_id: str, status: str) -> str:
    """Return what `delete` says about a container that still lives."""
    return f"cannot delete container {container_id} that is not stopped: {status}"
