"""The order of all tests: files that take long begin first, so that no worker is left alone with one of them."""

from __future__ import annotations

import pytest

# By the processor time that they take. All others are shorter than these, and come in the order of their names.
LONGEST = ("tests/conformance/test_cri.py",)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Workers take whole files, in this order."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.nodeid.split("::")[0], len(rank)))
