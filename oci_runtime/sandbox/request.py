"""What a pod is asked to create a container from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from oci_runtime.errors import WrongState


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

    @property
    def terminal(self) -> bool:
        """Whether the container's process has a terminal."""
        return bool((self.spec.get("process") or {}).get("terminal"))

    def refusal(self, sandbox_id: str, reason: str, console: str) -> WrongState:
        """The answer of a pod that has ended, or that ends while the container is being made; it says why."""
        return WrongState(
            f"cannot create container {self.container_id}: sandbox {sandbox_id} is not running any more ({reason})",
            detail=console,
        )
