"""How command lines are read: the spellings of runc (Go flags) and crun (argp)."""

from __future__ import annotations

import importlib

import pytest

from oci_runtime.cli.create import OPTIONS as CREATE
from oci_runtime.cli.exec import OPTIONS as EXEC
from oci_runtime.cli.main import GLOBAL_OPTIONS, VERBS
from oci_runtime.cli.options import Option, UsageError, describe, parse, parse_int

_OPTIONS = (
    Option("bundle b", "DIR", "where"),
    Option("force f", "", "really"),
    Option("all a", "", "all"),
    Option("env e", "VALUE", "again and again", many=True),
    Option("hidden"),
)


@pytest.mark.parametrize(
    ("words", "values", "rest"),
    [
        (["--bundle", "/b", "id"], {"bundle": ["/b"]}, ["id"]),
        (["--bundle=/b", "id"], {"bundle": ["/b"]}, ["id"]),
        (["-bundle", "/b", "id"], {"bundle": ["/b"]}, ["id"]),
        (["-b", "/b", "id"], {"bundle": ["/b"]}, ["id"]),
        (["-b=/b", "id"], {"bundle": ["/b"]}, ["id"]),
        (["-b/b", "id"], {"bundle": ["/b"]}, ["id"]),
        (["--bundle=", "id"], {"bundle": [""]}, ["id"]),
        (["--bundle", "-x", "id"], {"bundle": ["-x"]}, ["id"]),
        (["-f", "id"], {"force": ["true"]}, ["id"]),
        (["id", "--force"], {"force": ["true"]}, ["id"]),
        (["--force=false", "id"], {"force": ["false"]}, ["id"]),
        (["-fa", "id"], {"force": ["true"], "all": ["true"]}, ["id"]),
        (["-e", "A=1", "--env=B=2", "id"], {"env": ["A=1", "B=2"]}, ["id"]),
        (["-b", "/1", "-b", "/2"], {"bundle": ["/2"]}, []),
        (["--", "-x", "--force"], {}, ["-x", "--force"]),
        (["id", "-"], {}, ["id", "-"]),
        (["--hidden"], {"hidden": ["true"]}, []),
    ],
)
def test_spellings(words: list[str], values: dict[str, list[str]], rest: list[str]) -> None:
    parsed = parse(_OPTIONS, words)
    assert (parsed.values, parsed.rest) == (values, rest)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nope"], "flag provided but not defined: --nope"),
        (["--nope=1"], "flag provided but not defined: --nope"),
        (["-x"], "flag provided but not defined: -x"),
        (["-fx"], "flag provided but not defined: -fx"),
        (["--b", "/b"], "flag provided but not defined: --b"),
        (["--bundle"], "flag needs an argument: --bundle"),
        (["--force=maybe"], "invalid boolean value 'maybe' for --force"),
    ],
)
def test_mistakes(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(_OPTIONS, words)
    assert caught.value.message == message


def test_words_behind_the_id_of_an_exec_belong_to_its_command() -> None:
    parsed = parse(EXEC, ["-e", "A=b", "c1", "ls", "-l", "--tty", "--", "x"], stop_at_word=True)
    assert parsed.rest == ["c1", "ls", "-l", "--tty", "--", "x"]
    assert not parsed.has("tty")


def test_switches_and_values_are_found_by_their_first_name() -> None:
    parsed = parse(_OPTIONS, ["-f", "-e", "x"])
    assert parsed.has("force") and not parsed.has("all")
    assert parsed.given("force") and not parsed.given("all")
    assert parsed.get("bundle", "default") == "default"
    assert parsed.get_all("env") == ["x"] and parsed.get_all("bundle") == []


@pytest.mark.parametrize(("text", "value"), [("0", 0), ("-1", -1), ("+7", 7), ("123456789012", 123456789012)])
def test_integers(text: str, value: int) -> None:
    assert parse_int(text, "--x") == value


@pytest.mark.parametrize("text", ["", "-", "1.5", "0x10", "١", "1 ", "9" * 21, "1_000"])
def test_what_is_no_integer(text: str) -> None:
    with pytest.raises(UsageError, match="for --x: not an integer"):
        parse_int(text, "--x")


@pytest.mark.parametrize(
    "line",
    [
        "--root /r --log /l --log-format json",
        "--root=/r --systemd-cgroup",
        "--debug --root /r --log /l --log-format json",
        "--log-format=json --log /l",
        "--config /c --rootless auto --criu criu",
        "--cgroup-manager systemd",
    ],
)
def test_global_options_of_the_engines(line: str) -> None:
    parsed = parse(GLOBAL_OPTIONS, [*line.split(), "state", "--help"], stop_at_word=True)
    assert parsed.rest == ["state", "--help"]


@pytest.mark.parametrize(
    "line",
    [
        "--bundle /b --pid-file /p c1",
        "--bundle /b --pid-file /p --console-socket /s c1",
        "--bundle /b --pid-file /p --no-pivot --no-new-keyring --preserve-fds 3 c1",
        "-b /b c1",
    ],
)
def test_create_options_of_the_engines(line: str) -> None:
    assert parse(CREATE, line.split()).rest == ["c1"]


@pytest.mark.parametrize(
    "line",
    [
        "--process /f --console-socket /s --detach --pid-file /p c1",
        "--pid-file /f --process /f --detach --tty --console-socket /s c1",
        "--process /f c1",
        "-d -t -u 1:2 -g 3 -g 4 -c CAP_KILL -e A=b --cwd / --no-new-privs --apparmor p --process-label l c1",
        "--cgroup x --ignore-paused --preserve-fds 1 --no-subreaper -p /f c1",
    ],
)
def test_exec_options_of_the_engines(line: str) -> None:
    assert parse(EXEC, line.split(), stop_at_word=True).rest == ["c1"]


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_explains_itself(name: str) -> None:
    verb = importlib.import_module(f"oci_runtime.cli.{VERBS[name]}")
    assert verb.SUMMARY and not verb.SUMMARY.endswith(".")
    names = [option_name for option in verb.OPTIONS for option_name in option.names]
    assert len(names) == len(set(names))
    assert "help" not in names
    for option in verb.OPTIONS:
        assert (option.key in describe(verb.OPTIONS)) >= bool(option.help)
