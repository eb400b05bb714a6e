"""What only a real guest shows: cgroup limits, out of memory, devices, seccomp, capabilities, figures."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from oci_runtime.errors import InvalidInput, OciRuntimeError
from tests.agent_lab import Guest, shell, spec
from tests.vm.agent_guest import booted_guest

pytestmark = [pytest.mark.vm, pytest.mark.asyncio(loop_scope="module")]

MIB = 1 << 20
CGROUP = "/sys/fs/cgroup"
# Fills memory that counts: pages of a tmpfs cannot be reclaimed without swap.
HOG = "head -c 100000000 /dev/zero > /dev/shm/hog"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def guest() -> AsyncIterator[Guest]:
    async with booted_guest() as guest:
        yield guest


def limits(**resources: Any) -> dict[str, Any]:
    kinds = ("pid", "mount", "ipc", "uts", "cgroup")
    return {"namespaces": [{"type": kind} for kind in kinds], "resources": resources}


async def create(guest: Guest, container_id: str, *args: str, **options: Any) -> list[str]:
    return list((await guest.create(container_id, *args, **options)).warnings)


async def test_limits_reach_the_cgroup(guest: Guest) -> None:
    resources = limits(
        memory={"limit": 64 * MIB, "reservation": 32 * MIB, "swap": 96 * MIB},
        cpu={"shares": 512, "quota": 50_000, "period": 200_000, "cpus": "0"},
        pids={"limit": 77},
        blockIO={"weight": 300},
        hugepageLimits=[{"pageSize": "2MB", "limit": 4 * MIB}],
    )
    names = "memory.max memory.low memory.swap.max cpu.weight cpu.max cpuset.cpus pids.max hugetlb.2MB.max"
    script = f"cd {CGROUP}; for i in {names}; do cat $i; done"
    code, out, err = await guest.run("limited", *shell(script), linux=resources)
    assert (code, err) == (0, b"")
    wanted = [str(64 * MIB), str(32 * MIB), str(32 * MIB), "20", "50000 200000", "0", "77", str(4 * MIB)]
    assert out.decode().split("\n")[:-1] == wanted


async def test_a_fork_bomb_stops_at_its_limit(guest: Guest) -> None:
    script = "i=0; while [ $i -lt 50 ]; do sleep 100 & i=$((i+1)); done; echo all"
    code, out, err = await guest.run("bomb", *shell(script), linux=limits(pids={"limit": 10}))
    assert code != 0
    assert b"can't fork" in err
    assert b"all" not in out


async def test_running_out_of_memory_is_told_by_event_and_exit(guest: Guest) -> None:
    event = await guest.agent.next_event(0, timeout_ms=1)
    after = event.sequence if event else 0
    oom = asyncio.create_task(guest.agent.next_event(after, timeout_ms=60_000))
    mounts = [{"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["size=200m"]}]
    await create(guest, "hog", *shell(f"exec {HOG}"), linux=limits(memory={"limit": 32 * MIB}), mounts=mounts)
    await guest.agent.start_container("hog")
    status = await guest.agent.wait_process("hog", "")
    assert (status.exit_code, status.oom_killed) == (137, True)
    told = await oom
    assert told is not None
    assert (told.kind, told.container_id) == ("oom", "hog")
    await guest.agent.remove_container("hog")


async def test_a_kill_by_hand_is_no_lack_of_memory(guest: Guest) -> None:
    await create(guest, "byhand", "/bin/busybox", "sleep", "1000", linux=limits(memory={"limit": 32 * MIB}))
    await guest.agent.start_container("byhand")
    await guest.agent.signal_process("byhand", "", 9)
    status = await guest.agent.wait_process("byhand", "")
    assert (status.exit_code, status.oom_killed) == (137, False)
    await guest.agent.remove_container("byhand")


async def test_memory_of_the_whole_guest_runs_out_and_the_agent_lives(guest: Guest) -> None:
    mounts = [{"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["size=2g"]}]
    # A process that grows, not a file: the kernel can take the memory back by killing it.
    code = "b=[]\nwhile True: b.append(bytearray(1 << 20))"
    await create(guest, "greedy", "/usr/bin/python3", "-I", "-S", "-c", code, mounts=mounts)
    await guest.agent.start_container("greedy")
    status = await guest.agent.wait_process("greedy", "")
    assert (status.exit_code, status.oom_killed) == (137, True)
    await guest.agent.remove_container("greedy")
    assert (await guest.run("after", *shell("echo alive")))[1] == b"alive\n"


async def test_what_the_guest_does_not_have_is_clamped_or_left_out_with_a_warning(guest: Guest) -> None:
    resources = limits(
        cpu={"cpus": "0-7", "mems": "3", "realtimeRuntime": 950_000},
        memory={"limit": 64 * MIB, "kernel": 1 << 20, "swappiness": 10, "disableOOMKiller": True},
        blockIO={"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}]},
        hugepageLimits=[{"pageSize": "64KB", "limit": 4 * MIB}],
        network={"classID": 7},
    )
    process = {
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1 << 40, "hard": 1 << 40}],
        "apparmorProfile": "docker-default",
        "selinuxLabel": "system_u:system_r:container_t:s0",
    }
    warnings = await create(guest, "wishes", *shell(f"ulimit -n; cat {CGROUP}/cpuset.cpus"), linux=resources, **process)
    text = "\n".join(warnings)
    for word in (
        "cpu.cpus", "cpu.mems", "realtimeRuntime", "memory.kernel", "swappiness", "disableOOMKiller", "8:0", "64KB",
        "resources.network", "RLIMIT_NOFILE", "apparmorProfile", "selinuxLabel",
    ):  # fmt: skip
        assert word in text
    await guest.agent.start_container("wishes")
    code, out, _ = await guest.finish("wishes", "")
    assert (code, out) == (0, b"1048576\n0\n")
    await guest.agent.remove_container("wishes")


async def test_limits_of_a_running_container_change(guest: Guest) -> None:
    await create(guest, "update", "/bin/busybox", "sleep", "1000", linux=limits(memory={"limit": 64 * MIB}))
    await guest.agent.start_container("update")

    async def files(*names: str) -> list[str]:
        _, out, _ = await guest.exec("update", "read", *shell(f"cd {CGROUP}; cat {' '.join(names)}"))
        return out.decode().splitlines()

    async def update(**resources: Any) -> tuple[str, ...]:
        return await guest.agent.update_container("update", json.dumps(resources).encode())

    assert await update(memory={"limit": 96 * MIB, "swap": 128 * MIB}, pids={"limit": 55}) == ()
    assert await files("memory.max", "memory.swap.max", "pids.max") == [str(96 * MIB), str(32 * MIB), "55"]
    assert await update(cpu={"shares": 1024, "quota": 30_000, "period": 100_000}) == ()
    assert await files("cpu.weight", "cpu.max") == ["39", "30000 100000"]
    assert await update(cpu={"quota": -1}, pids={"limit": -1}, memory={"limit": -1, "swap": -1}) == ()
    assert await files("cpu.max", "pids.max", "memory.max", "memory.swap.max") == ["max 100000", "max", "max", "max"]
    assert await update(unified={"memory.high": "50000000"}) == ()
    assert await files("memory.high") == ["49999872"]
    assert any("cpu.cpus" in warning for warning in await update(cpu={"cpus": "0-3"}))
    with pytest.raises(InvalidInput, match="needs a memory limit"):
        await update(memory={"swap": 1 << 30})
    with pytest.raises(InvalidInput, match="no cgroup file"):
        await update(unified={"../../x": "1"})
    with pytest.raises(InvalidInput, match=r"memory\.limit"):
        await update(memory={"limit": "lots"})
    with pytest.raises(OciRuntimeError, match=r"cpu\.max"):
        await update(cpu={"period": 1})
    for check in (False, True):
        with pytest.raises(InvalidInput, match="cannot set the memory limit to 1024 bytes: the container needs"):
            await update(memory={"limit": 1024, "checkBeforeUpdate": check})
    assert await files("memory.max") == ["max"], "and it lives"
    await guest.agent.remove_container("update")


async def test_figures_agree_with_a_known_load(guest: Guest) -> None:
    mounts = [{"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["size=50m"]}]
    fill = "head -c 20000000 /dev/zero > /dev/shm/x"
    script = f"{fill}; i=0; while [ $i -lt 50000 ]; do i=$((i+1)); done; echo; sleep 1000; true"
    resources = limits(memory={"limit": 100 * MIB}, pids={"limit": 50})
    await create(guest, "load", *shell(script), linux=resources, mounts=mounts)
    await guest.agent.start_container("load")
    await guest.agent.read_output("load", "", stderr=False)
    stats = await guest.agent.stats_container("load")
    assert 20_000_000 < stats.memory_usage < 40_000_000
    assert stats.memory_limit == 100 * MIB
    assert stats.memory_peak >= 20_000_000
    assert stats.memory["shmem"] >= 20_000_000
    assert stats.cpu["usage_usec"] > 10_000
    assert (stats.pids_current, stats.pids_limit) == (2, 50)
    assert stats.swap_limit == 2**64 - 1
    assert {entry.page_size for entry in stats.hugetlb} >= {"2MB"}
    await guest.agent.remove_container("load")


async def test_capabilities_seccomp_devices_and_paths_are_those_of_the_spec(guest: Guest) -> None:
    seccomp = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat", "nosuchcall"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}],
    }
    linux = limits(
        devices=[
            {"allow": False, "access": "rwm"},
            {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rwm"},
        ]
    )
    linux |= {
        "seccomp": seccomp,
        "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o666},
                    {"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11, "fileMode": 0o666}],
        "maskedPaths": ["/proc/kcore", "/proc/keys"],
        "readonlyPaths": ["/proc/sys"],
    }  # fmt: skip
    capabilities = {kind: ["CAP_KILL", "CAP_NET_RAW"] for kind in ("bounding", "effective", "permitted")}
    script = """
    grep -E '^(CapEff|CapBnd|Seccomp|NoNewPrivs):' /proc/self/status | tr -d '\\t'
    mkdir /tmp/x 2>&1; ls -l /dev/fuse | cut -c1-10; head -c1 /dev/kmsg 2>&1; wc -c < /proc/keys
    echo 1 2>&1 > /proc/sys/vm/drop_caches; cat /proc/self/oom_score_adj
    """
    options = {"capabilities": capabilities, "noNewPrivileges": True, "oomScoreAdj": 321}
    code, out, err = await guest.run("secure", *shell(script), linux=linux, **options)
    lines = out.decode().splitlines()
    wanted = {"CapBnd:0000000000002020", "CapEff:0000000000002020", "NoNewPrivs:1", "Seccomp:2"}
    assert set(lines[:4]) == wanted
    rest = "\n".join(lines[4:]) + err.decode()
    assert "mkdir: can't create directory '/tmp/x': Operation not supported" in rest
    assert "crw-rw-rw-" in rest
    assert "/dev/kmsg: Operation not permitted" in rest
    assert "\n0\n" in rest
    assert "Read-only file system" in rest
    assert lines[-1] == "321"
    assert code == 0


async def test_the_guests_devices_are_out_of_reach(guest: Guest) -> None:
    """An engine's own device rules: deny all, allow the usual ones. The root image's disk is not among them."""
    linux = limits(devices=[{"allow": False, "access": "rwm"}])
    capabilities = {kind: ["CAP_MKNOD", "CAP_SYS_ADMIN"] for kind in ("bounding", "effective", "permitted")}
    script = "mknod /tmp/disk b 259 0; head -c1 /tmp/disk 2>&1; echo x > /dev/null && echo null"
    code, out, err = await guest.run("nodisk", *shell(script), linux=linux, capabilities=capabilities)
    assert b"not permitted" in out + err
    assert out.endswith(b"null\n")
    assert code == 0


async def test_a_user_namespace_keeps_its_mappings(guest: Guest) -> None:
    linux = limits()
    linux["namespaces"].append({"type": "user"})
    linux["uidMappings"] = linux["gidMappings"] = [{"containerID": 0, "hostID": 100_000, "size": 65536}]
    code, out, _ = await guest.run("userns", *shell("id -u; cat /proc/self/uid_map"), linux=linux)
    assert (code, out.split()) == (0, [b"0", b"0", b"100000", b"65536"])


async def test_scheduling_and_idle_groups_are_those_of_the_spec(guest: Guest) -> None:
    linux = limits(cpu={"idle": 1, "burst": 0})
    options = {
        "scheduler": {"policy": "SCHED_BATCH", "nice": 5},
        "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 7},
    }
    script = f"cat {CGROUP}/cpu.idle; grep -E '^policy|^prio' /proc/self/sched | tr -d ' '"
    code, out, _ = await guest.run("sched", *shell(script), linux=linux, **options)
    assert code == 0
    assert out.split() == [b"1", b"policy:3", b"prio:125"]
    with pytest.raises(InvalidInput, match="SCHED_NONE"):
        await guest.create("sched", "/bin/busybox", "true", scheduler={"policy": "SCHED_NONE"})
    assert (await guest.run("sched", "/bin/busybox", "true"))[0] == 0


async def test_names_of_a_private_uts_namespace(guest: Guest) -> None:
    document = spec(*shell("hostname; cat /proc/sys/kernel/domainname")) | {"hostname": "h", "domainname": "d.example"}
    await guest.agent.create_container("uts", json.dumps(document).encode(), stdin=False)
    await guest.agent.start_container("uts")
    assert (await guest.finish("uts", ""))[1] == b"h\nd.example\n"
    await guest.agent.remove_container("uts")


async def test_shared_memory_has_its_size_and_queues_work(guest: Guest) -> None:
    code, out, _ = await guest.run("shm", *shell("df -k /dev/shm | tail -1; touch /dev/mqueue/q 2>&1; ls /dev/mqueue"))
    assert code == 0
    assert out.split()[1] == b"8192"
    assert out.endswith(b"q\n")


async def test_set_up_is_done_once_and_reaches_names_modules_and_sysctls(guest: Guest) -> None:
    agent = guest.agent
    with pytest.raises(OciRuntimeError, match="no_such_module"):
        await agent.setup_sandbox("pod", kernel_modules=["no_such_module"])
    with pytest.raises(InvalidInput, match="kernel module"):
        await agent.setup_sandbox("pod", kernel_modules=["../x"])
    with pytest.raises(InvalidInput, match="hostname"):
        await agent.setup_sandbox("pod", hostname="x" * 65)
    with pytest.raises(InvalidInput, match=r"vm\.overcommit_memory"):
        await agent.setup_sandbox("pod", sysctls={"vm.overcommit_memory": "1"})
    await agent.setup_sandbox(
        "pod", hostname="the-pod", domainname="example", kernel_modules=["tun"], sysctls={"net.core.somaxconn": "999"}
    )
    with pytest.raises(OciRuntimeError, match="'pod' already"):
        await agent.setup_sandbox("pod")
    document = spec(
        *shell("hostname; cat /proc/sys/kernel/domainname /proc/sys/net/core/somaxconn; grep -c ^tun /proc/modules")
    )
    await agent.create_container("names", json.dumps(document).encode(), stdin=False, in_pod_uts=True)
    await agent.start_container("names")
    assert (await guest.finish("names", ""))[1] == b"the-pod\nexample\n999\n1\n"
    await agent.remove_container("names")


async def test_the_clock_and_the_random_pool_can_be_set_again(guest: Guest) -> None:
    import time

    _, out, _ = await guest.run("clock", *shell("date +%s"))
    assert abs(int(out) - time.time()) < 30
    await guest.agent.set_clock(1_000_000_000 * 10**9)
    _, out, _ = await guest.run("clock", *shell("date +%s"))
    assert 1_000_000_000 <= int(out) < 1_000_000_100
    await guest.agent.set_clock(time.time_ns())
    await guest.agent.reseed(b"x" * 64)
    with pytest.raises(InvalidInput, match="random seed"):
        await guest.agent.reseed(b"x" * 257)


async def test_nothing_is_left_of_containers_that_are_gone(guest: Guest) -> None:
    async def count() -> tuple[int, int, int]:
        text = await guest.agent.diagnostics()
        _, out, _ = await guest.run("look", *shell("ls /proc | grep -c '^[0-9]'"))
        return text.count("container "), text.count("\n/dev/"), len(out)

    before = await count()
    for _ in range(3):
        await asyncio.gather(*(guest.run(f"gone-{number}", *shell("echo; exit 1")) for number in range(3)))
        with pytest.raises(OciRuntimeError):
            await guest.create("gone-0", "/no/such/program")
    assert await count() == before


async def test_the_guests_clock_runs_as_fast_as_the_hosts(guest: Guest) -> None:
    """An emulated guest that measures its time stamp counter on a busy host may be wrong by a factor of five."""
    import time

    async def uptime_s() -> float:
        _, out, _ = await guest.run("uptime", "/bin/busybox", "cat", "/proc/uptime")
        return float(out.split()[0])

    begin_s, begin = time.monotonic(), await uptime_s()
    await asyncio.sleep(5)
    assert 0.5 < (await uptime_s() - begin) / (time.monotonic() - begin_s) < 2


async def test_the_guest_names_the_packages_of_its_image(guest: Guest) -> None:
    packages = dict(line.split(" ") for line in (await guest.agent.guest_details()).image_packages)
    assert {"crun", "kmod"} <= set(packages)


async def test_every_device_gets_its_driver(guest: Guest) -> None:
    wanted = {"virtio_balloon", "virtio_rng", "pvpanic_pci"}

    async def loaded() -> set[str]:
        _, out, _ = await guest.run("modules", *shell("cut -d' ' -f1 /proc/modules"))
        return set(out.decode().split())

    for _ in range(60):
        if wanted <= await loaded():
            return
        await asyncio.sleep(0.5)
    assert wanted <= await loaded()


async def test_shutdown_turns_the_machine_off() -> None:
    async with booted_guest() as guest:
        await guest.create("last", "/bin/busybox", "sleep", "1000")
        await guest.agent.start_container("last")
        await guest.agent.shutdown()
        await asyncio.wait_for(guest.agent.closed(), 60)
