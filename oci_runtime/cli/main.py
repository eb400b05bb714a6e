"""The command `vmpod`: global options, the verb, errors.

Every module imported here is paid for by `state` and `kill`, which engines call all the time: a verb's module is
imported when it is asked for, and argparse, logging and their kind not at all.
"""

from __future__ import annotations

import errno
import os
import sys
import time

from oci_runtime.cli.context import Context
from oci_runtime.cli.options import Option, UsageError, describe, parse
from oci_runtime.errors import HostError, OciRuntimeError
from oci_runtime.log import Sink, configure, get_logger

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NoReturn, Protocol

    from oci_runtime.cli.options import Parsed

    class Verb(Protocol):
        """A module of this package that implements a verb. USAGE: the words behind its name."""

        SUMMARY: str
        USAGE: str
        OPTIONS: tuple[Option, ...]
        run: Callable[[Context, Parsed], int]


VERBS = {
    "create": "create",
    "start": "start",
    "run": "run",
    "state": "state",
    "kill": "kill",
    "delete": "delete",
    "exec": "exec",
    "list": "list",
    "ps": "ps",
    "pause": "pause",
    "resume": "resume",
    "update": "update",
    "events": "events",
    "spec": "spec",
    "features": "features",
    "version": "version",
    "checkpoint": "checkpoint",
    "restore": "restore",
    "timeline": "timeline",
    "logs": "logs",
    "image": "image",
    "config": "config",
    "network": "network",
    "iptables": "iptables",
    "volume": "volume",
    "gc": "gc",
    "check": "check",
    "env": "env",
    "install": "install",
}
# Their first word that is no option ends the options: the rest belongs to the command in the container, or to ps.
_STOP_AT_WORD = frozenset({"exec", "ps"})
# They have commands and options of their own, and get their words as they are.
_PARSE_THEMSELVES = frozenset({"image", "install"})
_EXEC_FAILED = 255
# No reason not to clean up: a log is worth less than that.
_DISK_TROUBLE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})

GLOBAL_OPTIONS = (
    Option("root", "DIR", "state directory (default: /run/vmpod)"),
    Option("log", "FILE", "append log lines to a file"),
    Option("log-format", "FORMAT", "text or json (default: text)"),
    Option("debug", "", "log more"),
    Option("systemd-cgroup", "", "cgroupsPath is of systemd's form slice:prefix:name"),
    Option("cgroup-manager", "NAME", "systemd: the same; anything else: cgroupsPath is a path"),
    Option("config", "FILE", "configuration file instead of /etc/vmpod/config.toml"),
    Option("rootless", "VALUE", "accepted, without effect"),
    Option("criu", "PATH", "accepted, without effect"),
    Option("version v V", "", "print the version"),
    Option("help h", "", "print this text, or that of a verb"),
)


def main() -> NoReturn:
    """Entry point of the script: runs the command and ends the process at once."""
    started_ns = time.monotonic_ns()
    _open_standard_streams()
    code = run_command(sys.argv[1:], started_ns)
    try:
        sys.stdout.flush()
    except OSError:
        code = code or 1
    # Nothing is left to clean up; the interpreter's own way out would cost milliseconds.
    os._exit(code)


def _open_standard_streams() -> None:
    """Fill closed descriptors 0-2, so that no socket of ours ever takes their numbers."""
    fd = os.open(os.devnull, os.O_RDWR)
    while fd <= 2:
        os.set_inheritable(fd, True)
        fd = os.dup(fd)
    os.close(fd)
    if sys.stdout is None:
        sys.stdout = open(1, "w", closefd=False)  # what Python leaves out when the descriptor is closed


