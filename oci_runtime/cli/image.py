"""`vmpod image`: build and inspect guest images; the image package has the whole command."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Option, Parsed

SUMMARY = "build, list, inspect and verify guest images"
USAGE = "[--store DIR] build|list|inspect|verify|prune [OPTIONS]"
OPTIONS: tuple[Option, ...] = ()


def run(context: Context, parsed: Parsed) -> int:
    """Hand the words over; the store is the configuration's."""
    from oci_runtime.config.load import load_config
    from oci_runtime.image.command import run_image

    return run_image(parsed.rest, load_config(context.config).image.store)
