"""Requests about a whole pod that the command line passes on: `network`, `iptables`, `volume`."""

from __future__ import annotations

import json
import sys

from oci_runtime.bundle.ids import validate_id
from oci_runtime.cli import context as lookup
from oci_runtime.cli.options import UsageError
from oci_runtime.errors import InvalidInput, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Parsed

USAGE = "ID VERB [NAME=VALUE | JSON | -]..."
_MAX_INPUT_BYTES = 4 << 20


def run(context: Context, parsed: Parsed, op: str) -> int:
    """Send {"op", "verb", …arguments} and print the answer. ID: any container of the pod."""
    if len(parsed.rest) < 2:
        raise UsageError("requires a container id and a verb")
    answer = send(context, parsed.rest[0], op, parsed.rest[1], parse_arguments(parsed.rest[2:]))
    print(json.dumps(answer, indent=2))
    return 0


def send(context: Context, container_id: str, op: str, verb: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Send one request to the pod of a container and return its answer. Raises NotFound when the machine is gone."""
    record = lookup.load(context, validate_id(container_id))
    try:
        client = lookup.connect(context, record)
    except NotFound as error:
        raise NotFound(f"virtual machine of {container_id} does not exist any more") from error
    with client:
        answer = client.call(op, **arguments, id=container_id, verb=verb)
    answer.pop("ok", None)
    return answer


def read_input(word: str, what: str) -> str:
    """What a word stands for: "-" standard input, a path a file, anything else itself. Raises InvalidInput."""
    if word == "-":
        return sys.stdin.read(_MAX_INPUT_BYTES)
    if word.lstrip()[:1] in ("{", "[", "*"):
        return word
    try:
        with open(word, encoding="utf-8") as file:
            return file.read(_MAX_INPUT_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InvalidInput(f"{what}: {word!r} is no JSON, and no file that can be read: {reason}") from error


def parse_arguments(words: list[str]) -> dict[str, Any]:
    """Return the arguments of a request: NAME=VALUE (a value that is JSON is taken as such), objects, - for stdin."""
    arguments: dict[str, Any] = {}
    for word in words:
        if word == "-" or word.startswith("{"):
            arguments.update(_parse_object(sys.stdin.read(_MAX_INPUT_BYTES) if word == "-" else word))
            continue
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise UsageError(f"argument {word!r} is neither NAME=VALUE nor a JSON object")
        arguments[name.replace("-", "_")] = _parse_value(value)
    for reserved in ("op", "id", "verb"):
        if reserved in arguments:
            raise UsageError(f"argument {reserved} cannot be given by name")
    return arguments


def _parse_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"argument is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidInput("argument is not a JSON object")
    return value


def _parse_value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
