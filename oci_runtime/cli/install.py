"""`vmpod install`: make an engine use vmpod, or undo that; the install package has the whole command."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Option, Parsed

SUMMARY = "make an engine use vmpod, or undo that"
USAGE = "containerd|crio|podman|docker [--dry-run] [--uninstall] [OPTIONS]"
OPTIONS: tuple[Option, ...] = ()


def run(_context: Context, parsed: Parsed) -> int:
    """Hand the words over."""
    from oci_runtime.install.command import run_install

    return run_install(parsed.rest)
