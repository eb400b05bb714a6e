"""Identifiers that name containers, sandboxes and execs: they become directory names and must never be paths."""

from __future__ import annotations

from oci_runtime.errors import InvalidInput

_LETTERS_AND_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_ALLOWED = _LETTERS_AND_DIGITS + "_.+-"
MAX_ID_CHARACTERS = 255


def is_valid_id(value: str) -> bool:
    """True for `^[A-Za-z0-9][A-Za-z0-9_.+-]{0,254}$` (a file name ends at 255 bytes)."""
    if not 0 < len(value) <= MAX_ID_CHARACTERS:
        return False
    return value[0] in _LETTERS_AND_DIGITS and not value.strip(_ALLOWED)


def validate_id(value: str, what: str = "container id") -> str:
    """Return the id, or raise InvalidInput that says what an id looks like. what: names it in the message."""
    if is_valid_id(value):
        return value
    shown = value if len(value) <= 80 else value[:79] + "…"
    raise InvalidInput(
        f"invalid {what} {shown!r}: it must be 1 to {MAX_ID_CHARACTERS} letters, digits, '_', '.', '+' or '-', "
        "the first one a letter or digit"
    )
