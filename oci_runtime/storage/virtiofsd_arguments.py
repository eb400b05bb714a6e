"""Further arguments for virtiofsd that the configuration may give: an allow-list, since the daemon is root. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from oci_runtime.errors import InvalidInput, Unsupported

# What may follow each name; "" for nothing.
_NUMBER = r"=\d{1,9}"
_BOTH = {"--thread-pool-size": _NUMBER, "--rlimit-nofile": _NUMBER}
_RUST = {
    "--writeback": "",
    "--no-readdirplus": "",
    "--allow-direct-io": "",
    "--killpriv-v2": "",
    "--no-killpriv-v2": "",
    "--allow-mmap": "",
    "--inode-file-handles": r"=(never|prefer|mandatory)",
}
_C_FLAGS = "writeback readdirplus allow_direct_io posix_lock flock killpriv_v2 posix_acl".split()
_C = {f"-o {word}{name}": "" for name in _C_FLAGS for word in ("", "no_")} | {
    "-o timeout": r"=\d{1,6}(\.\d{1,3})?",
    "-o max_idle_threads": _NUMBER,
}


def check_extra_arguments(arguments: Iterable[str], rust: bool) -> tuple[str, ...]:
    """Return the arguments as the daemon takes them, `-o name` as one option each.

    rust: of the Rust virtiofsd, else of QEMU's. Raises: InvalidInput naming what is not allowed, Unsupported.
    """
    allowed = _BOTH | (_RUST if rust else _C)
    result: list[str] = []
    for argument in _joined(arguments):
        name, equals, value = argument.partition("=")
        if name.removeprefix("-o ").strip("-").replace("-", "_") == "announce_submounts":
            raise Unsupported(
                "storage.virtio_fs_extra_args: submounts cannot be announced: the guest's kernel crashes when a mount"
                " namespace ends that has one of them"
            )
        pattern = allowed.get(name)
        if pattern is None or not re.fullmatch(pattern, equals + value):
            known = ", ".join(sorted(allowed))
            raise InvalidInput(f"storage.virtio_fs_extra_args: {argument!r} is not one of {known}")
        result += argument.split(" ", 1)
    return tuple(result)


def _joined(arguments: Iterable[str]) -> list[str]:
    """`-o` and what follows it as one; `-o a,b` as two."""
    found: list[str] = []
    pending = False
    for argument in arguments:
        if argument == "-o":
            pending = True
            continue
        if pending or argument.startswith("-o"):
            found += [f"-o {option}" for option in argument.removeprefix("-o").strip().split(",")]
        else:
            found.append(argument)
        pending = False
    if pending:
        raise InvalidInput("storage.virtio_fs_extra_args: nothing follows the last '-o'")
    return found
