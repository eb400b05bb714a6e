"""The caller's mount table, read once and only if it is asked."""

from __future__ import annotations

from oci_runtime.host.mounts import list_types


class MountTable:
    """What is mounted in the caller's mount namespace, as it was at the first question."""

    __slots__ = ("_mounts",)

    def __init__(self) -> None:
        self._mounts: list[tuple[str, str]] | None = None

    def below(self, path: str) -> list[tuple[str, str]]:
        """(mount point, file system type) of everything mounted below a resolved path, not at it. Raises: HostError."""
        if self._mounts is None:
            self._mounts = list_types("/")
        prefix = path.rstrip("/") + "/"
        return [mount for mount in self._mounts if mount[0].startswith(prefix) and mount[0] != prefix]
