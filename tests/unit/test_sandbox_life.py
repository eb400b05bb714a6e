"""What happens at the same time in a pod: ends that meet creations and execs. With a guest of a few lines."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest

from oci_runtime.config.load import load_config
from oci_runtime.errors import NotFound, OciRuntimeError, Unavailable, WrongState
from oci_runtime.sandbox.process import KILLED, Container, Status
from oci_runtime.sandbox.request import CreateRequest
from oci_runtime.sandbox.sandbox import Sandbox
from oci_runtime.sandbox.virtual_machine import VirtualMachine
from oci_runtime.ttrpc.proto import agent_pb2 as pb


class Guest:
    """The guest's agent. ends: what a wait for (container, exec) answers, once it is set."""

    def __init__(self) -> None:
        self.ends: dict[tuple[str, str], asyncio.Future[Any]] = {}
        self.exec_answers = asyncio.Event()
        self.killed: list[tuple[str, str]] = []

    def end(self, container_id: str, exec_id: str = "") -> asyncio.Future[Any]:
        return self.ends.setdefault((container_id, exec_id), asyncio.get_running_loop().create_future())

    async def wait_process(self, container_id: str, exec_id: str) -> Any:
        return await asyncio.shield(self.end(container_id, exec_id))

    async def exec_process(self, *_: object, **__: object) -> pb.ProcessResponse:
        await self.exec_answers.wait()
        return pb.ProcessResponse(pid=7)

    async def signal_process(self, container_id: str, exec_id: str, *_: object, **__: object) -> None:
        self.killed.append((container_id, exec_id))

    async def next_event(self, _sequence: int) -> None:
        await asyncio.get_running_loop().create_future()


class Machine:
    """A machine that is up at once.

    creating: holds a creation up, until it is set; broken_link: how it fails then. quiet: holds the pod's end up. loss:
    why the machine cannot go on, once it is set.
    """

    sandbox_id = "pod"
    writes_disks = False
    failure = ""

    def __init__(self) -> None:
        self.guest = Guest()
        self.config = load_config()
        self.creating = asyncio.Event()
        self.creating.set()
        self.broken_link: Exception | None = None
        self.quiet = asyncio.Event()
        self.quiet.set()
        self.loss: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.removed: list[str] = []
        self.is_closed = False

    async def bring_up(self) -> None: ...

    async def lost(self) -> str:
        return await asyncio.shield(self.loss)

    async def is_lost(self, wait_s: float) -> bool:
        await asyncio.wait([self.loss], timeout=wait_s)
        return self.loss.done()

    async def agent(self) -> Guest:
        return self.guest

    async def create_container(
        self, request: CreateRequest, _container: Container, undo: contextlib.AsyncExitStack, _owner_id: str
    ) -> tuple[str, ...]:
        undo.callback(self.removed.append, request.container_id)
        await self.creating.wait()
        if self.broken_link is not None:
            raise self.broken_link
        return ()

    async def remove_container(self, container: Container) -> None:
        self.removed.append(container.id)

    async def quiesce(self) -> None:
        await self.quiet.wait()

    async def close(self) -> None:
        self.creating.set()  # what was on its way to the guest is answered in the last moment
        await asyncio.sleep(0)
        self.is_closed = True

    def console_tail(self) -> str:
        return ""

    def release(self, _descriptors: object) -> None: ...


