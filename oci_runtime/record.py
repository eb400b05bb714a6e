"""Record: a frozen value class for modules that every `create` imports.

`dataclasses` costs 12 ms to import (it pulls in `inspect`) and half a millisecond per class; a Record costs neither.
To a type checker it is a frozen, keyword-only dataclass.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any, Self, dataclass_transform
else:

    def dataclass_transform(**_: object):
        return lambda cls: cls


@dataclass_transform(eq_default=True, frozen_default=True, kw_only_default=True)
class Record:
    """Base of frozen value classes: annotated names are the fields, class attributes their defaults.

    Fields are given by keyword. Records compare by class and value and are not hashable. Defaults must be immutable.
    Raises TypeError at construction for missing or unknown fields.
    """

    _fields: tuple[str, ...] = ()
    _names: frozenset[str] = frozenset()
    _required: frozenset[str] = frozenset()

    def __init_subclass__(cls) -> None:
        own = [name for name in cls.__dict__.get("__annotations__", ()) if not name.startswith("_")]
        cls._fields = (*cls._fields, *(name for name in own if name not in cls._names))
        cls._names = frozenset(cls._fields)
        cls._required = frozenset(name for name in cls._fields if not hasattr(cls, name))

    if not TYPE_CHECKING:

        def __init__(self, **fields: object) -> None:
            if not (fields.keys() <= self._names and self._required <= fields.keys()):
                wrong = sorted((fields.keys() - self._names) | (self._required - fields.keys()))
                raise TypeError(f"{type(self).__name__}: unknown or missing fields: {', '.join(wrong)}")
            self.__dict__.update(fields)

        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(f"{type(self).__name__}.{name} is read-only")

        def __delattr__(self, name: str) -> None:
            raise AttributeError(f"{type(self).__name__}.{name} is read-only")

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.as_mapping() == other.as_mapping()

    __hash__ = None  # type: ignore[assignment]  # values may hold mappings

    def __repr__(self) -> str:
        inner = ", ".join(f"{name}={value!r}" for name, value in self.as_mapping().items())
        return f"{type(self).__name__}({inner})"

    def as_mapping(self) -> Mapping[str, Any]:
        """All fields by name in the order of their declaration, defaults included."""
        return {name: getattr(self, name) for name in self._fields}

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return type(self)(**{**self.__dict__, **changes})
