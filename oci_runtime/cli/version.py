"""`vmpod version`, `vmpod --version`: three lines that engines show in their `info`."""

from __future__ import annotations

import os

from oci_runtime import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Option, Parsed

SUMMARY = "print the version"
USAGE = ""
OPTIONS: tuple[Option, ...] = ()
_MAX_REF_BYTES = 1 << 20


def run(_context: Context, _parsed: Parsed) -> int:
    """Print name and version, commit, and the newest version of the runtime specification that is understood."""
    from oci_runtime.bundle.decode import OCI_VERSION_MAX

    print(f"vmpod version {__version__}\ncommit: {find_commit()}\nspec: {OCI_VERSION_MAX}")
    return 0


def find_commit() -> str:
    """Return the commit of the checkout that this runs from; an installed package is known by its version."""
    repository = os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))), ".git")
    head = _read(repository, "HEAD")
    if not head.startswith("ref: "):
        return head or f"v{__version__}"
    name = head.removeprefix("ref: ")
    commit = _read(repository, name)
    if not commit:
        lines = [line.split() for line in _read(repository, "packed-refs").splitlines()]
        commit = next((line[0] for line in lines if line[1:] == [name]), "")
    return commit or f"v{__version__}"


def _read(repository: str, name: str) -> str:
    try:
        with open(os.path.join(repository, name), encoding="utf-8") as file:
            return file.read(_MAX_REF_BYTES).strip()
    except (OSError, ValueError):
        return ""
