"""Kernel parameters of namespaces that the containers share with the guest."""

from __future__ import annotations

from oci_runtime.errors import InvalidInput, OciRuntimeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_MAX = 1024
_IPC = ("kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem", "kernel.shmall", "kernel.shmmax",
        "kernel.shmmni", "kernel.shm_rmid_forced")  # fmt: skip


def namespace_of(name: str) -> str:
    """The namespace that `name` belongs to: network, ipc or uts; empty when it belongs to none."""
    name = name.replace("/", ".") if "." not in name.split("/", 1)[0] else name
    if name.startswith("net."):
        return "network"
    if name in _IPC or name.startswith("fs.mqueue."):
        return "ipc"
    return "uts" if name in ("kernel.domainname", "kernel.hostname") else ""


def write_sysctls(values: Mapping[str, str]) -> None:
    """Set namespaced parameters of the guest. Raises InvalidInput for others, OciRuntimeError when refused."""
    if len(values) > _MAX:
        raise InvalidInput(f"{len(values)} sysctls: {_MAX} are allowed")
    for name, value in values.items():
        if not namespace_of(name):
            raise InvalidInput(f"sysctl {name!r} is not in a separate kernel namespace")
        path = path_of(name)
        try:
            with open(path, "w", encoding="utf-8") as file:
                file.write(value)
        except OSError as error:
            raise OciRuntimeError(f"sysctl {name} = {value!r} in the guest: {error.strerror}") from error


def path_of(name: str) -> str:
    """The file of a parameter; dots separate, unless a slash comes first (as in sysctl(8)). Raises InvalidInput."""
    slash, dot = name.find("/"), name.find(".")
    if slash < 0 or 0 <= dot < slash:
        name = name.translate({ord("."): "/", ord("/"): "."})
    parts = name.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in name:
        raise InvalidInput(f"sysctl {name!r}: not a name")
    return "/proc/sys/" + name