class Pod:
    """A pod with its machine. told: the states of its containers, in order."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.told: list[tuple[str, Status]] = []
        self.sandbox = Sandbox(self.machine, owner_id="", on_change=self.note)  # type: ignore[arg-type]
        self.sandbox.begin()

    def note(self, container: Container) -> None:
        self.told.append((container.id, container.status))

    async def create(self, container_id: str) -> None:
        await self.sandbox.create_container(CreateRequest(container_id, "/none", {}, 0))


@pytest.fixture
async def pod() -> AsyncIterator[Pod]:
    pod = Pod()
    yield pod
    await pod.sandbox.shutdown("")


async def test_an_exec_that_the_guest_forgot_with_its_container_ends_no_pod(pod: Pod) -> None:
    """A probe is started as its container ends, and the removal is in the guest before the wait for the probe."""
    for name in ("a", "b"):
        await pod.create(name)
    executing = asyncio.create_task(pod.sandbox.exec("a", "probe", {}, stdin=False))
    await asyncio.sleep(0)
    pod.machine.guest.end("a").set_result(pb.WaitProcessResponse(exit_code=3))
    assert (await pod.sandbox.wait("a")).code == 3
    gone = pod.machine.guest.end("a", "probe")
    gone.set_exception(NotFound("container 'a' does not exist"))
    pod.machine.guest.exec_answers.set()
    assert await executing == 7
    assert (await pod.sandbox.wait("a", "probe")).code == KILLED
    await asyncio.sleep(0.01)
    assert pod.sandbox.container("b").status is Status.CREATED
    assert not pod.sandbox.ended.done()


async def test_a_process_that_the_guest_does_not_know_although_it_runs_ends_the_pod(pod: Pod) -> None:
    await pod.create("a")
    pod.machine.guest.end("a").set_exception(NotFound("container 'a' does not exist"))
    assert await pod.sandbox.ended == "lost the guest: container 'a' does not exist"
    assert (await pod.sandbox.wait("a")).code == KILLED


async def test_an_exec_whose_end_the_guest_refuses_to_tell_goes_alone(pod: Pod) -> None:
    """As it does when more calls wait in the guest than it takes: hundreds of execs in a pod."""
    await pod.create("a")
    pod.machine.guest.exec_answers.set()
    pod.machine.guest.end("a", "one").set_exception(Unavailable("more than 2048 calls wait for an answer"))
    await pod.sandbox.exec("a", "one", {}, stdin=False)
    ended = await pod.sandbox.wait("a", "one")
    assert (ended.code, ended.reason) == (KILLED, "more than 2048 calls wait for an answer")
    assert pod.machine.guest.killed == [("a", "one")]
    assert pod.sandbox.container("a").status is Status.CREATED and not pod.sandbox.ended.done()


async def test_a_container_that_comes_into_being_while_the_pod_ends_is_refused(pod: Pod) -> None:
    """It would be counted by nobody: its end would never be reported."""
    pod.machine.creating.clear()
    creating = asyncio.create_task(pod.create("late"))
    await asyncio.sleep(0)
    await pod.sandbox.shutdown("asked to")
    with pytest.raises(WrongState, match="cannot create container late: sandbox pod is not running any more"):
        await creating
    assert pod.machine.removed == ["late"]
    assert not pod.sandbox.containers and not pod.told


CUT_OFF = Unavailable("CreateContainer: the connection was closed")


@pytest.mark.parametrize(
    ("reason", "said"), [("", "its sandbox container ended"), ("the last container was deleted",) * 2]
)
async def test_a_creation_that_the_pods_end_cuts_off_names_the_pod_and_the_reason(
    pod: Pod, reason: str, said: str
) -> None:
    pod.machine.creating.clear()
    creating = asyncio.create_task(pod.create("late"))
    await asyncio.sleep(0)
    pod.machine.broken_link = CUT_OFF
    await pod.sandbox._end(reason)
    message = f"cannot create container late: sandbox pod is not running any more ({said})"
    with pytest.raises(WrongState, match=re.escape(message)):
        await creating
    assert pod.machine.removed == ["late"]


async def test_a_creation_that_a_lost_machine_cuts_off_waits_for_the_reason(pod: Pod) -> None:
    """The link breaks before anybody knows why."""
    pod.machine.broken_link = CUT_OFF
    creating = asyncio.create_task(pod.create("late"))
    await asyncio.sleep(0)
    pod.machine.failure = "virtual machine ended: killed"
    pod.machine.loss.set_result(pod.machine.failure)
    with pytest.raises(WrongState, match=r"is not running any more \(virtual machine ended: killed\)"):
        await creating


async def test_a_creation_that_fails_with_the_boot_says_what_the_boot_says(pod: Pod) -> None:
    pod.machine.failure = "guest did not answer within 60 s"
    pod.machine.broken_link = Unavailable(pod.machine.failure)
    with pytest.raises(Unavailable, match="^guest did not answer within 60 s$"):
        await pod.create("first")


async def test_sigkill_that_comes_while_the_pod_ends_is_obeyed_and_other_signals_are_too_late(pod: Pod) -> None:
    """An engine kills all containers of a pod at once; the first of them may be the one that the pod ends with."""
    await pod.create("a")
    pod.machine.quiet.clear()
    ending = asyncio.create_task(pod.sandbox.shutdown(""))
    await asyncio.sleep(0)
    assert not pod.sandbox.container("a").init.exit.done()
    with pytest.raises(WrongState, match="container not running: its pod has ended"):
        await pod.sandbox.kill("a", "", signal.SIGTERM)
    killing = asyncio.create_task(pod.sandbox.kill("a", "", signal.SIGKILL))
    await asyncio.sleep(0)
    assert not killing.done()
    pod.machine.quiet.set()
    await killing
    assert pod.sandbox.container("a").init.exit.result().code == KILLED
    await ending


async def test_a_pod_ends_whatever_the_record_of_its_containers_does(pod: Pod) -> None:
    await pod.create("a")

    def fail(_container: Container) -> None:
        raise ValueError("a defect")

    pod.sandbox._on_change = fail
    await asyncio.wait_for(pod.sandbox.shutdown("asked to"), 30)
    assert pod.machine.is_closed and (await pod.sandbox.ended) == "asked to"


class Host:
    """The processes of a machine that QEMU's monitor never answers for."""

    def __init__(self) -> None:
        self.config = load_config()
        self.sandbox_id = "s"
        self.timeline = None
        self.share = None
        self.undo_qemu = contextlib.ExitStack()

    def close(self) -> None:
        self.undo_qemu.close()


async def test_who_waits_for_a_network_that_is_given_up_is_told(pod: Pod) -> None:
    machine = VirtualMachine(Host())  # type: ignore[arg-type]
    machine._ready.set_result(pod.machine.guest)  # type: ignore[arg-type]
    machine._greeted.set_result(pod.machine.guest)  # type: ignore[arg-type]
    machine._sandbox_set_up = True
    machine._network_ready = asyncio.create_task(asyncio.sleep(1000))
    waiting = asyncio.create_task(machine._agent_and_network(CreateRequest("c", "/none", {}, 0)))
    await asyncio.sleep(0)
    await machine.close()
    with pytest.raises(Unavailable, match="the pod has ended"):
        await waiting


async def test_work_that_is_cancelled_while_the_machine_may_be_lost_does_not_go_on() -> None:
    machine = VirtualMachine(Host())  # type: ignore[arg-type]
    work = asyncio.create_task(asyncio.sleep(1000))
    waiting = asyncio.create_task(machine._unless_lost(work))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert work.cancelled()
    machine._lose("QEMU ended")
    with pytest.raises(OciRuntimeError, match="QEMU ended"):
        await machine._unless_lost(asyncio.sleep(1000))
