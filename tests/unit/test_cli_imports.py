"""The thin verbs must start in milliseconds: what they may import is counted."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.control import frames
from oci_runtime.control.client import listen
from oci_runtime.host.processes import boot_id, start_time
from oci_runtime.state import records
from oci_runtime.state.layout import Layout
from oci_runtime.state.records import ContainerRecord

_REPOSITORY = str(Path(__file__).parent.parent.parent)
_PROGRAM = """
import sys
sys.path.insert(0, {repository!r})
before = set(sys.modules)
from oci_runtime.cli.main import run_command
code = run_command({words!r}, 0)
print("\\n".join(sorted(set(sys.modules) - before)), file=sys.stderr)
"""
_FORBIDDEN = {
    "argparse",
    "asyncio",
    "click",
    "collections",
    "ctypes",
    "dataclasses",
    "enum",
    "google",
    "inspect",
    "json",
    "jsonschema",
    "logging",
    "pathlib",
    "pyroute2",
    "qemu",
    "re",
    "selectors",
    "shutil",
    "signal",
    "socket",
    "structlog",
    "subprocess",
    "tempfile",
    "threading",
    "tomllib",
    "typing",
    "oci_runtime.config",
    "oci_runtime.bundle.load",
    "oci_runtime.sandbox",
    "oci_runtime.vm",
}
_MOST_MODULES = 50


def imported(words: list[str]) -> set[str]:
    """The modules that a command line imports beyond a bare interpreter."""
    program = _PROGRAM.format(repository=_REPOSITORY, words=words)
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    return set(result.stderr.split())


@pytest.mark.parametrize(
    ("verb", "status"), [("state", "running"), ("kill", "running"), ("start", "created"), ("delete", "stopped")]
)
def test_a_thin_verb_imports_little(verb: str, status: str, tmp_path: Path) -> None:
    layout = Layout(str(tmp_path))
    records.claim(layout, "c1")
    me = os.getpid() if status != "stopped" else 0
    values = {"id": "c1", "sandbox_id": "c1", "status": status, "pid": me, "pid_start": start_time(me)}
    records.save(layout, ContainerRecord({**values, "boot_id": boot_id()}))
    listener = listen(make_sandbox(layout))
    threading.Thread(target=answer, args=(listener,), daemon=True).start()
    modules = imported(["--root", str(tmp_path), verb, "c1"])
    assert ("oci_runtime.control.client" in modules) == (verb != "state")
    assert not {name for name in modules for part in _FORBIDDEN if name == part or name.startswith(part + ".")}
    assert len(modules) < _MOST_MODULES, sorted(modules)


def make_sandbox(layout: Layout) -> str:
    directory = layout.sandbox("c1")
    os.makedirs(directory)
    return directory


def answer(listener: Any) -> None:
    with socket.socket(fileno=listener.detach()) as sock:
        connection, _ = sock.accept()
        frames.receive_frame(connection)
        frames.send_frame(connection, {"ok": True})


def test_the_proxy_imports_little() -> None:
    program = (
        f"import sys; sys.path.insert(0, {_REPOSITORY!r}); before = set(sys.modules); import oci_runtime.proxy.main;"
        " print(*(set(sys.modules) - before))"
    )
    result = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    modules = set(result.stdout.split())
    assert not modules & _FORBIDDEN
    assert len(modules) < 25, sorted(modules)
