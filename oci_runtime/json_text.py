"""JSON without the price of the `json` package, which loads regular expressions and enums: 6 of a thin verb's 17 ms,
and a quarter of a second between an emulated guest's greeting and its first container.

The work is done by the same C functions that `json` uses in CPython; where they are missing, `json` itself does it.
Stricter than `json`: no NaN or Infinity, no whitespace but JSON's.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SPACE = " \t\n\r"


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class _Rules:
    """What the C scanner asks its context for."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_refuse)
    memo: dict[str, str] = {}


def _fallback() -> tuple[Callable[[str, int], tuple[Any, int]], Callable[[Any], str]]:
    import json

    decoder = json.JSONDecoder(parse_constant=_refuse)
    encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
    return decoder.raw_decode, encoder.encode


def _bind() -> tuple[Callable[[str, int], tuple[Any, int]], Callable[[Any], str]]:
    try:
        import _json

        scan = _json.make_scanner(_Rules)  # type: ignore[arg-type]  # any object with these attributes will do
        encode = _json.make_encoder(None, _not_json, _json.encode_basestring_ascii, None, ":", ",", False, False, False)
    except (ImportError, AttributeError, TypeError):
        return _fallback()
    return scan, lambda value: "".join(encode(value, 0))


def _not_json(value: object) -> None:
    raise TypeError(f"{type(value).__name__} is not JSON")


_scan, _encode = _bind()


def loads(text: str | bytes | bytearray) -> Any:
    """Return the value of a JSON text. Raises ValueError (also for bytes that are not UTF-8), RecursionError."""
    string = text if isinstance(text, str) else str(text, "utf-8")
    end = len(string.rstrip(_SPACE))
    try:
        value, stop = _scan_from(string, len(string) - len(string.lstrip(_SPACE)))
    except StopIteration as error:
        raise ValueError(f"no JSON value at character {error.value}") from None
    if stop != end:
        raise ValueError(f"more than one JSON value: character {stop}")
    return value


def _scan_from(string: str, begin: int) -> tuple[Any, int]:
    try:
        return _scan(string, begin)
    except SystemError:
        # The scanner raises an exception of json.decoder, but only of one that is loaded already (Python 3.11).
        import json.decoder  # noqa: F401 - for the scanner

        return _scan(string, begin)


def dumps(value: Any) -> str:
    """Return the compact JSON text of a value, in ASCII. Raises TypeError and ValueError for what JSON cannot hold."""
    return _encode(value)


def pretty(value: Any, indent: str = "") -> str:
    """Return the JSON text with two spaces for each level, as Go's MarshalIndent writes it."""
    inner = indent + "  "
    if isinstance(value, dict) and value:
        rows = [f"{inner}{dumps(key)}: {pretty(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(inner + pretty(item, inner) for item in value) + f"\n{indent}]"
    return dumps(value)
