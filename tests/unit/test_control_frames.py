"""Frames of the control socket, with descriptors, and hostile peers."""

from __future__ import annotations

import os
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oci_runtime.control import frames
from oci_runtime.control.client import Client, SocketDirectory, listen
from oci_runtime.control.frames import ConnectionLost, Silent
from oci_runtime.errors import HostError, InvalidInput, NotFound, Unavailable, WrongState

_JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner), max_leaves=5)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
@given(st.dictionaries(st.text(), _JSON))
def test_messages_come_back(message: dict[str, Any]) -> None:
    frame = frames.encode_frame(message)
    header, body = frame[: frames.HEADER.size], frame[frames.HEADER.size :]
    assert frames.body_length(header) == len(body)
    assert frames.decode_body(body) == message


@pytest.mark.parametrize("body", [b"", b"[]", b"1", b"{", b"\xff", b'{"a": 1}x', b"[" * 100000])
def test_bodies_that_are_no_objects(body: bytes) -> None:
    with pytest.raises(InvalidInput, match="control message is"):
        frames.decode_body(body)


def test_lengths_are_bounded() -> None:
    with pytest.raises(InvalidInput, match="exceeds"):
        frames.body_length(struct.pack(">I", frames.MAX_FRAME_BYTES + 1))
    with pytest.raises(InvalidInput, match="exceeds"):
        frames.encode_frame({"x": "y" * frames.MAX_FRAME_BYTES})


def pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    theirs.settimeout(5)
    return ours, theirs


def test_descriptors_ride_along(tmp_path: Path) -> None:
    ours, theirs = pair()
    files = [os.open(tmp_path / str(number), os.O_RDWR | os.O_CREAT) for number in range(frames.MAX_FDS)]
    with ours, theirs:
        frames.send_frame(ours, {"op": "x"}, files)
        message, fds = frames.receive_frame(theirs)
    assert message == {"op": "x"}
    assert [os.fstat(fd).st_ino for fd in fds] == [os.fstat(fd).st_ino for fd in files]
    assert not any(os.get_inheritable(fd) for fd in fds)
    for fd in (*fds, *files):
        os.close(fd)


def test_too_many_descriptors_are_not_sent() -> None:
    ours, theirs = pair()
    with ours, theirs, pytest.raises(InvalidInput, match="descriptors exceed"):
        frames.send_frame(ours, {}, [0] * (frames.MAX_FDS + 1))


def test_no_byte_beyond_the_frame_is_read() -> None:
    ours, theirs = pair()
    with ours, theirs:
        ours.sendall(frames.encode_frame({"ok": True}) + b"stream")
        assert frames.receive_frame(theirs) == ({"ok": True}, [])
        assert theirs.recv(100) == b"stream"


def test_a_broken_frame_leaks_no_descriptor(tmp_path: Path) -> None:
    ours, theirs = pair()
    before = set(os.listdir("/proc/self/fd"))
    with (tmp_path / "file").open("w") as file:
        socket.send_fds(ours, [struct.pack(">I", 2) + b"[]"], [file.fileno()])
    with pytest.raises(InvalidInput):
        frames.receive_frame(theirs)
    assert set(os.listdir("/proc/self/fd")) == before
    ours.close()
    with pytest.raises(Unavailable, match="closed the connection"):
        frames.receive_frame(theirs)
    theirs.close()


def serve(listener: Any, answers: list[bytes]) -> None:
    connection = socket.socket(fileno=listener.detach()).accept()[0]
    with connection:
        for answer in answers:
            frames.receive_frame(connection)
            connection.sendall(answer)


def connect(tmp_path: Path, *answers: bytes) -> Client:
    listener = listen(str(tmp_path))
    threading.Thread(target=serve, args=(listener, list(answers)), daemon=True).start()
    return Client.connect(str(tmp_path), 5)


def test_calls_return_answers_and_raise_errors(tmp_path: Path) -> None:
    error = {"error": {"kind": "WrongState", "message": "not now", "detail": "console"}}
    answers = [frames.encode_frame({"ok": True, "x": 1}), frames.encode_frame(error), frames.encode_frame({"error": 1})]
    with connect(tmp_path, *answers) as client:
        assert client.call("first", id="c1")["x"] == 1
        with pytest.raises(WrongState) as caught:
            client.call("second")
        assert (caught.value.message, caught.value.detail) == ("not now", "console")
        with pytest.raises(InvalidInput, match="malformed error"):
            client.call("third")
        with pytest.raises(Unavailable):
            client.call("fourth")


def test_an_attached_connection_is_handed_out_as_a_descriptor(tmp_path: Path) -> None:
    client = connect(tmp_path, frames.encode_frame({"ok": True}) + b"bytes")
    client.begin_attach("c1")
    with socket.socket(fileno=client.finish_attach()) as stream:
        assert stream.recv(100) == b"bytes"


def test_nobody_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="control socket in .* does not exist"):
        Client.connect(str(tmp_path / "missing"))
    listen(str(tmp_path)).close()
    with pytest.raises(Unavailable, match="Connection refused"):
        Client.connect(str(tmp_path))


def test_a_silent_peer_is_given_up(tmp_path: Path) -> None:
    listener = listen(str(tmp_path))
    with Client.connect(str(tmp_path), 0.05) as client:
        with pytest.raises(Silent, match="did not answer within 0.05 s"):
            client.call("state")
    listener.close()


def test_a_full_backlog_is_no_dead_sandbox(tmp_path: Path) -> None:
    listener = listen(str(tmp_path), backlog=0)
    waiting = Client.connect(str(tmp_path), 5)
    with pytest.raises(Silent, match="took no connection within 0.05 s"):
        Client.connect(str(tmp_path), 0.05)
    waiting.close()
    listener.close()


def test_long_directories_have_short_sockets(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 200)
    deep.mkdir()
    listener = listen(str(deep))
    assert (deep / "control.sock").is_socket()
    with SocketDirectory(str(deep)) as short:
        assert len(short.path()) < 108
    Client.connect(str(deep)).close()
    listener.close()
    listen(str(deep)).close()


def test_a_request_that_this_side_cannot_send_is_no_dead_peer() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        with pytest.raises(HostError, match="send request to the sandbox process: Bad file descriptor"):
            frames.send_frame(ours, {}, [1 << 20])
        theirs.close()
        with pytest.raises(ConnectionLost, match="cannot send"):
            frames.send_frame(ours, {})
