"""Containers of a real machine under the real conmon, the way CRI-O and podman run them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conmon import Conmon
from tests.engine import Engine, crio, wait_until
from tests.terminal import ASK

pytestmark = pytest.mark.vm


@pytest.fixture
def conmon(shared: Engine) -> Iterator[Conmon]:
    """conmon for members of the shared pod; what a test creates is deleted."""
    before = list(shared.ids)
    yield Conmon(shared)
    for name in [name for name in shared.ids if name not in before]:
        shared.call("delete", "--force", name)
        shared.ids.remove(name)


def member(engine: Engine, name: str, arguments: list[str], **changes: Any) -> Path:
    """The bundle of a member of the pod."""
    return engine.bundle(name, arguments, annotations=crio("container", "pod"), **changes)


def test_create_start_exit(shared: Engine, conmon: Conmon) -> None:
    assert conmon.create("k1", member(shared, "k1", ["sh", "-c", "echo out; echo err >&2; exit 42"])) > 0
    assert shared.state("k1")["status"] == "created"
    shared.call("start", "k1")
    assert conmon.exit_code("k1") == 42
    assert sorted(conmon.log("k1").split()) == ["err", "out"]
    wait_until(lambda: shared.state("k1")["status"] == "stopped", "k1 has stopped")


def test_log_lines_are_complete(shared: Engine, conmon: Conmon) -> None:
    conmon.create("k2", member(shared, "k2", ["sh", "-c", "seq 1 20000; printf unfinished"]))
    shared.call("start", "k2")
    assert conmon.exit_code("k2") == 0
    assert conmon.log("k2") == "".join(f"{number}\n" for number in range(1, 20001)) + "unfinished"


def test_exec_kill_and_delete(shared: Engine, conmon: Conmon) -> None:
    conmon.create("k3", member(shared, "k3", ["sleep", "100000"]))
    shared.call("start", "k3")
    process = {"args": ["sh", "-c", "echo hello; exit 5"], "cwd": "/", "user": {"uid": 0, "gid": 0}}
    pid, code = conmon.exec("k3", "e1", process | {"env": ["PATH=/bin:/usr/bin"]})
    assert (pid > 0, code) == (True, 5)
    assert conmon.log("k3", "e1") == "hello\n"
    shared.call("kill", "k3", "9")
    assert conmon.exit_code("k3") == 137
    shared.call("delete", "k3")
    assert "does not exist" in shared.call("state", "k3", check=False).err


def test_a_missing_program_is_told(shared: Engine, conmon: Conmon) -> None:
    log = shared.directory / "runtime-log"
    shared.arguments += ["--log", str(log), "--log-format", "json"]
    try:
        bundle = member(shared, "k4", ["/no/such/program"])
        pid = conmon.create("k4", bundle)
        if pid > 0:
            result = shared.call("start", "k4", check=False)
            assert result.code == 1
    finally:
        del shared.arguments[-4:]
    messages = [json.loads(line)["msg"] for line in log.read_text().splitlines()]
    assert any("no such file or directory" in message for message in messages), messages


def test_a_terminal_with_attach_and_resize(shared: Engine, conmon: Conmon) -> None:
    script = f"stty size; {ASK}; exit 6"
    options = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]
    pts = {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": options}
    bundle = member(shared, "k5", ["sh", "-c", script], process={"terminal": True}, more_mounts=[pts])
    assert conmon.create("k5", bundle, "--terminal", "--stdin") > 0, conmon.message
    shared.call("start", "k5")
    wait_until(lambda: "\n" in conmon.log("k5"), "the shell runs")
    conmon.resize("k5", 44, 99)
    wait_until(lambda: "44 99" in conmon.log("k5"), "the new size")
    with conmon.attach("k5") as connection:
        connection.sendall(b"a line\n")
        assert conmon.exit_code("k5") == 6
    assert "got a line\n" in conmon.log("k5").replace("\r", "")


def test_input_through_the_attach_socket(shared: Engine, conmon: Conmon) -> None:
    conmon.create("k6", member(shared, "k6", ["sh", "-c", "head -c 12; exit 3"]), "--stdin")
    shared.call("start", "k6")
    with conmon.attach("k6") as connection:
        connection.sendall(b"hello ")
        connection.sendall(b"there\n")
        assert conmon.exit_code("k6") == 3
    assert conmon.log("k6") == "hello there\n"
