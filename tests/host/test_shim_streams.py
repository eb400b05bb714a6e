"""Standard streams of tasks: fifos with slow, absent and vanishing readers, log files, log programs, terminals."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from oci_runtime.errors import InvalidInput, NotFound, Unavailable
from oci_runtime.shim.proto import types_pb2
from tests.host.shim_pod import Harness, make_fifo, process_spec, read_fifo

pytestmark = pytest.mark.root


@pytest.fixture
async def shim(tmp_path: Path) -> AsyncIterator[Harness]:
    async with Harness(tmp_path) as harness:
        yield harness


async def finish(shim: Harness, container_id: str = "c") -> int:
    """Wait for the end of a container; return its code."""
    return int((await shim.call("Wait", id=container_id, timeout_s=60)).exit_status)


async def test_output_and_errors_go_their_own_ways(shim: Harness, tmp_path: Path) -> None:
    out, err = make_fifo(tmp_path / "out"), make_fifo(tmp_path / "err")
    await shim.create("c", "sh", "-c", "echo one; echo two >&2", stdout=out, stderr=err)
    reading = [asyncio.create_task(read_fifo(tmp_path / name)) for name in ("out", "err")]
    await shim.call("Start", id="c")
    assert await asyncio.gather(*reading) == [b"one\n", b"two\n"]


async def test_20_mb_arrive_complete_at_a_slow_reader(shim: Harness, tmp_path: Path) -> None:
    out = make_fifo(tmp_path / "out")
    script = "head -c 20000000 /dev/urandom > data; md5sum data >&2; cat data"
    err = make_fifo(tmp_path / "err")
    await shim.create("c", "sh", "-c", f"cd {tmp_path}; {script}", stdout=out, stderr=err)

    def slow() -> str:
        digest = hashlib.md5(usedforsecurity=False)
        with open(out, "rb", buffering=0) as file:
            while data := file.read(100_000):
                digest.update(data)
        return digest.hexdigest()

    reading = asyncio.create_task(asyncio.to_thread(slow))
    expected = asyncio.create_task(read_fifo(tmp_path / "err"))
    await shim.call("Start", id="c")
    assert (await expected).decode().split()[0] == await reading


async def test_input_ends_with_close_io(shim: Harness, tmp_path: Path) -> None:
    paths = {name: make_fifo(tmp_path / name) for name in ("stdin", "stdout")}
    await shim.run("c", "cat", **paths)
    reading = asyncio.create_task(read_fifo(tmp_path / "stdout"))
    for word in (b"first ", b"second"):
        # Each writer closes its end: that alone does not end the input.
        await asyncio.to_thread((tmp_path / "stdin").write_bytes, word)
    await shim.call("CloseIO", id="c", stdin=True)
    assert await reading == b"first second"
    assert await finish(shim) == 0


async def test_close_io_before_the_start_of_an_exec(shim: Harness, tmp_path: Path) -> None:
    await shim.run("c", "sleep", "1000")
    fifo = make_fifo(tmp_path / "in")
    await shim.call("Exec", id="c", exec_id="e", stdin=fifo, spec=process_spec("cat"))
    await shim.call("CloseIO", id="c", exec_id="e", stdin=True)
    await shim.call("Start", id="c", exec_id="e")
    assert (await shim.call("Wait", id="c", exec_id="e")).exit_status == 0


async def test_fifos_that_nobody_opens_stop_nothing(shim: Harness, tmp_path: Path) -> None:
    paths = {name: make_fifo(tmp_path / name) for name in ("stdin", "stdout", "stderr")}
    await shim.run("c", "sh", "-c", "echo out; echo err >&2; exit 4", **paths)
    assert await finish(shim) == 4
    assert (await shim.call("Delete", id="c")).exit_status == 4


async def test_a_reader_that_goes_away_and_comes_back_loses_nothing(shim: Harness, tmp_path: Path) -> None:
    out = make_fifo(tmp_path / "out")
    script = "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done; sleep 1000"
    await shim.create("c", "sh", "-c", script, stdout=out)

    def read_some(size: int) -> bytes:
        data = b""
        with open(out, "rb", buffering=0) as file:
            while len(data) < size:
                data += file.read(min(4096, size - len(data)))
        return data

    await shim.call("Start", id="c")
    expected = b"".join(b"%d\n" % number for number in range(20000))
    got = b""
    for size in (1000, 5000, len(expected) - 6000):
        got += await asyncio.to_thread(read_some, size)
        await asyncio.sleep(0.05)
    assert got == expected


async def test_a_full_fifo_stops_its_process_and_no_other(shim: Harness, tmp_path: Path) -> None:
    out = make_fifo(tmp_path / "out")
    await shim.run("stuck", "cat", "/dev/zero", stdout=out)
    await shim.run("free", "sh", "-c", "exit 6")
    assert (await shim.call("Wait", id="free")).exit_status == 6
    await shim.call("Kill", id="stuck", signal=9)
    assert (await shim.call("Wait", id="stuck")).exit_status == 137


async def test_delete_gives_up_on_output_that_nobody_reads(
    shim: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oci_runtime.shim.service.DRAIN_S", 0.2)
    out = make_fifo(tmp_path / "out")
    await shim.run("c", "cat", "/dev/zero", stdout=out)
    await shim.call("Kill", id="c", signal=9)
    assert await finish(shim) == 137
    assert (await shim.call("Delete", id="c")).exit_status == 137


async def test_no_streams_at_all(shim: Harness) -> None:
    await shim.run("c", "sh", "-c", "cat /dev/zero | head -c 3000000; exit 2")
    assert await finish(shim) == 2


async def test_wrong_addresses(shim: Harness, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    wrong = {
        str(tmp_path / "missing"): NotFound,
        str(tmp_path / "file"): InvalidInput,
        "relative": InvalidInput,
        "file://relative": InvalidInput,
        "file:///dev/null": InvalidInput,
        "binary://relative": InvalidInput,
        "binary:///no/such/program": NotFound,
    }
    for number, (address, error) in enumerate(wrong.items()):
        with pytest.raises(error):
            await shim.create(f"c{number}", "true", stdout=address)
        assert not shim.host.prepared, address
    with pytest.raises(NotFound):
        await shim.create("in", "true", stdin=str(tmp_path / "missing"))


async def test_log_file(shim: Harness, tmp_path: Path) -> None:
    log = tmp_path / "deep" / "log"
    address = f"file://{log}"
    await shim.run("c", "sh", "-c", "echo out; echo err >&2", stdout=address, stderr=address)
    await finish(shim)
    await shim.call("Delete", id="c")
    assert sorted(log.read_text().split()) == ["err", "out"]
    assert log.stat().st_mode & 0o777 == 0o644


async def test_log_program_that_never_gets_ready(
    shim: Harness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oci_runtime.shim.stdio.LOGGER_READY_S", 0.3)
    monkeypatch.setattr("oci_runtime.shim.stdio.LOGGER_END_S", 0.2)
    program = tmp_path / "logger"
    program.write_text("#!/bin/sh\nexec sleep 47113\n")
    program.chmod(0o755)
    with pytest.raises(Unavailable, match="not ready"):
        await shim.create("c", "true", stdout=f"binary://{program}")
    assert not await asyncio.to_thread(_commands_with, b"47113")


async def test_log_program_that_dies_costs_the_output_and_not_the_container(shim: Harness, tmp_path: Path) -> None:
    program = tmp_path / "logger"
    program.write_text("#!/bin/sh\nexec 5>&-\nsleep 0.2\n")
    program.chmod(0o755)
    await shim.run("c", "sh", "-c", "sleep 0.5; head -c 3000000 /dev/zero; exit 3", stdout=f"binary://{program}")
    assert await finish(shim) == 3


async def test_terminal(shim: Harness, tmp_path: Path) -> None:
    paths = {name: make_fifo(tmp_path / name) for name in ("stdin", "stdout")}
    await shim.create("c", "sh", terminal=True, **paths)
    await shim.call("ResizePty", id="c", width=91, height=37)
    await shim.call("Start", id="c")
    await shim.call("ResizePty", id="c", width=0, height=0)
    fd = os.open(paths["stdout"], os.O_RDONLY | os.O_NONBLOCK)
    await shim.call("ResizePty", id="c", width=92, height=38)
    await asyncio.to_thread((tmp_path / "stdin").write_bytes, b"stty size; exit 8\n")
    assert await finish(shim) == 8
    seen = b""
    async with asyncio.timeout(10):
        while b"38 92" not in seen:
            try:
                seen += os.read(fd, 65536)
            except BlockingIOError:
                await asyncio.sleep(0.01)
    os.close(fd)
    assert (await shim.call("State", id="c")).status == types_pb2.STOPPED


async def test_descriptors_are_all_closed_again(shim: Harness, tmp_path: Path) -> None:
    await shim.run("first", "true")
    await shim.call("Wait", id="first")
    before = len(os.listdir("/proc/self/fd"))
    for number in range(5):
        directory = tmp_path / f"d{number}"
        directory.mkdir()
        paths = {name: make_fifo(directory / name) for name in ("stdin", "stdout", "stderr")}
        await shim.run(f"c{number}", "cat", **paths)
        await shim.call("CloseIO", id=f"c{number}", stdin=True)
        await shim.call("Wait", id=f"c{number}")
        await shim.call("Delete", id=f"c{number}")
        shim.pod.processes_.clear()
    leaked = len(os.listdir("/proc/self/fd")) - before
    # The pod of this test keeps two ends of each process's pipes.
    assert leaked <= 5 * 2


def _commands_with(word: bytes) -> list[bytes]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found.append(entry.read_bytes())
    return [command for command in found if word in command]
