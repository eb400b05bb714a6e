"""What every guest's agent must do, whether it runs in a virtual machine or in namespaces of this one.

The modules that collect these tests bring the fixture `guest`.
"""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Coroutine
from typing import Any

import pytest

from oci_runtime.errors import AlreadyExists, InvalidInput, NotFound, OciRuntimeError, Unsupported, WrongState
from tests.agent_lab import Guest, process, read_all, shell, spec

# Life of a container


async def test_a_container_runs_and_its_exit_code_and_outputs_arrive(guest: Guest) -> None:
    result = await guest.run("plain", *shell("echo out; echo err >&2; exit 42"))
    assert result == (42, b"out\n", b"err\n")


async def test_nothing_of_the_program_runs_before_start(guest: Guest) -> None:
    await guest.create("waiting", *shell("echo ran"))
    read = asyncio.create_task(read_all(guest.agent, "waiting", "", stderr=False))
    # An exec in a created container works, and shows that the first process has not written anything by then.
    assert await guest.exec("waiting", "e", "/bin/busybox", "echo", "in created") == (0, b"in created\n", b"")
    assert not read.done()
    await guest.agent.start_container("waiting")
    assert await read == b"ran\n"
    await guest.agent.remove_container("waiting")


async def test_starting_twice_is_refused(guest: Guest) -> None:
    await guest.create("twice", "/bin/busybox", "sleep", "100")
    await guest.agent.start_container("twice")
    with pytest.raises(WrongState, match="running already"):
        await guest.agent.start_container("twice")
    await guest.agent.remove_container("twice")


async def test_the_programs_execution_is_waited_for_and_what_is_run_inside_before_it(guest: Guest) -> None:
    document = spec("/bin/busybox", "sleep", "1000")
    document["hooks"] = {"startContainer": [{"path": "/bin/busybox", "args": shell("read line </tmp/go")}]}
    await guest.agent.create_container("hooked", json.dumps(document).encode(), stdin=False)
    with pytest.raises(WrongState, match="has not been started"):
        await guest.agent.wait_executed("hooked")
    assert (await guest.exec("hooked", "e", "/bin/busybox", "mkfifo", "/tmp/go"))[0] == 0
    await guest.agent.start_container("hooked")
    waiting = [asyncio.create_task(guest.agent.wait_executed("hooked")) for _ in range(2)]
    assert (await guest.exec("hooked", "e", "/bin/busybox", "true"))[0] == 0
    assert not any(task.done() for task in waiting)
    assert (await guest.exec("hooked", "e", *shell("echo >/tmp/go")))[0] == 0
    await asyncio.gather(*waiting)
    await guest.agent.wait_executed("hooked")
    code, out, _ = await guest.exec("hooked", "e", *shell("tr '\\0' ' ' </proc/1/cmdline; ls /proc/1/fd"))
    assert (code, out.split()) == (0, b"/bin/busybox sleep 1000 0 1 2".split())
    await guest.agent.remove_container("hooked")


async def test_a_process_that_never_becomes_the_program_is_not_waited_for(guest: Guest) -> None:
    document = spec("/bin/busybox", "sleep", "1000")
    document["hooks"] = {"startContainer": [{"path": "/bin/busybox", "args": ["busybox", "false"]}]}
    await guest.agent.create_container("unhooked", json.dumps(document).encode(), stdin=False)
    await guest.agent.start_container("unhooked")
    await guest.agent.wait_executed("unhooked")
    assert (await guest.agent.wait_process("unhooked", "")).exit_code != 0
    await guest.agent.remove_container("unhooked")


async def test_a_taken_name_is_refused_and_the_container_goes_on(guest: Guest) -> None:
    await guest.create("name", *shell("sleep 100"))
    with pytest.raises(AlreadyExists, match="'name' already exists"):
        await guest.create("name", "/bin/busybox", "true")
    assert (await guest.exec("name", "e", "/bin/busybox", "true"))[0] == 0
    await guest.agent.remove_container("name")
    assert (await guest.run("name", "/bin/busybox", "true"))[0] == 0


