"""Where a shim keeps its state: one directory for each engine and namespace, laid out like the command line's --root.

Container ids are unique only within one namespace of one engine, so several of these live side by side; each of them
works as `vmpod --root DIRECTORY`.
"""

from __future__ import annotations

from oci_runtime.bundle.ids import validate_id
from oci_runtime.errors import InvalidInput
from oci_runtime.state.layout import Layout, short_id

BASE = "/run/containerd/vmpod"
DEFAULT_ADDRESS = "/run/containerd/containerd.sock"
SOCKET_NAME = "shim.sock"
ADDRESS_FILE = "address"
# A socket address holds 107 bytes; this much is left for the name of the state directory.
_MAX_NAME_CHARACTERS = 40
_HASH_CHARACTERS = 8


def layout_for(namespace: str, address: str) -> Layout:
    """The state directory of a namespace of the engine at `address` ("" under CRI-O). Raises: InvalidInput."""
    validate_id(namespace, "namespace")
    name = namespace
    if not address:
        name += "-crio"
    elif address.removeprefix("unix://") != DEFAULT_ADDRESS:
        name += "-" + short_id(address)[:_HASH_CHARACTERS]
    if len(name) > _MAX_NAME_CHARACTERS:
        name = f"{name[: _MAX_NAME_CHARACTERS - _HASH_CHARACTERS - 1]}-{short_id(name)[:_HASH_CHARACTERS]}"
    return Layout(f"{BASE}/{name}")


def socket_path(layout: Layout, sandbox_id: str) -> str:
    """The path of a sandbox's socket. Raises: InvalidInput when no socket can have it."""
    path = f"{layout.sandbox(sandbox_id)}/{SOCKET_NAME}"
    if len(path) > 107:
        raise InvalidInput(f"socket path {path} has {len(path)} characters, 107 are possible")
    return path
