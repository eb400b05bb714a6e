"""What a pod is asked to create a container from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class CreateRequest:
    """What `create` needs: the OCI bundle, the host's stand-in process, and the sources that the caller opened.

    descriptors: (description, fd) pairs as in docs/internals.md; the sandbox owns the descriptors from the call on.
    """

    container_id: str
    bundle: str
    spec: dict[str, Any]
    pid: int
    descriptors: tuple[tuple[dict[str, Any], int], ...] = ()
    guest_mounts: tuple[dict[str, Any], ...] = ()
    pid_namespace_of: str = ""
    stdin: bool = True
