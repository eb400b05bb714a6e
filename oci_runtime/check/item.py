"""One thing that a machine may need, and whether it is there."""

from __future__ import annotations

from oci_runtime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

OK = "ok"
MISSING = "missing"
OPTIONAL = "optional"
_MAX_TEXT = 500


class Item(Record):
    """status: OK; MISSING (no pod can run without it); OPTIONAL (not there, and pods run without it).

    found: what there is, or what is wrong. remedy: what to do, "" where nothing can or need be done.
    """

    name: str
    status: str
    found: str
    remedy: str = ""


def absent(name: str, found: str, remedy: str = "", *, needed: bool) -> Item:
    """An item that is not there."""
    return Item(name=name, status=MISSING if needed else OPTIONAL, found=found[:_MAX_TEXT], remedy=remedy)


def render(items: Iterable[Item]) -> str:
    """One line for each item, and one below it for what to do."""
    items = tuple(items)
    width = max((len(item.name) for item in items), default=0)
    lines = []
    for item in items:
        lines.append(f"{item.status:<8}  {item.name:<{width}}  {printable(item.found)}")
        if item.remedy:
            lines.append(f"{'':<8}  {'':<{width}}  -> {printable(item.remedy)}")
    return "\n".join(lines) + "\n"


def printable(text: str) -> str:
    """On one line, without control characters: some of it comes from a guest."""
    return "".join(character if character.isprintable() else " " for character in text)
