"""Standard streams: nothing lost, nothing mixed up, ends seen on both sides."""

from __future__ import annotations

import hashlib
import os
import subprocess
import threading
import time

from conformance.case import Case
from conformance.container import CREATE_DEADLINE_S, read_all
from conformance.registry import Suite

suite = Suite("stdio")

BLOCK = 1 << 20


class Reader(threading.Thread):
    """Reads a pipe to its end in the background."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(daemon=True)
        self.descriptor = descriptor
        self.data = b""
        self.start()

    def run(self) -> None:
        self.data = read_all(self.descriptor)


def _feed(descriptor: int, data: bytes) -> threading.Thread:
    def write() -> None:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    return thread


def _pattern(size: int) -> bytes:
    """Return bytes that never repeat in the same order, so that a lost or doubled block shows."""
    return b"".join(b"%015d\n" % number for number in range(size // 16))


@suite.check("separate", "callers: stdio", "stdout and stderr stay apart")
def separate(case: Case) -> None:
    done = case.container("sh", "-c", "echo one; echo two >&2; echo three; echo four >&2").run()
    case.equal((done.out, done.err), ("one\nthree\n", "two\nfour\n"), "stdout and stderr")


@suite.check("stdout-volume", "callers: stdio", "24 MiB of stdout arrive complete and in order through a pipe")
def stdout_volume(case: Case) -> None:
    size = 24 * BLOCK
    container = case.container("cat", "/opt/data")
    (container.rootfs / "opt/data").write_bytes(_pattern(size))
    read_end, write_end = os.pipe()
    container.create(stdout=write_end)
    os.close(write_end)
    reader = Reader(read_end)
    container.start()
    case.equal(container.wait(120), 0, "exit code")
    reader.join(case.runtime.deadline(60))
    case.expect(not reader.is_alive(), "the pipe was not closed after the end of the container")
    case.equal(len(reader.data), size, "bytes")
    case.equal(hashlib.sha256(reader.data).hexdigest(), hashlib.sha256(_pattern(size)).hexdigest(), "content")


@suite.check("stdin-volume", "callers: stdio", "16 MiB of stdin arrive complete, and then the end of input")
def stdin_volume(case: Case) -> None:
    data = _pattern(16 * BLOCK)
    container = case.container("sh", "-c", "sha256sum; echo done")
    read_end, write_end = os.pipe()
    container.create(stdin=read_end)
    os.close(read_end)
    feeder = _feed(write_end, data)
    container.start()
    done_code = container.wait(120)
    feeder.join(case.runtime.deadline(30))
    case.equal((done_code, container.output().split()[0]), (0, hashlib.sha256(data).hexdigest()), "exit code, checksum")
    case.contains(container.output(), "done", "output after the end of input")


@suite.check("through", "callers: stdio", "8 MiB through `cat`, both ways at once")
def through(case: Case) -> None:
    data = _pattern(8 * BLOCK)
    container = case.container("cat")
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    container.create(stdin=in_read, stdout=out_write)
    os.close(in_read)
    os.close(out_write)
    reader = Reader(out_read)
    feeder = _feed(in_write, data)
    container.start()
    case.equal(container.wait(120), 0, "exit code")
    feeder.join(case.runtime.deadline(30))
    reader.join(case.runtime.deadline(30))
    case.expect(reader.data == data, f"{len(reader.data)} of {len(data)} bytes came back, or not the same")


@suite.check("slow-reader", "callers: stdio", "a reader that pauses slows the container down and loses nothing")
def slow_reader(case: Case) -> None:
    size = 4 * BLOCK
    container = case.container("cat", "/opt/data")
    (container.rootfs / "opt/data").write_bytes(_pattern(size))
    read_end, write_end = os.pipe()
    container.create(stdout=write_end)
    os.close(write_end)
    container.start()
    data = b""
    with os.fdopen(read_end, "rb", buffering=0) as stream:
        while block := stream.read(256 * 1024):
            data += block
            time.sleep(0.01)
    case.equal(container.wait(60), 0, "exit code")
    case.expect(data == _pattern(size), f"{len(data)} of {size} bytes came, or not the same")


@suite.check("output-before-exit", "callers: stdio", "output is complete when the process is seen to exit")
def output_before_exit(case: Case) -> None:
    container = case.container("sh", "-c", "seq 1 20000; seq 1 20000 >&2; exit 3").create().start()
    case.equal(container.wait(60), 3, "exit code")
    case.equal(container.output().count("\n"), 20000, "lines of stdout")
    case.equal(container.errors().count("\n"), 20000, "lines of stderr")


@suite.check("closed-pipes", "callers: stdio", "pipes of the container reach their end when it ends")
def closed_pipes(case: Case) -> None:
    container = case.container("sh", "-c", "echo short")
    read_end, write_end = os.pipe()
    container.create(stdout=write_end, stderr=write_end)
    os.close(write_end)
    container.start()
    reader = Reader(read_end)
    container.wait()
    reader.join(case.runtime.deadline(10))
    case.expect(not reader.is_alive(), "something still holds the pipe open")
    case.equal(reader.data, b"short\n", "output")


@suite.check("create-lets-go", "callers: stdio", "create returns at once although the container keeps its pipes")
def create_lets_go(case: Case) -> None:
    container = case.container("sleep", "1000")
    read_end, write_end = os.pipe()
    case.defer(lambda: os.close(read_end))
    container.create(stdout=write_end, stderr=write_end)
    os.close(write_end)
    container.start()
    case.equal(container.status(), "running", "status")


@suite.check("reader-gone", "callers: stdio", "a writer whose reader went away gets PIPE, as with any process")
def reader_gone(case: Case) -> None:
    container = case.container("sh", "-c", "yes; echo $? >&2; exit 11")
    read_end, write_end = os.pipe()
    container.create(stdout=write_end)
    os.close(write_end)
    container.start()
    os.read(read_end, 4096)
    os.close(read_end)
    case.equal(container.wait(10), 11, "exit code")


@suite.check("run-pipes", "callers: run", "`run` with pipes: input through, both outputs, exit code")
def run_pipes(case: Case) -> None:
    data = _pattern(2 * BLOCK)
    container = case.container("sh", "-c", "cat; echo note >&2; exit 4")
    container.join_pod()
    container.write()
    case.session.count_create(True)
    arguments = ("run", "--bundle", str(container.bundle), container.id)
    process = subprocess.Popen(
        case.runtime.argv(*arguments),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, err = process.communicate(data, timeout=case.runtime.deadline(CREATE_DEADLINE_S))
    finally:
        process.kill()
        process.wait()
    case.expect(out == data, f"{len(out)} of {len(data)} bytes came back, or not the same")
    case.equal((process.returncode, err), (4, b"note\n"), "exit code and stderr")
