"""The agent's loop, streams and reaper, on real descriptors and processes of this machine."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import threading
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oci_runtime.guest import log
from oci_runtime.guest.flag import Flag
from oci_runtime.guest.loop import READ, Loop
from oci_runtime.guest.streams import MAX_WAITING, Input, Output
from oci_runtime.ttrpc.proto import agent_lean as pb
from oci_runtime.ttrpc.status import StatusError

ROOT = str(Path(__file__).parent.parent.parent)


class FakeCall:
    """Records its answer, as a connection would send it."""

    def __init__(self) -> None:
        self.answer: pb.ReadOutputResponse | pb.WriteStdinResponse | BaseException | None = None
        self.on_cancel: Callable[[], None] | None = None

    def reply(self, message: pb.ReadOutputResponse | pb.WriteStdinResponse) -> None:
        assert self.answer is None
        self.answer = message

    def fail(self, error: BaseException) -> None:
        assert self.answer is None
        self.answer = error

    @property
    def read(self) -> tuple[bytes, bool]:
        assert isinstance(self.answer, pb.ReadOutputResponse)
        return self.answer.data, self.answer.eof

    @property
    def written(self) -> int:
        assert isinstance(self.answer, pb.WriteStdinResponse)
        return self.answer.written


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            pass


def run(loop: Loop, done: Callable[[], bool], limit_s: float = 20) -> None:
    """Run the loop until `done`."""
    failed = loop.later(limit_s, loop.stop)

    def check() -> None:
        if done():
            loop.stop()
        else:
            loop.later(0.002, check)

    loop._stopped = False
    loop.soon(check)
    loop.run()
    failed.cancel()
    assert done()


def output(loop: Loop, fd: int, *, is_tty: bool = False) -> Output:
    return Output(loop, fd, lambda data, eof: pb.ReadOutputResponse(data=data, eof=eof), tty=is_tty)


def read(stream: Output, max_bytes: int = 0) -> FakeCall:
    call = FakeCall()
    stream.read(call, max_bytes)  # type: ignore[arg-type]
    return call


def write(stream: Input, data: bytes) -> FakeCall:
    call = FakeCall()
    stream.write(call, data)  # type: ignore[arg-type]
    return call


# The loop


def test_timers_run_in_order_and_can_be_cancelled(loop: Loop) -> None:
    seen: list[int] = []
    for number in (3, 1, 2):
        loop.later(number / 100, lambda number=number: seen.append(number))  # type: ignore[misc]
    loop.later(0.015, lambda: seen.append(99)).cancel()
    run(loop, lambda: len(seen) == 3)
    assert seen == [1, 2, 3]


def test_other_threads_hand_over_work(loop: Loop) -> None:
    seen: list[int] = []

    def hand_over() -> None:
        for _ in range(500):
            loop.call(lambda: seen.append(threading.get_ident()))

    threads = [threading.Thread(target=hand_over) for _ in range(4)]
    for thread in threads:
        thread.start()
    run(loop, lambda: len(seen) == 2000)
    assert set(seen) == {threading.get_ident()}
    for thread in threads:
        thread.join()


def test_a_callback_that_raises_is_logged_and_the_loop_goes_on(
    loop: Loop, pipe: tuple[int, int], capfd: pytest.CaptureFixture[str]
) -> None:
    seen: list[int] = []

    def broken(_: int) -> None:
        os.read(pipe[0], 1)
        seen.append(1)
        raise ZeroDivisionError("a bug")

    loop.watch(pipe[0], READ, broken)
    os.write(pipe[1], b"ab")
    run(loop, lambda: len(seen) == 2)
    text = capfd.readouterr().err
    assert text.count("error in event loop: ZeroDivisionError: a bug (") == 2
    loop.unwatch(pipe[0])


def test_the_log_is_bounded(capfd: pytest.CaptureFixture[str]) -> None:
    for number in range(1000):
        log.log(f"line {number}\nsecond " + "x" * 5000)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) <= 200
    assert all(len(line) <= 1000 for line in lines)
    assert "too many messages" in lines[-1]


def test_a_flag_lets_every_waiter_pass() -> None:
    flag = Flag()
    assert not flag.wait(0.01)
    passed: list[bool] = []
    threads = [threading.Thread(target=lambda: passed.append(flag.wait())) for _ in range(5)]
    for thread in threads:
        thread.start()
    flag.set()
    for thread in threads:
        thread.join(20)
    assert passed == [True] * 5
    assert flag.wait(0)


# Output


def test_a_read_waits_for_the_first_byte(loop: Loop, pipe: tuple[int, int]) -> None:
    stream = output(loop, os.dup(pipe[0]))
    call = read(stream)
    assert call.answer is None
    os.write(pipe[1], b"hello")
    run(loop, lambda: call.answer is not None)
    assert call.read == (b"hello", False)
    stream.close()


def test_reads_are_bounded_and_answered_in_order(loop: Loop, pipe: tuple[int, int]) -> None:
    stream = output(loop, os.dup(pipe[0]))
    calls = [read(stream, 3) for _ in range(3)]
    os.write(pipe[1], b"abcdefg")
    run(loop, lambda: calls[-1].answer is not None)
    assert [call.read for call in calls] == [(b"abc", False), (b"def", False), (b"g", False)]
    stream.close()


def test_too_many_reads_are_refused(loop: Loop, pipe: tuple[int, int]) -> None:
    stream = output(loop, os.dup(pipe[0]))
    calls = [read(stream) for _ in range(MAX_WAITING)]
    with pytest.raises(StatusError, match="wait on this stream already"):
        read(stream)
    stream.close()
    assert all(call.read == (b"", True) for call in calls)


def test_the_end_of_the_pipe_is_the_end(loop: Loop, pipe: tuple[int, int]) -> None:
    stream = output(loop, os.dup(pipe[0]))
    os.write(pipe[1], b"last")
    os.close(pipe[1])
    assert read(stream).read == (b"last", False)
    assert read(stream).read == (b"", True)
    assert read(stream).read == (b"", True)
    stream.close()


def test_after_the_writers_end_the_rest_is_delivered_then_the_end(loop: Loop, pipe: tuple[int, int]) -> None:
    """The other end stays open, and somebody goes on to write into it."""
    stream = output(loop, os.dup(pipe[0]))
    os.write(pipe[1], b"x" * 1000)
    stream.writer_ended()
    os.write(pipe[1], b"late" * 1000)
    assert read(stream, 600).read == (b"x" * 600, False)
    assert read(stream, 600).read == (b"x" * 400, False)
    assert read(stream).read == (b"", True)


def test_the_writers_end_answers_a_read_that_waits(loop: Loop, pipe: tuple[int, int]) -> None:
    stream = output(loop, os.dup(pipe[0]))
    call = read(stream)
    stream.writer_ended()
    assert call.read == (b"", True)


def test_a_cancelled_read_loses_nothing(loop: Loop, pipe: tuple[int, int]) -> None:
    stream = output(loop, os.dup(pipe[0]))
    call = read(stream)
    assert call.on_cancel is not None
    call.on_cancel()
    os.write(pipe[1], b"kept")
    assert read(stream).read == (b"kept", False)
    assert call.answer is None
    stream.close()


def test_a_terminal_ends_with_its_last_process(loop: Loop) -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    stream = output(loop, master, is_tty=True)
    os.write(slave, b"bye")
    call = read(stream)
    run(loop, lambda: call.answer is not None)
    assert call.read == (b"bye", False)
    call = read(stream)
    os.close(slave)
    run(loop, lambda: call.answer is not None)
    assert call.read == (b"", True)


def test_a_terminal_that_somebody_keeps_open_ends_after_a_moment(loop: Loop) -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    stream = output(loop, master, is_tty=True)
    os.write(slave, b"bye")
    stream.writer_ended()
    first = read(stream)
    run(loop, lambda: first.answer is not None)
    assert first.read == (b"bye", False)
    second = read(stream)
    run(loop, lambda: second.answer is not None)
    assert second.read == (b"", True)
    os.close(slave)


# Input


def make_input(loop: Loop, fd: int) -> Input:
    return Input(loop, fd, lambda written: pb.WriteStdinResponse(written=written))


def drain(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += os.read(fd, size - len(data))
    return data


def test_a_write_is_answered_when_all_of_it_is_taken(loop: Loop, pipe: tuple[int, int]) -> None:
    stream = make_input(loop, os.dup(pipe[1]))
    data = os.urandom(1 << 20)
    call = write(stream, data)
    assert call.answer is None
    taken: list[bytes] = []
    reader = threading.Thread(target=lambda: taken.append(drain(pipe[0], len(data))))
    reader.start()
    run(loop, lambda: call.answer is not None)
    reader.join(20)
    assert call.written == len(data)
    assert taken == [data]
    stream.close()


def test_closing_comes_after_the_writes_that_wait(loop: Loop, pipe: tuple[int, int]) -> None:
    stream = make_input(loop, os.dup(pipe[1]))
    os.close(pipe[1])
    calls = [write(stream, bytes(100_000)), write(stream, b"end")]
    stream.close_when_written()
    assert write(stream, b"late").written == 0
    taken: list[bytes] = []
    reader = threading.Thread(target=lambda: taken.append(drain(pipe[0], 100_003)))
    reader.start()
    run(loop, lambda: calls[-1].answer is not None)
    reader.join(20)
    assert [call.written for call in calls] == [100_000, 3]
    assert os.read(pipe[0], 10) == b""


def test_a_reader_that_leaves_ends_the_writes(loop: Loop, pipe: tuple[int, int]) -> None:
    stream = make_input(loop, os.dup(pipe[1]))
    calls = [write(stream, bytes(1 << 20)), write(stream, b"x")]
    os.close(pipe[0])
    run(loop, lambda: calls[-1].answer is not None)
    assert 0 < calls[0].written < 1 << 20
    assert calls[1].written == 0
    assert write(stream, b"x").written == 0


def test_closing_at_once_tells_how_far_the_writes_came(loop: Loop, pipe: tuple[int, int]) -> None:
    stream = make_input(loop, os.dup(pipe[1]))
    calls = [write(stream, bytes(1 << 20)), write(stream, b"x")]
    stream.close()
    assert (0 < calls[0].written < 1 << 20, calls[1].written) == (True, 0)


# The reaper waits for every child of its process, so it runs in one of its own.

_REAPER = """
import os, signal, sys, threading, time
sys.path.insert(0, sys.argv[1])
from oci_runtime.guest.loop import Loop
from oci_runtime.guest.reaper import Reaper
loop, reaper = Loop(), Reaper()
loop.on_wake = reaper.reap
signal.signal(signal.SIGCHLD, lambda *_: None)
signal.set_wakeup_fd(loop.wake_write, warn_on_full_buffer=False)
def work():
    try:
        test()
        print("passed")
    except BaseException as error:
        print(f"{type(error).__name__}: {error}")
    loop.soon(loop.stop)
