"""What containerd really sent to runc's shim, replayed against the task service; the answers must have the same shape.

The logs in tests/data/ttrpc were taken between containerd 1.6 and runc's shim; long lines are cut off there, so specs
and some paths are filled in. Pids, moments and figures differ, of course: they are compared by their presence.
"""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.errors import OciRuntimeError
from oci_runtime.shim.proto import task_pb2 as pb
from oci_runtime.shim.proto import types_pb2
from oci_runtime.shim.service import SERVICES
from oci_runtime.ttrpc.client import TtrpcClient
from tests.host.shim_pod import Harness, process_spec

pytestmark = pytest.mark.root

DATA = Path(__file__).parent.parent / "data" / "ttrpc"
REQUEST = re.compile(r"^ *[\d.]+ c(\d+)/(\d+) > containerd\.task\.v2\.Task\.(\w+) ?(.*?)(?: timeout_.*)?$")
ANSWER = re.compile(r"^ *[\d.]+ c(\d+)/(\d+) < +(\w+) ?(.*)$")
FIELD = re.compile(r'(\d+):("(?:[^"\\]|\\.)*"?|\{|b\'(?:[^\'\\]|\\.)*\'?|\d+)')
COMMANDS = {
    "q1": ["sh", "-c", "exit 3"],
    "ff7f": ["sh", "-c", "trap 'exit 9' TERM; while :; do sleep 0.05; done"],
    "f864": ["sh", "-c", "sleep 1; exit 4"],
}


@dataclass
class Call:
    """One recorded request and its recorded answer."""

    connection: str
    method: str
    fields: dict[int, Any]
    answer: dict[int, Any] | None = None
    error: int = 0
    answered_after: int = 0
    sent: int = field(default=0)


def parse_fields(text: str) -> dict[int, Any]:
    """`1:"a" 3:{...} 4:2` as a mapping; what is cut off is left out."""
    found: dict[int, Any] = {}
    at = 0
    while match := FIELD.search(text, at):
        number, value = int(match[1]), match[2]
        at = match.end()
        if value == "{":
            depth, start = 1, at
            while at < len(text) and depth:
                if text[at] == '"':
                    closing = re.compile(r'(?:[^"\\]|\\.)*"').match(text, at + 1)
                    at = closing.end() - 1 if closing else len(text) - 1
                depth += {"{": 1, "}": -1}.get(text[at], 0)
                at += 1
            found[number] = text[start:at]
        elif value.startswith('"'):
            found[number] = json.loads(value if value.endswith('"') and len(value) > 1 else value + '"')
        elif value.startswith("b'"):
            found[number] = ast.literal_eval(value if value.endswith("'") else value + "'")
        else:
            found[number] = int(value)
    return found


def read_calls(name: str) -> list[Call]:
    """The calls of a log in the order in which they were sent, each with its answer."""
    calls: dict[tuple[str, str], Call] = {}
    ordered: list[Call] = []
    early: dict[tuple[str, str], tuple[str, int]] = {}
    for number, line in enumerate((DATA / name).read_text().splitlines()):
        if match := REQUEST.match(line):
            key = (match[1], match[2])
            call = Call(match[1], match[3], parse_fields(match[4]), sent=number)
            calls[key] = call
            ordered.append(call)
            if key in early:  # the log was written by two threads
                _answer(call, *early.pop(key))
        elif match := ANSWER.match(line):
            key = (match[1], match[2])
            if key in calls:
                _answer(calls[key], match[4], number)
            else:
                early[key] = (match[4], number)
    return ordered


def _answer(call: Call, text: str, number: int) -> None:
    fields = parse_fields(text)
    call.answered_after = number
    if 1 in fields:
        call.error = parse_fields(str(fields[1])).get(1, 0)
    else:
        call.answer = parse_fields(str(fields.get(2, "")))


