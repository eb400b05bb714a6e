"""Client and server of ttRPC against each other and against peers that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from oci_runtime.errors import (
    AlreadyExists,
    InvalidInput,
    NotFound,
    OciRuntimeError,
    Unavailable,
    Unsupported,
    WrongState,
)
from oci_runtime.ttrpc import frames
from oci_runtime.ttrpc.client import TtrpcClient
from oci_runtime.ttrpc.frames import HEADER, REQUEST, RESPONSE, encode_frame
from oci_runtime.ttrpc.proto import ttrpc_pb2
from oci_runtime.ttrpc.server import Method, TtrpcServer
from oci_runtime.ttrpc.status import StatusError

SERVICE = "test.Echo"


async def echo(request: ttrpc_pb2.KeyValue) -> ttrpc_pb2.KeyValue:
    return ttrpc_pb2.KeyValue(key=request.key, value=request.value)


async def slow(request: ttrpc_pb2.KeyValue) -> ttrpc_pb2.KeyValue:
    await asyncio.sleep(float(request.value))
    return request


async def fail(request: ttrpc_pb2.KeyValue) -> ttrpc_pb2.KeyValue:
    kinds = {
        kind.__name__: kind for kind in (NotFound, AlreadyExists, InvalidInput, WrongState, Unavailable, Unsupported)
    }
    if request.key in kinds:
        raise kinds[request.key](request.value)
    raise ZeroDivisionError("a bug")


async def big(request: ttrpc_pb2.KeyValue) -> ttrpc_pb2.KeyValue:
    return ttrpc_pb2.KeyValue(value="x" * int(request.value))


METHODS = {
    name: Method(ttrpc_pb2.KeyValue, handler)
    for name, handler in {"Echo": echo, "Slow": slow, "Fail": fail, "Big": big}.items()
}


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[TtrpcClient, TtrpcServer, list[tuple[str, BaseException]]]]:
    ours, theirs = socket.socketpair()
    errors: list[tuple[str, BaseException]] = []
    server = TtrpcServer({SERVICE: METHODS}, lambda where, error: errors.append((where, error)))
    await server.serve(theirs)
    client = await TtrpcClient.connect(ours, "the echo server")
    try:
        yield client, server, errors
    finally:
        await client.close()
        await server.close()


async def ask(client: TtrpcClient, method: str, key: str = "", value: str = "", timeout_s: float | None = 20) -> str:
    request = ttrpc_pb2.KeyValue(key=key, value=value).SerializeToString()
    return ttrpc_pb2.KeyValue.FromString(await client.call(SERVICE, method, request, timeout_s)).value


async def test_many_calls_at_once_each_get_their_answer() -> None:
    async with connected() as (client, _, _):
        answers = await asyncio.gather(*(ask(client, "Echo", value=str(number)) for number in range(500)))
        assert answers == [str(number) for number in range(500)]


async def test_a_slow_call_does_not_hold_up_a_quick_one() -> None:
    async with connected() as (client, _, _):
        waiting = asyncio.create_task(ask(client, "Slow", value="30", timeout_s=None))
        assert await ask(client, "Echo", value="quick") == "quick"
        assert not waiting.done()
        waiting.cancel()


@pytest.mark.parametrize("kind", [NotFound, AlreadyExists, InvalidInput, WrongState, Unavailable, Unsupported])
async def test_kinds_of_errors_cross(kind: type[OciRuntimeError]) -> None:
    async with connected() as (client, _, errors):
        with pytest.raises(kind, match="^the thing x$"):
            await ask(client, "Fail", kind.__name__, "the thing x")
        assert errors == []


async def test_a_bug_in_a_handler_is_reported_and_harms_no_other_call() -> None:
    async with connected() as (client, _, errors):
        with pytest.raises(OciRuntimeError, match="ZeroDivisionError: a bug"):
            await ask(client, "Fail")
        assert [where for where, _ in errors] == [f"{SERVICE}/Fail"]
        assert await ask(client, "Echo", value="alive") == "alive"


async def test_unknown_names_are_unimplemented() -> None:
    async with connected() as (client, _, _):
        with pytest.raises(Unsupported, match="unknown method 'Nope'"):
            await ask(client, "Nope")
        with pytest.raises(Unsupported, match=r"unknown service 'no\.Service'"):
            await client.call("no.Service", "Echo", b"", 5)


async def test_a_malformed_payload_is_the_callers_fault() -> None:
    async with connected() as (client, _, _):
        with pytest.raises(InvalidInput, match="Echo: malformed message"):
            await client.call(SERVICE, "Echo", b"\xff\xff", 5)
        assert await ask(client, "Echo", value="alive") == "alive"


async def test_a_missed_deadline_is_unavailable_and_the_connection_lives() -> None:
    async with connected() as (client, _, _):
        with pytest.raises(Unavailable, match="Slow: "):
            await ask(client, "Slow", value="30", timeout_s=0.05)
        assert await ask(client, "Echo", value="alive") == "alive"


async def test_an_answer_that_does_not_fit_is_an_error() -> None:
    async with connected() as (client, _, _):
        assert len(await ask(client, "Big", value=str(frames.MAX_DATA_BYTES - 100))) == frames.MAX_DATA_BYTES - 100
        with pytest.raises(OciRuntimeError, match="does not fit"):
            await ask(client, "Big", value=str(frames.MAX_DATA_BYTES))
        assert await ask(client, "Echo", value="alive") == "alive"


async def test_a_request_that_does_not_fit_is_not_sent() -> None:
    async with connected() as (client, _, _):
        with pytest.raises(InvalidInput, match="ttRPC allows"):
            await client.call(SERVICE, "Echo", bytes(frames.MAX_DATA_BYTES), 5)
        assert await ask(client, "Echo", value="alive") == "alive"


async def test_losing_the_server_fails_the_calls_that_wait() -> None:
    async with connected() as (client, server, _):
        waiting = asyncio.create_task(ask(client, "Slow", value="30", timeout_s=None))
        await ask(client, "Echo")
        await server.close()
        with pytest.raises(Unavailable, match="Slow: lost the connection to the echo server"):
            await waiting
        await client.closed()
        with pytest.raises(Unavailable, match="Echo: lost the connection"):
            await ask(client, "Echo")


async def test_closing_the_client_fails_its_calls() -> None:
    async with connected() as (client, _, _):
        waiting = asyncio.create_task(ask(client, "Slow", value="30", timeout_s=None))
        await ask(client, "Echo")
        await client.close()
        with pytest.raises(Unavailable, match="was closed"):
            await waiting
        await client.close()


# A server that faces a hostile client


async def raw_exchange(*sent: bytes) -> tuple[list[ttrpc_pb2.Response], bool]:
    """Send bytes to a server; return its answers, and whether it ended the connection. Ends with a probe."""
    ours, theirs = socket.socketpair()
    server = TtrpcServer({SERVICE: METHODS})
    await server.serve(theirs)
    reader, writer = await asyncio.open_connection(sock=ours)
    probe = ttrpc_pb2.Request(service=SERVICE, method="Echo").SerializeToString()
    parser = frames.FrameParser()
    responses: list[ttrpc_pb2.Response] = []
    ended = False
    try:
        for data in (*sent, encode_frame(0xFFFFFFFD, REQUEST, probe)):
            writer.write(data)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        while not ended:
            try:
                data = await asyncio.wait_for(reader.read(65536), 20)
            except ConnectionError:
                data = b""
            ended = not data
            found = parser.feed(data)
            responses += [ttrpc_pb2.Response.FromString(frame.data) for frame in found if frame.stream_id != 0xFFFFFFFD]
            if any(frame.stream_id == 0xFFFFFFFD for frame in found):
                break
    finally:
        writer.close()
        await server.close()
    return responses, ended


async def test_garbage_ends_the_connection() -> None:
    assert await raw_exchange(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") == ([], True)


async def test_an_oversized_request_gets_an_error_and_the_next_one_an_answer() -> None:
    length = frames.MAX_DATA_BYTES + 1
    responses, ended = await raw_exchange(HEADER.pack(length, 1, REQUEST, 0), bytes(length))
    assert [response.status.code for response in responses] == [8]
    assert not ended


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (encode_frame(1, REQUEST, b"\xff\xff\xff"), 3),
        (encode_frame(2, REQUEST, b""), 3),
        (encode_frame(1, REQUEST, b""), 12),
        (encode_frame(1, REQUEST, b"", flags=frames.FLAG_REMOTE_OPEN), 12),
    ],
)
async def test_odd_requests_get_a_code(frame: bytes, code: int) -> None:
    responses, ended = await raw_exchange(frame)
    assert [response.status.code for response in responses] == [code]
    assert not ended


async def test_responses_and_data_from_a_client_are_ignored() -> None:
    assert await raw_exchange(encode_frame(7, RESPONSE, b"x"), encode_frame(7, frames.DATA, b"x")) == ([], False)


# A client that faces a hostile server


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "does not speak ttRPC"),
        (encode_frame(3, RESPONSE, b""), "answers no call"),
        (encode_frame(2, RESPONSE, b""), "answers no call"),
        (encode_frame(1, REQUEST, b""), "answers no call"),
        (encode_frame(1, RESPONSE, b"\xff\xff"), "not a ttRPC response"),
        (HEADER.pack(frames.MAX_DATA_BYTES + 1, 1, RESPONSE, 0), "4 MiB are allowed"),
        (encode_frame(1, RESPONSE, b"abc")[:8], "in the middle of a ttRPC frame"),
        (b"", "lost the connection to the peer"),
    ],
)
async def test_a_lying_server_is_unavailable(answer: bytes, reason: str) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        client = await TtrpcClient.connect(ours)
        call = asyncio.create_task(client.call(SERVICE, "Echo", b"", 20))
        await asyncio.to_thread(theirs.recv, 65536)
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_RDWR)
        with pytest.raises(Unavailable, match=reason):
            await call
        await client.close()


async def test_texts_of_a_server_are_one_bounded_line() -> None:
    response = ttrpc_pb2.Response()
    response.status.code = 5
    response.status.message = "\x1b[31mred\nsecond line" + "x" * 100_000
    ours, theirs = socket.socketpair()
    with theirs:
        client = await TtrpcClient.connect(ours)
        call = asyncio.create_task(client.call(SERVICE, "Echo", b"", 20))
        await asyncio.to_thread(theirs.recv, 65536)
        theirs.sendall(encode_frame(1, RESPONSE, response.SerializeToString()))
        with pytest.raises(NotFound) as caught:
            await call
        assert caught.value.message.isprintable()
        assert len(caught.value.message) < 9000
        await client.close()


async def test_a_late_answer_is_ignored() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        client = await TtrpcClient.connect(ours)
        with pytest.raises(Unavailable, match=r"within 0\.01 s"):
            await client.call(SERVICE, "Echo", b"", 0.01)
        await asyncio.to_thread(theirs.recv, 65536)
        theirs.sendall(encode_frame(1, RESPONSE, b""))
        call = asyncio.create_task(client.call(SERVICE, "Echo", b"", 20))
        await asyncio.to_thread(theirs.recv, 65536)
        theirs.sendall(encode_frame(3, RESPONSE, ttrpc_pb2.Response(payload=b"yes").SerializeToString()))
        assert await call == b"yes"
        await client.close()


async def test_a_code_of_its_own_survives_the_server() -> None:
    async def denied(_: ttrpc_pb2.KeyValue) -> ttrpc_pb2.KeyValue:
        raise StatusError(7, "not for you")

    ours, theirs = socket.socketpair()
    server = TtrpcServer({SERVICE: {"Denied": Method(ttrpc_pb2.KeyValue, denied)}})
    await server.serve(theirs)
    reader, writer = await asyncio.open_connection(sock=ours)
    request = ttrpc_pb2.Request(service=SERVICE, method="Denied").SerializeToString()
    writer.write(encode_frame(1, REQUEST, request))
    header = HEADER.unpack(await reader.readexactly(HEADER.size))
    response = ttrpc_pb2.Response.FromString(await reader.readexactly(header[0]))
    assert (response.status.code, response.status.message) == (7, "not for you")
    writer.close()
    await server.close()