def test():
    BODY
threading.Thread(target=work).start()
loop.run()
"""


def in_a_process(body: str) -> str:
    code = _REAPER.replace("BODY", body.strip().replace("\n", "\n    "))
    command = [sys.executable, "-I", "-c", code, ROOT]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def test_programs_run_with_their_input_and_outputs() -> None:
    body = """
code, out, err = reaper.run(["sh", "-c", "cat; echo err >&2; exit 3"], timeout_s=20, stdin=b"given")
assert (code, out, err) == (3, b"given", b"err\\n"), (code, out, err)
assert reaper.run(["sh", "-c", "kill -9 $$"], timeout_s=20)[0] == 137
code, out, _ = reaper.run(["sh", "-c", "head -c 100000 /dev/zero"], timeout_s=20, max_output_bytes=1000)
assert (code, len(out)) == (0, 1000)
"""
    assert in_a_process(body) == "passed"


def test_a_program_that_does_not_end_is_killed() -> None:
    body = """
begin = time.monotonic()
try:
    reaper.run(["sleep", "1000"], timeout_s=0.2)
except Exception as error:
    assert "did not end within 0.2 s" in str(error), error
    assert type(error).__name__ == "Unavailable"
else:
    raise AssertionError("no error")
for _ in range(1000):
    if not reaper._children: break
    time.sleep(0.01)
