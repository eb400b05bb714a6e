"""`vmpod delete`: end what is left of containers and forget them."""

from __future__ import annotations

import os

from oci_runtime.bundle.ids import validate_id
from oci_runtime.cli import context as lookup
from oci_runtime.cli import texts
from oci_runtime.cli.options import Option, UsageError
from oci_runtime.errors import InvalidInput, NotFound, OciRuntimeError, WrongState
from oci_runtime.host.processes import boot_id
from oci_runtime.state import records
from oci_runtime.state.records import CREATED, CREATING, STOPPED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Parsed
    from oci_runtime.state.records import ContainerRecord

SUMMARY = "end what is left of containers and forget them"
USAGE = "[--force] ID..."
OPTIONS = (Option("force f", "", "also containers that run; an unknown id is no error"),)


def run(context: Context, parsed: Parsed) -> int:
    """Delete each container; all are tried, the first error is reported."""
    if not parsed.rest:
        raise UsageError("requires a container id")
    ids = [validate_id(word) for word in parsed.rest]
    if any(os.path.exists(context.layout.delegated(container_id)) for container_id in ids):
        from oci_runtime.cli.delegation import delete_delegated

        return delete_delegated(context, ids)
    errors = []
    for container_id in ids:
        try:
            delete_container(context, container_id, force=parsed.has("force"))
        except OciRuntimeError as error:
            errors.append(error)
    if errors:
        raise errors[0]
    return 0


def delete_container(context: Context, container_id: str, *, force: bool) -> None:
    """Delete one container, dead or alive as far as `force` allows. Idempotent with force."""
    try:
        record = records.load(context.layout, container_id)
    except (NotFound, InvalidInput):
        if not force:
            raise
        # Perhaps a create that was killed before its first record, or a damaged record: nothing more is known.
        _remove_unrecorded(context, container_id)
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


def _remove_unrecorded(context: Context, container_id: str) -> None:
    if os.path.isdir(context.layout.container(container_id)):
        from oci_runtime.cli.cleanup import remove_container

        remove_container(context.layout, container_id)


def _delete_recorded(context: Context, record: ContainerRecord, *, force: bool) -> None:
    from oci_runtime.cli.cleanup import end_proxy, leave_sandbox, remove_container

    timeout_s = lookup.CALL_TIMEOUT_S
    if force and record.status != STOPPED:
        from oci_runtime.config.load import load_config

        timeout_s = load_config(context.config).runtime.stop_timeout_s
    leave_sandbox(context.layout, record.sandbox_id, record.id, force=force, timeout_s=timeout_s)
    if record.pid and record.boot_id == boot_id():
        end_proxy(record)
    if record.cgroups and record.boot_id == boot_id():
        from oci_runtime.cli.host_cgroup import remove_all

        remove_all(record.cgroups)
    if record.hooks.get("poststop"):
        from oci_runtime.cli.hooks import run_tolerantly

        run_tolerantly("poststop", record.hooks["poststop"], record.oci_state(STOPPED), record.bundle)
    remove_container(context.layout, record.id)
