"""Id-mapped mounts (`uidMappings` of a mount): the host's kernel shows a source's files with the ids of the container.

virtiofsd then serves them as they look in such a mount, and what the guest makes gets the source's ids back. Imported
only where a spec has one.
"""

from __future__ import annotations

import errno
import os

from oci_runtime.errors import HostError, InvalidInput, Unsupported
from oci_runtime.host import syscalls
from oci_runtime.host.namespaces import write_mappings
from oci_runtime.host.spawn import SpawnPlan, kill_and_reap, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_OVERFLOW_ID = 65534


class IdMap:
    """The mappings of one mount. Owns a user namespace's descriptor: call `close`.

    recursive: mounts below are mapped, too. key: what mounts with the same mappings have in common.
    """

    def __init__(self, mount: Mapping[str, Any], what: str) -> None:
        """Raises: InvalidInput (`what` has only one of the two), HostError."""
        self._what = what
        self._uids, self._gids = list(mount.get("uidMappings") or ()), list(mount.get("gidMappings") or ())
        if not self._uids or not self._gids:
            raise InvalidInput(f"{what}: an id-mapped mount takes uidMappings and gidMappings")
        self.recursive = "ridmap" in (mount.get("options") or ())
        self.key = "-".join(_text(entries) for entries in (self._uids, self._gids)) + ("-r" if self.recursive else "")
        self._namespace = _make_namespace(self._uids, self._gids)

    def apply(self, tree: int) -> int:
        """Map a detached tree and return it; close it on failure. Raises: Unsupported (its file system), HostError."""
        try:
            syscalls.mount_setattr(
                "", syscalls.MOUNT_ATTR_IDMAP, fd=tree, recursive=self.recursive, user_namespace=self._namespace
            )
        except HostError as error:
            os.close(tree)
            if error.errno == errno.EINVAL:
                raise Unsupported(
                    f"{self._what}: the source's file system cannot be mounted with id mappings"
                ) from error
            raise HostError("map ids", self._what, error.errno) from error
        return tree

    def owner(self, owner: Sequence[int]) -> list[int]:
        """Mode, owner and group as they look in the mount, for what the guest makes itself."""
        mode, uid, gid = owner
        return [mode, _mapped(uid, self._uids), _mapped(gid, self._gids)]

    def close(self) -> None:
        """Close the namespace. Mounts keep their mappings. Call once."""
        os.close(self._namespace)


def _make_namespace(uids: Sequence[Mapping[str, int]], gids: Sequence[Mapping[str, int]]) -> int:
    """A descriptor of a user namespace that nobody is in."""
    child = spawn(SpawnPlan(argv=("/bin/sleep", "infinity"), unshare=syscalls.NAMESPACE_FLAGS["user"]))
    try:
        write_mappings(child.pid, uids, gids)
        return os.open(f"/proc/{child.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError.from_oserror(error, "open", f"/proc/{child.pid}/ns/user") from error
    finally:
        kill_and_reap(child)
        child.close()


def _mapped(number: int, entries: Sequence[Mapping[str, int]]) -> int:
    for entry in entries:
        offset = number - entry["containerID"]
        if 0 <= offset < entry["size"]:
            return entry["hostID"] + offset
    return _OVERFLOW_ID


def _text(entries: Sequence[Mapping[str, int]]) -> str:
    return ",".join(f"{entry['containerID']}:{entry['hostID']}:{entry['size']}" for entry in entries)
