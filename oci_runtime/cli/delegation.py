"""Containers that belong to a namespace runtime (crun or runc): given to it, asked for, and forgotten when it says so.

What the runtime says counts only where it has said something: one that cannot be run, or was killed, leaves open what
became of its container, and the record stays.
"""

from __future__ import annotations

import os

from oci_runtime.errors import AlreadyExists, HostError, InvalidInput, Unavailable
from oci_runtime.log import get_logger
from oci_runtime.state import delegated
from oci_runtime.state.delegated import Delegated

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from oci_runtime.cli.context import Context
    from oci_runtime.state.layout import Layout

log = get_logger(__name__)
# runc gives a container ten seconds to end before its own `delete --force` fails.
_CALL_S = 60.0
# Shells and wrappers: not executable, not found; above them 128 + n for signal n. Runtimes themselves fail with 1.
_NOT_RUN = 126


def delegated_runtime(layout: Layout, container_id: str) -> str:
    """Return the path of the namespace runtime that has a container, "" when none has."""
    record = delegated.load(layout, container_id)
    return record.runtime if record else ""


def delegate(context: Context, container_id: str, runtime: str, *, detach: bool) -> NoReturn:
    """Record that `runtime` has the container and become that runtime, with the same arguments.

    detach: False for a `run` in the foreground, which deletes the container at its end: then the runtime is a child,
    and the record goes with it. Raises InvalidInput, HostError, AlreadyExists, Unavailable.
    """
    if not os.access(runtime, os.X_OK):
        raise InvalidInput(f"namespace runtime {runtime} is not there or not executable, see runtime.namespace_runtime")
    make_room(context, container_id)
    record = Delegated(runtime=runtime, options=context.lasting_options)
    delegated.save(context.layout, container_id, record)
    try:
        if detach:
            context.become(record, container_id)
        code = _run_to_end(context, container_id, record)
    except HostError:
        delegated.forget(context.layout, container_id)  # a runtime that did not run has no container
        raise
    os._exit(code)


def _run_to_end(context: Context, container_id: str, record: Delegated) -> int:
    """Run the runtime as a child to its end; return its exit code. Raises HostError when it cannot be run."""
    from oci_runtime.cli.foreground import ForegroundWait

    wait = ForegroundWait()
    report, theirs = os.pipe()  # closed by a successful exec
    pid = os.fork()
    if pid == 0:
        try:
            wait.unblock()
            context.become(record, container_id)
        except HostError as error:
            os.write(theirs, str(error.errno).encode())
        finally:
            os._exit(127)
    os.close(theirs)
    with os.fdopen(report, "rb") as file:
        failure = file.read()
    code = wait.wait(pid)
    if failure:
        raise HostError("run", record.runtime, int(failure), hint="runtime.namespace_runtime")
    if _knows(context, container_id, record) is False:
        delegated.forget(context.layout, container_id)
    return code


def make_room(context: Context, container_id: str) -> None:
    """Forget the record of a delegated container that is gone; a new one is about to take its name.

    Raises AlreadyExists when it is still there, Unavailable when its runtime does not say.
    """
    record = delegated.load(context.layout, container_id)
    if record is None:
        return
    known = _knows(context, container_id, record)
    if known is None:
        path = context.layout.delegated(container_id)
        raise Unavailable(
            f"namespace runtime {record.runtime} has container {container_id} and cannot be asked about it: repair the"
            f" runtime, or remove {path} once you know that the container is gone"
        )
    if known:
        raise AlreadyExists(f"container with id exists: {container_id}, delete it first")
    delegated.forget(context.layout, container_id)


def delete_delegated(context: Context, container_id: str, *, force: bool) -> int:
    """Let the namespace runtime delete its container; forget it when the runtime does not know it any more.

    Return the runtime's exit code; with force 0 for a container that the runtime does not know.
    Raises InvalidInput (damaged record); Unavailable when the runtime does not run or end: the record stays.
    """
    record = delegated.load(context.layout, container_id)
    if record is None:
        return 0
    words = ["delete", *(["--force"] if force else []), container_id]
    code = _call(context, record, words, quiet=False)
    if code is None:
        path = context.layout.delegated(container_id)
        raise Unavailable(
            f"namespace runtime {record.runtime} cannot delete its container {container_id}, which may still run:"
            f" repair the runtime, or remove {path} once you know that the container is gone"
        )
    if code and _knows(context, container_id, record) is not False:
        return code
    delegated.forget(context.layout, container_id)
    return 0 if force else code


def _knows(context: Context, container_id: str, record: Delegated) -> bool | None:
    """Whether the runtime has the container; None when it cannot say."""
    code = _call(context, record, ["state", container_id], quiet=True)
    return None if code is None else code == 0


def _call(context: Context, record: Delegated, words: Sequence[str], *, quiet: bool) -> int | None:
    """Run a verb of the namespace runtime and return its exit code; None when it did not run, or not to its end."""
    import subprocess

    output = subprocess.DEVNULL if quiet else None
    try:
        done = subprocess.run(
            [record.runtime, *record.options, *context.passing_options, *words],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            timeout=_CALL_S,
            check=False,
        )
    except OSError as error:
        log.warning(f"namespace runtime {record.runtime}: {error.strerror}")
        return None
    except subprocess.TimeoutExpired:
        log.warning(f"namespace runtime {record.runtime} does not end within {_CALL_S:g} s")
        return None
    return done.returncode if 0 <= done.returncode < _NOT_RUN else None
