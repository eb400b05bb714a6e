"""The caller's mount table, read once and only if it is asked."""

from __future__ import annotations

import os

from oci_runtime.host.mounts import Mounted, read_mounts


class MountTable:
    """What is mounted in the caller's mount namespace, as it was at the first question."""

    __slots__ = ("_mounts",)

    def __init__(self) -> None:
        self._mounts: list[Mounted] | None = None

    def below(self, path: str) -> list[Mounted]:
        """Everything mounted below a resolved path, not at it. Raises: HostError."""
        prefix = path.rstrip("/") + "/"
        return [mount for mount in self._all() if mount.point.startswith(prefix) and mount.point != prefix]

    def place_in_volume(self, path: str, marker: str) -> tuple[str, str]:
        """The mount point of the volume that a directory is of, and where inside it lies; ("", "") if it is of none.

        marker: part of every volume's mount point. A part of a volume may be bound elsewhere: the device tells that it
        belongs to the volume. Raises: HostError.
        """
        real = os.path.realpath(path)
        covering = [mount for mount in self._all() if f"{real}/".startswith(mount.point.rstrip("/") + "/")]
        mount = max(reversed(covering), key=lambda mount: len(mount.point))
        for volume in self._all():
            if volume.device == mount.device and volume.root == "/" and marker in volume.point:
                return volume.point, f"{mount.root}/{real[len(mount.point) :]}".strip("/").replace("//", "/")
        return "", ""

    def _all(self) -> list[Mounted]:
        if self._mounts is None:
            self._mounts = read_mounts()
        return self._mounts
