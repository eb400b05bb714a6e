"""Out-of-memory kills as engines hear of them: the file in the bundle, and the event in containerd's own words."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from google.protobuf.empty_pb2 import Empty

from oci_runtime.sandbox import oom
from oci_runtime.sandbox.process import Container
from oci_runtime.shim.proto.events_pb2 import TaskOOM
from oci_runtime.shim.proto.forward_pb2 import ForwardRequest
from oci_runtime.ttrpc.server import Method, TtrpcServer


def test_the_event_is_what_a_shim_would_send() -> None:
    envelope = ForwardRequest.FromString(oom.plan_event("moby", "c1", 1_700_000_000_123_456_789)).envelope
    assert (envelope.namespace, envelope.topic) == ("moby", "/tasks/oom")
    assert envelope.timestamp.ToNanoseconds() == 1_700_000_000_123_456_789
    assert envelope.event.type_url == TaskOOM.DESCRIPTOR.full_name
    assert TaskOOM.FromString(envelope.event.value) == TaskOOM(container_id="c1")


async def test_containerd_hears_of_a_container_once(tmp_path: Path) -> None:
    heard: list[str] = []

    async def forward(request: ForwardRequest) -> Empty:
        heard.append(TaskOOM.FromString(request.envelope.event.value).container_id)
        return Empty()

    server = TtrpcServer({oom.FORWARD_SERVICE: {"Forward": Method(ForwardRequest, forward)}})
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "events"))
    await server.listen(sock)
    notices = oom.OomNotices(str(tmp_path / "events"), "moby")
    first, second = Container("c1", str(tmp_path), {}), Container("c2", str(tmp_path / "gone"), {})
    await asyncio.gather(notices.tell(first), notices.tell(first))
    await notices.tell(second)
    await server.close()
    assert heard == ["c1", "c2"]
    assert (tmp_path / "oom").read_bytes() == b""


async def test_an_engine_that_is_gone_or_hangs_holds_nothing_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oom, "TELL_S", 0.05)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "silent"))
        silent.listen()
        for name in ("silent", "missing"):
            await oom.OomNotices(str(tmp_path / name), "moby").tell(Container("c1", str(tmp_path), {}))
    assert (tmp_path / "oom").exists()
