"""The task service over real ttRPC connections, on a pod of host processes."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from oci_runtime.errors import (
    AlreadyExists,
    InvalidInput,
    NotFound,
    Unavailable,
    Unsupported,
    WrongState,
)
from oci_runtime.sandbox.events import SandboxEvent
from oci_runtime.shim.proto import events_pb2, metrics_v1_pb2, metrics_v2_pb2, types_pb2
from oci_runtime.shim.service import SERVICES
from oci_runtime.ttrpc import frames
from tests.host.shim_pod import Harness, make_fifo, process_spec, read_fifo, until

pytestmark = pytest.mark.root

NEVER = -62135596800


@pytest.fixture
async def shim(tmp_path: Path) -> AsyncIterator[Harness]:
    async with Harness(tmp_path) as harness:
        yield harness


# The order of an engine


async def test_life_of_a_container(shim: Harness) -> None:
    pid = await shim.create("c", "sh", "-c", "exit 3")
    connected = await shim.call("Connect", id="c")
    assert (connected.shim_pid, connected.task_pid) == (os.getpid(), pid)
    assert (await shim.call("State", id="c")).status == types_pb2.CREATED
    waiting = asyncio.create_task(shim.call("Wait", id="c"))
    assert (await shim.call("Start", id="c")).pid == pid
    ended = await waiting
    assert ended.exit_status == 3 and ended.exited_at.seconds > 0
    state = await shim.call("State", id="c")
    assert (state.status, state.exit_status, state.exited_at) == (types_pb2.STOPPED, 3, ended.exited_at)
    deleted = await shim.call("Delete", id="c")
    assert (deleted.pid, deleted.exit_status, deleted.exited_at) == (pid, 3, ended.exited_at)
    assert not shim.host.prepared
    await shim.call("Shutdown", id="c")
    assert shim.service.idle.is_set()
    assert await shim.events(4) == ["/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/delete"]
    exit_event = events_pb2.TaskExit.FromString(shim.recorder.envelopes[2].event.value)
    assert (exit_event.container_id, exit_event.id, exit_event.exit_status) == ("c", "c", 3)
    assert shim.recorder.envelopes[2].event.type_url == "containerd.events.TaskExit"
    assert shim.recorder.envelopes[2].namespace == "default"


async def test_a_running_task_ended_in_year_one(shim: Harness) -> None:
    await shim.run("c", "sleep", "1000")
    assert (await shim.call("State", id="c")).exited_at.seconds == NEVER


async def test_state_repeats_what_create_said(shim: Harness, tmp_path: Path) -> None:
    paths: dict[str, Any] = {name: make_fifo(tmp_path / name) for name in ("stdin", "stdout", "stderr")}
    await shim.create("c", "sleep", "1000", **paths)
    state = await shim.call("State", id="c")
    assert {name: getattr(state, name) for name in paths} == paths
    assert state.bundle == str(tmp_path / "c") and not state.terminal


async def test_version_3_of_the_service_is_the_same(shim: Harness) -> None:
    await shim.create("c", "true")
    assert (await shim.call("State", service=SERVICES[1], id="c")).id == "c"


async def test_exec(shim: Harness, tmp_path: Path) -> None:
    await shim.run("c", "sleep", "1000")
    out = make_fifo(tmp_path / "out")
    reading = asyncio.create_task(read_fifo(tmp_path / "out"))
    await shim.call("Exec", id="c", exec_id="e", stdout=out, spec=process_spec("sh", "-c", "echo hi; exit 5"))
    added = await shim.call("State", id="c", exec_id="e")
    assert (added.id, added.exec_id, added.status, added.pid) == ("e", "e", types_pb2.CREATED, 0)
    started = await shim.call("Start", id="c", exec_id="e")
    assert started.pid > 0
    assert (await shim.call("Wait", id="c", exec_id="e")).exit_status == 5
    assert await reading == b"hi\n"
    with pytest.raises(NotFound, match="process already finished"):
        await shim.call("Kill", id="c", exec_id="e", signal=9)
    deleted = await shim.call("Delete", id="c", exec_id="e")
    assert (deleted.pid, deleted.exit_status) == (started.pid, 5)
    with pytest.raises(NotFound):
        await shim.call("State", id="c", exec_id="e")
    topics = await shim.events(5)
    assert topics[2:] == ["/tasks/exec-added", "/tasks/exec-started", "/tasks/exit"]


async def test_an_exec_that_was_never_started_can_be_deleted(shim: Harness) -> None:
    await shim.run("c", "sleep", "1000")
    await shim.call("Exec", id="c", exec_id="e", spec=process_spec("true"))
    assert (await shim.call("Delete", id="c", exec_id="e")).exit_status == 0
    await shim.call("Exec", id="c", exec_id="e", spec=process_spec("true"))


async def test_a_created_container_can_be_deleted(shim: Harness) -> None:
    await shim.create("c", "true")
    assert (await shim.call("Delete", id="c")).exit_status == 137
    with pytest.raises(NotFound):
        await shim.call("State", id="c")


async def test_the_exit_of_the_first_process_is_reported_last(shim: Harness) -> None:
    await shim.run("c", "sleep", "1000")
    for name in ("e1", "e2"):
        await shim.call("Exec", id="c", exec_id=name, spec=process_spec("sleep", "1000"))
        await shim.call("Start", id="c", exec_id=name)
    await shim.pod.shutdown("the machine is gone")
    await shim.call("Wait", id="c")
    await shim.events(9)
    exits = [
        events_pb2.TaskExit.FromString(envelope.event.value).id
        for envelope in shim.recorder.envelopes
        if envelope.topic == "/tasks/exit"
    ]
    assert sorted(exits[:2]) == ["e1", "e2"] and exits[2] == "c"


async def test_start_is_reported_before_the_exit_of_a_very_short_process(shim: Harness) -> None:
    for number in range(10):
        await shim.run(f"c{number}", "true")
    await shim.events(30)
    for number in range(10):
        topics = [
            envelope.topic
            for envelope in shim.recorder.envelopes
            if events_pb2.TaskStart.FromString(envelope.event.value).container_id == f"c{number}"
        ]
        assert topics == ["/tasks/create", "/tasks/start", "/tasks/exit"]


async def test_shutdown_is_ignored_while_tasks_are_left(shim: Harness) -> None:
    await shim.run("a", "true")
    await shim.create("b", "true")
    await shim.call("Wait", id="a")
    await shim.call("Delete", id="a")
    await shim.call("Shutdown", id="a")
    assert not shim.service.idle.is_set()
    await shim.call("Delete", id="b")
    await shim.call("Shutdown", id="b")
    assert shim.service.idle.is_set()


async def test_shutdown_now_ends_at_once(shim: Harness) -> None:
    await shim.create("c", "true")
    await shim.call("Shutdown", id="c", now=True)
    assert shim.service.idle.is_set()


async def test_signals(shim: Harness) -> None:
    await shim.run("c", "sleep", "1000")
    await shim.call("Kill", id="c", signal=0)
    await shim.call("Kill", id="c", signal=signal.SIGTERM)
    assert (await shim.call("Wait", id="c")).exit_status == 128 + signal.SIGTERM
    with pytest.raises(NotFound, match="process already finished"):
        await shim.call("Kill", id="c", signal=0)
    await shim.call("Kill", id="c", signal=9, all=True)  # what the CRI plugin sends before it deletes


async def test_pause_and_resume(shim: Harness) -> None:
    await shim.run("c", "sleep", "1000")
    await shim.call("Pause", id="c")
    assert (await shim.call("State", id="c")).status == types_pb2.PAUSED
    await shim.call("Resume", id="c")
    assert (await shim.call("State", id="c")).status == types_pb2.RUNNING
    assert (await shim.events(4))[2:] == ["/tasks/paused", "/tasks/resumed"]


async def test_pids_begin_with_the_stand_in(shim: Harness) -> None:
    await shim.run("c", "sleep", "1000")
    await shim.call("Exec", id="c", exec_id="e", spec=process_spec("sleep", "1000"))
    await shim.call("Start", id="c", exec_id="e")
    rows = (await shim.call("Pids", id="c")).processes
    assert rows[0].pid == os.getpid()
    assert len(rows) == 3
    assert [row.info.value for row in rows[1:]] == [b"", b"\x0a\x01e"]
    assert rows[2].info.type_url == "containerd.runc.v1.ProcessDetails"


async def test_figures_have_everything_that_crio_reads(shim: Harness) -> None:
    await shim.run("c", "sleep", "1000")
    for unified in (False, True):
        shim.service._unified = unified
        stats = (await shim.call("Stats", id="c")).stats
        if unified:
            assert stats.type_url == "io.containerd.cgroups.v2.Metrics"
            two = metrics_v2_pb2.Metrics.FromString(stats.value)
            assert (two.cpu.usage_usec, two.memory.usage, two.pids.current) == (1500, 4096 + (1 << 20), 1)
        else:
            assert stats.type_url == "io.containerd.cgroups.v1.Metrics"
            one = metrics_v1_pb2.Metrics.FromString(stats.value)
            for name in ("usage", "kernel", "kernel_tcp", "swap"):
                assert one.memory.HasField(name)
            assert one.cpu.HasField("usage") and one.cpu.HasField("throttling") and one.HasField("pids")
            assert one.cpu.usage.total == 1_500_000
            assert one.memory.usage.limit == 2**63 - 4096 and one.pids.limit == 0


async def test_an_out_of_memory_kill_leaves_a_file_and_an_event(shim: Harness, tmp_path: Path) -> None:
    await shim.run("c", "sleep", "1000")
    shim.pod.events.put_nowait(SandboxEvent("oom", "c"))
    assert (await shim.events(3))[2] == "/tasks/oom"
    assert (tmp_path / "c" / "oom").exists()
    shim.pod.events.put_nowait(SandboxEvent("oom", "c"))
    await shim.call("Kill", id="c", signal=9)
    await shim.call("Wait", id="c")
    assert (await shim.events(4))[2:] == ["/tasks/oom", "/tasks/exit"]


async def test_a_container_that_is_deleted_by_hand_is_forgotten(shim: Harness) -> None:
    await shim.run("a", "sleep", "1000")
    await shim.run("b", "sleep", "1000")
    await shim.call("Kill", id="a", signal=9)
    await shim.call("Wait", id="a")
    await shim.pod.delete("a")
    shim.pod.events.put_nowait(SandboxEvent("deleted", "a"))
    await until(lambda: len(shim.service.tasks) == 1)
    assert shim.host.prepared == {"b"} and not shim.service.idle.is_set()
    await shim.pod.delete("b", force=True)
    shim.pod.events.put_nowait(SandboxEvent("deleted", "b"))
    await until(shim.service.idle.is_set)
    assert not shim.host.prepared


# Wrong calls


async def test_unknown_ids_are_not_found(shim: Harness) -> None:
    requests: list[tuple[str, dict[str, Any]]] = [
        (name, {"id": "x"})
        for name in (
            "State",
            "Start",
            "Delete",
            "Pids",
            "Pause",
            "Resume",
            "Kill",
            "Wait",
            "Stats",
            "Connect",
            "Update",
        )
    ]
    for method, fields in requests:
        with pytest.raises(NotFound):
            await shim.call(method, **fields)
    await shim.create("c", "true")
    for method in ("State", "Start", "Delete", "Kill", "Wait", "ResizePty", "CloseIO"):
        with pytest.raises(NotFound):
            await shim.call(method, id="c", exec_id="x")


async def test_create_twice(shim: Harness) -> None:
    await shim.create("c", "true")
    with pytest.raises(AlreadyExists):
        await shim.call("Create", id="c", bundle=str(shim.directory / "c"))
    assert (await shim.call("State", id="c")).status == types_pb2.CREATED


async def test_start_twice_and_before_create(shim: Harness) -> None:
    with pytest.raises(NotFound):
        await shim.call("Start", id="c")
    await shim.run("c", "sleep", "1000")
    with pytest.raises(WrongState):
        await shim.call("Start", id="c")


async def test_delete_of_a_running_container(shim: Harness) -> None:
    await shim.run("c", "sleep", "1000")
    with pytest.raises(WrongState, match="running"):
        await shim.call("Delete", id="c")


async def test_ids_that_are_paths(shim: Harness) -> None:
    for bad in ("../x", "", "a/b", "x" * 300, "."):
        with pytest.raises(InvalidInput):
            await shim.call("Create", id=bad, bundle="/nonexistent")
    await shim.run("c", "sleep", "1000")
    with pytest.raises(InvalidInput):
        await shim.call("Exec", id="c", exec_id="../x", spec=process_spec("true"))


@pytest.mark.parametrize(
    "spec", [b"", b"{", b"[]", b"null", b'{"args": 3}', b'{"cwd": "/"}', b"\xff\xfe", b"[" * 100000]
)
async def test_exec_with_a_broken_spec(shim: Harness, spec: bytes) -> None:
    await shim.run("c", "sleep", "1000")
    message = process_spec("true")
    message.value = spec
    with pytest.raises(InvalidInput):
        await shim.call("Exec", id="c", exec_id="e", spec=message)
    with pytest.raises(NotFound):
        await shim.call("State", id="c", exec_id="e")


async def test_exec_of_a_missing_program(shim: Harness) -> None:
    await shim.run("c", "sleep", "1000")
    await shim.call("Exec", id="c", exec_id="e", spec=process_spec("nosuch"))
    with pytest.raises(NotFound, match="nosuch"):
        await shim.call("Start", id="c", exec_id="e")
    await shim.call("Delete", id="c", exec_id="e")


async def test_exec_twice_and_after_the_end(shim: Harness) -> None:
    await shim.run("c", "sleep", "1000")
    await shim.call("Exec", id="c", exec_id="e", spec=process_spec("true"))
    with pytest.raises(AlreadyExists):
        await shim.call("Exec", id="c", exec_id="e", spec=process_spec("true"))
    await shim.call("Kill", id="c", signal=9)
    await shim.call("Wait", id="c")
    with pytest.raises(WrongState):
        await shim.call("Exec", id="c", exec_id="f", spec=process_spec("true"))


async def test_checkpoints_are_not_possible_yet(shim: Harness) -> None:
    await shim.create("c", "true")
    with pytest.raises(Unsupported):
        await shim.call("Checkpoint", id="c")
    with pytest.raises(Unsupported):
        await shim.call("Create", id="d", bundle="/nonexistent", checkpoint="/some/where")


async def test_unknown_signal_and_bad_resources(shim: Harness) -> None:
    await shim.run("c", "sleep", "1000")
    with pytest.raises(InvalidInput):
        await shim.call("Kill", id="c", signal=4711)
    message = process_spec("x")
    for bad in (b"", b"nonsense", b'{"memory": 3}'):
        message.value = bad
        with pytest.raises(InvalidInput):
            await shim.call("Update", id="c", resources=message)


async def test_unknown_methods_and_services(shim: Harness) -> None:
    for service, method in ((SERVICES[0], "Nonsense"), ("some.Service", "State")):
        with pytest.raises(Unsupported):
            await shim.client.call(service, method, b"", 5)


async def test_garbage_in_place_of_a_request(shim: Harness) -> None:
    with pytest.raises(InvalidInput):
        await shim.client.call(SERVICES[0], "State", b"\xff" * 50, 5)
    await shim.create("c", "true")


async def test_garbage_frames_end_only_their_connection(shim: Harness) -> None:
    await shim.create("c", "true")
    loop = asyncio.get_running_loop()
    for garbage in (b"GET / HTTP/1.1\r\n\r\n" * 4, struct.pack(">IIBB", 0xFFFFFFFF, 1, 1, 0), b"\0" * 64):
        sock = await shim.connect_raw()
        sock.setblocking(False)
        await loop.sock_sendall(sock, garbage)
        assert await asyncio.wait_for(loop.sock_recv(sock, 1), 5) == b""
        sock.close()
    truncated = await shim.connect_raw()
    truncated.send(struct.pack(">IIBB", 1000, 1, 1, 0) + b"only a part")
    truncated.close()
    assert (await shim.call("State", id="c")).id == "c"


async def test_an_oversized_request_is_refused_and_the_connection_goes_on(shim: Harness) -> None:
    await shim.create("c", "true")
    sock = await shim.connect_raw()
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    size = frames.MAX_DATA_BYTES + 1
    await loop.sock_sendall(sock, struct.pack(">IIBB", size, 1, 1, 0) + b"x" * size)
    header = await asyncio.wait_for(loop.sock_recv(sock, 65536), 5)
    assert header[8] == frames.RESPONSE
    assert (await shim.call("State", id="c")).id == "c"
    sock.close()


# Failures of the pod


async def test_a_failed_create_leaves_nothing(shim: Harness) -> None:
    shim.pod.fail["create_container"] = Unavailable("guest did not answer", detail="kernel panic\nlast words\n")
    with pytest.raises(Unavailable, match="guest did not answer .*last words"):
        await shim.create("c", "true")
    assert not shim.host.prepared
    with pytest.raises(NotFound):
        await shim.call("State", id="c")
    await shim.call("Shutdown", id="c")
    assert shim.service.idle.is_set()


async def test_delete_cancels_a_create_that_hangs(shim: Harness) -> None:
    shim.pod.hang.add("create_container")
    creating = asyncio.create_task(shim.create("c", "true"))
    await until(lambda: shim.host.prepared)
    with pytest.raises(WrongState, match="still being created"):
        await shim.call("State", id="c")
    assert (await shim.call("Delete", id="c")).exit_status == 137
    with pytest.raises(WrongState, match="container c was deleted while it was being created"):
        await creating
    assert not shim.host.prepared


async def test_a_create_whose_delete_comes_in_the_same_packet_leaves_no_task(shim: Harness) -> None:
    creating = asyncio.create_task(shim.create("c", "true"))
    deleting = asyncio.create_task(shim.call("Delete", id="c"))
    with pytest.raises(WrongState, match="container c was deleted while it was being created"):
        await creating
    assert (await deleting).exit_status == 137
    assert not shim.host.prepared
    await shim.call("Shutdown", id="c")
    assert shim.service.idle.is_set()


async def test_a_second_delete_does_not_disturb_the_undo_of_a_create(shim: Harness) -> None:
    shim.pod.hang.add("create_container")
    undoing, may_end = asyncio.Event(), asyncio.Event()
    release = shim.host.release

    async def release_slowly(container_id: str) -> None:
        undoing.set()
        await may_end.wait()
        await release(container_id)

    shim.host.release = release_slowly  # type: ignore[method-assign]
    creating = asyncio.create_task(shim.create("c", "true"))
    await until(lambda: shim.host.prepared)
    deletes = [asyncio.create_task(shim.call("Delete", id="c"))]
    await undoing.wait()
    deletes.append(asyncio.create_task(shim.call("Delete", id="c")))
    with pytest.raises(WrongState, match="still being created"):
        await shim.call("State", id="c")  # which comes after it
    may_end.set()
    assert [(await delete).exit_status for delete in deletes] == [137, 137]
    with pytest.raises(WrongState, match="was deleted while it was being created"):
        await creating
    assert not shim.host.prepared


async def test_a_hung_pod_hides_neither_state_nor_other_calls(shim: Harness) -> None:
    await shim.run("c", "sleep", "1000")
    shim.pod.hang |= {"kill", "stats"}
    hung: list[tuple[str, dict[str, Any]]] = [("Stats", {}), ("Kill", {"signal": 15})]
    hanging = [asyncio.create_task(shim.call(name, id="c", **more)) for name, more in hung]
    assert (await shim.call("State", timeout_s=5, id="c")).status == types_pb2.RUNNING
    assert (await shim.call("Connect", timeout_s=5, id="c")).task_pid
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)


async def test_a_caller_with_a_deadline_gets_an_answer(shim: Harness) -> None:
    await shim.run("c", "sleep", "1000")
    with pytest.raises(Unavailable):
        await shim.call("Wait", timeout_s=0.3, id="c")
    assert (await shim.call("State", id="c")).status == types_pb2.RUNNING


async def test_a_caller_that_goes_away_harms_nobody(shim: Harness) -> None:
    await shim.run("c", "sleep", "1000")
    other = await shim.connect()
    waiting = asyncio.create_task(other.call(SERVICES[0], "Wait", b"\x0a\x01c", None))
    await asyncio.sleep(0.05)
    await other.close()
    with pytest.raises(Unavailable):
        await waiting
    await shim.call("Kill", id="c", signal=9)
    assert (await shim.call("Wait", id="c")).exit_status == 137
