"""The relay of a proxy against peers that follow the protocol and peers that do not."""

from __future__ import annotations

import _socket
import contextlib
import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from oci_runtime.control import stream
from oci_runtime.proxy.launch import _shorten
from oci_runtime.proxy.outputs import Output
from oci_runtime.proxy.relay import LOST, Relay


@dataclass
class Bench:
    """A relay in a thread, with the other end of everything it holds."""

    peer: socket.socket
    stdin: int
    stdout: int
    wakeup: int
    relay: Relay
    code: int = -1
    thread: threading.Thread | None = None
    decoder: stream.StreamDecoder = field(default_factory=stream.StreamDecoder)

    def start(self) -> None:
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.code = self.relay.run()

    def wait(self) -> int:
        assert self.thread is not None
        self.thread.join(20)
        assert not self.thread.is_alive()
        return self.code

    def receive(self) -> list[tuple[int, bytes]]:
        return self.decoder.feed(self.peer.recv(1 << 20))


@pytest.fixture
def bench() -> Iterator[Bench]:
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    in_read, in_write = os.pipe()
    out_read, out_write = os.pipe()
    wake_read, wake_write = os.pipe()
    relay = Relay(_socket.socket(fileno=theirs.detach()), in_read, {stream.STDOUT: Output(out_write)}, wake_read)
    bench = Bench(ours, in_write, out_read, wake_write, relay)
    bench.start()
    yield bench
    ours.close()
    for fd in (in_read, in_write, out_read, out_write, wake_read, wake_write):
        with contextlib.suppress(OSError):
            os.close(fd)


def test_output_and_code(bench: Bench) -> None:
    bench.peer.sendall(stream.encode(stream.STDOUT, b"hello") + stream.encode_exit(42))
    assert os.read(bench.stdout, 100) == b"hello"
    assert bench.wait() == 42


def test_codes_fit_into_a_byte(bench: Bench) -> None:
    bench.peer.sendall(stream.encode_exit(0x1_03))
    assert bench.wait() == 3


@pytest.mark.parametrize(
    "data",
    [
        stream.HEADER.pack(77, 3),
        stream.HEADER.pack(stream.STDOUT, 1 << 30),
        stream.encode(stream.EXIT, b"short"),
        stream.encode(stream.CREDIT, b""),
        b"",
    ],
)
def test_a_broken_or_lost_peer_is_137(bench: Bench, data: bytes) -> None:
    bench.peer.sendall(data)
    bench.peer.shutdown(socket.SHUT_WR)
    assert bench.wait() == LOST


def test_an_error_is_kept(bench: Bench) -> None:
    bench.peer.sendall(stream.encode(stream.ERROR, b'{"message": "gone"}'))
    assert bench.wait() == LOST
    assert bench.relay.error == b'{"message": "gone"}'


def test_no_more_input_than_there_is_credit_for(bench: Bench) -> None:
    os.set_blocking(bench.stdin, False)
    received = 0
    while received < stream.INITIAL_CREDIT_BYTES:
        with contextlib.suppress(BlockingIOError):
            os.write(bench.stdin, bytes(65536))
        received += sum(len(payload) for kind, payload in bench.receive() if kind == stream.STDIN)
    assert received == stream.INITIAL_CREDIT_BYTES
    with contextlib.suppress(BlockingIOError):
        os.write(bench.stdin, bytes(65536))
    bench.peer.settimeout(0.3)
    with pytest.raises(TimeoutError):
        bench.peer.recv(1)
    bench.peer.settimeout(10)
    os.write(bench.wakeup, bytes([15]))
    assert bench.receive() == [(stream.SIGNAL, b"\x00\x00\x00\x0f")]
    bench.peer.sendall(stream.encode_credit(10))
    assert [len(payload) for _, payload in bench.receive()] == [10]
    bench.peer.sendall(stream.encode_exit(0))
    assert bench.wait() == 0


def test_the_end_of_input_is_told_once(bench: Bench) -> None:
    os.close(bench.stdin)
    assert bench.receive() == [(stream.STDIN_EOF, b"")]
    bench.peer.sendall(stream.encode_exit(0))
    assert bench.wait() == 0


def test_a_reader_that_is_gone_is_told_once(bench: Bench) -> None:
    os.close(bench.stdout)
    for _ in range(3):
        bench.peer.sendall(stream.encode(stream.STDOUT, b"x" * 1000))
    bench.peer.sendall(stream.encode_exit(7))
    assert bench.wait() == 7
    assert bench.receive() == [(stream.OUTPUT_CLOSED, stream.NUMBER_FORMAT.pack(stream.STDOUT))]


def test_nothing_is_read_while_output_is_stuck(bench: Bench) -> None:
    frame = stream.encode(stream.STDOUT, bytes(50_000))
    sent = []

    def send() -> None:
        for _ in range(400):
            bench.peer.sendall(frame)
            sent.append(50_000)
        bench.peer.sendall(stream.encode_exit(5))

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    sender.join(0.7)
    assert sender.is_alive() and sum(sent) < 8_000_000
    received = 0
    while received < 20_000_000:
        received += len(os.read(bench.stdout, 1 << 20))
    assert bench.wait() == 5
    assert received == 20_000_000


def test_an_output_that_cannot_be_opened_anew_gets_small_pieces() -> None:
    reading, writing = os.pipe()
    output = Output(writing)
    assert output.fd != writing
    assert os.get_blocking(writing) and not os.get_blocking(output.fd)
    output.put(bytes(200_000))
    total = 0
    while output.pending or total < 200_000:
        total += len(os.read(reading, 1 << 20))
        output.flush()
    assert total == 200_000
    assert Output(-1).broken


def test_titles_are_bounded() -> None:
    assert _shorten(["sleep", "1000"]) == ["sleep", "1000"]
    assert _shorten(["a\0b"]) == ["a"]
    words = _shorten(["x" * 3000, "y" * 200_000, "z"])
    assert [len(word) for word in words] == [3000, 1095]
