"""Hooks of the host: none may keep a command, or a shim, for ever."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.cli.hooks import bound_hooks, run_creation_hooks
from oci_runtime.errors import OciRuntimeError


def test_a_hook_without_a_timeout_gets_that_of_the_configuration() -> None:
    hooks = {"prestart": [{"path": "/a"}, {"path": "/b", "timeout": 3}], "poststop": [], "startContainer": None}
    assert bound_hooks(hooks, 60) == {"prestart": [{"path": "/a", "timeout": 60}, {"path": "/b", "timeout": 3}]}


def test_a_hook_that_hangs_is_ended_at_its_bound() -> None:
    hooks = bound_hooks({"createRuntime": [{"path": "/bin/sleep", "args": ["sleep", "1000"]}]}, 1)
    began = time.monotonic()
    with pytest.raises(OciRuntimeError, match="createRuntime hook 0 .* within its timeout of 1 s"):
        run_creation_hooks(hooks, {}, "/", 0, ())
    assert time.monotonic() - began < 500, "it was ended, not waited for"


def test_a_hook_that_cannot_be_started_is_named_once(tmp_path: Path) -> None:
    def fail(path: str, bundle: str = "/") -> str:
        with pytest.raises(OciRuntimeError) as caught:
            run_creation_hooks({"createRuntime": [{"path": path}]}, {}, bundle, 0, ())
        return caught.value.message

    missing = "createRuntime hook 0 (/no/hook): cannot be started: No such file or directory"
    assert fail("/no/hook") == missing
    assert fail("/etc/passwd") == "createRuntime hook 0 (/etc/passwd): cannot be started: Permission denied"
    assert fail("/bin/true", str(tmp_path / "gone")) == (
        f"createRuntime hook 0 (/bin/true): cannot be started in {tmp_path}/gone: No such file or directory"
    )


def test_prestart_hooks_are_told_that_the_container_is_created() -> None:
    """As the specification has it, since it places them after the creation; the others learn how it really is."""

    def wants(status: str) -> list[dict[str, Any]]:
        return [{"path": "/bin/grep", "args": ["grep", "-q", f'"status": "{status}"']}]

    hooks = {
        "prestart": wants("created"),
        "createRuntime": wants("creating"),
        "createContainer": wants("creating"),
    }
    run_creation_hooks(hooks, {"id": "c1", "status": "creating"}, "/", 0, ())
    with pytest.raises(OciRuntimeError, match="prestart hook 0"):
        run_creation_hooks({"prestart": wants("creating")}, {"id": "c1", "status": "creating"}, "/", 0, ())