async def test_a_container_killed_before_start_reports_its_signal(guest: Guest) -> None:
    await guest.create("early", "/bin/busybox", "true")
    await guest.agent.signal_process("early", "", signal.SIGKILL)
    assert (await guest.finish("early", ""))[0] == 137
    with pytest.raises(WrongState, match="container not running"):
        await guest.agent.start_container("early")
    await guest.agent.remove_container("early")


async def test_removing_a_running_container_ends_all_its_processes(guest: Guest) -> None:
    await guest.create("removed", *shell("sleep 1000 & sleep 1000 & wait"))
    await guest.agent.start_container("removed")
    await guest.agent.exec_process(
        "removed", "e", json.dumps(process("/bin/busybox", "sleep", "1000")).encode(), stdin=False
    )
    waits = [asyncio.create_task(guest.agent.wait_process("removed", exec_id)) for exec_id in ("", "e")]
    await asyncio.sleep(0)
    await guest.agent.remove_container("removed")
    assert [status.exit_code for status in await asyncio.gather(*waits)] == [137, 137]
    with pytest.raises(NotFound, match="container 'removed' does not exist"):
        await guest.agent.wait_process("removed", "")


async def test_twenty_containers_at_once(guest: Guest) -> None:
    names = [f"many-{number}" for number in range(20)]
    results = await asyncio.gather(*(guest.run(name, *shell(f"echo {name}; exit {len(name)}")) for name in names))
    assert results == [(len(name), f"{name}\n".encode(), b"") for name in names]


@pytest.mark.parametrize("container_id", ["", ".", "..", "a/b", "-x", "x" * 256, "a b", "a\nb", "é"])
async def test_names_that_could_be_paths_are_refused(guest: Guest, container_id: str) -> None:
    with pytest.raises(InvalidInput, match="container id"):
        await guest.create(container_id, "/bin/busybox", "true")


async def test_the_longest_name_works(guest: Guest) -> None:
    assert (await guest.run("n" * 255, "/bin/busybox", "true"))[0] == 0


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b"\xff", b"null", b"[" * 100_000, b'{"process": 3}', b'{"process": {"args": [1]}}']
)
async def test_broken_specs_are_refused(guest: Guest, data: bytes) -> None:
    with pytest.raises(InvalidInput):
        await guest.agent.create_container("broken", data, stdin=False)


async def test_absurd_values_in_a_spec_are_an_error_and_nothing_stays(guest: Guest) -> None:
    for key, value in (("namespaces", 7), ("resources", {"cpu": []}), ("devices", [{"path": 3}]), ("sysctl", [1])):
        document = spec("/bin/busybox", "true") | {"linux": {key: value}}
        with pytest.raises(OciRuntimeError):
            await guest.agent.create_container("absurd", json.dumps(document).encode(), stdin=False)
    assert (await guest.run("absurd", "/bin/busybox", "true"))[0] == 0


# Programs that do not start


@pytest.mark.parametrize(
    ("program", "text"),
    [
        ("nonexistent", r'exec: "nonexistent": executable file not found in \$PATH'),
        ("/no/such/program", r'exec: "/no/such/program": stat /no/such/program: no such file or directory'),
        ("/etc", r'exec: "/etc": is a directory: permission denied'),
        ("/etc/passwd", r'exec: "/etc/passwd": permission denied'),
    ],
)
async def test_programs_that_cannot_run_are_named_in_runcs_words(guest: Guest, program: str, text: str) -> None:
    with pytest.raises(OciRuntimeError, match=text):
        await guest.create("missing", program)
    await guest.create("host-of-exec", "/bin/busybox", "sleep", "100")
    with pytest.raises(OciRuntimeError, match=text):
        await guest.exec("host-of-exec", "e", program)
    assert (await guest.exec("host-of-exec", "e", "/bin/busybox", "true"))[0] == 0
    await guest.agent.remove_container("host-of-exec")


