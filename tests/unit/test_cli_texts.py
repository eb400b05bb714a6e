"""Words that engines look for, and the forms of what verbs print."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.bundle.features import features
from oci_runtime.cli import checkpoint, main, restore, texts, version
from oci_runtime.cli import context as lookup
from oci_runtime.cli.events import parse_duration
from oci_runtime.cli.list import format_table
from oci_runtime.cli.options import UsageError, parse
from oci_runtime.cli.podops import parse_arguments
from oci_runtime.cli.ps import format_row
from oci_runtime.cli.signals import parse_signal
from oci_runtime.cli.timeline import draw_waterfall
from oci_runtime.cli.update import OPTIONS as UPDATE
from oci_runtime.cli.update import read_resources
from oci_runtime.errors import InvalidInput, OciRuntimeError, Unsupported
from oci_runtime.sandbox import process


def test_the_words_that_engines_match() -> None:
    # CRI-O: internal/oci; containerd: pkg/process.
    assert texts.NOT_RUNNING == "container not running"
    assert texts.not_stopped("c1", "running") == "cannot delete container c1 that is not stopped: running"
    # The sandbox process says it in the same words.
    assert texts.NOT_RUNNING in inspect.getsource(process)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("TERM", 15),
        ("SIGTERM", 15),
        ("sigterm", 15),
        ("15", 15),
        ("KILL", 9),
        ("9", 9),
        ("0", 0),
        ("USR1", 10),
        ("64", 64),
        ("SIGRTMIN", 34),
        ("RTMIN+3", 37),
        ("SIGRTMAX-1", 63),
        ("CLD", 17),
    ],
)
def test_signals(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize(
    "text", ["", "FOO", "SIGFOO", "65", "-9", "+9", "1 ", "SIG", "RTMIN-1", "RTMAX+1", "RTMIN+x", "９"]
)
def test_unknown_signals(text: str) -> None:
    with pytest.raises(InvalidInput, match="unknown signal"):
        parse_signal(text)


def test_tables_are_runcs() -> None:
    rows: list[tuple[str, ...]] = [
        ("ID", "PID", "STATUS"),
        ("c1", "12", "running"),
        ("a-rather-long-id", "7", "stopped"),
    ]
    assert format_table(rows) == (
        "ID                 PID         STATUS\n"
        "c1                 12          running\n"
        "a-rather-long-id   7           stopped\n"
    )


def test_a_ps_row_shows_nothing_that_steers_a_terminal() -> None:
    row: dict[str, Any] = {"pid": 7, "ppid": 1, "user": "root", "command": "sh -c \x1b[31mred\n"}
    assert format_row(row, 1000.0).endswith("00:00:00 sh -c ?[31mred?")
    row |= {"cpu_time_ms": 3_723_000, "started_at_ns": 0, "tty": "pts/0"}
    assert "pts/0    01:02:03 sh" in format_row(row, 1000.0)


@pytest.mark.parametrize(("text", "seconds"), [("5s", 5), ("1m30s", 90), ("1.5s", 1.5), ("200ms", 0.2), ("1h", 3600)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "0s", "-1s", "5x", "1s 2s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="--interval"):
        parse_duration(text)


def test_update_reads_limits_from_options() -> None:
    line = "--memory 1g --memory-swap -1 --cpu-quota 50000 --cpu-period 100000 --cpu-share 512 --pids-limit 10"
    assert read_resources(parse(UPDATE, [*line.split(), "--cpuset-cpus", "0-1", "c1"])) == {
        "memory": {"limit": 1 << 30, "swap": -1},
        "cpu": {"quota": 50000, "period": 100000, "shares": 512, "cpus": "0-1"},
        "pids": {"limit": 10},
    }


@pytest.mark.parametrize(("line", "message"), [("", "nothing to change"), ("--memory lots", "not an integer")])
def test_update_refuses(line: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_resources(parse(UPDATE, line.split()))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--blkio-weight 9", "--blkio-weight 9: $.blockIO.weight must be from 10 to 1000, or 0 for none, not 9"),
        ("--blkio-weight 1k", "--blkio-weight 1k: $.blockIO.weight must be from 10 to 1000, or 0 for none, not 1024"),
        ("--cpu-share -2", "--cpu-share -2: $.cpu.shares must be from 0 to 18446744073709551615, not -2"),
        ("--cpuset-cpus all", '--cpuset-cpus all: $.cpu.cpus must be a list such as 0-3,7, not "all"'),
    ],
)
def test_update_names_the_option_and_the_value_that_is_out_of_range(line: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_resources(parse(UPDATE, ["--memory", "1g", *line.split()]))
    assert caught.value.message == message


def test_one_version_of_the_specification_is_claimed(capfd: pytest.CaptureFixture[str]) -> None:
    assert main.run_command(["--version"], 0) == main.run_command(["version"], 0) == 0
    shown = capfd.readouterr().out.splitlines()
    assert shown[:3] == shown[3:]
    assert shown[2] == f"spec: {features()['ociVersionMax']}"


def test_what_a_virtual_machine_cannot_do_is_said() -> None:
    with pytest.raises(Unsupported, match="resctrl"):
        read_resources(parse(UPDATE, ["--l3-cache-schema", "L3:0=f"]))
    for verb in (checkpoint, restore):
        with pytest.raises(Unsupported, match="is not supported"):
            verb.run(None, parse(verb.OPTIONS, []))


def test_checkpoint_takes_the_options_of_containerd() -> None:
    line = "--image-path /i --work-path /w --leave-running c1"
    assert parse(checkpoint.OPTIONS, line.split()).rest == ["c1"]


def test_arguments_of_pod_requests() -> None:
    words = ["name=eth0", "mtu=1500", "up=true", "hw-address=02:00:00:00:00:01", '{"routes": []}']
    assert parse_arguments(words) == {
        "name": "eth0",
        "mtu": 1500,
        "up": True,
        "hw_address": "02:00:00:00:00:01",
        "routes": [],
    }
    for wrong in (["name"], ["=x"], ["op=x"], ["{"], ["[]"]):
        with pytest.raises(OciRuntimeError):
            parse_arguments(wrong)


def test_a_waterfall_is_in_proportion() -> None:
    phases = [
        {"name": "boot", "start_ms": 0.0, "duration_ms": 75.0},
        {"name": "create", "start_ms": 75.0, "duration_ms": 25.0},
    ]
    first, second = draw_waterfall(phases).splitlines()[1:]
    assert first.count("#") == 38 and second.count("#") == 12
    assert second.index("#") > first.rindex("#") - 2
    assert draw_waterfall([]).startswith("phase")
    nested = [phases[0], {"name": "guest kernel", "start_ms": 5.0, "duration_ms": 1.0}]
    head, outer, inner = draw_waterfall(nested).splitlines()
    assert inner.startswith("  guest kernel  ") and outer.startswith("boot            ") and head.startswith("phase  ")


def test_the_commit_is_that_of_the_checkout() -> None:
    assert len(version.find_commit()) == 40 or version.find_commit().startswith("v")


def test_a_bug_is_one_line_with_its_traceback_behind(capfd: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    def break_down(*_: object) -> None:
        raise ZeroDivisionError("division by zero")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lookup, "load", break_down)
        assert main.run_command(["--root", str(tmp_path), "state", "c1"], 0) == 1
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "vmpod: internal error: ZeroDivisionError: division by zero"
    assert lines[1] == "  | Traceback (most recent call last):"


def test_help_and_mistakes(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main.run_command(["--help"], 0) == main.run_command(["help", "exec"], 0) == main.run_command([], 0) == 0
    assert "--console-socket PATH" in capfd.readouterr().out
    for words in (["image", "--help"], ["help", "image"], ["--help", "image"]):
        assert main.run_command(words, 0) == 0
        assert "build" in capfd.readouterr().out, "it has commands of its own, and tells them"
    for words in (["image", "bogus"], ["image"], ["image", "list", "--bogus"], ["image", "--bogus", "list"]):
        assert main.run_command(words, 0) == 2
        error = capfd.readouterr().err
        assert error.startswith("vmpod image: ") and error.count("\n") == 1, error
    for words in (["image", "--store", str(tmp_path), "list"], ["image", "list", "--store", str(tmp_path)]):
        assert main.run_command(words, 0) == 0
        assert capfd.readouterr().out.split() == ["NAME", "HASH", "KERNEL", "SIZE"]
    for name in main.VERBS.keys() - {"image", "install"}:
        assert main.run_command([name, "--help"], 0) == 0
        shown = capfd.readouterr().out
        assert shown.startswith(f"vmpod {name}: ") and "options:\n\n" not in shown and " \n" not in shown
    for words, message in (
        (["frobnicate"], "unknown command 'frobnicate'"),
        (["--frobnicate"], "flag provided but not defined: --frobnicate"),
        (["state"], "state: requires exactly 1 argument, a container id, not 0, usage: vmpod state ID"),
        (["--log-format", "xml", "state", "c1"], "unknown log-format 'xml'"),
        (["timeline", "--format", "xml", "c1"], "timeline: invalid format option 'xml': waterfall or json"),
        (["help", "frobnicate"], "unknown command 'frobnicate'"),
    ):
        assert main.run_command(words, 0) == 1
        error = capfd.readouterr().err
        assert error.startswith(f"vmpod: {message}") and error.count("\n") == 1, error
