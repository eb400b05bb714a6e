"""What is kept of a pod, alive or not: its directory, and why it has ended."""

from __future__ import annotations

import os

from oci_runtime.cli import context as lookup
from oci_runtime.errors import NotFound
from oci_runtime.state.endings import explain_end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context


def find_directory(context: Context, name: str) -> str:
    """Return the sandbox directory of a container or a sandbox. Raises NotFound, which says what there is of it."""
    try:
        sandbox_id = lookup.load(context, name).sandbox_id
    except NotFound:
        directory = context.layout.sandbox(name)
        if not os.path.isdir(directory):
            raise NotFound(f"no container and no sandbox {name} exists below {context.layout.root}") from None
        return directory
    directory = context.layout.sandbox(sandbox_id)
    if not os.path.isdir(directory):
        raise NotFound(
            f"nothing is kept of the machine of {name}: vmpod gc, or the delete of a container of it, has removed it"
        )
    return directory


def warn_of_end(directory: str, name: str) -> bool:
    """Say on standard error why a pod is over; False, without a word, while it lives."""
    reason = explain_end(directory)
    if reason:
        lookup.warn(f"the machine of {name} is gone: {reason}")
    return bool(reason)
