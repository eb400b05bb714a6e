"""Containers that belong to a namespace runtime (crun or runc): remembered, so that later verbs go there too.

The record is a file of its own, `<root>/.delegated/<id>`, because `<root>/<id>` is the namespace runtime's when the
engine gives it the same --root.
"""

from __future__ import annotations

import contextlib
import os

from oci_runtime.errors import HostError, InvalidInput, Unavailable
from oci_runtime.host.files import write_atomic
from oci_runtime.log import get_logger
from oci_runtime.state.layout import DELEGATED, make_private_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from oci_runtime.cli.context import Context
    from oci_runtime.state.layout import Layout

log = get_logger(__name__)
# runc gives a container ten seconds to end before its own `delete --force` fails.
_CALL_S = 60.0


def delegated_runtime(layout: Layout, container_id: str) -> str:
    """Return the path of the namespace runtime that has a container, "" when none has."""
    try:
        with open(layout.delegated(container_id), encoding="utf-8") as file:
            return file.read().strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""


def delegate(context: Context, container_id: str, runtime: str, *, detach: bool) -> NoReturn:
    """Record that `runtime` has the container and become that runtime, with the same arguments.

    detach: False for a `run` in the foreground, which deletes the container at its end: then the runtime is a child,
    and the record goes with it. Raises InvalidInput, HostError.
    """
    if not os.access(runtime, os.X_OK):
        raise InvalidInput(f"namespace runtime {runtime} is not there or not executable, see runtime.namespace_runtime")
    try:
        make_private_directory(os.path.join(context.layout.root, DELEGATED))
    except OSError as error:
        raise HostError.from_oserror(error, "mkdir", context.layout.root) from error
    write_atomic(context.layout.delegated(container_id), runtime.encode() + b"\n")
    if detach:
        os.execv(runtime, [runtime, *context.words])
    os._exit(_run_to_end(context, container_id, runtime))


def _run_to_end(context: Context, container_id: str, runtime: str) -> int:
    from oci_runtime.cli.foreground import ForegroundWait

    wait = ForegroundWait()
    pid = os.fork()
    if pid == 0:
        try:
            wait.unblock()
            os.execv(runtime, [runtime, *context.words])
        finally:
            os._exit(127)
    code = wait.wait(pid)
    forget(context.layout, [container_id])
    return code


def forget(layout: Layout, container_ids: Sequence[str]) -> None:
    """Remove the records of delegated containers; those that are gone already are fine."""
    for name in container_ids:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(layout.delegated(name))


def delete_delegated(context: Context, container_id: str, *, force: bool) -> int:
    """Let the namespace runtime delete its container; forget it when it is gone. Return the runtime's exit code.

    With force a runtime that is not there any more, or does not know the container, is no error.
    """
    words = ["delete", *(["--force"] if force else []), container_id]
    code = _call(context, container_id, words, quiet=False)
    if code == 0 or not _is_known(context, container_id):
        forget(context.layout, [container_id])
        return 0 if force else code
    return code


def _is_known(context: Context, container_id: str) -> bool:
    return _call(context, container_id, ["state", container_id], quiet=True) == 0


def _call(context: Context, container_id: str, words: Sequence[str], *, quiet: bool) -> int:
    """Run a verb of the namespace runtime with the global options of this command; 127 when it is not there."""
    import subprocess

    runtime = delegated_runtime(context.layout, container_id)
    output = subprocess.DEVNULL if quiet else None
    try:
        done = subprocess.run(
            [runtime, *context.global_words, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            timeout=_CALL_S,
            check=False,
        )
    except OSError as error:
        log.warning(f"namespace runtime {runtime or 'of ' + container_id}: {error.strerror}")
        return 127
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"namespace runtime {runtime} does not end within {_CALL_S:g} s") from error
    return done.returncode if done.returncode >= 0 else 128 - done.returncode
