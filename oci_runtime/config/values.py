"""Check one value of the configuration against its setting, whether it came from TOML or from an annotation."""

from __future__ import annotations

from oci_runtime.config.settings import BOOL, INT, LIST, PATH
from oci_runtime.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.config.settings import Setting, Value


def check_value(setting: Setting, value: object, where: str) -> Value:
    """Return the value in its final form (lists become tuples).

    where: what the message names: file and key, or the annotation. Raises: InvalidInput.
    """
    if setting.kind == BOOL:
        if type(value) is not bool:
            raise _wrong(where, "true or false", value)
        return value
    if setting.kind == INT:
        if type(value) is not int:
            raise _wrong(where, "a whole number", value)
        if not setting.low <= value <= setting.high:
            raise _wrong(where, f"from {setting.low} to {setting.high}", value)
        return value
    if setting.kind == LIST:
        if not isinstance(value, (list, tuple)):
            raise _wrong(where, "a list of strings", value)
        return tuple(_check_item(setting, item, where) for item in value)
    return _check_text(setting, value, where)


def parse_value(setting: Setting, text: str, where: str) -> Value:
    """Read a value from an annotation, where everything is a string.

    Booleans are true or false; lists are JSON arrays, or for kernel modules separated by semicolons.
    Raises: InvalidInput that names `where`.
    """
    if setting.kind == BOOL:
        return check_value(setting, {"true": True, "false": False}.get(text, text), where)
    if setting.kind == INT:
        digits = text.removeprefix("-")
        is_number = digits.isascii() and digits.isdigit() and len(digits) < 20
        return check_value(setting, int(text) if is_number else text, where)
    if setting.kind != LIST:
        return check_value(setting, text, where)
    if setting.items == "module" and not text.startswith("["):
        return check_value(setting, [item.strip() for item in text.split(";") if item.strip()], where)
    import json

    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        items = text
    return check_value(setting, items, where)


def _check_text(setting: Setting, value: object, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(where, "a string", value)
    if setting.choices and value not in setting.choices:
        raise _wrong(where, "one of " + ", ".join(setting.choices), value)
    if any(character < " " or character == "\x7f" for character in value):
        raise _wrong(where, "free of control characters", value)
    if setting.items == "name" and ("/" in value or value.startswith(".") or not value):
        raise _wrong(where, "a name without slashes and without a dot at its start", value)
    if setting.kind == PATH and not value.startswith("/") and not (setting.optional and not value):
        raise _wrong(where, "an absolute path", value)
    if setting.kind == PATH and ".." in value.split("/"):
        raise _wrong(where, "a path without ..", value)
    return value


def _check_item(setting: Setting, item: object, where: str) -> str:
    if not isinstance(item, str) or not item:
        raise _wrong(where, "a list of strings that are not empty", item)
    if any(character < " " for character in item):
        raise _wrong(where, "free of control characters", item)
    if setting.items == "regex":
        import re

        try:
            re.compile(item)
        except (re.error, RecursionError, OverflowError) as error:
            raise InvalidInput(f"{where}: {item!r} is not a regular expression: {error}") from None
    if setting.items == "glob" and not item.startswith("/"):
        raise _wrong(where, "absolute paths, which may hold *, ? and [...]", item)
    return item


def _wrong(where: str, expected: str, value: object) -> InvalidInput:
    shown = {True: "true", False: "false"}[value] if isinstance(value, bool) else repr(value)
    return InvalidInput(f"{where} must be {expected}, not {shown if len(shown) <= 80 else shown[:79] + '…'}")
