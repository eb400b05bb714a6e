"""python -m conformance: run the suites against a runtime binary and write the reports."""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from conformance import host, leftovers, reaper, results
from conformance.deviations import Deviation, load_deviations
from conformance.registry import ENGINES, Check, select_checks
from conformance.report import html, junit, tap
from conformance.results import Result, RunRecord
from conformance.runner import run_checks
from conformance.runtime import CheckFailed, Runtime
from conformance.session import Options, Session

OWN_DEVIATIONS = Path(__file__).parent / "deviations.toml"
COLOURS = {"pass": "32", "deviation": "33", "skip": "36", "fail": "31", "error": "35", "surprise": "31"}


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    parser.add_argument("--runtime", help="path or name of the OCI runtime binary")
    parser.add_argument("--name", help="what reports and deviation files call it (default: the binary's name)")
    parser.add_argument("--runtime-arg", action="append", default=[], metavar="ARG", help="global argument, repeatable")
    parser.add_argument("--engine", action="append", metavar="ENGINE", help=f"repeatable: {', '.join(ENGINES)}")
    parser.add_argument("--select", action="append", default=[], metavar="GLOB", help="check ids or suites, repeatable")
    parser.add_argument("--list", action="store_true", help="print the checks and end")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write TAP, JUnit, JSON and the HTML page there")
    parser.add_argument("--render", type=Path, metavar="DIR", help="only write the HTML page from the JSON files there")
    parser.add_argument("--root", type=Path, metavar="DIR", help="scratch directory (default: a new one, removed)")
    parser.add_argument("--deviations", type=Path, action="append", default=[], metavar="FILE", help="further file")
    parser.add_argument("--console-glob", default="", metavar="PATTERN", help="guest consoles; {root} is replaced")
    parser.add_argument("--slow", type=float, default=1.0, metavar="FACTOR", help="factor on all deadlines")
    parser.add_argument("--oci-version", metavar="V", help="ociVersion of the bundles (default: the newest possible)")
    parser.add_argument(
        "--mask-unified",
        choices=("auto", "yes", "no"),
        default="auto",
        help="hide the v2 half of a hybrid cgroup host from the runtime (auto: for crun, which refuses such hosts)",
    )
    parser.add_argument(
        "--external", action="append", default=[], metavar="NAME=PATH", help="where an external suite is (see docs)"
    )
    parser.add_argument("--fail-fast", action="store_true", help="end at the first unexpected result")
    parser.add_argument("--verbose", action="store_true", help="print the log of each unexpected result")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run what the command line asks for. Returns 0 when everything was as expected, 1 otherwise, 2 for bad usage."""
    parser = build_parser()
    options = parser.parse_args(argv)
    if options.render:
        html.render_directory(options.render)
        return 0
    engines = options.engine or ["oci"]
    try:
        external = dict(entry.split("=", 1) for entry in options.external)
        checks = select_checks(engines, options.select, external)
        deviations = load_deviations([OWN_DEVIATIONS, *options.deviations])
    except (ValueError, OSError) as error:
        parser.error(str(error))
    if options.list:
        for check in checks:
            print(f"{check.id:45} {check.clause:40} {check.title}")
        return 0
    if not options.runtime:
        parser.error("--runtime is missing: the path or name of the OCI runtime to test, such as runc")
    found = shutil.which(options.runtime)
    if found is None:
        parser.error(f"--runtime {options.runtime}: no such program")
    if not checks:
        parser.error(f"--select {' '.join(options.select)}: no check matches")
    return _run(options, os.path.abspath(found), engines, checks, deviations, external)


def _run(
    options: argparse.Namespace,
    binary: str,
    engines: list[str],
    checks: tuple[Check, ...],
    deviations: tuple[Deviation, ...],
    external: dict[str, str],
) -> int:
    host.isolate(network=True)
    reaper.supervise()
    scratch = options.root or Path(tempfile.mkdtemp(prefix="cf-", dir="/tmp"))
    scratch.mkdir(parents=True, exist_ok=True)
    scratch.chmod(0o711)
    name = options.name or Path(binary).name
    runtime = Runtime(binary, name, tuple(options.runtime_arg), scratch / "r", options.slow, lambda text: None)
    try:
        version = runtime.version()
    except CheckFailed as failure:
        print(failure, file=sys.stderr)
        return 2
    if options.mask_unified == "yes" or (options.mask_unified == "auto" and version.startswith("crun ")):
        host.mask_unified()
    record = RunRecord(name, version, binary, engines, time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    begin = time.monotonic()
    printer = _Printer(len(checks), options.verbose)
    for engine in engines:
        place = scratch / engine
        place.mkdir()
        runtime.root = place / "r"
        session = Session(
            runtime, place, options.oci_version or _oci_version(version), Options(options.console_glob, external)
        )
        mine = tuple(check for check in checks if check.engine == engine)
        try:
            record.results += run_checks(
                mine, session, deviations, version, printer.result, fail_fast=options.fail_fast
            )
        finally:
            session.close()
            leftovers.remove_cgroups(session.tag)
        record.creates += session.creates
        record.standalone += session.standalone
    record.seconds = round(time.monotonic() - begin, 1)
    printer.summary(record)
    if options.report:
        _write_reports(options.report, record)
    if not options.root:
        _remove(scratch)
    return 0 if record.is_green() else 1


def _oci_version(version: str) -> str:
    """Return the ociVersion for the bundles: crun refuses those from 1.2 on until its version 1.9."""
    return "1.0.2" if re.match(r"crun version (0|1\.[0-8](\.|$))", version) else "1.2.0"


def _write_reports(directory: Path, record: RunRecord) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    stem = f"{record.runtime}-{'-'.join(record.engines)}"
    record.save(directory / f"{stem}.json")
    (directory / f"{stem}.tap").write_text(tap.render(record))
    (directory / f"{stem}.xml").write_text(junit.render(record))
    html.render_directory(directory)


def _remove(scratch: Path) -> None:
    """Remove the scratch directory unless something stays mounted below it; dockerd leaves a namespace behind."""
    for target in reversed(_mounted_below(scratch)):
        with contextlib.suppress(OSError):  # its owner may be taking it away at this moment
            host.umount(target)
    if not _mounted_below(scratch):
        shutil.rmtree(scratch, ignore_errors=True)


def _mounted_below(directory: Path) -> list[str]:
    with open("/proc/self/mountinfo") as table:
        return [line.split()[4] for line in table if fnmatch.fnmatch(line.split()[4], f"{directory}/*")]


class _Printer:
    """Prints one line per result, and the sum at the end."""

    def __init__(self, total: int, verbose: bool) -> None:
        self.total = total
        self.verbose = verbose
        self.done = 0

    def result(self, result: Result) -> None:
        self.done += 1
        word = f"{result.status:9}"
        if sys.stdout.isatty():
            word = f"\033[{COLOURS[result.status]}m{word}\033[0m"
        print(f"{self.done:4}/{self.total} {word} {result.seconds:6.2f} s  {result.id}  {result.title}", flush=True)
        if result.status in results.BAD:
            print(f"      {result.message or result.reason}", flush=True)
            if self.verbose:
                print("\n".join("        " + line for line in result.log.splitlines()), flush=True)

    def summary(self, record: RunRecord) -> None:
        counts = ", ".join(f"{number} {status}" for status, number in sorted(record.counts().items()))
        print(
            f"{record.runtime} ({record.version}): {counts}; {record.seconds} s, "
            f"{record.creates} containers, {record.standalone} of them outside the shared pod"
        )


if __name__ == "__main__":
    sys.exit(main())
