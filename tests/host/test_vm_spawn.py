"""Children of the host: what they inherit, what they are, and how their start and end are told."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from oci_runtime.config.load import load_config
from oci_runtime.errors import HostError, NotFound, OciRuntimeError
from oci_runtime.host.spawn import Child, SpawnPlan, describe_exit, kill, kill_and_reap, reap, spawn
from oci_runtime.log import timestamp
from oci_runtime.sandbox.launch import BootRequest, launch
from oci_runtime.state.sandboxes import SandboxRecord
from oci_runtime.vm.launch import launch_qemu
from tests.engine import is_running, wait_until
from tests.machine_lab import lab_settings

pytestmark = pytest.mark.root
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_descriptor_is_left() -> Iterator[None]:
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


def run(script: str, **plan: object) -> str:
    """Run a shell script with its output going to descriptor 5; return the output."""
    output, far = os.pipe()
    fds = {5: far} | dict(plan.pop("fds", {}))  # type: ignore[call-overload]
    try:
        child = spawn(SpawnPlan(argv=("sh", "-c", f"exec >&5; {script}"), fds=fds, **plan))  # type: ignore[arg-type]
    finally:
        os.close(far)
    with os.fdopen(output) as lines:
        text = lines.read()
    end(child)
    return text


def end(child: Child) -> int:
    try:
        return kill_and_reap(child)
    finally:
        child.close()


def wait(child: Child) -> int:
    """Wait for the child's own end."""
    os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOWAIT)
    code = reap(child)
    assert code is not None
    child.close()
    return code


def test_only_the_named_descriptors_are_inherited() -> None:
    leak = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        listed = run("ls -l /proc/self/fd | awk 'NR > 1 {print $9, $11}'").split("\n")
    finally:
        os.close(leak)
    numbers = {line.split()[0]: line.split()[1] for line in listed if line and "/proc/" not in line}
    assert sorted(numbers) == ["0", "1", "2", "5"]
    assert numbers["0"] == numbers["2"] == "/dev/null"


def test_descriptors_may_swap_numbers() -> None:
    first, second = os.memfd_create("first"), os.memfd_create("second")
    os.write(first, b"1")
    os.write(second, b"2")
    try:
        text = run(
            "for n in 3 4 6; do readlink /proc/self/fd/$n; done",
            fds={3: second, 4: first, 6: first, first: second, second: first},
        )
    finally:
        os.close(first)
        os.close(second)
    assert text.split() == ["/memfd:second", "(deleted)", "/memfd:first", "(deleted)", "/memfd:first", "(deleted)"] or (
        text.splitlines() == ["/memfd:second (deleted)", "/memfd:first (deleted)", "/memfd:first (deleted)"]
    )


def test_credentials_are_dropped_for_good() -> None:
    status = run("cat /proc/self/status", uid=2_000_000_001, gid=2_000_000_002, groups=(5, 6))
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert fields["Uid"].split() == ["2000000001"] * 4
    assert fields["Gid"].split() == ["2000000002"] * 4
    assert fields["Groups"].split() == ["5", "6"]
    assert fields["CapEff"] == fields["CapPrm"] == "0000000000000000"
    assert fields["NoNewPrivs"] == "1"


def test_no_group_of_the_caller_stays_without_groups() -> None:
    assert run("id -G", uid=2_000_000_001, gid=7).split() == ["7"]


def test_session_directory_mask_limits_and_environment() -> None:
    text = run(
        "cut -d' ' -f6 /proc/self/stat; echo $$; pwd; umask; ulimit -n; echo $ONLY; env | wc -l",
        cwd="/usr",
        umask=0o027,
        rlimits=((resource.RLIMIT_NOFILE, 123, 123),),
        environ={"ONLY": "this", "PATH": "/usr/bin:/bin"},
    ).split()
    assert text[0] == text[1], "leads a session of its own"
    assert text[2:6] == ["/usr", "0027", "123", "this"]
    assert int(text[6]) <= 4  # the shell adds PWD and the like


