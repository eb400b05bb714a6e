"""The command line itself: what a caller may ask before there is a container."""

from __future__ import annotations

import json

from conformance.case import Case
from conformance.registry import Suite

suite = Suite("commands")


@suite.check("version", "callers: start-up", "--version prints a line `NAME version NUMBER` and ends with 0")
def version(case: Case) -> None:
    answer = case.succeeded(
        case.runtime.command([case.runtime.path, *case.runtime.arguments, "--version"], deadline_s=60)
    )
    case.matches(answer.out, r"^\S+ version \S+", "first line")
    case.matches(answer.out, r"^spec: \d+\.\d+", "the line with the version of the specification")


@suite.check("help", "callers: start-up", "--help names the verbs of the specification")
def show_help(case: Case) -> None:
    answer = case.succeeded(case.runtime.command([case.runtime.path, *case.runtime.arguments, "--help"], deadline_s=60))
    for verb in ("create", "start", "state", "kill", "delete", "exec"):
        case.contains(answer.out + answer.err, verb, "help text")


@suite.check(
    "features", "features.md#introduction", "`features` prints JSON with the range of ociVersion, hooks and namespaces"
)
def features(case: Case) -> None:
    argv = [case.runtime.path, *case.runtime.arguments, "features"]
    found = json.loads(case.succeeded(case.runtime.command(argv, deadline_s=60)).out)
    for key in ("ociVersionMin", "ociVersionMax", "hooks", "mountOptions", "linux"):
        case.contains(found, key, "features")
    case.contains(found["hooks"], "createRuntime", "hooks")
    case.contains(found["linux"]["namespaces"], "pid", "namespaces")


@suite.check("spec", "config.md#configuration", "`spec` writes a config.json that the runtime itself can run")
def write_spec(case: Case) -> None:
    container = case.container()
    case.succeeded(case.runtime.call("spec", cwd=container.bundle))
    config = json.loads((container.bundle / "config.json").read_text())
    case.contains(config, "ociVersion", "config.json")
    config["process"] |= {"terminal": False, "args": ["sh", "-c", "echo from-spec"]}
    config["linux"]["cgroupsPath"] = container.config["linux"]["cgroupsPath"]
    config.setdefault("annotations", {})
    container.config = config
    case.equal(container.run().out, "from-spec\n", "output")


@suite.check("spec-keeps-file", "config.md#configuration", "`spec` does not overwrite a config.json that exists")
def spec_keeps_file(case: Case) -> None:
    directory = case.directory("spec")
    (directory / "config.json").write_text("{}")
    case.refused(case.runtime.call("spec", cwd=directory), "exist")
    case.equal((directory / "config.json").read_text(), "{}", "config.json")


@suite.check("unknown-verb", "runtime.md#errors", "an unknown verb is an error")
def unknown_verb(case: Case) -> None:
    outcome = case.runtime.call("frobnicate", "x")
    case.expect(outcome.code != 0, f"{outcome}")
    case.expect(outcome.err.strip() or outcome.out.strip(), "no word of explanation")


@suite.check("unknown-flag", "runtime.md#errors", "an unknown flag is an error")
def unknown_flag(case: Case) -> None:
    outcome = case.runtime.call("create", "--frobnicate", "x")
    case.expect(outcome.code != 0, f"{outcome}")
    case.expect(outcome.err.strip() or outcome.out.strip(), "no word of explanation")


@suite.check("missing-argument", "runtime.md#errors", "a verb without its container id is an error, for each verb")
def missing_argument(case: Case) -> None:
    for verb in ("create", "start", "state", "kill", "delete", "exec", "pause", "resume"):
        outcome = case.runtime.call(verb)
        case.expect(outcome.code != 0, f"{verb} without an id: {outcome}")


@suite.check("list-empty", "callers: list", "`list` of an unused root is an empty list")
def list_empty(case: Case) -> None:
    root = case.directory("empty")
    argv = [case.runtime.path, *case.runtime.arguments, "--root", str(root), "list", "--format", "json"]
    answer = case.succeeded(case.runtime.command(argv, deadline_s=60))
    case.expect(not json.loads(answer.out or "null"), f"list: {answer.out!r}")
