"""OCI hooks of the host: prestart, createRuntime, createContainer, poststart and poststop.

Each gets the container's state as JSON on standard input and the bundle as working directory. A hook without `env`
inherits the environment of the command, as with runc. Source: OCI runtime specification 1.2, "POSIX-platform Hooks".
"""

from __future__ import annotations

import json

from oci_runtime.errors import OciRuntimeError
from oci_runtime.host import namespaces
from oci_runtime.log import get_logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

_MAX_OUTPUT_CHARACTERS = 4096
log = get_logger(__name__)


def bound_hooks(hooks: Mapping[str, Any], default_s: int) -> dict[str, list[dict[str, Any]]]:
    """The hooks of config.json by kind, those without a timeout with that of the configuration (0: none)."""
    return {kind: [{"timeout": default_s, **hook} for hook in hooks[kind]] for kind in hooks if hooks[kind]}


def run_creation_hooks(
    hooks: Mapping[str, Sequence[dict[str, Any]]], state: dict[str, Any], bundle: str, pid: int, kinds: Sequence[str]
) -> None:
    """Run prestart, createRuntime and createContainer hooks, in this order. Raises OciRuntimeError when one fails.

    pid: the process that stands for the container; hooks of the last kind run in its namespaces of the types `kinds`.
    """

    def enter() -> None:
        from oci_runtime.host import syscalls

        for kind in kinds:
            with open(f"/proc/{pid}/ns/{namespaces.proc_name(kind)}", "rb") as file:
                syscalls.setns(file.fileno(), syscalls.NAMESPACE_FLAGS[kind])

    # The specification places prestart hooks after the creation; engines need them here.
    run_hooks("prestart", hooks.get("prestart") or (), {**state, "status": "created"}, bundle)
    run_hooks("createRuntime", hooks.get("createRuntime") or (), state, bundle)
    run_hooks("createContainer", hooks.get("createContainer") or (), state, bundle, enter)


def run_hooks(
    kind: str,
    hooks: Sequence[dict[str, Any]],
    state: dict[str, Any],
    bundle: str,
    enter: Callable[[], None] | None = None,
) -> None:
    """Run hooks one after the other. hooks: objects as in config.json. enter: runs in the child before exec.

    Raises OciRuntimeError at the first that fails or takes longer than its timeout (seconds).
    """
    document = json.dumps(state).encode()
    for index, hook in enumerate(hooks):
        _run_hook(f"{kind} hook {index} ({hook['path']})", hook, document, bundle, enter)


def run_tolerantly(kind: str, hooks: Sequence[dict[str, Any]], state: dict[str, Any], bundle: str) -> None:
    """Run each hook; a failure is a warning, and the others still run (poststart, poststop)."""
    for hook in hooks:
        try:
            run_hooks(kind, [hook], state, bundle)
        except OciRuntimeError as error:
            log.warning(error.message)


def _run_hook(what: str, hook: dict[str, Any], document: bytes, bundle: str, enter: Callable[[], None] | None) -> None:
    import subprocess

    timeout_s = hook.get("timeout") or None
    environment = None
    if hook.get("env"):
        environment = dict(entry.partition("=")[::2] for entry in hook["env"])
    try:
        result = subprocess.run(
            hook.get("args") or [hook["path"]],
            executable=hook["path"],
            env=environment,
            cwd=bundle,
            input=document,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            preexec_fn=enter,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise OciRuntimeError(f"{what}: did not end within its timeout of {timeout_s} s") from error
    except OSError as error:
        where = f" in {bundle}" if error.filename == bundle else ""
        raise OciRuntimeError(f"{what}: cannot be started{where}: {error.strerror}") from error
    except subprocess.SubprocessError as error:
        raise OciRuntimeError(f"{what}: cannot enter the container's namespaces") from error
    if result.returncode:
        how = f"signal {-result.returncode}" if result.returncode < 0 else f"exit status {result.returncode}"
        output = result.stdout.decode("utf-8", "replace").strip()
        shown = " ".join(output[-_MAX_OUTPUT_CHARACTERS:].split("\n"))
        raise OciRuntimeError(f"{what}: {how}" + (f", output: {shown}" if shown else ""))
