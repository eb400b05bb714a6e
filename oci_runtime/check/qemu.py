"""Ask QEMU itself what it can do: one short process without a machine, over its monitor."""

from __future__ import annotations

import json
import subprocess

from oci_runtime.errors import HostError, InvalidInput
from oci_runtime.host.spawn import find_program
from oci_runtime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_DEADLINE_S = 20.0
_COMMANDS = ("qmp_capabilities", "query-version", "qom-list-types", "query-machines", "quit")
# What the command line of a machine uses (vm/argv.py): without seccomp, QEMU refuses to start with it.
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_OLDEST = (6, 2)


class QemuFacts(Record):
    """version: as QEMU tells it, e.g. (7, 2, 0). types: names of its devices and accelerators. machines: its types."""

    path: str
    version: tuple[int, ...]
    types: frozenset[str]
    machines: frozenset[str]

    @property
    def is_recent(self) -> bool:
        """Whether the version has all that machines of vmpod use."""
        return self.version >= _OLDEST


def ask_qemu(program: str, hint: str) -> QemuFacts:
    """Start QEMU and ask. Raises: NotFound, InvalidInput (no QEMU, or one that lacks its sandbox), HostError."""
    path = find_program(program, hint)
    argv = [path, "-machine", "none", "-nodefaults", "-no-user-config", "-display", "none"]
    argv += ["-sandbox", _SANDBOX, "-qmp", "stdio"]
    questions = "".join(json.dumps({"execute": command, "id": command}) + "\n" for command in _COMMANDS)
    try:
        done = subprocess.run(argv, input=questions, capture_output=True, text=True, timeout=_DEADLINE_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise InvalidInput(f"{path} does not answer within {_DEADLINE_S:g} s") from error
    except OSError as error:
        raise HostError.from_oserror(error, "exec", path) from error
    answers = _parse(done.stdout)
    try:
        version = answers["query-version"]["qemu"]
        return QemuFacts(
            path=path,
            version=tuple(int(version[part]) for part in ("major", "minor", "micro")),
            types=frozenset(str(entry["name"]) for entry in answers["qom-list-types"]),
            machines=frozenset(
                str(name) for entry in answers["query-machines"] for name in (entry["name"], entry.get("alias", ""))
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        reason = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise InvalidInput(f"{path} does not work: {reason[-1]}") from error


def _parse(text: str) -> dict[str, Any]:
    """The answers by the command that they belong to; whatever else QEMU says is left out."""
    answers: dict[str, Any] = {}
    for line in text.splitlines():
        try:
            message = json.loads(line)
        except ValueError:
            continue
        if isinstance(message, dict) and "return" in message:
            answers[str(message.get("id", ""))] = message["return"]
    return answers
