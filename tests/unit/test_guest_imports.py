"""What the agent imports until the first container is there: in an emulated guest each module costs milliseconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_REPOSITORY = str(Path(__file__).parent.parent.parent)
_PROGRAM = """
import sys
sys.path.insert(0, {repository!r})
before = set(sys.modules)
from oci_runtime.guest import main, lifecycle, prepare
for module in (*prepare._WARM, "network"):
    __import__("oci_runtime.guest." + module)
print("\\n".join(sorted(set(sys.modules) - before)))
"""
# Together they would take longer than all of the agent's own modules.
_FORBIDDEN = {
    *("argparse", "asyncio", "collections", "contextlib", "copy", "ctypes", "dataclasses", "enum", "functools"),
    *("google", "inspect", "json", "logging", "pathlib", "re", "selectors", "shutil", "signal", "socket"),
    *("subprocess", "tempfile", "threading", "typing", "weakref"),
}


def test_the_agent_imports_little() -> None:
    command = [sys.executable, "-I", "-S", "-c", _PROGRAM.format(repository=_REPOSITORY)]
    modules = set(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.split())
    assert {"oci_runtime.guest.containers", "oci_runtime.guest.network"} < modules
    assert not {name for name in modules if name.partition(".")[0] in _FORBIDDEN}
