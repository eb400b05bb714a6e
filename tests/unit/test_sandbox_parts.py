"""The parts of a sandbox process that need no machine: rendezvous, feed of events, removals, control socket."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from oci_runtime.config.load import load_config
from oci_runtime.control.client import Client, listen
from oci_runtime.errors import OciRuntimeError, Unavailable
from oci_runtime.sandbox.arrivals import Arrivals
from oci_runtime.sandbox.events import EventFeed, SandboxEvent
from oci_runtime.sandbox.process import Container, Process, Status
from oci_runtime.sandbox.removals import Removals
from oci_runtime.sandbox.server import ControlServer
from oci_runtime.sandbox.steps import Step, try_all
from oci_runtime.sandbox.timeline import Timeline
from oci_runtime.sandbox.virtual_machine import VirtualMachine

KEY = ("c", "e")


async def test_all_who_wait_get_the_process() -> None:
    arrivals = Arrivals()
    first, second = arrivals.expect(KEY), arrivals.expect(KEY)
    process = Process("c", "e", terminal=False)
    assert arrivals.arrive(process)
    assert await first is await second is process


async def test_a_stand_in_that_went_before_the_request_was_read_leaves_no_orphan() -> None:
    arrivals = Arrivals()
    arrivals.expect(KEY)
    arrivals.abandon(KEY)
    assert not arrivals.arrive(Process("c", "e", terminal=False))
    assert arrivals.arrive(Process("c", "e", terminal=False)), "the mark was for one process"


async def test_a_name_that_is_used_again_is_wanted_again() -> None:
    arrivals = Arrivals()
    arrivals.abandon(KEY)
    arrivals.expect(KEY)
    assert arrivals.arrive(Process("c", "e", terminal=False))
    arrivals.abandon(KEY)
    arrivals.forget(KEY)
    assert arrivals.arrive(Process("c", "e", terminal=False))


async def test_marks_of_processes_that_never_come_are_bounded() -> None:
    arrivals = Arrivals()
    for number in range(5000):
        arrivals.abandon(("c", str(number)))
    assert len(arrivals._abandoned) == 1024
    assert not arrivals.arrive(Process("c", "4999", terminal=False))


async def test_those_who_wait_learn_of_the_end() -> None:
    arrivals = Arrivals()
    waiting = arrivals.expect(KEY)
    arrivals.close(Unavailable("the pod has ended"))
    with pytest.raises(Unavailable, match="the pod has ended"):
        await waiting


async def test_events_are_kept_from_the_subscription_on() -> None:
    feed = EventFeed()
    feed.publish(SandboxEvent("created", "a"))
    followed = feed.follow()
    feed.publish(SandboxEvent("started", "a"))
    feed.close()
    assert [event.kind async for event in followed] == ["started"]


async def test_whoever_comes_after_the_end_does_not_wait() -> None:
    feed = EventFeed()
    feed.close()
    assert [event async for event in feed.follow()] == []


async def test_a_reader_that_sleeps_costs_a_bounded_memory_and_still_ends() -> None:
    feed = EventFeed()
    followed = feed.follow()
    for number in range(3000):
        feed.publish(SandboxEvent("oom", str(number)))
    feed.close()
    received = [event.container_id async for event in followed]
    assert received[-1] == "2999" and len(received) == 1023


async def test_what_waits_for_a_resume_wakes_at_the_end_as_well() -> None:
    container = Container("c", "/b", {})
    for status in (Status.CREATED, Status.RUNNING, Status.PAUSED):
        container.move(status)
    waiting = asyncio.create_task(container.unpaused.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    container.move(Status.STOPPED)
    assert await waiting


def stopped_container() -> Container:
    """One that has ended, with output that nobody has read yet."""
    container = Container("c", "/b", {}, status=Status.STOPPED)
    process = container.processes[""] = Process("c", "", terminal=True)
    process.add_reader()
    return container


async def test_a_stopped_container_is_removed_once_its_output_is_read() -> None:
    removed = asyncio.Event()

    async def remove(_container: Container) -> None:
        removed.set()

    container = stopped_container()
    removals = Removals(remove)
    removals.begin(container)
    await asyncio.sleep(0)
    assert not removed.is_set()
    container.init.note_end_of_output(stderr=False)
    await removed.wait()
    await removals.finish(container)


async def test_a_delete_joins_the_removal_at_work_and_waits_for_no_reader() -> None:
    begun: list[asyncio.Future[None]] = []

    async def remove(_container: Container) -> None:
        begun.append(asyncio.get_running_loop().create_future())
        await begun[-1]

    container = stopped_container()
    removals = Removals(remove)
    removals.begin(container)
    deletes = [asyncio.create_task(removals.finish(container)) for _ in range(2)]
    await asyncio.sleep(0.01)
    assert len(begun) == 1, "one removal, although somebody still reads"
    deletes.pop().cancel()
    begun[0].set_exception(Unavailable("no answer"))
    with pytest.raises(Unavailable):
        await deletes[0]
    again = asyncio.create_task(removals.finish(container))
    await asyncio.sleep(0.01)
    assert len(begun) == 2, "a failure is no reason not to try anew"
    begun[1].set_result(None)
    await again
    removals.forget("c")
    assert not removals._work and not removals._waiting


async def test_the_end_of_a_pod_begins_no_removal() -> None:
    async def remove(_container: Container) -> None:
        raise AssertionError("the machine is going")

    container = stopped_container()
    removals = Removals(remove)
    removals.begin(container)
    removals.stop()
    container.init.note_end_of_output(stderr=False)
    await asyncio.sleep(0.01)


async def test_every_step_is_taken_and_the_first_failure_is_told() -> None:
    taken: list[str] = []

    async def step(name: str, error: Exception | None = None) -> None:
        taken.append(name)
        if error is not None:
            raise error

    async def hang() -> None:
        taken.append("hang")
        await asyncio.Event().wait()

    first = OSError("first")
    steps: list[Step] = [
        ("a", lambda: step("a", first)),
        ("b", hang),
        ("c", lambda: step("c", ValueError("last"))),
        ("d", lambda: step("d")),
    ]
    assert await try_all(steps, 0.01) is first
    assert taken == ["a", "hang", "c", "d"]
    assert await try_all(steps[3:]) is None


class Host:
    """What a machine that never came up has on the host. done: which parts were undone."""

    def __init__(self) -> None:
        self.config = load_config()
        self.sandbox_id = "s"
        self.timeline = None
        self.share = self
        self.done: list[str] = []

    def detach_container(self, container_id: str) -> None:
        self.done.append(f"share of {container_id}")

    def close(self) -> None:
        self.done.append("processes")


async def test_a_removal_goes_on_where_monitor_and_guest_are_lost() -> None:
    host = Host()
    machine = VirtualMachine(host)  # type: ignore[arg-type]
    machine._ready.set_exception(Unavailable("no guest"))
    machine._connected.set_exception(Unavailable("no monitor"))
    with pytest.raises(Unavailable, match="no guest"):
        await machine.remove_container(Container("c", "/b", {}))
    assert host.done == ["share of c"]


async def test_a_machine_ends_whatever_its_disks_do() -> None:
    host = Host()
    machine = VirtualMachine(host)  # type: ignore[arg-type]
    machine._disks._plugged.append(None)  # type: ignore[arg-type]
    await machine.close()
    assert host.done == ["processes"]


class BrokenSandbox:
    """A pod whose operations fail in a way that nobody has thought of."""

    def __init__(self) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def start(self, _container_id: str) -> None:
        raise ConnectionResetError("not the client's connection")


async def test_an_operation_that_fails_in_an_unknown_way_does_not_look_like_a_dead_process(tmp_path: Path) -> None:
    server = ControlServer(BrokenSandbox(), socket.socket(fileno=listen(str(tmp_path)).detach()))  # type: ignore[arg-type]
    serving = asyncio.create_task(server.serve())

    def ask() -> None:
        with Client.connect(str(tmp_path), 30) as client:
            for _ in range(2):  # and the connection is good for more
                with pytest.raises(OciRuntimeError, match=r"start failed .*not the client's connection"):
                    client.call("start", id="c")

    await asyncio.to_thread(ask)
    await server.finish(1, 1)
    await asyncio.gather(serving, return_exceptions=True)


def test_moments_of_the_guest_end_phases_with_names_of_the_hosts_choice() -> None:
    timeline = Timeline(1_000_000_000)
    timeline.add("agent answers", 1_100_000_000, 1_900_000_000)
    guest = [("first-stage", 300_000_000), ("\x1b[2J", 350_000_000), ("modules", 400_000_000), ("hello", 700_000_000)]
    timeline.add_guest(guest, 1_900_000_000, 700_000_000)
    shown = [(phase["name"], phase["start_ms"], phase["duration_ms"]) for phase in timeline.as_dicts()]
    assert shown == [
        ("agent answers", 100, 800),
        ("guest kernel", 200, 300),
        ("guest modules", 550, 50),
        ("guest greeted", 600, 300),
    ]
