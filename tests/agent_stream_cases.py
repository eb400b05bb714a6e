"""What every guest's agent must do with the streams of its processes: standard input and outputs, terminals.

As with agent_cases, the modules that collect these tests bring the fixture `guest`.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal

import pytest

from oci_runtime.errors import WrongState
from tests.agent_lab import Guest, process, read_all, shell

# Standard streams


async def test_megabytes_pass_in_both_directions(guest: Guest) -> None:
    data = hashlib.sha256(b"seed").digest() * (1 << 17)
    await guest.create("cat", "/bin/busybox", "cat", stdin=True)
    await guest.agent.start_container("cat")

    async def write() -> None:
        for at in range(0, len(data), 100_000):
            part = data[at : at + 100_000]
            assert await guest.agent.write_stdin("cat", "", part) == len(part)
        await guest.agent.close_stdin("cat", "")

    _, (code, out, err) = await asyncio.gather(write(), guest.finish("cat", ""))
    assert (code, err) == (0, b"")
    assert hashlib.sha256(out).digest() == hashlib.sha256(data).digest()
    await guest.agent.remove_container("cat")


async def test_a_writer_that_nobody_reads_is_stopped_and_its_container_can_be_removed(guest: Guest) -> None:
    await guest.create("yes", "/bin/busybox", "yes")
    await guest.agent.start_container("yes")
    data, eof = await guest.agent.read_output("yes", "", stderr=False, max_bytes=10)
    assert (len(data), eof) == (10, False)
    assert (await guest.exec("yes", "e", "/bin/busybox", "true"))[0] == 0
    await guest.agent.remove_container("yes")


async def test_stdin_that_nobody_reads_holds_up_only_its_writer(guest: Guest) -> None:
    await guest.create("deaf", *shell("sleep 1000"), stdin=True)
    await guest.agent.start_container("deaf")
    writes = [asyncio.create_task(guest.agent.write_stdin("deaf", "", bytes(1 << 20))) for _ in range(3)]
    assert (await guest.exec("deaf", "e", "/bin/busybox", "true"))[0] == 0
    await guest.agent.close_stdin("deaf", "")
    assert not any(write.done() for write in writes)
    await guest.agent.signal_process("deaf", "", signal.SIGKILL)
    assert (await guest.agent.wait_process("deaf", "")).exit_code == 137
    written = await asyncio.gather(*writes)
    assert 0 < sum(written) < 3 << 20
    assert await guest.agent.write_stdin("deaf", "", b"x") == 0
    await guest.agent.remove_container("deaf")


async def test_stdin_is_dev_null_when_nobody_will_write(guest: Guest) -> None:
    assert await guest.run("null", *shell("cat; readlink /proc/self/fd/0")) == (0, b"/dev/null\n", b"")
    await guest.create("null", "/bin/busybox", "sleep", "100")
    with pytest.raises(WrongState, match="without standard input"):
        await guest.agent.write_stdin("null", "", b"x")
    await guest.agent.close_stdin("null", "")
    await guest.agent.remove_container("null")


async def test_all_output_arrives_after_the_exit_and_a_grandchild_cannot_keep_the_stream_open(guest: Guest) -> None:
    await guest.create("outer", "/bin/busybox", "sleep", "1000")
    script = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done; sleep 1000 & exit 6"
    await guest.agent.exec_process("outer", "e", json.dumps(process(*shell(script))).encode(), stdin=False)
    assert (await guest.agent.wait_process("outer", "e")).exit_code == 6
    out = await read_all(guest.agent, "outer", "e", stderr=False)
    assert out == b"".join(b"line %d\n" % number for number in range(2000))
    assert await read_all(guest.agent, "outer", "e", stderr=True) == b""
    assert await guest.agent.read_output("outer", "e", stderr=False) == (b"", True)
    await guest.agent.remove_container("outer")


async def test_the_end_of_the_program_answers_a_read_that_waits(guest: Guest) -> None:
    await guest.create("silent", *shell("sleep 0.2"))
    read = asyncio.create_task(guest.agent.read_output("silent", "", stderr=True))
    await guest.agent.start_container("silent")
    assert await read == (b"", True)
    await guest.agent.remove_container("silent")


async def test_a_user_without_rights_can_open_its_standard_output_again(guest: Guest) -> None:
    result = await guest.run(
        "reopen", *shell("echo again > /dev/stdout"), user={"uid": 1000, "gid": 1000}, capabilities={}
    )
    assert result == (0, b"again\n", b"")


# Terminals


async def test_a_terminal_echoes_has_a_size_and_no_stderr(guest: Guest) -> None:
    script = "/bin/busybox stty size; echo to stderr >&2; read line; echo got $line; /bin/busybox stty size; exit 9"
    options = {"terminal": True, "consoleSize": {"height": 31, "width": 87}}
    await guest.create("tty", *shell(script), stdin=True, **options)
    await guest.agent.start_container("tty")
    out = b""
    while b"stderr" not in out:
        out += (await guest.agent.read_output("tty", "", stderr=False))[0]
    assert out.startswith(b"31 87\r\n")
    await guest.agent.resize_tty("tty", "", 50, 132)
    assert await guest.agent.write_stdin("tty", "", b"hello\n") == 6
    await guest.agent.close_stdin("tty", "")
    code, rest, err = await guest.finish("tty", "")
    assert (code, err) == (9, b"")
    assert out + rest == b"31 87\r\nto stderr\r\nhello\r\ngot hello\r\n50 132\r\n"
    await guest.agent.remove_container("tty")


async def test_control_c_interrupts_the_foreground_process_of_an_exec(guest: Guest) -> None:
    await guest.create("int", "/bin/busybox", "sleep", "1000")
    document = json.dumps(process("/bin/busybox", "cat", terminal=True)).encode()
    await guest.agent.exec_process("int", "e", document, stdin=True)
    await guest.agent.write_stdin("int", "e", b"x\n")
    out = b""
    while out.count(b"x\r\n") < 2:
        out += (await guest.agent.read_output("int", "e", stderr=False))[0]
    await guest.agent.write_stdin("int", "e", b"\x03")
    assert (await guest.agent.wait_process("int", "e")).exit_code == 130
    await guest.agent.remove_container("int")


async def test_resizing_what_has_no_terminal_is_refused(guest: Guest) -> None:
    await guest.create("notty", "/bin/busybox", "sleep", "100")
    with pytest.raises(WrongState, match="no terminal"):
        await guest.agent.resize_tty("notty", "", 1, 1)
    await guest.agent.remove_container("notty")


async def test_a_megabyte_passes_a_terminal(guest: Guest) -> None:
    await guest.create("ttybig", *shell("stty -opost; head -c 1000000 /dev/zero | tr '\\0' x"), terminal=True)
    await guest.agent.start_container("ttybig")
    code, out, _ = await guest.finish("ttybig", "")
    assert (code, len(out)) == (0, 1_000_000)
    await guest.agent.remove_container("ttybig")
