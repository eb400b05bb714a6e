"""`vmpod install containerd|crio|podman|docker`: plan, show or apply, undo."""

from __future__ import annotations

import argparse
import difflib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from oci_runtime.argument_parser import ArgumentParser
from oci_runtime.errors import InvalidInput, NotFound, OciRuntimeError
from oci_runtime.install import containerd, crio, docker, podman
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

ENGINES = ("containerd", "crio", "podman", "docker")
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


def _parser() -> ArgumentParser:
    parser = ArgumentParser(prog="vmpod install", description="Make an engine use vmpod, or undo that.")
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("--dry-run", action="store_true", help="only show what would change")
    parser.add_argument("--uninstall", action="store_true", help="restore what was there before")
    parser.add_argument("--config", metavar="FILE", help="the configuration of containerd or Docker, if elsewhere")
    parser.add_argument("--drop-ins", metavar="DIR", help="the drop-ins of CRI-O or podman, if elsewhere")
    parser.add_argument("--vmpod-config", metavar="FILE", default="", help="containerd: a configuration for its pods")
    parser.add_argument("--bin-dir", metavar="DIR", help="where the two commands are (default: beside this one)")
    parser.add_argument("--link-dir", metavar="DIR", default=crio.DEFAULT_BIN, help="where links go (%(default)s)")
    parser.add_argument("--journals", metavar="DIR", default=JOURNALS, help=argparse.SUPPRESS)
    return parser


def _run(options: argparse.Namespace) -> int:
    journal = os.path.join(options.journals, f"{options.engine}.json")
    if options.uninstall:
        return _uninstall(options, journal)
    changes = _PLANS[options.engine](options)
    todo = [change for change in changes if not change.is_done]
    for change in todo:
        sys.stdout.write(describe(change))
    if not todo:
        print("nothing to do: it is installed")
        return 0
    if options.dry_run:
        return 0
    apply_changes(changes, journal)
    print(f"done; {_AFTERWARDS[options.engine]}")
    return 0


def _uninstall(options: argparse.Namespace, journal: str) -> int:
    if not os.path.exists(journal):
        raise NotFound(f"nothing was installed here (no {journal})")
    if options.dry_run:
        print(f"would undo what {journal} lists")
        return 0
    strip = docker.strip_entry if options.engine == "docker" else containerd.strip_block
    for line in undo_changes(journal, strip):
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
    links, directory = _plan_commands(options)
    return [*links, *_plan_drop_ins(options.drop_ins or crio.DROP_INS, crio.render_drop_ins(directory))]


def _plan_podman(options: argparse.Namespace) -> list[Change]:
    links, directory = _plan_commands(options)
    drop_ins = {podman.NAME: podman.render_drop_in(directory)}
    return [*links, *_plan_drop_ins(options.drop_ins or podman.DROP_INS, drop_ins)]


def _plan_docker(options: argparse.Namespace) -> list[Change]:
    links, directory = _plan_commands(options)
    path = os.path.abspath(options.config or docker.DEFAULT_CONFIG)
    before = read_file(path)
    return [*links, FileChange(path=path, before=before, after=docker.plan_config(before, directory))]


def _plan_drop_ins(directory: str, contents: dict[str, bytes]) -> list[Change]:
    paths = {os.path.join(os.path.abspath(directory), name): content for name, content in contents.items()}
    return [FileChange(path=path, before=read_file(path), after=content) for path, content in paths.items()]


def _plan_commands(options: argparse.Namespace) -> tuple[list[Change], str]:
    """The links to the commands, and the directory in which engines are to find them."""
    links = _plan_links(options)
    return links, os.path.abspath(options.link_dir) if links else _bin_directory(options)


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


_PLANS = {"containerd": _plan_containerd, "crio": _plan_crio, "podman": _plan_podman, "docker": _plan_docker}
_AFTERWARDS = {
    "containerd": "now restart it: systemctl restart containerd",
    "crio": "now restart it: systemctl restart crio",
    "podman": "podman --runtime vmpod run ... uses it",
    "docker": "now let it read its configuration: systemctl reload docker",
}


def describe(change: Change) -> str:
    """A change as a unified diff, or as one line."""
    if isinstance(change, LinkChange):
        return f"link {change.path} -> {change.target}\n"
    before = (change.before or b"").decode(errors="replace").splitlines(keepends=True)
    after = change.after.decode(errors="replace").splitlines(keepends=True)
    lines = difflib.unified_diff(before, after, change.path, change.path)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines)