async def test_a_missing_rootfs_and_a_missing_bind_source_are_named(guest: Guest) -> None:
    document = spec("/bin/busybox", "true")
    document["root"]["path"] = "/no/such/rootfs"
    with pytest.raises(OciRuntimeError, match="/no/such/rootfs"):
        await guest.agent.create_container("norootfs", json.dumps(document).encode(), stdin=False)
    mount = {"destination": "/tmp/x", "type": "bind", "source": "/no/such/source", "options": ["bind"]}
    with pytest.raises(OciRuntimeError, match="/no/such/source"):
        await guest.create("nosource", "/bin/busybox", "true", mounts=[mount])


# Execs


async def test_several_execs_at_once(guest: Guest) -> None:
    await guest.create("execs", "/bin/busybox", "sleep", "1000")
    await guest.agent.start_container("execs")
    results = await asyncio.gather(
        *(guest.exec("execs", f"e{number}", *shell(f"echo {number}; exit {number}")) for number in range(12))
    )
    assert results == [(number, f"{number}\n".encode(), b"") for number in range(12)]
    await guest.agent.remove_container("execs")


async def test_an_exec_sees_its_own_environment_user_and_directory(guest: Guest) -> None:
    await guest.create("where", "/bin/busybox", "sleep", "1000")
    result = await guest.exec(
        "where", "e", *shell("echo $COLOUR $(/bin/busybox id -u):$(/bin/busybox id -g) $PWD"),
        env=["PATH=/bin", "COLOUR=green"], user={"uid": 1000, "gid": 1001}, cwd="/tmp", capabilities={},
    )  # fmt: skip
    assert result == (0, b"green 1000:1001 /tmp\n", b"")
    await guest.agent.remove_container("where")


async def test_names_of_execs_are_their_own(guest: Guest) -> None:
    await guest.create("names", "/bin/busybox", "sleep", "1000")
    sleeping = json.dumps(process("/bin/busybox", "sleep", "1000")).encode()
    await guest.agent.exec_process("names", "e", sleeping, stdin=False)
    with pytest.raises(AlreadyExists, match="exec 'e' of container 'names' already exists"):
        await guest.agent.exec_process("names", "e", sleeping, stdin=False)
    with pytest.raises(WrongState, match="still running"):
        await guest.agent.remove_process("names", "e")
    with pytest.raises(InvalidInput, match="exec id"):
        await guest.agent.exec_process("names", "../e", sleeping, stdin=False)
    await guest.agent.signal_process("names", "e", signal.SIGKILL)
    assert (await guest.agent.wait_process("names", "e")).exit_code == 137
    with pytest.raises(NotFound, match="has ended"):
        await guest.agent.signal_process("names", "e", signal.SIGKILL)
    await guest.agent.remove_process("names", "e")
    with pytest.raises(NotFound, match="exec 'e' of container 'names' does not exist"):
        await guest.agent.wait_process("names", "e")
    await guest.agent.remove_container("names")


async def test_an_exec_in_a_stopped_or_unknown_container_is_refused(guest: Guest) -> None:
    await guest.create("stopped", "/bin/busybox", "true")
    await guest.agent.start_container("stopped")
    await guest.finish("stopped", "")
    with pytest.raises(WrongState, match="container not running"):
        await guest.exec("stopped", "e", "/bin/busybox", "true")
    await guest.agent.remove_container("stopped")
    with pytest.raises(NotFound):
        await guest.exec("stopped", "e", "/bin/busybox", "true")


# Signals and exits


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1, signal.SIGSEGV])
async def test_a_signal_becomes_128_and_its_number(guest: Guest, number: signal.Signals) -> None:
    await guest.create("signalled", "/bin/busybox", "sleep", "1000")
    await guest.agent.start_container("signalled")
    await guest.agent.exec_process(
        "signalled", "e", json.dumps(process("/bin/busybox", "sleep", "1000")).encode(), stdin=False
    )
    await guest.agent.signal_process("signalled", "e", number)
    assert (await guest.agent.wait_process("signalled", "e")).exit_code == 128 + number
    await guest.agent.remove_container("signalled")


