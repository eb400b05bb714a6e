"""The moment at which a started container's process has become its program, for what has to come after it."""

from __future__ import annotations

from oci_runtime.errors import OciRuntimeError
from oci_runtime.log import get_logger
from oci_runtime.sandbox.virtual_machine import VirtualMachine

log = get_logger(__name__)


async def wait_executed(machine: VirtualMachine, container_id: str) -> None:
    """Wait for it, or for the end of the process; hooks inside come before. Never fails: the container has started."""
    try:
        await (await machine.agent()).wait_executed(container_id)
    except OciRuntimeError as error:
        log.debug("not waited for the program", container=container_id, reason=error.message)
