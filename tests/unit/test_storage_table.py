"""The table of docs/storage.md: a test that exists behind each kind of mount."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_REFERENCE = re.compile(r"`((?:tests/[a-z_/]+\.py|…)(?:::\w+)?)`")


def rows() -> list[list[str]]:
    """The cells of each row; `…` in the last one is the file of the row before."""
    text = (ROOT / "docs" / "storage.md").read_text()
    table = text.split("## Kinds, and the test behind each")[1].split("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def references() -> list[tuple[str, str]]:
    """(kind, reference) for each test that a row names, with its file."""
    found, file = [], ""
    for kind, _, tests in rows():
        names = _REFERENCE.findall(tests)
        assert names, f"no test behind {kind!r}"
        for name in names:
            file = name.split("::")[0] if name.startswith("tests/") else file
            found.append((kind, name.replace("…", file)))
    return found


@pytest.mark.parametrize(("kind", "reference"), references())
def test_the_test_behind_a_kind_of_mount_exists(kind: str, reference: str) -> None:
    file, _, name = reference.partition("::")
    text = (ROOT / file).read_text()
    assert re.search(rf"^def {name}\(" if name else r"^def test_", text, re.MULTILINE), f"{kind}: {reference}"


def test_the_whole_table_is_read() -> None:
    assert len(rows()) > 25 and all(len(cells) == 3 for cells in rows())