async def test_a_handled_signal_reaches_the_handler_once(guest: Guest) -> None:
    script = "trap 'echo caught' USR1; trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    await guest.create("trap", *shell(script))
    await guest.agent.start_container("trap")
    assert await guest.agent.read_output("trap", "", stderr=False) == (b"ready\n", False)
    await guest.agent.signal_process("trap", "", signal.SIGUSR1)
    assert await guest.agent.read_output("trap", "", stderr=False) == (b"caught\n", False)
    await guest.agent.signal_process("trap", "", signal.SIGTERM)
    assert await guest.finish("trap", "") == (7, b"", b"")
    with pytest.raises(WrongState, match="container not running"):
        await guest.agent.signal_process("trap", "", signal.SIGTERM)
    await guest.agent.signal_process("trap", "", signal.SIGKILL, all=True)
    await guest.agent.remove_container("trap")


async def test_all_reaches_every_process(guest: Guest) -> None:
    await guest.create("all", *shell("trap 'echo first' USR1; echo ready; while :; do sleep 0.05; done"))
    await guest.agent.start_container("all")
    await guest.agent.read_output("all", "", stderr=False)
    script = "trap 'echo exec; exit 3' USR1; echo ready; while :; do sleep 0.05; done"
    await guest.agent.exec_process("all", "e", json.dumps(process(*shell(script))).encode(), stdin=False)
    await guest.agent.read_output("all", "e", stderr=False)
    await guest.agent.signal_process("all", "", signal.SIGUSR1, all=True)
    assert (await guest.finish("all", "e"))[:2] == (3, b"exec\n")
    assert (await guest.agent.read_output("all", "", stderr=False))[0] == b"first\n"
    await guest.agent.remove_container("all")


@pytest.mark.parametrize("number", [65, 200, 2**31])
async def test_unknown_signals_are_refused(guest: Guest, number: int) -> None:
    await guest.create("unknown", "/bin/busybox", "sleep", "100")
    with pytest.raises(InvalidInput, match=f"signal {number}"):
        await guest.agent.signal_process("unknown", "", number)
    await guest.agent.remove_container("unknown")


async def test_orphans_in_a_container_are_reaped_and_no_exit_is_lost(guest: Guest) -> None:
    script = "for i in 1 2 3 4 5 6 7 8; do (sleep 0.01 & ) ; done; exit 5"
    results = await asyncio.gather(*(guest.run(f"orphans-{number}", *shell(script)) for number in range(4)))
    assert [code for code, _, _ in results] == [5] * 4


# Namespaces


async def test_containers_see_their_own_processes_or_those_of_another(guest: Guest) -> None:
    await guest.create("one", *shell("sleep 1000"))
    await guest.agent.start_container("one")
    assert (await guest.run("alone", *shell("echo $$")))[1] == b"1\n"
    document = json.dumps(spec(*shell("kill -9 1 2>/dev/null; tr '\\0' ' ' < /proc/1/cmdline"))).encode()
    await guest.agent.create_container("two", document, stdin=False, pid_namespace_of="one")
    await guest.agent.start_container("two")
    code, out, _ = await guest.finish("two", "")
    assert (code, out) == (0, b"sleep 1000 ") or (code, out) == (0, b"/bin/busybox sh -c sleep 1000 ")
    await guest.agent.remove_container("two")
    await guest.agent.remove_container("one")


async def test_joining_the_processes_of_an_unknown_or_stopped_container_is_refused(guest: Guest) -> None:
    document = json.dumps(spec("/bin/busybox", "true")).encode()
    with pytest.raises(NotFound, match="container 'nobody' does not exist"):
        await guest.agent.create_container("two", document, stdin=False, pid_namespace_of="nobody")