assert not reaper._children
"""
    assert in_a_process(body) == "passed"


def test_a_grandchild_with_the_pipes_does_not_hold_up_the_answer() -> None:
    body = """
code, out, _ = reaper.run(["sh", "-c", "sleep 1000 & echo $!"], timeout_s=20)
os.kill(int(out), 9)
assert code == 0
"""
    assert in_a_process(body) == "passed"


def test_signals_of_the_agent_are_default_in_its_children() -> None:
    body = """
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
signal_mask = reaper.run(["sh", "-c", "grep -E 'Sig(Ign|Blk)' /proc/self/status"], timeout_s=20)[1]
# Bits 31 and 32 are the C library's own; whoever runs this test may have them ignored.
assert [int(word, 16) & 0x7FFFFFFF for word in signal_mask.split()[1::2]] == [0, 0], signal_mask
"""
    assert in_a_process(body) == "passed"


def test_orphans_are_adopted_also_when_they_have_ended_before() -> None:
    body = """
import ctypes
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
with reaper.adopting() as strangers:
    pid = int(reaper.run(["sh", "-c", "(sleep 0.3; exit 7) & echo $!"], timeout_s=20)[1])
    slow = reaper.adopt(pid, "slow", strangers)
assert slow.wait(20) == 7
with reaper.adopting() as strangers:
    pid = int(reaper.run(["sh", "-c", "(sleep 0.05; exit 8) & echo $!"], timeout_s=20)[1])
    while pid not in strangers:
        time.sleep(0.01)
    quick = reaper.adopt(pid, "quick", strangers)
assert quick.wait(20) == 8
assert not reaper._listeners
assert reaper.kill(quick, 9) is False
seen = []
reaper.when_done(quick, lambda child: seen.append(child.exit_code))
assert seen == [8]
"""
    assert in_a_process(body) == "passed"


def test_a_missing_program_is_named() -> None:
    assert in_a_process('reaper.run(["no-such-program"], timeout_s=5)') == (
        "NotFound: the guest's image has no program no-such-program"
    )


def test_five_hundred_children_are_all_reaped() -> None:
    body = """
null = os.open("/dev/null", os.O_RDWR)
children = [reaper.spawn(["sh", "-c", f"exit {number % 200}"], stdio=(null, null, null)) for number in range(500)]
assert [child.wait(60) for child in children] == [number % 200 for number in range(500)]
assert not reaper._children
"""
    assert in_a_process(body) == "passed"
