"""Overlays that a spec wants mounted, such as podman's image mounts and volumes with `:O`.

Their directories are the host's, so the host's kernel mounts them, and the guest gets them as it gets a bind mount.
That happens in a mount namespace of a thread of its own: nothing shows in the caller's, and what is left when the
thread ends is the descriptors.
"""

from __future__ import annotations

import os

from oci_runtime.errors import HostError
from oci_runtime.host import syscalls
from oci_runtime.storage.mount_kinds import readonly_of, superblock_options
from oci_runtime.storage.tree import SourceTree

# Mounted over in the namespace of the moment; any directory that every host has, and no layer is below.
_PLACE = "/proc"


def open_overlay(options: list[str], what: str, *, with_view: bool) -> tuple[int, int]:
    """Mount an overlay nowhere and return descriptors of its tree, and of one for those who look at the container's
    files (-1 if not asked for).

    options: of the mount. The paths of its layers are those of the caller's mount namespace. Raises: HostError with
    `what` in the message; nothing is left then.
    """
    import threading

    opened: list[tuple[int, int]] = []
    failures: list[BaseException] = []

    def mount_apart() -> None:
        try:
            opened.append(_open(options, what, with_view=with_view))
        except BaseException as failure:  # noqa: BLE001 - raised again by who waits for the thread
            failures.append(failure)

    # Only a thread that ends afterwards may change its namespace.
    thread = threading.Thread(target=mount_apart, name="overlay")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return opened[0]


def _open(options: list[str], what: str, *, with_view: bool) -> tuple[int, int]:
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_PRIVATE)
    readonly = readonly_of(options)
    try:
        syscalls.mount(
            "overlay", _PLACE, "overlay", syscalls.MS_RDONLY if readonly else 0, ",".join(superblock_options(options))
        )
    except HostError as error:
        raise HostError("mount", f"{what}: overlay", error.errno) from error
    with SourceTree(_PLACE, what) as source:
        tree = source.clone(recursive=False)
        try:
            return tree, source.clone_for_view(recursive=False, readonly=readonly) if with_view else -1
        except BaseException:
            os.close(tree)
            raise
