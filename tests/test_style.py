"""The linters as tests, and the direction of imports between the packages (docs/architecture.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "oci_runtime"

# A part may import parts of a lower level, itself, and what ALSO allows.
LEVELS = {
    "argument_parser": 0,
    "errors": 0,
    "log": 0,
    "host": 0,
    "record": 0,
    "json_text": 0,
    "netlink": 1,
    "bundle": 1,
    "annotations": 1,
    "config": 1,
    "ttrpc": 1,
    "control": 1,
    "vm": 2,
    "network": 2,
    "storage": 2,
    "agent": 2,
    "state": 2,
    "image": 2,
    "sandbox": 3,
    "check": 3,
    "install": 4,
    "proxy": 4,
    "cli": 4,
    "shim": 4,
}
ALSO = {
    ("host", "errors"),
    ("host", "record"),
    ("log", "errors"),
    ("config", "annotations"),
    ("annotations", "bundle"),
    ("annotations", "config"),
    ("cli", "proxy"),
    ("cli", "install"),
    ("shim", "cli"),  # hooks, host cgroups and clean-up, which both front doors need
}
GUEST_MAY_IMPORT = {"guest", "json_text", "netlink", "record", "ttrpc", "errors"}
ONLY_IN = {"pyroute2": set(), "qemu": {"vm"}, "ctypes": {"host"}, "grpc": set()}
FORBIDDEN_IN_GUEST = {"subprocess", "asyncio"}


def part_of(path: Path) -> str:
    """The part that a file belongs to: its package below oci_runtime, or its own name."""
    relative = path.relative_to(PACKAGE)
    return relative.parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, at its top or inside a function, with its dots."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def sources() -> list[Path]:
    """All source files that were written by hand."""
    return [path for path in sorted(PACKAGE.rglob("*.py")) if not path.stem.endswith("_pb2")]


def test_every_part_has_a_level() -> None:
    parts = {part_of(path) for path in sources()} - {"__init__", "__main__", "guest"}
    assert parts <= set(LEVELS), "give the new part a level here and in docs/architecture.md"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    part = part_of(path)
    wrong = []
    for name in imports_of(path):
        pieces = name.split(".")
        if pieces[0] in ONLY_IN and part not in ONLY_IN[pieces[0]] and part != "guest":
            wrong.append(f"{name}: only {ONLY_IN[pieces[0]] or 'nobody'} imports it")
        if part == "guest" and pieces[0] in FORBIDDEN_IN_GUEST:
            wrong.append(f"{name}: not in the guest")
        if pieces[0] != "oci_runtime" or len(pieces) < 2 or pieces[1] == "__version__":
            continue
        other = pieces[1]
        if part == "guest":
            if other not in GUEST_MAY_IMPORT:
                wrong.append(f"{name}: the guest imports only {sorted(GUEST_MAY_IMPORT)}")
        elif part in LEVELS and other != part and (part, other) not in ALSO and LEVELS[other] >= LEVELS[part]:
            wrong.append(f"{name}: level {LEVELS[other]} from level {LEVELS[part]}")
    assert not wrong, f"{path}: {wrong}"


@pytest.mark.parametrize(
    "command",
    [["ruff", "check"], ["ruff", "format", "--check"], ["mypy"]],
    ids=lambda command: "-".join(command),
)
def test_linters_are_clean(command: list[str]) -> None:
    result = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 0, result.stdout[-8000:] + result.stderr[-2000:]
