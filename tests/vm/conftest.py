"""Fixtures of the tests that boot machines. Every engine is checked for leftovers when it goes."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine import Engine, become_subreaper, crio, wait_until


@pytest.fixture(scope="session", autouse=True)
def subreaper() -> None:
    become_subreaper()


def _serve(directory: Path) -> Iterator[Engine]:
    engine = Engine(directory)
    yield engine
    engine.clean()
    with contextlib.suppress(AssertionError):  # the next line says what it is by then
        wait_until(lambda: not engine.leftovers(), "nothing left", 10)
    assert engine.leftovers() == []
    shutil.rmtree(directory)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """An engine of one test's own."""
    yield from _serve(tmp_path / "engine")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One pod for all tests of a module that only need a place to run: its sandbox container is `pod`."""
    for engine in _serve(tmp_path_factory.mktemp("shared") / "engine"):
        engine.run("pod", ["sleep", "100000"], annotations=crio("sandbox", "pod"))
        yield engine
