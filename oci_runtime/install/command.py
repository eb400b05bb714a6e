"""`vmpod install containerd|crio`: plan, show or apply, undo."""

from __future__ import annotations

import argparse
import difflib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from oci_runtime.errors import InvalidInput, NotFound, OciRuntimeError
from oci_runtime.install import containerd, crio
from oci_runtime.install.changes import (
    JOURNALS,
    Change,
    FileChange,
    LinkChange,
    apply_changes,
    read_file,
    read_link,
    undo_changes,
)

ENGINES = ("containerd", "crio")
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_VERSION_S = 10.0


def run_install(argv: Sequence[str]) -> int:
    """Run the verb with the words after it; return the exit code. Errors are one line on standard error."""
    options = _parser().parse_args(list(argv))
    try:
        return _run(options)
    except OciRuntimeError as error:
        print(f"vmpod install: {error.message}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="vmpod install", description="Make an engine use vmpod, or undo that.")
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--dry-run", action="store_true", help="only show what would change")
    parser.add_argument("--uninstall", action="store_true", help="restore what was there before")
    parser.add_argument("--config", metavar="FILE", help=f"containerd's configuration ({containerd.DEFAULT_CONFIG})")
    parser.add_argument("--drop-ins", metavar="DIR", default=crio.DROP_INS, help="CRI-O's directory (%(default)s)")
    parser.add_argument("--vmpod-config", metavar="FILE", default="", help="a configuration for these handlers alone")
    parser.add_argument("--bin-dir", metavar="DIR", help="where the two commands are (default: beside this one)")
    parser.add_argument("--link-dir", metavar="DIR", default=crio.DEFAULT_BIN, help="where links go (%(default)s)")
    parser.add_argument("--journals", metavar="DIR", default=JOURNALS, help=argparse.SUPPRESS)
    return parser


def _run(options: argparse.Namespace) -> int:
    journal = os.path.join(options.journals, f"{options.engine}.json")
    if options.uninstall:
        return _uninstall(journal, dry_run=options.dry_run)
    plan = _plan_containerd if options.engine == "containerd" else _plan_crio
    changes = plan(options)
    todo = [change for change in changes if not change.is_done]
    for change in todo:
        sys.stdout.write(describe(change))
    if not todo:
        print("nothing to do: it is installed")
        return 0
    if options.dry_run:
        return 0
    apply_changes(changes, journal)
    print(f"done; now restart it: systemctl restart {options.engine}")
    return 0


def _uninstall(journal: str, *, dry_run: bool) -> int:
    if not os.path.exists(journal):
        raise NotFound(f"nothing was installed here (no {journal})")
    if dry_run:
        print(f"would undo what {journal} lists")
        return 0
    for line in undo_changes(journal, containerd.strip_block):
        print(line, file=sys.stderr)
    print("undone")
    return 0


def _plan_containerd(options: argparse.Namespace) -> list[Change]:
    path = os.path.abspath(options.config or containerd.DEFAULT_CONFIG)
    vmpod_config = _checked_config(options.vmpod_config)
    before = read_file(path)
    version = _containerd_version() if before is None else 2
    after = containerd.plan_config(before, vmpod_config, default_version=version)
    return [*_plan_links(options), FileChange(path=path, before=before, after=after)]


def _plan_crio(options: argparse.Namespace) -> list[Change]:
    links = _plan_links(options)
    directory = os.path.abspath(options.link_dir) if links else _bin_directory(options)
    changes: list[Change] = [*links]
    for name, content in crio.render_drop_ins(directory).items():
        path = os.path.join(os.path.abspath(options.drop_ins), name)
        changes.append(FileChange(path=path, before=read_file(path), after=content))
    return changes


def _checked_config(path: str) -> str:
    if path and not os.path.isfile(path):
        raise NotFound(f"configuration {path} does not exist")
    return os.path.abspath(path) if path else ""


def _plan_links(options: argparse.Namespace) -> list[Change]:
    """Links to the commands, unless they are where engines look anyway."""
    directory = _bin_directory(options)
    if directory in SEARCH_PATH.split(":"):
        return []
    changes: list[Change] = []
    for name in ("vmpod", containerd.SHIM):
        path = os.path.join(os.path.abspath(options.link_dir), name)
        changes.append(LinkChange(path=path, before=read_link(path), target=os.path.join(directory, name)))
    return changes


def _bin_directory(options: argparse.Namespace) -> str:
    """The directory that holds both commands. Raises: InvalidInput."""
    command = shutil.which(sys.argv[0]) or sys.argv[0]
    directory = os.path.abspath(options.bin_dir or os.path.dirname(os.path.realpath(command)))
    for name in ("vmpod", containerd.SHIM):
        if not os.access(os.path.join(directory, name), os.X_OK):
            raise InvalidInput(f"{directory} has no command {name}: say where they are with --bin-dir")
    return directory


def _containerd_version() -> int:
    """The version of a new configuration: 3 for containerd 2 and later."""
    try:
        answer = subprocess.run(
            ["containerd", "--version"], capture_output=True, text=True, timeout=_VERSION_S, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise NotFound("containerd is not installed, or does not run: no configuration to add to") from error
    word = next((word for word in answer.stdout.split() if word.lstrip("v")[:1].isdigit()), "1")
    return 3 if int(word.lstrip("v").split(".")[0]) >= 2 else 2


def describe(change: Change) -> str:
    """A change as a unified diff, or as one line."""
    if isinstance(change, LinkChange):
        return f"link {change.path} -> {change.target}\n"
    before = (change.before or b"").decode(errors="replace").splitlines(keepends=True)
    after = change.after.decode(errors="replace").splitlines(keepends=True)
    return "".join(difflib.unified_diff(before, after, change.path, change.path))
