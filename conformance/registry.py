"""The list of checks: suites register them by decorator, engines name the modules that hold suites.

A check's id is `suite.name`. Its clause names the section of the OCI runtime specification 1.2 (or of an engine's
contract) that it proves, so that a failing check can be argued about.
"""

from __future__ import annotations

import fnmatch
import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from conformance.case import Case

CheckFunction = Callable[["Case"], None]

SPEC_URL = "https://github.com/opencontainers/runtime-spec/blob/v1.2.0/"

# Each engine is a list of modules; importing them registers their checks. They are imported only when asked for.
ENGINES: dict[str, tuple[str, ...]] = {
    "oci": tuple(
        f"conformance.suites.{name}"
        for name in (
            "commands",
            "lifecycle",
            "identifiers",
            "process",
            "terminal",
            "stdio",
            "filesystem",
            "devices",
            "linux",
            "namespaces",
            "resources",
            "exec",
            "manage",
            "hooks",
            "errors",
            "cleanliness",
        )
    ),
    "conmon": ("conformance.engines.conmon", "conformance.engines.conmon_refusals"),
    "ctr": ("conformance.engines.ctr", "conformance.engines.ctr_refusals"),
    "podman": tuple(
        f"conformance.engines.podman{part}" for part in ("", "_figures", "_refusals", "_netavark", "_pods")
    ),
    "docker": tuple(f"conformance.engines.docker{part}" for part in ("", "_refusals", "_network")),
    "cri": ("conformance.cri.suite",),
    "validation": ("conformance.external.validation",),
    "contest": ("conformance.external.contest",),
    "critest": ("conformance.external.critest",),
}


@dataclass(frozen=True)
class Check:
    """One statement about a runtime that a run proves or refutes."""

    id: str
    suite: str
    engine: str
    clause: str
    title: str
    run: CheckFunction

    @property
    def url(self) -> str:
        """Where the clause can be read; empty when it is not a clause of the OCI specification."""
        return SPEC_URL + self.clause if ".md#" in self.clause else ""


class Suite:
    """A named group of checks of one engine."""

    def __init__(self, name: str, engine: str = "oci") -> None:
        self.name = name
        self.engine = engine

    def check(self, name: str, clause: str, title: str) -> Callable[[CheckFunction], CheckFunction]:
        """Register the decorated function as check `<suite>.<name>`."""

        def register(function: CheckFunction) -> CheckFunction:
            self.add(name, clause, title, function)
            return function

        return register

    def add(self, name: str, clause: str, title: str, function: CheckFunction) -> None:
        """Register a check that a table made. Raises ValueError for an id that exists."""
        check = Check(f"{self.name}.{name}", self.name, self.engine, clause, title, function)
        if check.id in CHECKS:
            raise ValueError(f"check {check.id} is registered twice")
        CHECKS[check.id] = check


CHECKS: dict[str, Check] = {}


def load_engine(engine: str, external: Mapping[str, str]) -> None:
    """Import the modules of an engine, and let adapters of external suites register the programs that they find.

    Raises ValueError for an engine that is unknown, not part of this tree, or not on this machine.
    """
    if engine not in ENGINES:
        raise ValueError(f"unknown engine {engine!r}: one of {', '.join(ENGINES)}")
    for module in ENGINES[engine]:
        try:
            loaded = importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ValueError(f"engine {engine!r} is not available: {error}") from error
        if hasattr(loaded, "register"):
            loaded.register(external)


def select_checks(
    engines: Iterable[str], patterns: Iterable[str] = (), external: Mapping[str, str] | None = None
) -> tuple[Check, ...]:
    """Return the checks of the engines, in order of registration, whose id or suite matches one of the patterns."""
    wanted = tuple(patterns)
    chosen = []
    for engine in engines:
        load_engine(engine, external or {})
        for check in CHECKS.values():
            if check.engine == engine and (not wanted or any(_matches(check, pattern) for pattern in wanted)):
                chosen.append(check)
    return tuple(chosen)


def _matches(check: Check, pattern: str) -> bool:
    return check.suite == pattern or fnmatch.fnmatchcase(check.id, pattern)