async def test_ipc_and_uts_are_the_pods_or_private(guest: Guest) -> None:
    script = "readlink /proc/self/ns/ipc /proc/self/ns/uts"
    document = spec(*shell(script))
    private = (await guest.run("private", *shell(script)))[1].split()
    await guest.agent.create_container(
        "p", json.dumps(document).encode(), stdin=False, in_pod_ipc=True, in_pod_uts=True
    )
    await guest.agent.start_container("p")
    pod = (await guest.finish("p", ""))[1].split()
    await guest.agent.remove_container("p")
    for entry in document["linux"]["namespaces"]:
        if entry["type"] in ("ipc", "uts"):
            entry["path"] = "/proc/1234567/ns/x"
    await guest.agent.create_container("q", json.dumps(document).encode(), stdin=False)
    await guest.agent.start_container("q")
    assert (await guest.finish("q", ""))[1].split() == pod
    await guest.agent.remove_container("q")
    assert not set(pod) & set(private)


async def test_a_private_host_name_is_set_and_a_time_namespace_is_left_out_with_a_warning(guest: Guest) -> None:
    document = spec(*shell("hostname"))
    document["linux"]["namespaces"].append({"type": "time"})
    document["linux"]["timeOffsets"] = {"monotonic": {"secs": 1}}
    answer = await guest.agent.create_container("named", json.dumps(document).encode(), stdin=False)
    assert any("time namespace" in warning for warning in answer.warnings)
    await guest.agent.start_container("named")
    assert (await guest.finish("named", ""))[1] == b"container\n"
    await guest.agent.remove_container("named")


async def test_a_hosts_user_namespace_is_refused(guest: Guest) -> None:
    document = spec("/bin/busybox", "true")
    document["linux"]["namespaces"].append({"type": "user", "path": "/proc/7/ns/user"})
    with pytest.raises(Unsupported, match="/proc/7/ns/user"):
        await guest.agent.create_container("user", json.dumps(document).encode(), stdin=False)


async def test_sysctls_of_the_pods_network_are_set_and_others_refused(guest: Guest) -> None:
    sysctl = {"net.ipv4.ip_unprivileged_port_start": "1023", "kernel.shm_rmid_forced": "1"}
    files = "/proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced"
    result = await guest.run("sysctl", *shell(f"cat {files}"), linux={"sysctl": sysctl, "namespaces": _namespaces()})
    assert result == (0, b"1023\n1\n", b"")
    with pytest.raises(OciRuntimeError, match=r"vm\.max_map_count"):
        await guest.create("sysctl", "/bin/busybox", "true", linux={"sysctl": {"vm.max_map_count": "1"}})


def _namespaces() -> list[dict[str, str]]:
    return [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "cgroup")]


# Pause, listing


async def test_a_paused_container_stands_still_and_can_be_killed(guest: Guest) -> None:
    await guest.create("pause", *shell("while :; do echo tick; sleep 0.02; done"))
    await guest.agent.start_container("pause")
    assert (await guest.agent.read_output("pause", "", stderr=False))[0]
    await guest.agent.pause_container("pause")
    with pytest.raises(WrongState, match="paused already"):
        await guest.agent.pause_container("pause")
    with pytest.raises(WrongState, match="it is paused"):
        await guest.exec("pause", "e", "/bin/busybox", "true")
    await asyncio.sleep(0.2)
    read = asyncio.create_task(guest.agent.read_output("pause", "", stderr=False))
    if await asyncio.wait([read], timeout=0.5) == ({read}, set()):
        read = asyncio.create_task(guest.agent.read_output("pause", "", stderr=False))
    await asyncio.sleep(0.3)
    assert not read.done()
    await guest.agent.resume_container("pause")
    assert (await read)[0].startswith(b"tick")
    with pytest.raises(WrongState, match="not paused"):
        await guest.agent.resume_container("pause")
    await guest.agent.pause_container("pause")
    await guest.agent.signal_process("pause", "", signal.SIGKILL)
    assert (await guest.agent.wait_process("pause", "")).exit_code == 137
    await guest.agent.remove_container("pause")


