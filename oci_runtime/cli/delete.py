"""`vmpod delete`: end what is left of containers and forget them."""

from __future__ import annotations

import os
import time

from oci_runtime.bundle.ids import validate_id
from oci_runtime.cli import context as lookup
from oci_runtime.cli import texts
from oci_runtime.cli.options import Option, UsageError
from oci_runtime.errors import InvalidInput, NotFound, OciRuntimeError, WrongState
from oci_runtime.host.processes import boot_id
from oci_runtime.log import get_logger
from oci_runtime.state import records
from oci_runtime.state.records import CREATED, CREATING, STOPPED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Parsed
    from oci_runtime.state.layout import Layout
    from oci_runtime.state.records import ContainerRecord

log = get_logger(__name__)
_RECORD_S = 0.5
_POLL_S = 0.02
SUMMARY = "end what is left of containers and forget them"
USAGE = "[--force] ID..."
OPTIONS = (Option("force f", "", "also containers that run; an unknown id is no error"),)


def run(context: Context, parsed: Parsed) -> int:
    """Delete each container; all are tried, the first error is reported."""
    if not parsed.rest:
        raise UsageError("requires a container id")
    errors = []
    code = 0
    for container_id in [validate_id(word) for word in parsed.rest]:
        try:
            if os.path.exists(context.layout.delegated(container_id)):
                from oci_runtime.cli.delegation import delete_delegated

                code = delete_delegated(context, container_id, force=parsed.has("force")) or code
            else:
                delete_container(context, container_id, force=parsed.has("force"))
        except OciRuntimeError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return code


def delete_container(context: Context, container_id: str, *, force: bool) -> None:
    """Delete one container, dead or alive as far as `force` allows. Idempotent with force."""
    try:
        record = _load(context.layout, container_id) if force else records.load(context.layout, container_id)
    except (NotFound, InvalidInput):
        if not force:
            raise
        if os.path.isdir(context.layout.container(container_id)):
            # Perhaps a create that was killed before its first record, or a damaged record.
            from oci_runtime.cli.salvage import remove_unrecorded

            remove_unrecorded(context.layout, container_id, _stop_timeout_s(context))
        return
    status = record.actual_status()
    if status == CREATING and force:
        from oci_runtime.cli.cleanup import cancel_creator

        cancel_creator(record)
        try:
            record = records.load(context.layout, container_id)
        except NotFound:
            return
        status = STOPPED
    if status not in (STOPPED, CREATED) and not force:
        raise WrongState(texts.not_stopped(container_id, status))
    _delete_recorded(context, record, force=force or status == CREATED)


def _load(layout: Layout, container_id: str) -> ContainerRecord:
    """Load a record. A `create` that has just made the directory writes it within moments. Raises as records.load."""
    deadline = time.monotonic() + _RECORD_S
    while True:
        try:
            return records.load(layout, container_id)
        except NotFound:
            if not os.path.isdir(layout.container(container_id)) or time.monotonic() > deadline:
                raise
        time.sleep(_POLL_S)


def _delete_recorded(context: Context, record: ContainerRecord, *, force: bool) -> None:
    """Undo everything of a container. Its proxies end before the sandbox is waited for: that waits for them."""
    from oci_runtime.cli.cleanup import ask_to_leave, end_proxies, end_sandbox, remove_container

    layout = context.layout
    timeout_s = _stop_timeout_s(context) if force and record.status != STOPPED else lookup.CALL_TIMEOUT_S
    unfinished = force and record.status == CREATING
    at_end = ask_to_leave(layout, record.sandbox_id, record.id, force=force, timeout_s=timeout_s, unfinished=unfinished)
    is_of_this_boot = record.boot_id == boot_id()
    if is_of_this_boot:
        end_proxies(layout, record)
    if at_end:
        end_sandbox(layout, record.sandbox_id, kill=force)
    if record.cgroups and is_of_this_boot:
        from oci_runtime.host import cgroups

        for problem in cgroups.remove(record.cgroups):
            log.warning(problem)
    if record.hooks.get("poststop"):
        from oci_runtime.cli.hooks import run_tolerantly

        run_tolerantly("poststop", record.hooks["poststop"], record.oci_state(STOPPED), record.bundle)
    remove_container(layout, record.id)


def _stop_timeout_s(context: Context) -> float:
    """Of the configuration; a broken one must not keep anybody from cleaning up."""
    from oci_runtime.config.load import load_config

    try:
        return load_config(context.config).runtime.stop_timeout_s
    except OciRuntimeError as error:
        lookup.warn(error.message)
        return lookup.CALL_TIMEOUT_S
