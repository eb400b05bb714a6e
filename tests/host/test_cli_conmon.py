"""vmpod under the real conmon, the way CRI-O and podman use both."""

from __future__ import annotations

import json
import os

import pytest

from tests.conmon import Conmon
from tests.engine import is_running, wait_until
from tests.host.conftest import FakeEngine
from tests.terminal import ASK

pytestmark = pytest.mark.root


@pytest.fixture
def conmon(engine: FakeEngine) -> Conmon:
    return Conmon(engine)


def test_create_start_exit(engine: FakeEngine, conmon: Conmon) -> None:
    bundle = engine.bundle("c1", ["sh", "-c", "echo out; echo err >&2; exit 42"])
    pid = conmon.create("c1", bundle)
    assert pid > 0 and is_running(pid)
    assert engine.state("c1")["status"] == "created"
    engine.call("start", "c1")
    assert conmon.exit_code("c1") == 42
    assert sorted(conmon.log("c1").split()) == ["err", "out"]
    engine.call("delete", "--force", "c1")


def test_log_lines_are_complete(engine: FakeEngine, conmon: Conmon) -> None:
    bundle = engine.bundle("c1", ["sh", "-c", "seq 1 20000; printf unfinished"])
    conmon.create("c1", bundle)
    engine.call("start", "c1")
    assert conmon.exit_code("c1") == 0
    assert conmon.log("c1") == "".join(f"{number}\n" for number in range(1, 20001)) + "unfinished"


def test_kill_and_the_proxys_parent(engine: FakeEngine, conmon: Conmon) -> None:
    bundle = engine.bundle("c1", ["sleep", "1000"])
    pid = conmon.create("c1", bundle)
    parent = int((bundle / "c1.conmon").read_text())
    stat = open(f"/proc/{pid}/stat").read()
    assert int(stat.rpartition(")")[2].split()[1]) == parent
    engine.call("start", "c1")
    engine.call("kill", "c1", "15")
    assert conmon.exit_code("c1") == 143
    wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "conmon reaps the proxy")


def test_a_failed_creation_is_reported_with_its_reason(engine: FakeEngine, conmon: Conmon) -> None:
    bundle = engine.bundle("c1", ["true"], annotations={"fake.create": "refuse"})
    engine.arguments += ["--log", str(engine.directory / "log"), "--log-format", "json"]
    assert conmon.create("c1", bundle) == -1
    lines = [json.loads(line) for line in (engine.directory / "log").read_text().splitlines()]
    assert [line["msg"] for line in lines if line["level"] == "error"] == ["the guest refuses this container"]
    wait_until(lambda: not engine.leftovers(), "conmon ends, too, and names the engine's root")


def test_exec_with_code_and_log(engine: FakeEngine, conmon: Conmon) -> None:
    conmon.create("c1", engine.bundle("c1", ["sleep", "1000"]))
    engine.call("start", "c1")
    process = {"args": ["sh", "-c", "echo hello; exit 5"], "cwd": "/", "env": ["PATH=/bin:/usr/bin"]}
    pid, code = conmon.exec("c1", "e1", {**process, "user": {"uid": 0, "gid": 0}})
    assert pid > 0
    assert code == 5
    assert conmon.log("c1", "e1") == "hello\n"


def test_a_terminal_with_attach_and_resize(engine: FakeEngine, conmon: Conmon) -> None:
    script = f"{ASK}; exit 6"
    bundle = engine.bundle("c1", ["busybox", "sh", "-c", script], process={"terminal": True})
    conmon.create("c1", bundle, "--terminal", "--stdin")
    engine.call("start", "c1")
    conmon.resize("c1", 44, 99)
    wait_until(lambda: "44 99" in conmon.log("c1"), "the new size")
    with conmon.attach("c1") as connection:
        connection.sendall(b"a line\n")
        assert conmon.exit_code("c1") == 6
    assert "got a line" in conmon.log("c1")


def test_input_through_the_attach_socket(engine: FakeEngine, conmon: Conmon) -> None:
    conmon.create("c1", engine.bundle("c1", ["head", "-c", "12"]), "--stdin")
    engine.call("start", "c1")
    with conmon.attach("c1") as connection:
        connection.sendall(b"hello ")
        connection.sendall(b"there\n")
        assert conmon.exit_code("c1") == 0
    assert conmon.log("c1") == "hello there\n"
