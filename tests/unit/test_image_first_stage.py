"""The first stage: its programs run on this machine, and what the real one does, step by step."""

from __future__ import annotations

import os
import struct
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from oci_runtime.errors import InvalidInput
from oci_runtime.image.elf import needed_libraries, read_segments
from oci_runtime.image.firststage import Argument, Buffer, Step, assemble, execute, fail
from oci_runtime.image.initrd import build_initrd, plan_first_stage
from tests.image_lab import archive_member, replace_agent

MODULES = {"virtio": b"V" * 100, "vsock": b"S" * 200, "erofs": b"E" * 300, "nfit": b"N" * 400}
SPECIAL = {"vsock": ("vsock",), "nvdimm": ("nfit",)}
AGENT = ("/usr/bin/python3", "-c", "print('it is here')")
END = (Step("exit_group", (0,), "end", then="end", otherwise="end"),)


def run(steps: Sequence[Step], directory: Path, **options: object) -> subprocess.CompletedProcess[bytes]:
    program = directory / "program"
    program.write_bytes(assemble(steps))
    program.chmod(0o755)
    return subprocess.run([program], capture_output=True, timeout=30, check=False, **options)  # type: ignore[call-overload,no-any-return]


def say(text: bytes, **ways: str) -> Step:
    return Step("write", (1, text, len(text)), **ways)  # type: ignore[arg-type]


def test_steps_follow_each_other(tmp_path: Path) -> None:
    done = run([say(b"one "), say(b"two"), *END], tmp_path)
    assert (done.returncode, done.stdout) == (0, b"one two")


def test_success_and_failure_go_their_ways(tmp_path: Path) -> None:
    steps = [
        Step("chdir", (b"/\0",), then="is there", otherwise="end"),
        say(b"skipped"),
        say(b"is there ", label="is there"),
        Step("chdir", (b"/nonexistent\0",), then="end", otherwise="is not"),
        say(b"skipped"),
        say(b"is not", label="is not"),
        *END,
    ]
    assert run(steps, tmp_path).stdout == b"is there is not"


def test_a_call_may_fail_so_often_and_no_more(tmp_path: Path) -> None:
    steps = [
        Step("chdir", (b"/nonexistent\0",), "try", then="end", otherwise="again", tries=4, exhausted="enough"),
        say(b"again ", label="again", then="try"),
        say(b"enough", label="enough"),
        *END,
    ]
    assert run(steps, tmp_path).stdout == b"again again again enough"


def test_a_failure_is_told_and_ends_with_1(tmp_path: Path) -> None:
    steps = [Step("chdir", (b"/nonexistent\0",), otherwise="lost"), *END, *fail("lost", "no such place")]
    done = run(steps, tmp_path)
    assert (done.returncode, done.stderr) == (1, b"vmpod: first stage: no such place\n")


def test_executes_with_arguments_and_environment(tmp_path: Path) -> None:
    words = ("busybox", "sh", "-c", 'echo "$1"; env; exit 7', "name", "with spaces 'and' quotes")
    steps = [execute("/bin/busybox", words, ("A=1", "B=two words"), otherwise="end"), *END]
    done = run(steps, tmp_path, env={})
    lines = done.stdout.decode().splitlines()
    assert done.returncode == 7
    assert lines[0] == "with spaces 'and' quotes"
    assert {"A=1", "B=two words"} <= set(lines)


def test_a_program_that_cannot_be_executed_is_a_failure(tmp_path: Path) -> None:
    steps = [execute("/nonexistent", ("x",), (), otherwise="no agent"), *END, *fail("no agent", "cannot execute it")]
    assert run(steps, tmp_path).stderr == b"vmpod: first stage: cannot execute it\n"


def test_times_reach_the_next_program_through_the_pipe(tmp_path: Path) -> None:
    """As the agent reads them: descriptor 3, while 0 to 2 are open."""
    times = [Buffer("times", 32, offset) for offset in (0, 16)]
    steps = [
        Step("clock_gettime", (1, times[0])),
        Step("nanosleep", (struct.pack("<qq", 0, 5_000_000), 0)),
        Step("clock_gettime", (1, times[1])),
        Step("pipe2", (Buffer("pipe", 8), 0)),
        Step("write", (4, times[0], 32)),
        Step("close", (4,)),
        execute("/bin/busybox", ("sh", "-c", "cat <&3"), (), otherwise="end"),
        *END,
    ]
    before = time.monotonic()
    output = run(steps, tmp_path).stdout
    first, second = (seconds + ns / 1e9 for seconds, ns in struct.iter_unpack("<qq", output))
    assert before <= first <= second - 0.005 <= time.monotonic()


