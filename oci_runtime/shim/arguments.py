"""The command line of a containerd shim: flags as Go's `flag` package reads them, then one action.

Import-light: `start` and `delete` are on the way of every container.
"""

from __future__ import annotations

from oci_runtime.errors import InvalidInput
from oci_runtime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_STRINGS = {
    "namespace": "namespace",
    "address": "address",
    "publish-binary": "publish_binary",
    "id": "id",
    "bundle": "bundle",
    "socket": "",
    "debug-socket": "",
}
_SWITCHES = {"debug": "debug", "v": "version", "version": "version", "info": "info", "h": "help", "help": "help"}
_TRUE = {"1", "t", "T", "true", "TRUE", "True"}
_FALSE = {"0", "f", "F", "false", "FALSE", "False"}


class Arguments(Record):
    """What the engine asked for. action: "start", "delete" or "" (with one of the switches)."""

    action: str = ""
    namespace: str = ""
    address: str = ""
    publish_binary: str = ""
    id: str = ""
    bundle: str = ""
    debug: bool = False
    version: bool = False
    info: bool = False
    help: bool = False


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Parse the arguments after the program's name. Raises: InvalidInput for an unknown flag or a missing value.

    `-flag value`, `-flag=value` and the same with two dashes are one thing, as in Go.
    """
    values: dict[str, str | bool] = {}
    rest = list(argv)
    while rest:
        word = rest[0]
        if word == "--":
            rest.pop(0)
            break
        if not word.startswith("-") or word == "-":
            break
        rest.pop(0)
        name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
        if name in _SWITCHES:
            values[_SWITCHES[name]] = _switch(name, value) if equals else True
        elif name in _STRINGS:
            if not equals and not rest:
                raise InvalidInput(f"flag -{name} needs a value")
            values[_STRINGS[name]] = value if equals else rest.pop(0)
        else:
            raise InvalidInput(f"unknown flag -{name}")
    values.pop("", None)
    if len(rest) > 1:
        raise InvalidInput(f"one action is expected, not {' '.join(rest)}")
    return Arguments(action=rest[0] if rest else "", **values)  # type: ignore[arg-type]


def _switch(name: str, value: str) -> bool:
    if value not in _TRUE | _FALSE:
        raise InvalidInput(f"flag -{name}: {value!r} is neither true nor false")
    return value in _TRUE
