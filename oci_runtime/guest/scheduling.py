"""Scheduler and I/O priority of a process, which crun 1.8 leaves to others: set on the pid that it has made.

The first process of a container gets them before its program begins; an exec a moment after its start.
Source: config.md of the runtime specification 1.2 (process.scheduler, process.ioPriority), sched_setattr(2),
ioprio_set(2).
"""

from __future__ import annotations

import os
import struct

from oci_runtime.errors import InvalidInput, OciRuntimeError
from oci_runtime.guest.syscalls import system_call

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_POLICIES = {
    "SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_ISO": 4, "SCHED_IDLE": 5,
    "SCHED_DEADLINE": 6,
}  # fmt: skip
_FLAGS = {
    "SCHED_FLAG_RESET_ON_FORK": 1, "SCHED_FLAG_RECLAIM": 2, "SCHED_FLAG_DL_OVERRUN": 4, "SCHED_FLAG_KEEP_POLICY": 8,
    "SCHED_FLAG_KEEP_PARAMS": 16, "SCHED_FLAG_UTIL_CLAMP_MIN": 32, "SCHED_FLAG_UTIL_CLAMP_MAX": 64,
}  # fmt: skip
_IO_CLASSES = {"IOPRIO_CLASS_RT": 1, "IOPRIO_CLASS_BE": 2, "IOPRIO_CLASS_IDLE": 3}
_WHO_PROCESS = 1


def apply_scheduling(pid: int, process: dict[str, Any]) -> None:
    """Set what the OCI process object asks for. Raises InvalidInput, OciRuntimeError with the kernel's reason."""
    scheduler, priority = process.get("scheduler"), process.get("ioPriority")
    if scheduler:
        _apply("sched_setattr", pid, plan_attributes(scheduler), 0)
    if priority:
        _apply("ioprio_set", _WHO_PROCESS, pid, plan_io_priority(priority))


def plan_attributes(scheduler: dict[str, Any]) -> bytes:
    """struct sched_attr, version 0. Raises InvalidInput."""
    policy = _POLICIES.get(scheduler.get("policy", ""))
    if policy is None:
        raise InvalidInput(f"process.scheduler.policy {scheduler.get('policy')!r}: known are {', '.join(_POLICIES)}")
    unknown = [name for name in scheduler.get("flags") or () if name not in _FLAGS]
    if unknown:
        raise InvalidInput(f"process.scheduler.flags {unknown[0]!r}: known are {', '.join(_FLAGS)}")
    flags = sum({_FLAGS[name] for name in scheduler.get("flags") or ()})
    try:
        return struct.pack(
            "=IIQiIQQQ", 48, policy, flags, scheduler.get("nice") or 0, scheduler.get("priority") or 0,
            scheduler.get("runtime") or 0, scheduler.get("deadline") or 0, scheduler.get("period") or 0,
        )  # fmt: skip
    except struct.error as error:
        raise InvalidInput(f"process.scheduler: {error}") from error


def plan_io_priority(priority: dict[str, Any]) -> int:
    """The number that ioprio_set takes. Raises InvalidInput."""
    io_class = _IO_CLASSES.get(priority.get("class", ""))
    level = priority.get("priority") or 0
    if io_class is None:
        raise InvalidInput(f"process.ioPriority.class {priority.get('class')!r}: known are {', '.join(_IO_CLASSES)}")
    if not isinstance(level, int) or not 0 <= level <= 7:
        raise InvalidInput(f"process.ioPriority.priority {level!r}: 0 to 7 are known")
    return io_class << 13 | level


def _apply(name: str, *arguments: int | bytes) -> None:
    error = system_call(name, *arguments)
    if error:
        raise OciRuntimeError(f"{name} of the process in the guest: {os.strerror(error)}")