def test_signals_are_those_of_a_fresh_process() -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        status = run("cat /proc/self/status")
        assert signal.SIGUSR2 in signal.pthread_sigmask(signal.SIG_BLOCK, set()), "ours is as it was"
    finally:
        signal.signal(signal.SIGUSR1, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})
    assert "SigBlk:\t0000000000000000" in status
    # 32 and 33 are glibc's own: whoever is started by its posix_spawn, as GNU make's commands are, ignores them.
    ignored = int(status.partition("SigIgn:\t")[2].split()[0], 16) & ~(3 << 31)
    assert ignored == 0


def test_cgroups_are_joined_before_the_program_runs(tmp_path: Path) -> None:
    first, second = tmp_path / "cgroup.procs", tmp_path / "other.procs"
    first.touch()
    second.touch()
    assert run("echo ran", cgroup_procs=(str(first), str(second)), uid=2_000_000_001) == "ran\n"
    assert first.read_text() == second.read_text() == "0"


@pytest.mark.parametrize(
    ("plan", "kind", "message"),
    [
        (SpawnPlan(argv=("no-such-program",), hint="apt install it"), NotFound,
         "program no-such-program: not found (apt install it)"),
        (SpawnPlan(argv=("/etc/passwd",)), NotFound, "program /etc/passwd: not executable"),
        (SpawnPlan(argv=("true",), cgroup_procs=("/none/cgroup.procs",)), HostError,
         "join cgroup /none/cgroup.procs: No such file or directory"),
        (SpawnPlan(argv=("true",), cwd="/none"), HostError, "chdir /none: No such file or directory"),
        (SpawnPlan(argv=("true",), fds={3: 9999}), HostError, "dup fd 9999: Bad file descriptor"),
        (SpawnPlan(argv=("true",), uid=1, groups=range(70000)), HostError, "setgroups 70000 groups: Invalid argument"),
        (SpawnPlan(argv=("true",), rlimits=((resource.RLIMIT_NOFILE, 2, 1),)), HostError,
         "setrlimit 7: Invalid argument"),
    ],
)  # fmt: skip
def test_failures_name_the_step_and_leave_no_process(plan: SpawnPlan, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        spawn(plan)
    assert str(caught.value) == message
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    assert not [pid for pid in children if "true" in Path(f"/proc/{pid}/cmdline").read_text()]


def test_a_program_that_cannot_be_executed_is_told_apart_from_one_that_fails(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_bytes(b"no program at all")
    broken.chmod(0o755)
    with pytest.raises(HostError) as caught:
        spawn(SpawnPlan(argv=(str(broken),), hint="build it again"))
    assert str(caught.value) == f"exec {broken}: Exec format error (not a program for this machine: build it again)"
    broken.write_text("#!/none/sh\n")
    with pytest.raises(HostError) as caught:
        spawn(SpawnPlan(argv=(str(broken),)))
    assert str(caught.value) == f"exec {broken}: No such file or directory (its interpreter or loader is missing)"
    broken.chmod(0o700)
    tmp_path.chmod(0o755)
    with pytest.raises(HostError, match="not executable for uid 4242: apt install it"):
        spawn(SpawnPlan(argv=(str(broken),), uid=4242, gid=4242, hint="apt install it"))
    assert wait(spawn(SpawnPlan(argv=("false",)))) == 1


def test_ends_are_told_by_code_and_signal() -> None:
    assert wait(spawn(SpawnPlan(argv=("sh", "-c", "exit 7")))) == 7
    child = spawn(SpawnPlan(argv=("sleep", "1000")))
    assert reap(child) is None
    kill(child, signal.SIGTERM)
    assert wait(child) == -signal.SIGTERM
    assert describe_exit(-15) == "killed by signal 15"
    assert describe_exit(3, "first\nlast \x1b[1mwords\n\n") == "exit status 3: last [1mwords"


def test_killing_and_reaping_are_idempotent() -> None:
    child = spawn(SpawnPlan(argv=("sleep", "1000")))
    assert kill_and_reap(child) == -signal.SIGKILL
    assert kill_and_reap(child) == 0
    kill(child)
    assert reap(child) == 0
    child.close()
    child.close()
    kill(child)
    assert kill_and_reap(child) == 0


def start_parent(die_with_parent: bool) -> tuple[subprocess.Popen[bytes], int]:
    script = (
        "import time; from oci_runtime.host.spawn import *;"
        f"plan = SpawnPlan(argv=('sleep', '1000'), uid=2000000001, gid=2000000001, die_with_parent={die_with_parent});"
        "print(spawn(plan).pid, flush=True); time.sleep(1000)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, cwd=REPOSITORY)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.stdout.close()
    return parent, pid


@pytest.mark.parametrize("die", [True, False])
def test_a_child_dies_with_its_parent_if_it_should(die: bool) -> None:
    parent, pid = start_parent(die)
    assert is_running(pid)
    parent.kill()
    parent.wait()
    if die:
        wait_until(lambda: not is_running(pid), "the child has ended", 10)
    else:
        time.sleep(0.2)
        assert is_running(pid)
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_running(pid), "the child has ended", 10)


def test_a_parent_that_dies_before_the_child_is_ready_leaves_none() -> None:
    """The window between fork and the parent-death signal: the child checks for its parent after asking for it."""
    script = (
        "import os, signal, threading; from oci_runtime.host import spawn, syscalls\n"
        "real = syscalls.prctl\n"
        "def late(option, argument):\n"
        "    if option == syscalls.PR_SET_PDEATHSIG:\n"
        "        os.kill(os.getppid(), signal.SIGKILL)\n"
        "        while os.getppid() == parent: pass\n"
        "    real(option, argument)\n"
        "syscalls.prctl = late\n"
        "parent = os.getpid()\n"
        "spawn.spawn(spawn.SpawnPlan(argv=('sleep', '1001')))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=False)
    assert done.returncode == -signal.SIGKILL
    wait_until(lambda: not _running_command(b"sleep\x001001\x00"), "no child runs without its parent", 10)


def _running_command(command: bytes) -> bool:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cmdline").read_bytes() == command:
                    return True
            except OSError:
                continue
    return False


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qemu": "qemu-none"}, "program qemu-none: not found (apt install qemu-system-x86)"),
        ({"qemu": "/etc/passwd"}, "program /etc/passwd: not executable (apt install qemu-system-x86)"),
        ({"firmware": "/none/rom"}, "firmware /none/rom: no such file (setting vm.firmware)"),
        ({"kernel": "/none/kernel"}, "kernel /none/kernel: no such file (vmpod image build)"),
        ({"initrd": "/none/initrd"}, "initrd /none/initrd: no such file (vmpod image build)"),
        ({"image": "/none/rootfs"}, "image /none/rootfs: no such file (vmpod image build)"),
    ],
)  # fmt: skip
def test_what_is_missing_is_named_with_its_remedy(tmp_path: Path, changes: dict[str, str], message: str) -> None:
    with pytest.raises(NotFound) as caught:
        launch_qemu(lab_settings(tmp_path, **changes))
    assert caught.value.message == message


def test_an_image_that_qemus_uid_may_not_read_is_named(tmp_path: Path) -> None:
    private = tmp_path / "kernel"
    private.write_bytes(b"x")
    private.chmod(0o600)
    with pytest.raises(OciRuntimeError, match=rf"kernel {private}: QEMU runs as uid \d+ and may not read it"):
        launch_qemu(lab_settings(tmp_path, kernel=str(private)))


def test_a_launch_that_nobody_takes_over_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[storage]\nvirtiofsd = "/none/virtiofsd"\n')
    SandboxRecord.new(str(tmp_path), "early", timestamp()).save()
    with pytest.raises(NotFound, match="/none/virtiofsd"):
        launch(BootRequest.bare("early", str(tmp_path), load_config(str(tmp_path / "config.toml"))), 0)
    record = SandboxRecord.load(str(tmp_path))
    assert record is not None and not is_running(record.values["qemu"]["pid"])
    assert not (tmp_path / "share").exists()