async def test_processes_are_listed_with_their_users_terminals_and_execs(guest: Guest) -> None:
    await guest.create("ps", *shell("sleep 1001; true"), terminal=True)
    await guest.agent.start_container("ps")
    document = json.dumps(process("/bin/busybox", "sleep", "1002", user={"uid": 1000, "gid": 1000}, capabilities={}))
    answer = await guest.agent.exec_process("ps", "e", document.encode(), stdin=False)
    listed: dict[str, object] = {}
    while len(listed) < 3:
        found = await guest.agent.list_processes("ps")
        listed = {info.command: info for info in found}
    by_argument = {info.command.split()[-1]: info for info in found}
    first, child, other = by_argument["true"], by_argument["1001"], by_argument["1002"]
    assert (first.container_pid, first.user, first.tty, first.exec_id) == (1, "root", "pts/0", "")
    assert (child.ppid, child.tty) == (first.pid, "pts/0")
    assert (other.pid, other.exec_id, other.uid, other.tty) == (answer.pid, "e", 1000, "?")
    assert abs(other.started_at_ns - first.started_at_ns) < 60_000_000_000
    await guest.agent.remove_container("ps")


# The whole


async def test_unknown_names_are_not_found(guest: Guest) -> None:
    agent = guest.agent
    coroutines: list[Coroutine[Any, Any, object]] = [
        call("x")
        for call in (
            agent.start_container,
            agent.remove_container,
            agent.list_processes,
            agent.pause_container,
            agent.stats_container,
        )
    ]
    coroutines += [agent.wait_process("x", ""), agent.close_stdin("x", ""), agent.remove_process("x", "e")]
    coroutines += [agent.signal_process("x", "", 9), agent.update_container("x", b"{}")]
    coroutines += [agent.read_output("x", "", stderr=False), agent.remove_storage("/run/vmpod/x")]
    for coroutine in coroutines:
        with pytest.raises(NotFound):
            await coroutine


async def test_diagnostics_and_details_tell_about_the_guest(guest: Guest) -> None:
    await guest.create("told", "/bin/busybox", "sleep", "100")
    assert "container told" in await guest.agent.diagnostics()
    await guest.agent.remove_container("told")
    details = await guest.agent.guest_details()
    assert details.crun_version
    assert details.vcpus >= 1
    assert details.memory_total_bytes > 1 << 20
    assert {"namespace:pid", "filesystem:tmpfs", "seccomp:errno"} <= set(details.features)


async def test_events_time_out_with_nothing(guest: Guest) -> None:
    assert await guest.agent.next_event(10**9, timeout_ms=10) is None


async def test_storages_are_mounted_once_and_below_their_place(guest: Guest) -> None:
    agent = guest.agent
    await agent.add_storage("tmpfs", "tmpfs", "/run/vmpod/t/one", options=["size=1m", "mode=711"])
    with pytest.raises(AlreadyExists):
        await agent.add_storage("tmpfs", "tmpfs", "/run/vmpod/t/one")
    mount = {"destination": "/mnt", "type": "bind", "source": "/run/vmpod/t/one", "options": ["rbind"]}
    root = {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"}
    mount["destination"] = "/tmp/one"
    result = await guest.run(
        "st", *shell("stat -c %a /tmp/one; dd if=/dev/zero of=/tmp/one/x bs=10000 count=200"), mounts=[root, mount]
    )
    assert (result[0], result[1]) == (1, b"711\n")
    assert b"No space left" in result[2]
    await agent.add_storage("bind", "/run/vmpod/t/one", "/run/vmpod/t/two", options=["rbind", "ro"])
    assert " /run/vmpod/t/two tmpfs ro," in await agent.diagnostics()
    for target in ("/run/vmpod/t/two", "/run/vmpod/t/one"):
        await agent.remove_storage(target)
    for target in ("/etc/x", "/run/vmpod/../x", "relative", "/run/vmpod", "/run/vmpod//x", "/run/vmpodx/y"):
        with pytest.raises(InvalidInput, match="storage target"):
            await agent.add_storage("tmpfs", "tmpfs", target)
    with pytest.raises(InvalidInput, match="storage driver 'nfs'"):
        await agent.add_storage("nfs", "x", "/run/vmpod/t/x")
    with pytest.raises(NotFound, match="/no/such does not exist"):
        await agent.add_storage("bind", "/no/such", "/run/vmpod/t/x")