class Replay:
    """Sends the calls over connections of their own, in the recorded order, and compares."""

    def __init__(self, shim: Harness, directory: Path) -> None:
        self.shim = shim
        self.directory = directory
        self.connections: dict[str, TtrpcClient] = {}
        self.pending: list[tuple[Call, asyncio.Task[Any]]] = []
        self.readers: list[asyncio.Task[bytes]] = []
        self.compared = 0

    async def run(self, calls: list[Call]) -> None:
        for call in calls:
            # Whatever was answered before this request was sent then is waited for now.
            for earlier, task in [entry for entry in self.pending if entry[0].answered_after < call.sent]:
                self.compare(earlier, await outcome_of(task))
                self.pending.remove((earlier, task))
            if call.connection not in self.connections:
                self.connections[call.connection] = await self.shim.connect()
            if call.method == "State" and call.answer and call.answer.get(4) == types_pb2.STOPPED:
                # In the record a short process had ended by now.
                process = self.shim.service.tasks.get(call.fields[1]).process(call.fields.get(2, ""))
                await asyncio.wait_for(asyncio.shield(process.exit), 30)
            request = self.request(call)
            client = self.connections[call.connection]
            sending = client.call(SERVICES[0], call.method, request.SerializeToString(), 60)
            self.pending.append((call, asyncio.create_task(sending)))
            await asyncio.sleep(0)
        for call, task in self.pending:
            self.compare(call, await outcome_of(task))
        for client in self.connections.values():
            await client.close()

    def request(self, call: Call) -> Any:
        """The recorded request with paths of this machine, and what the log has cut off."""
        kind, _handler = self.shim.service.methods()[call.method]
        request: Any = kind(id=call.fields.get(1, ""))
        if hasattr(request, "exec_id") and call.method not in ("Create",):
            request.exec_id = call.fields.get(2, "")
        if call.method == "Create":
            command = next(
                (args for prefix, args in COMMANDS.items() if request.id.startswith(prefix)), ["sleep", "99"]
            )
            request.bundle = str(self.shim.bundle(request.id, *command))
            for name, number in (("stdin", 5), ("stdout", 6)):
                if number in call.fields:
                    setattr(request, name, self.fifo(request.id + name, stdin=name == "stdin"))
        elif call.method == "Exec":
            request.terminal = bool(call.fields.get(3, 0))
            request.spec.CopyFrom(process_spec(*self.command(call), terminal=request.terminal))
            request.stdout = self.fifo(request.exec_id, stdin=False)
        elif call.method == "Kill":
            request.signal, request.all = call.fields.get(3, 0), bool(call.fields.get(4, 0))
        elif call.method == "CloseIO":
            request.stdin = True
        elif call.method == "Update":
            request.resources.value = str(parse_fields(str(call.fields[2]))[2]).encode()
        return request

    def command(self, call: Call) -> list[str]:
        """The command of an exec: from the log where it is there, else what its recorded end tells."""
        found = re.search(r'\\"args\\":(\[.*?\])', str(call.fields.get(7, "")))
        if found:
            return list(json.loads(found[1].replace('\\"', '"')))
        return ["sh", "-c", "exit 3"] if call.fields[2].startswith("d1d8") else ["sleep", "99"]

    def fifo(self, name: str, *, stdin: bool) -> str:
        path = self.directory / name
        os.mkfifo(path)
        if not stdin:
            self.readers.append(asyncio.create_task(asyncio.to_thread(path.read_bytes)))
        return str(path)

    def compare(self, call: Call, got: Any) -> None:
        """The code of a recorded error; of a recorded answer the presence of fields, and those that cannot differ."""
        where = f"{call.method} {call.fields}"
        self.compared += 1
        if call.error:
            assert isinstance(got, OciRuntimeError), f"{where}: {got!r}"
            return
        assert isinstance(got, bytes), f"{where}: {got!r}"
        response_type = getattr(pb, f"{call.method}Response", None) or getattr(pb, f"{call.method}TaskResponse", None)
        if response_type is None or call.answer is None:
            return
        response = response_type.FromString(got)
        mine = {number: value for number, value in _numbers(response)}
        if call.method == "State" and (call.answer.get(4), mine[4]) == (types_pb2.RUNNING, types_pb2.STOPPED):
            return  # a short process may be faster here than it was there
        cut = not call.answer or call.method == "State" and 10 not in call.answer
        missing = set(call.answer) - set(mine) - {5, 7}
        assert not missing, f"{where}: fields {missing} are missing in {response}"
        if not cut:
            extra = set(mine) - set(call.answer) - {6, 11}
            assert not extra, f"{where}: fields {extra} are new in {response}"
        same = {"State": (1, 4, 8, 9), "Wait": (1,), "Delete": (2,)}.get(call.method, ())
        for number in same if not cut else set(same) & set(call.answer):
            assert mine.get(number, 0) == call.answer.get(number, 0), f"{where}: field {number} in {response}"


async def outcome_of(task: asyncio.Task[Any]) -> Any:
    """The result of a call, or the error that it was answered with."""
    try:
        return await asyncio.wait_for(task, 30)
    except OciRuntimeError as error:
        return error


def _numbers(message: Any) -> Iterator[tuple[int, Any]]:
    for descriptor, value in message.ListFields():
        yield descriptor.number, value


@pytest.mark.parametrize(("name", "at_least"), [("ttrpc-ctr.log", 52), ("ttrpc-cri.log", 80)])
async def test_recorded_calls_get_answers_of_the_same_shape(name: str, at_least: int, tmp_path: Path) -> None:
    calls = read_calls(name)
    assert len(calls) >= at_least
    async with Harness(tmp_path) as shim:
        replay = Replay(shim, tmp_path)
        await replay.run(calls)
        assert replay.compared == len(calls)
        assert not len(shim.service.tasks)
        assert shim.service.idle.is_set()
        await asyncio.wait_for(asyncio.gather(*replay.readers), 20)
