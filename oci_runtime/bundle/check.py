"""List everything that is wrong with a bundle, not just the first thing: `vmpod spec check`, and failed creates.

The only importer of jsonschema; nothing on the normal way of a container comes here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator, TypeChecker, ValidationError, validators

from oci_runtime.bundle import schema
from oci_runtime.bundle.load import is_rootfs, read_json_object
from oci_runtime.bundle.values import format_path, show, show_path
from oci_runtime.errors import OciRuntimeError
from oci_runtime.record import Record

MAX_PROBLEMS = 200
_NAMES = {
    "string": "a string",
    "integer": "a whole number",
    "boolean": "true or false",
    "array": "an array",
    "object": "an object",
}


class Problem(Record):
    """One thing that is wrong. path: JSON path, "" for the bundle as a whole."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path} {self.reason}".strip()


def check_bundle(path: str) -> tuple[Problem, ...]:
    """All problems of a bundle directory, empty when it is fine. Bad input is a problem, never an exception."""
    directory = os.path.abspath(path)
    config = os.path.join(directory, "config.json")
    try:
        raw = read_json_object(config)
    except OciRuntimeError as error:
        return (Problem(path="", reason=error.message),)
    problems = check_spec(raw)
    root = raw.get("root")
    relative = root.get("path") if isinstance(root, dict) else None
    if isinstance(relative, str) and relative and "\0" not in relative:
        rootfs = os.path.normpath(os.path.join(directory, relative))
        if not is_rootfs(rootfs):
            reason = f"leads to {show_path(rootfs)}, which is not a directory or disk"
            problems += (Problem(path="$.root.path", reason=reason),)
    return problems


def check_spec(raw: object) -> tuple[Problem, ...]:
    """All problems of a config.json that was parsed; at most 200."""
    return _problems(_CONFIG, raw)


def _problems(validator: Any, raw: object) -> tuple[Problem, ...]:
    found: list[Problem] = []
    for error in validator.iter_errors(raw):
        found.append(Problem(path=format_path(list(error.absolute_path)), reason=error.message))
        if len(found) == MAX_PROBLEMS:
            break
    return tuple(found)


def _is_integer(_: TypeChecker, instance: object) -> bool:
    return type(instance) is int


def _type(_: Any, types: Any, instance: Any, parent: Any) -> Iterator[ValidationError]:
    allowed = [types] if isinstance(types, str) else types
    if not any(_TYPES.is_type(instance, name) for name in allowed):
        yield ValidationError(f"must be {_NAMES[allowed[0]]}, not {show(instance)}")


def _enum(_: Any, allowed: Any, instance: Any, parent: Any) -> Iterator[ValidationError]:
    if not any(type(value) is type(instance) and value == instance for value in allowed):
        names = ", ".join(show(value) for value in allowed if value is not None)
        yield ValidationError(f"must be one of {names}, not {show(instance)}")


def _range(_: Any, bound: Any, instance: Any, parent: Any) -> Iterator[ValidationError]:
    """For both bounds of an integer; reported once, under `minimum`."""
    if type(instance) is int and not parent["minimum"] <= instance <= parent["maximum"]:
        yield ValidationError(f"must be from {parent['minimum']} to {parent['maximum']}, not {show(instance)}")


def _not(validator: Any, refused: Any, instance: Any, parent: Any) -> Iterator[ValidationError]:
    if validator.evolve(schema=refused).is_valid(instance):
        yield ValidationError(f"must be {parent['description']}, not {show(instance)}")


def _nothing(_: Any, value: Any, instance: Any, parent: Any) -> Iterator[ValidationError]:
    yield from ()


def _pattern(_: Any, pattern: str, instance: Any, parent: Any) -> Iterator[ValidationError]:
    # ECMA's `$` is the end of the string; Python's also matches before a last line feed.
    if isinstance(instance, str) and not re.fullmatch(pattern.removeprefix("^").removesuffix("$"), instance):
        yield ValidationError(f"must be {parent['description']}, not {show(instance)}")


def _required(_: Any, names: Any, instance: Any, parent: Any) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for name in names:
            if name not in instance:
                yield ValidationError(f"misses the property {name}")


def _least_items(_: Any, least: int, instance: Any, parent: Any) -> Iterator[ValidationError]:
    if isinstance(instance, list) and len(instance) < least:
        yield ValidationError(f"must have at least {least} item" + ("s" if least > 1 else ""))


def _contains(validator: Any, wanted: Any, instance: Any, parent: Any) -> Iterator[ValidationError]:
    """Only maxContains is used here: which values occur more often than that?"""
    if isinstance(instance, list):
        matches = [index for index, item in enumerate(instance) if validator.evolve(schema=wanted).is_valid(item)]
        for index in matches[parent["maxContains"] :]:
            yield ValidationError(parent["description"], path=[index])


def _property_names(validator: Any, names: Any, instance: Any, parent: Any) -> Iterator[ValidationError]:
    if isinstance(instance, dict):
        for name in instance:
            for error in validator.descend(instance=name, schema=names):
                yield ValidationError(f"has a key that {error.message}")


_BASE = Draft202012Validator
_TYPES = _BASE.TYPE_CHECKER.redefine("integer", _is_integer)
_extend: Any = validators.extend
_VALIDATOR = _extend(
    _BASE,
    {
        "type": _type,
        "enum": _enum,
        "minimum": _range,
        "maximum": _nothing,
        "not": _not,
        "pattern": _pattern,
        "required": _required,
        "minItems": _least_items,
        "contains": _contains,
        "minContains": _nothing,
        "maxContains": _nothing,
        "propertyNames": _property_names,
    },
)
_CONFIG = _VALIDATOR(schema.CONFIG)