def run_command(words: Sequence[str], started_ns: int) -> int:
    """Run one command line (without the program's name) and return its exit code."""
    verb_name = ""
    configure(Sink(os.devnull))  # until the options say more: a mistake in them is one line
    try:
        options = parse(GLOBAL_OPTIONS, words, stop_at_word=True)
        _configure_log(options)
        if options.has("version"):
            options.rest[:0] = ["version"]
        if options.has("help") or options.rest[:1] == ["help"]:
            asked = options.rest[1:] if options.rest[:1] == ["help"] else options.rest
            options.rest = [asked[0], "--help"] if asked else []
        if not options.rest:
            return _print_help()
        verb_name = options.rest[0]
        context = Context(options, list(words), started_ns)
        return _run_verb(context, verb_name, options.rest[1:])
    except OciRuntimeError as error:
        report(error, verb_name)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 1
    except OSError as error:
        report(OciRuntimeError(f"{error.filename or 'system call'}: {error.strerror or error}"), verb_name)
    except Exception as error:  # noqa: BLE001  # engines want their one line, whatever has gone wrong
        report(_describe_bug(error), verb_name)
    return _EXEC_FAILED if verb_name == "exec" else 1


def _describe_bug(error: Exception) -> OciRuntimeError:
    import traceback

    return OciRuntimeError(f"internal error: {type(error).__name__}: {error}", detail=traceback.format_exc())


def _configure_log(options: Parsed) -> None:
    form = options.get("log-format", "text")
    if form not in ("text", "json"):
        raise UsageError(f"unknown log-format {form!r}: text or json")
    path = options.get("log")
    sink = Sink(path, json_lines=form == "json", level="debug" if options.has("debug") else "info")
    if not path and not options.has("debug"):
        # Without a log file the one line on standard error says it all.
        return
    try:
        sink.open()
    except OSError as error:
        if error.errno not in _DISK_TROUBLE:
            raise HostError.from_oserror(error, "open log", path) from error
    configure(sink)


def _load_verb(name: str) -> Verb:
    module = VERBS.get(name)
    if module is None:
        raise UsageError(f"unknown command {name!r}, see vmpod --help")
    verb: Verb = __import__(f"oci_runtime.cli.{module}", fromlist=("run",))
    return verb


def _run_verb(context: Context, name: str, words: Sequence[str]) -> int:
    verb = _load_verb(name)
    if name in _PARSE_THEMSELVES:
        return verb.run(context, parse((), ["--", *words]))
    options = (*verb.OPTIONS, Option("help h", "", ""))
    try:
        parsed = parse(options, words, stop_at_word=name in _STOP_AT_WORD)
        if parsed.has("help"):
            return _print_verb_help(name, verb)
        return verb.run(context, parsed)
    except UsageError as error:
        raise UsageError(f"{name}: {error.message}, usage: vmpod {name} {verb.USAGE}") from error


def report(error: OciRuntimeError, verb: str = "") -> None:
    """Tell the caller about a failure: one line on standard error, one in the log; then what explains it."""
    get_logger(__name__).error(error.message, **({"detail": error.detail} if error.detail else {}))
    text = f"vmpod: {error.message}".replace("\n", " ") + "\n"
    if error.detail:
        text += "".join(f"  | {line}\n" for line in error.detail.rstrip().splitlines()[-40:])
    try:
        os.write(2, text.encode("utf-8", "backslashreplace"))
    except OSError:
        return


def _print_help() -> int:
    lines = [f"  {name:<12} {_load_verb(name).SUMMARY}" for name in VERBS]
    print("vmpod: an OCI runtime that gives every pod its own virtual machine\n")
    print("usage: vmpod [GLOBAL OPTIONS] COMMAND [OPTIONS] [ARGUMENTS]\n\ncommands:")
    print("\n".join(lines))
    print("\nglobal options:\n" + describe(GLOBAL_OPTIONS))
    return 0


def _print_verb_help(name: str, verb: Verb) -> int:
    print(f"vmpod {name}: {verb.SUMMARY}\n\nusage: vmpod {name} {verb.USAGE}".rstrip())
    options = describe(verb.OPTIONS)
    if options:
        print("\noptions:\n" + options)
    return 0


if __name__ == "__main__":
    main()
