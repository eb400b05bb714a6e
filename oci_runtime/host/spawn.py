"""Start a child process of the host (QEMU, virtiofsd, the sandbox process) with nothing inherited by accident.

The sandbox process starts QEMU before it loads asyncio, so this module needs only `os`, `signal` and the system call
wrappers. What happens in the child, and in which order, matters:

1. cgroups are joined while still root, so that every byte the program allocates is accounted where it belongs, and
   namespaces and a root directory of its own are made;
2. the uid is dropped, with it all capabilities but the plan's, *then* the parent-death signal is set (a change of
   credentials clears it), *then* the parent is checked: had it died before, the signal would never come;
3. descriptors are moved to their final numbers and every other one is closed;
4. exec. Its failure, like any earlier one, travels to the parent through a pipe that a successful exec closes.

The parent-death signal fires when the *thread* that called `spawn` ends: call it from a thread that lives as long as
the child should.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import signal

from oci_runtime.errors import HostError, NotFound
from oci_runtime.host import syscalls
from oci_runtime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

    from oci_runtime.host.private_root import PrivateRoot

_MAX_REPORT_BYTES = 8192
_MAX_WORDS = 200
_MAX_PATH = 1024
_FD_END = (1 << 31) - 1


class SpawnPlan(Record):
    """What to run and in which circumstances.

    argv: argv[0] is a path, or a name that is searched on PATH. fds: number in the child → our descriptor (0-2 that are
    not named become /dev/null). uid None keeps the caller's credentials; otherwise gid and groups are set too and all
    capabilities go but those listed, by number, which the program has from its start. securebits: its SECBIT_*.
    root: a root directory of its own, which wants CLONE_NEWNS in unshare. rlimits: (resource.RLIMIT_*, soft, hard).
    cgroup_procs: paths of cgroup.procs files to join before exec. join: (descriptor, CLONE_NEW*) of namespaces to
    enter; unshare: CLONE_NEW* flags of new ones. die_with_parent: SIGKILL when the spawning thread ends. hint: how to
    get a missing program.
    """

    argv: Sequence[str]
    fds: Mapping[int, int] | None = None
    environ: Mapping[str, str] | None = None
    cwd: str = "/"
    uid: int | None = None
    gid: int = 0
    groups: Sequence[int] = ()
    capabilities: Sequence[int] = ()
    securebits: int = 0
    root: PrivateRoot | None = None
    umask: int = 0o077
    rlimits: Sequence[tuple[int, int, int]] = ()
    cgroup_procs: Sequence[str] = ()
    join: Sequence[tuple[int, int]] = ()
    unshare: int = 0
    new_session: bool = True
    no_new_privileges: bool = True
    die_with_parent: bool = True
    hint: str = ""


class Child:
    """A started child: its pid (valid until it is reaped) and a pidfd, close-on-exec, that the caller owns."""

    def __init__(self, pid: int, pidfd: int) -> None:
        self.pid = pid
        self.pidfd = pidfd

    def close(self) -> None:
        """Close the pidfd of a reaped child; idempotent. To the functions here it then counts as ended."""
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


def spawn(plan: SpawnPlan) -> Child:
    """Start `plan`; returns once the program is executing.

    Raises: NotFound (no such program; the hint says which package has it), HostError naming the step that failed. After
    a failure no process is left.
    """
    program = find_program(plan.argv[0], plan.hint)
    report_read, report_write = os.pipe2(os.O_CLOEXEC)
    parent = os.getpid()
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid == 0:
            _run_child(plan, program, parent, report_write)
    except OSError as error:
        os.close(report_read)
        raise HostError.from_oserror(error, "fork", program) from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)
        os.close(report_write)
    with os.fdopen(report_read, "rb") as report:
        failure = report.read(_MAX_REPORT_BYTES)
    if failure:
        os.waitpid(pid, 0)
        step, _, number = failure.decode("utf-8", "replace").rpartition("\0")
        call, _, path = step.partition("\0")
        code = int(number or errno.EIO)
        raise HostError(call, path, code, hint=_exec_hint(code, plan) if call == "exec" else "")
    return Child(pid, os.pidfd_open(pid))


def _exec_hint(code: int, plan: SpawnPlan) -> str:
    """What the error number of an exec means for a file that is there and executable, and how to get a better one."""
    meaning = {
        errno.ENOEXEC: "not a program for this machine",
        errno.ENOENT: "its interpreter or loader is missing",
        errno.EACCES: "not executable" if plan.uid is None else f"not executable for uid {plan.uid}",
    }.get(code, "")
    return ": ".join(filter(None, (meaning, plan.hint)))


def describe_exit(code: int, messages: str = "") -> str:
    """How a child has ended, as `reap` tells it, with the last line of what it wrote."""
    how = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
    lines = messages.strip().splitlines()
    words = "".join(char for char in lines[-1] if char.isprintable())[:_MAX_WORDS] if lines else ""
    return f"{how}: {words}" if words else how


def find_program(name: str, hint: str = "") -> str:
    """Return the path of an executable. Raises: NotFound with `hint`, which names the package to install."""
    # shutil.which would load the compression libraries.
    places = [""] if "/" in name else os.environ.get("PATH", os.defpath).split(":")
    for place in places:
        path = os.path.join(place, name)
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
    if "/" in name and os.path.exists(name):
        raise NotFound(f"program {name}: not executable" + (f" ({hint})" if hint else ""))
    raise NotFound(f"program {name}: not found" + (f" ({hint})" if hint else ""))


def reap(child: Child) -> int | None:
    """Collect the child's end without waiting: None while it runs, else its exit code, or minus the signal's number.

    A child that somebody else has reaped counts as ended with code 0.
    """
    if child.pidfd < 0:
        return 0
    try:
        result = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return 0
    if result is None:
        return None
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


def kill(child: Child, signal_number: int = signal.SIGKILL) -> None:
    """Send a signal through the pidfd: never to another process. A child that has ended already is no error."""
    if child.pidfd >= 0:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(child.pidfd, signal_number)


def kill_and_reap(child: Child) -> int:
    """SIGKILL the child and wait for its end (the kernel ends it promptly); return as `reap` does. Idempotent."""
    if child.pidfd < 0:
        return 0
    kill(child)
    try:
        result = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED)
    except ChildProcessError:
        return 0
    assert result is not None, "waitid without WNOHANG returns a result"
    return result.si_status if result.si_code == os.CLD_EXITED else -result.si_status


class _ChildStep(Exception):
    """A step of the child failed: carries what the parent should be told."""

    def __init__(self, call: str, path: str, number: int) -> None:
        super().__init__(call)
        self.report = f"{call}\0{path[:_MAX_PATH]}\0{number}".encode("utf-8", "replace")


def _run_child(plan: SpawnPlan, program: str, parent: int, report: int) -> NoReturn:
    """Everything between fork and exec; ends in exec or _exit, never returns into the parent's code."""
    try:
        # Out of the way of every number that the plan names, and there it stays: a failure at any step is told.
        report = _copy_above(report, max((2, *(plan.fds or ()))) + 1)
        _prepare(plan, parent, report)
        environ = os.environ if plan.environ is None else plan.environ
        _step("exec", program, os.execve, program, list(plan.argv), dict(environ))
    except _ChildStep as failed:
        os.write(report, failed.report)
    except HostError as failed_call:
        os.write(report, _ChildStep(failed_call.call, failed_call.path, failed_call.errno).report)
    except BaseException as unexpected:  # noqa: BLE001 - whatever it is, the parent must not take it for success
        os.write(report, _ChildStep("start", f"{program} ({unexpected!r})", errno.EINVAL).report)
    finally:
        os._exit(127)
    raise AssertionError("unreachable")


