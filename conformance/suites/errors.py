"""Bad input: each kind is refused with one clear line, a JSON log entry, and nothing left on the host."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from conformance import leftovers
from conformance.bundle import Config, bind_mount, mount_entry
from conformance.case import Case
from conformance.container import Container
from conformance.registry import Suite

suite = Suite("errors")


@dataclass(frozen=True)
class Bad:
    """One way to spoil a bundle. `change` gets the container after its files were written."""

    name: str
    clause: str
    title: str
    change: Callable[[Container], None]
    pattern: str = ""


def _config(change: Callable[[Config], None]) -> Callable[[Container], None]:
    def apply(container: Container) -> None:
        change(container.config)
        container.write()

    return apply


def _text(text: str) -> Callable[[Container], None]:
    def apply(container: Container) -> None:
        (container.bundle / "config.json").write_text(text)

    return apply


def _remove(name: str) -> Callable[[Container], None]:
    def apply(container: Container) -> None:
        path = container.bundle / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return apply


def _drop(*keys: str) -> Callable[[Container], None]:
    def change(config: Config) -> None:
        for key in keys[:-1]:
            config = config[key]
        config.pop(keys[-1])

    return _config(change)


def _set(value: object, *keys: str) -> Callable[[Container], None]:
    def change(config: Config) -> None:
        for key in keys[:-1]:
            config = config[key]
        config[keys[-1]] = value

    return _config(change)


def _mount(entry: Config) -> Callable[[Container], None]:
    return _config(lambda config: config["mounts"].append(entry))


BAD = (
    Bad("no-config", "runtime.md#create", "no config.json", _remove("config.json"), "config.json|no such file"),
    Bad("config-empty", "config.md#configuration", "an empty config.json", _text("")),
    Bad("config-broken", "config.md#configuration", "a config.json that is no JSON", _text('{"ociVersion": "1.0.2",')),
    Bad("config-list", "config.md#configuration", "a config.json that is no object", _text("[]")),
    Bad("config-types", "config.md#configuration", "a field of the wrong type", _set("text", "process", "args")),
    Bad(
        "no-rootfs",
        "config.md#root",
        "a root file system that does not exist",
        _remove("rootfs"),
        "rootfs|no such file",
    ),
    Bad("no-root", "config.md#root", "no root", _drop("root")),
    Bad("no-process", "config.md#process", "no process", _drop("process")),
    Bad("no-args", "config.md#process", "no arguments", _set([], "process", "args")),
    Bad("cwd-relative", "config.md#process", "a working directory that is not absolute", _set("tmp", "process", "cwd")),
    Bad(
        "rlimit-unknown",
        "config.md#posix-process",
        "an unknown resource limit",
        _set([{"type": "RLIMIT_DREAMS", "soft": 1, "hard": 1}], "process", "rlimits"),
        "RLIMIT_DREAMS",
    ),
    Bad(
        "rlimit-order",
        "config.md#posix-process",
        "a soft limit above the hard one",
        _set([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 50}], "process", "rlimits"),
    ),
    Bad(
        "mount-source",
        "config.md#mounts",
        "a bind mount whose source does not exist",
        _mount(bind_mount("/no/such/source", "/mnt")),
        "no such file or directory|does not exist",
    ),
    Bad("mount-kind", "config.md#mounts", "an unknown file system", _mount(mount_entry("/mnt", "dreamfs", "none"))),
    Bad(
        "mount-option",
        "config.md#mounts",
        "an option that tmpfs does not know",
        _mount(mount_entry("/mnt", "tmpfs", "tmpfs", "no_such_option=1")),
    ),
    Bad(
        "hook-missing",
        "config.md#posix-platform-hooks",
        "a hook that does not exist",
        _set({"prestart": [{"path": "/no/such/hook"}]}, "hooks"),
        "/no/such/hook",
    ),
    Bad(
        "namespace-kind",
        "config-linux.md#namespaces",
        "an unknown kind of namespace",
        _config(lambda config: config["linux"]["namespaces"].append({"type": "dream"})),
    ),
    Bad(
        "sysctl-host", "config-linux.md#sysctl", "a sysctl of the host", _set({"vm.swappiness": "1"}, "linux", "sysctl")
    ),
    Bad(
        "device-kind",
        "config-linux.md#devices",
        "a device of an unknown kind",
        _set([{"path": "/dev/x", "type": "x", "major": 1, "minor": 3}], "linux", "devices"),
    ),
)


def _refuse(bad: Bad, case: Case) -> None:
    case.session.pod()
    before = leftovers.look(case.session)
    container = case.container("true")
    container.join_pod()
    container.write()
    bad.change(container)
    outcome = container.try_create(write=False)
    if outcome.ok:
        outcome = case.runtime.call("start", container.id)
        case.refused(outcome, bad.pattern)
        container.delete("--force")
        container.pid_file.unlink()
    case.refused(outcome, bad.pattern)
    case.expect(not container.pid_file.exists(), "a pid file was written")
    for word in ("Traceback", "goroutine ", "panic:"):
        case.expect(word not in outcome.err, f"the error is a crash: {outcome.err[-500:]}")
    case.refused(case.runtime.call("state", container.id), "does not exist|no such file")
    case.equal(leftovers.wait_clean(case.session, before), [], "left on the host")


for _bad in BAD:
    suite.add(_bad.name, _bad.clause, f"{_bad.title} is refused, and nothing is left", partial(_refuse, _bad))


@suite.check("json-log", "callers: --log", "a refused create writes its reason as the last error of the JSON log")
def json_log(case: Case) -> None:
    container = case.container("/no/such/program")
    container.join_pod()
    container.write()
    path = case.scratch / case.session.new_name("log")
    argv = [case.runtime.path, *case.runtime.arguments, "--root", str(case.runtime.root), "--log", str(path)]
    argv += ["--log-format", "json", "create", "--bundle", str(container.bundle), container.id]
    case.session.count_create(True)
    outcome = case.runtime.command(argv, deadline_s=case.runtime.deadline(60))
    case.expect(not outcome.ok, f"{outcome}")
    errors = _errors(path)
    case.expect(errors, f"no error in the log: {path.read_text()[-500:]}")
    case.matches(errors[-1], "no such file or directory", "last error")


def _errors(path: Path) -> list[str]:
    entries = [json.loads(line) for line in path.read_text().splitlines() if line.strip()]
    return [entry["msg"] for entry in entries if entry.get("level") == "error"]


@suite.check("one-line", "callers: error texts", "errors of the user are one line on stderr")
def one_line(case: Case) -> None:
    for arguments in (("state", "no-such-id"), ("start", "no-such-id"), ("kill", "no-such-id", "TERM")):
        outcome = case.refused(case.runtime.call(*arguments))
        case.equal(len(outcome.err.strip().splitlines()), 1, f"lines of {outcome.err!r}")


@suite.check("no-bundle", "runtime.md#create", "a bundle that does not exist is refused")
def no_bundle(case: Case) -> None:
    name = case.session.new_name("nb")
    case.refused(case.runtime.call("create", "--bundle", "/no/such/bundle", name), "no such file|does not exist")
    case.refused(case.runtime.call("state", name), "does not exist|no such file")


@suite.check("oci-version", "config.md#specification-version", "an ociVersion of another major version is refused")
def oci_version(case: Case) -> None:
    container = case.container("true")
    container.config["ociVersion"] = "9.0.0"
    outcome = container.try_create()
    case.refused(outcome, "version")


@suite.check("oci-version-12", "config.md#specification-version", "ociVersion 1.2.0 is accepted")
def oci_version_12(case: Case) -> None:
    container = case.container("echo", "fine")
    container.config["ociVersion"] = "1.2.0"
    case.equal(container.run().out, "fine\n", "output")


@suite.check("unknown-fields", "config.md#extensibility", "unknown fields and annotations are ignored")
def unknown_fields(case: Case) -> None:
    container = case.container("echo", "fine")
    container.config["futureField"] = {"a": [1, 2]}
    container.config["linux"]["futureLinux"] = True
    container.config["annotations"]["org.example.unknown"] = "x"
    case.equal(container.run().out, "fine\n", "output")


@suite.check("empty-values", "config.md#configuration", "null and empty lists where a list may be absent are accepted")
def empty_values(case: Case) -> None:
    container = case.container("echo", "fine")
    container.config["process"]["rlimits"] = []
    container.config["process"]["capabilities"]["ambient"] = []
    container.config["hooks"] = {"prestart": None, "poststop": []}
    container.config["linux"]["sysctl"] = None
    container.config["linux"]["devices"] = None
    case.equal(container.run().out, "fine\n", "output")
