"""Command-line options as engines spell them: runc's (Go flags) and crun's (argp), without argparse's start-up cost.

Accepted: `--name value`, `--name=value`, `-name value` (Go), `-n value`, `-nvalue`, `-ab` for switches, `--` as end.
"""

from __future__ import annotations

from oci_runtime.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


class Option:
    """One option of a verb.

    names: the long name first, then others ("bundle", "b"). value: what the value is called, "" for a switch.
    many: may be repeated. help: half a line; "" hides the option from the usage text.
    """

    def __init__(self, names: str, value: str = "", help: str = "", *, many: bool = False) -> None:
        self.names = names.split()
        self.value = value
        self.many = many
        self.help = help

    @property
    def key(self) -> str:
        """The name under which the parsed value is found."""
        return self.names[0]


class UsageError(InvalidInput):
    """The command line itself is wrong; the usage text helps."""


class Parsed:
    """Parsed arguments: `values` by the options' first names, `rest` the words that are no options."""

    def __init__(self) -> None:
        self.values: dict[str, list[str]] = {}
        self.rest: list[str] = []

    def has(self, key: str) -> bool:
        """True when a switch is on."""
        return self.values.get(key, ["false"])[-1] in _TRUE

    def given(self, key: str) -> bool:
        """True when an option was given at all."""
        return key in self.values

    def get(self, key: str, default: str = "") -> str:
        """Return the last value of an option."""
        return self.values.get(key, [default])[-1]

    def get_all(self, key: str) -> list[str]:
        """Return all values of a repeatable option."""
        return self.values.get(key, [])

    def get_int(self, key: str) -> int | None:
        """Return the value as an integer, None when the option was not given. Raises UsageError."""
        if key not in self.values:
            return None
        return parse_int(self.values[key][-1], f"--{key}")


def parse_int(text: str, what: str) -> int:
    """Return a decimal integer. Raises UsageError naming `what`."""
    digits = text[1:] if text[:1] in ("-", "+") else text
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 20):
        raise UsageError(f"invalid value {text!r} for {what}: not an integer")
    return int(text)


def parse(options: Sequence[Option], words: Sequence[str], *, stop_at_word: bool = False) -> Parsed:
    """Parse the words behind a verb. stop_at_word: the first word that is no option ends them (`exec`, `ps`).

    Raises UsageError for an unknown option, a missing or an unwanted value.
    """
    table = {name: option for option in options for name in option.names}
    parsed = Parsed()
    queue = list(words)
    queue.reverse()
    while queue:
        word = queue.pop()
        if word == "--":
            parsed.rest += reversed(queue)
            break
        if len(word) < 2 or word[0] != "-":
            parsed.rest.append(word)
            if stop_at_word:
                parsed.rest += reversed(queue)
                break
            continue
        _parse_option(word, queue, table, parsed)
    return parsed


def _parse_option(word: str, queue: list[str], table: dict[str, Option], parsed: Parsed) -> None:
    name, equals, value = word.lstrip("-").partition("=")
    option = table.get(name)
    if option is None or (len(name) == 1 and word.startswith("--")):
        if word.startswith("--") or not _split_cluster(word, queue, table):
            raise UsageError(f"flag provided but not defined: {word.partition('=')[0]}")
        return
    if not option.value:
        _store(parsed, option, _boolean(value, word) if equals else "true")
        return
    if not equals:
        if not queue:
            raise UsageError(f"flag needs an argument: {word}")
        value = queue.pop()
    _store(parsed, option, value)


def _split_cluster(word: str, queue: list[str], table: dict[str, Option]) -> bool:
    """Take `-ab` as `-a -b` and `-nvalue` as `-n value`; False when the letters are not options."""
    first = table.get(word[1])
    if first is None or len(word) < 3:
        return False
    if first.value:
        queue += [word[2:], word[:2]]
        return True
    if any(letter not in table or table[letter].value for letter in word[1:]):
        return False
    queue += [f"-{letter}" for letter in reversed(word[1:])]
    return True


def _boolean(value: str, word: str) -> str:
    if value in _TRUE or value in _FALSE:
        return value
    raise UsageError(f"invalid boolean value {value!r} for {word.partition('=')[0]}")


def _store(parsed: Parsed, option: Option, value: str) -> None:
    if option.many:
        parsed.values.setdefault(option.key, []).append(value)
    else:
        parsed.values[option.key] = [value]


def describe(options: Sequence[Option]) -> str:
    """Return the lines of a usage text that explain the options."""
    lines = []
    for option in options:
        if not option.help:
            continue
        names = ", ".join(f"-{name}" if len(name) == 1 else f"--{name}" for name in reversed(option.names))
        lines.append(f"  {names + (' ' + option.value if option.value else ''):<32} {option.help}")
    return "\n".join(lines)