def _step(call: str, path: str, function: object, *arguments: object) -> object:
    try:
        return function(*arguments)  # type: ignore[operator]
    except OSError as error:
        raise _ChildStep(call, path, error.errno or errno.EIO) from error
    except (ValueError, OverflowError) as error:
        raise _ChildStep(call, path, errno.EINVAL) from error


def _prepare(plan: SpawnPlan, parent: int, report: int) -> None:
    """Bring the child into the planned state."""
    _default_signals()
    for procs in plan.cgroup_procs:
        _step("join cgroup", procs, _write, procs, b"0")
    for descriptor, kind in plan.join:
        syscalls.setns(descriptor, kind)
    if plan.unshare:
        syscalls.unshare(plan.unshare)
    if plan.root is not None:
        from oci_runtime.host.private_root import enter

        _step("enter root", plan.root.stage, enter, plan.root)
    if plan.new_session:
        _step("setsid", "", os.setsid)
    os.umask(plan.umask)
    _step("chdir", plan.cwd, os.chdir, plan.cwd)
    _place_fds(plan.fds or {}, report)
    # After the descriptors: a low limit would forbid the high numbers that they are moved through.
    for limit, soft, hard in plan.rlimits:
        _step("setrlimit", str(limit), resource.setrlimit, limit, (soft, hard))
    if plan.uid is not None:
        _step("setgroups", f"{len(plan.groups)} groups", os.setgroups, list(plan.groups))
        _step("setresgid", str(plan.gid), os.setresgid, plan.gid, plan.gid, plan.gid)
        if plan.capabilities:
            syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
        _step("setresuid", str(plan.uid), os.setresuid, plan.uid, plan.uid, plan.uid)
        if plan.capabilities:
            syscalls.keep_capabilities(plan.capabilities)
    if plan.securebits:
        syscalls.prctl(syscalls.PR_SET_SECUREBITS, plan.securebits)
    if plan.no_new_privileges:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    if plan.die_with_parent:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            raise _ChildStep("wait for parent", str(parent), errno.ESRCH)
    signal.pthread_sigmask(signal.SIG_SETMASK, set())


def _write(path: str, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def _default_signals() -> None:
    """Undo what exec keeps: ignored signals. Python ignores SIGPIPE and SIGXFSZ; the caller may ignore more."""
    for number in signal.valid_signals():
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def _place_fds(fds: Mapping[int, int], report: int) -> None:
    """Give every planned descriptor its number, /dev/null to missing ones of 0-2, and close all others but `report`.

    Everything is first copied above the highest target, so that no copy overwrites a source that is still needed.
    """
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    wanted = {number: null for number in (0, 1, 2)} | dict(fds)
    above = max(wanted) + 1
    copies = {target: _copy_above(source, above) for target, source in wanted.items()}
    for target, copy in copies.items():
        os.dup2(copy, target, inheritable=True)
    keep = sorted({*wanted, report})
    for low, high in zip([-1, *keep], [*keep, _FD_END], strict=True):
        if low + 1 < high:  # closerange(0, 0) would close everything: its end wraps around
            os.closerange(low + 1, high)


def _copy_above(source: int, lowest: int) -> int:
    try:
        return fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, lowest)
    except OSError as error:
        raise _ChildStep("dup", f"fd {source}", error.errno or errno.EBADF) from error
