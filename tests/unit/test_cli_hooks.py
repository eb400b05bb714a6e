"""Hooks of the host: none may keep a command, or a shim, for ever."""

from __future__ import annotations

import time

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