def test_the_program_needs_nothing_else() -> None:
    program = assemble(END)
    (segment,) = read_segments(program)
    assert segment.file_bytes == segment.memory_bytes == len(program)
    assert needed_libraries(program) == ()


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([Step("fork")], "unknown system call 'fork'"),
        ([Step("chdir", then="nowhere")], "no step is called 'nowhere'"),
    ],
)
def test_mistakes_are_refused(steps: list[Step], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        assemble(steps)


def test_another_machine_is_refused() -> None:
    with pytest.raises(InvalidInput, match="no first stage for riscv64"):
        assemble(END, "riscv64")


class Walk:
    """Follows the plan as the program would. failing: calls that fail, by name and first argument's beginning."""

    def __init__(self, failing: dict[tuple[str, bytes], int] | None = None) -> None:
        self.steps = plan_first_stage(MODULES, SPECIAL, AGENT)
        self.failing = dict(failing or {})
        self.calls: list[tuple[str, tuple[Argument, ...]]] = []
        self.waits = 0

    def run(self) -> Walk:
        labels = {step.label: index for index, step in enumerate(self.steps) if step.label}
        tries = [step.tries for step in self.steps]
        at = 0
        while True:
            step = self.steps[at]
            way = step.then
            if step.call in ("execve", "exit_group") and not self._fails(step):
                self.calls.append((step.call, step.arguments))
                return self
            if self._fails(step):
                tries[at] -= 1
                way = step.exhausted if tries[at] == 0 else step.otherwise
            elif step.call != "nanosleep":
                self.calls.append((step.call, step.arguments))
            self.waits += step.call == "nanosleep"
            at = labels[way] if way else at + 1

    def _fails(self, step: Step) -> bool:
        for (call, start), times in self.failing.items():
            first = step.arguments[0] if step.arguments else b""
            if call == step.call and isinstance(first, bytes) and first.startswith(start) and times:
                self.failing[call, start] = times - 1
                return True
        return False

    def loaded(self) -> list[str]:
        names = {content: name for name, content in MODULES.items()}
        return [names[call[1][0]] for call in self.calls if call[0] == "init_module"]  # type: ignore[index]

    def said(self) -> bytes:
        return b"".join(a[1] for call, a in self.calls if call == "write" and a[0] == 2 and isinstance(a[1], bytes))


ALWAYS = 1 << 30


@pytest.mark.parametrize(
    ("failing", "loaded"),
    [
        ({}, ["virtio", "erofs"]),
        ({("access", b"/sys/bus"): 1}, ["virtio", "erofs", "vsock"]),
        ({("mount", b"/dev/pmem0"): 19}, ["virtio", "erofs"]),
        ({("mount", b"/dev/pmem0"): 30}, ["virtio", "erofs", "nfit"]),
        ({("access", b"/sys/bus"): 1, ("mount", b"/dev/pmem0"): 30}, ["virtio", "erofs", "vsock", "nfit"]),
    ],
    ids=["serial-and-virtio", "vsock", "late-device", "nvdimm", "vsock-and-nvdimm"],
)
def test_what_is_loaded_follows_from_the_machine(failing: dict[tuple[str, bytes], int], loaded: list[str]) -> None:
    walk = Walk(failing).run()
    assert walk.loaded() == loaded
    assert walk.calls[-1][0] == "execve"
    assert walk.said() == b""


@pytest.mark.parametrize(
    ("failing", "message"),
    [
        (("mount", b"devtmpfs"), "cannot mount /proc, /sys and /dev"),
        (("init_module", b"E"), "cannot load the kernel module erofs"),
        (("mount", b"/dev/pmem0"), "cannot mount /dev/pmem0"),
        (("mount", b".\0"), "cannot mount /dev/pmem0"),
        (("execve", b"/usr/bin"), "cannot execute /usr/bin/python3"),
    ],
)
def test_each_failure_is_told(failing: tuple[str, bytes], message: str) -> None:
    walk = Walk({failing: ALWAYS}).run()
    assert walk.said().decode() == f"vmpod: first stage: {message}\n"
    assert walk.calls[-1] == ("exit_group", (1,))


def test_it_gives_up_on_a_root_that_never_appears_after_ten_seconds() -> None:
    walk = Walk({("mount", b"/dev/pmem0"): ALWAYS}).run()
    assert 5000 <= walk.waits <= 5100, "two milliseconds each"


def test_the_agent_gets_its_root_and_its_command() -> None:
    calls = Walk().run().calls
    mounts = [arguments[:3] for call, arguments in calls if call == "mount"]
    assert mounts[3:] == [
        (b"/dev/pmem0\0", b"/root\0", b"erofs\0"),
        (b"/proc\0", b"/root/proc\0", 0), (b"/sys\0", b"/root/sys\0", 0), (b"/dev\0", b"/root/dev\0", 0),
        (b".\0", b"/\0", 0),
    ]  # fmt: skip
    program, argv, envp = calls[-1][1]
    assert (program, argv) == (b"/usr/bin/python3\0", tuple(word.encode() for word in AGENT))
    assert isinstance(envp, tuple) and b"VMPOD_PHASES=3 first-stage modules root" in envp


def test_the_initrd_holds_the_program_and_where_it_mounts(tmp_path: Path) -> None:
    archive = build_initrd(plan_first_stage(MODULES, SPECIAL, AGENT))
    subprocess.run(["busybox", "cpio", "-i"], input=archive, cwd=tmp_path, check=True, capture_output=True)
    assert sorted(os.listdir(tmp_path)) == ["dev", "init", "proc", "root", "sys"]
    assert (tmp_path / "init").stat().st_mode & 0o111
    assert (tmp_path / "init").read_bytes() == archive_member(archive, b"init")
    for content in MODULES.values():
        assert content in archive


def test_tests_can_put_another_program_in_the_agent_s_place(tmp_path: Path) -> None:
    steps = [execute("/nonexistent", ("x",), ("A=1",), otherwise="end"), *END]
    archive = build_initrd(steps)
    replaced = replace_agent(archive, ("/bin/busybox", "sh", "-c", "echo $A in its place"))
    program = tmp_path / "program"
    program.write_bytes(archive_member(replaced[len(archive) :], b"init"))
    program.chmod(0o755)
    assert subprocess.run([program], capture_output=True, check=True).stdout == b"1 in its place\n"
