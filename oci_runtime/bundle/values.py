"""Decoders of single JSON values, and the combinators that build lists, maps and objects from them.

A decoder takes a value that `json` produced and returns the checked Python value, or raises Bad. Paths are collected
only while an error travels outwards, so that the normal case pays nothing for them.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    from oci_runtime.record import Record

    T = TypeVar("T")
    R = TypeVar("R", bound=Record)
    Decoder = Callable[[object], T]

INT32 = (-(1 << 31), (1 << 31) - 1)
INT64 = (-(1 << 63), (1 << 63) - 1)
UINT16 = (0, (1 << 16) - 1)
UINT32 = (0, (1 << 32) - 1)
UINT64 = (0, (1 << 64) - 1)
_SHOWN_CHARACTERS = 80
_SHOWN_PATH_CHARACTERS = 400


class Bad(Exception):
    """A value that the specification does not allow. path: keys and indexes, innermost first."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.path: list[str | int] = []


def show(value: object) -> str:
    """A value as it looks in an error message: JSON-like, short."""
    if value is None or value is True or value is False:
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, str):
        quoted = value.encode("unicode_escape", "backslashreplace").decode("ascii").replace('"', '\\"')
        text = f'"{quoted}"'
    else:
        text = str(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def show_path(path: str) -> str:
    """A path or key for an error message: as it is, unless it holds control characters or is absurdly long."""
    text = path if path.isprintable() else path.encode("unicode_escape", "backslashreplace").decode("ascii")
    return text if len(text) <= _SHOWN_PATH_CHARACTERS else text[: _SHOWN_PATH_CHARACTERS - 1] + "…"


def format_path(path: list[str | int]) -> str:
    """JSON path of keys and indexes, outermost first, e.g. `$.linux.namespaces[2].type`."""
    parts = ["$"]
    for step in path:
        if isinstance(step, int):
            parts.append(f"[{step}]")
        elif step.isidentifier():
            parts.append(f".{step}")
        else:
            parts.append(f"[{show(step)}]")
    return "".join(parts)


def wrong(expected: str, value: object) -> Bad:
    """The error for a value that is not what it must be."""
    return Bad(f"must be {expected}, not {show(value)}")


def text(value: object) -> str:
    """A string without NUL: every string of the file ends up in a C program."""
    if type(value) is not str:
        raise wrong("a string", value)
    if "\0" in value:
        raise Bad(f"must not contain NUL, as in {show(value)}")
    return value


def word(value: object) -> str:
    """A string that is not empty."""
    result = text(value)
    if not result:
        raise Bad("must not be empty")
    return result


def absolute_path(value: object) -> str:
    """A path that begins with a slash."""
    result = text(value)
    if not result.startswith("/"):
        raise wrong("an absolute path", value)
    return result


def flag(value: object) -> bool:
    """true or false."""
    if value is True or value is False:
        return value
    raise wrong("true or false", value)


def integer(bounds: tuple[int, int]) -> Decoder[int]:
    """A whole number within bounds, both included; 1.0 and true are not whole numbers here."""
    low, high = bounds

    def decode(value: object) -> int:
        if type(value) is not int:
            raise wrong("a whole number", value)
        if not low <= value <= high:
            raise wrong(f"from {low} to {high}", value)
        return value

    return decode


int32 = integer(INT32)
int64 = integer(INT64)
uint16 = integer(UINT16)
uint32 = integer(UINT32)
uint64 = integer(UINT64)


def one_of(*allowed: str) -> Decoder[str]:
    """One of a few strings."""
    known = frozenset(allowed)

    def decode(value: object) -> str:
        if type(value) is not str:
            raise wrong("a string", value)
        if value not in known:
            raise wrong("one of " + ", ".join(show(name) for name in allowed), value)
        return value

    return decode


def made_of(characters: str, what: str, *, prefix: str = "", empty: bool = False) -> Decoder[str]:
    """A string of the given characters after a prefix."""

    def decode(value: object) -> str:
        result = text(value)
        rest = result.removeprefix(prefix)
        if (prefix and rest == result) or rest.strip(characters) or not (rest or empty):
            raise wrong(what, value)
        return result

    return decode


def array(item: Decoder[T], *, least: int = 0) -> Decoder[tuple[T, ...]]:
    """An array of at least `least` such items."""

    def decode(value: object) -> tuple[T, ...]:
        if type(value) is not list:
            raise wrong("an array", value)
        if len(value) < least:
            raise Bad(f"must have at least {least} item" + ("s" if least > 1 else ""))
        index = 0
        try:
            result = []
            for index, element in enumerate(value):  # noqa: B007 - read by the handler
                result.append(item(element))
        except Bad as error:
            error.path.append(index)
            raise
        return tuple(result)

    return decode


def mapping(item: Decoder[T], check_key: Callable[[str], None] | None = None) -> Decoder[Mapping[str, T]]:
    """An object whose keys are data; keys must not be empty or contain NUL."""

    def decode(value: object) -> Mapping[str, T]:
        if type(value) is not dict:
            raise wrong("an object", value)
        result = {}
        key = ""
        try:
            for key, element in value.items():
                if not key or "\0" in key:
                    raise Bad("must not have an empty key or one that contains NUL")
                if check_key is not None:
                    check_key(key)
                result[key] = item(element)
        except Bad as error:
            error.path.append(key)
            raise
        return result

    return decode


def record(
    cls: type[R], *fields: tuple[str, str, Decoder[object]], check: Callable[[R], None] | None = None
) -> Decoder[R]:
    """An object with known properties, as a Record; unknown ones are ignored, as the specification demands.

    fields: (name in JSON, name in the Record, decoder). A property that is null counts as absent. `check` sees the
    finished Record and raises Bad for what single values cannot show.
    """
    required = cls._required

    def decode(value: object) -> R:
        if type(value) is not dict:
            raise wrong("an object", value)
        found: dict[str, object] = {}
        for key, name, decoder in fields:
            element = value.get(key)
            if element is None:
                if name in required:
                    raise Bad(f"misses the property {key}")
                continue
            try:
                found[name] = decoder(element)
            except Bad as error:
                error.path.append(key)
                raise
        result = cls(**found)
        if check is not None:
            check(result)
        return result

    return decode
