"""Start a proxy: fork, enter the namespaces, execute a fresh interpreter that is smaller than the command's own.

The new process inherits standard streams from the command, or gets a terminal, and nothing else. Both sides hold one
end of a socket pair; the proxy dies when the command dies before it has handed over the stream.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import select
import struct
import sys
import termios

from oci_runtime.errors import HostError, OciRuntimeError, Unavailable
from oci_runtime.host import syscalls
from oci_runtime.host.processes import start_time
from oci_runtime.proxy.main import FAILED, GO, LATE, MAX_TITLE_BYTES, READY
from oci_runtime.state.layout import PROXY_MARK

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Mapping, Sequence
    from typing import NoReturn
else:
    import _signal

_ENTERED = b"n"
_MAX_REPORT_BYTES = 4096
# Entering namespaces and starting an interpreter take milliseconds; a machine under load may need seconds.
_READY_S = 60.0
_CODE = "import sys;sys.path.insert(0,sys.argv[1]);from oci_runtime.proxy.main import main;main()"


class ProxyPlan:
    """What a proxy is to be.

    command: shown as its command line. join: namespace type to a descriptor. make: types of which it gets new ones.
    A mount namespace that is made follows the host's mounts and changes none (view.py gives it another root later).
    One that is joined, and a user namespace, are entered last: its interpreter and modules need not be there.
    hostname, domainname: set in a uts namespace that is made. terminal: the slave that becomes its standard streams and
    its controlling terminal, -1 for the inherited streams. watches_window: its standard input is a terminal. oom_score:
    its oom_score_adj, None to keep the inherited one. mark: value of VMPOD_PROXY in its environment, "" for none: finds
    it again.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        join: Mapping[str, int] | None = None,
        make: Sequence[str] = (),
        hostname: str = "",
        domainname: str = "",
        terminal: int = -1,
        watches_window: bool = False,
        oom_score: int | None = None,
        mark: str = "",
    ) -> None:
        self.command = command
        self.join = dict(join or {})
        self.make = tuple(make)
        self.hostname = hostname
        self.domainname = domainname
        self.terminal = terminal
        self.watches_window = watches_window or terminal >= 0
        self.oom_score = oom_score
        self.mark = mark


class Proxy:
    """A started proxy, as the command sees it: a child that waits for its stream."""

    def __init__(self, pid: int, sync: _socket.socket) -> None:
        self.pid = pid
        self.start = start_time(pid)
        self._sync = sync
        self._entered = False
        self._ready = False

    def wait_entered(self) -> None:
        """Return once the proxy is in its namespaces. Raises what went wrong there."""
        if not self._entered:
            self._expect(_ENTERED)
            self._entered = True

    def wait_ready(self) -> None:
        """Return once the proxy waits for its stream. Raises what went wrong before."""
        self.wait_entered()
        if not self._ready:
            self._expect(READY)
            self._ready = True

    def hand_over(self, stream_fd: int) -> None:
        """Give the attached stream to the proxy; from now on it lives as long as the process. Raises Unavailable."""
        self.wait_ready()
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, struct.pack("=i", stream_fd))
        try:
            self._sync.sendmsg([GO], [rights], _socket.MSG_NOSIGNAL)
        except OSError as error:
            raise Unavailable(f"proxy {self.pid} is gone: {error.strerror}") from error
        self._sync.close()

    def abandon(self) -> None:
        """End the proxy and reap it; idempotent."""
        self._sync.close()
        try:
            os.kill(self.pid, _signal.SIGKILL)
            os.waitpid(self.pid, 0)
        except (ProcessLookupError, ChildProcessError):
            return

    def _expect(self, wanted: bytes) -> None:
        poll = select.poll()
        poll.register(self._sync, select.POLLIN)
        report = self._sync.recv(_MAX_REPORT_BYTES) if poll.poll(_READY_S * 1000) else b""
        if report == wanted:
            return
        if report.startswith(FAILED):
            raise OciRuntimeError(report[1:].decode("utf-8", "replace"))
        raise Unavailable(f"proxy {self.pid} ended before it was ready")


def start_proxy(plan: ProxyPlan) -> Proxy:
    """Fork the proxy; it is a child of the caller. Raises HostError.

    The caller's own pid namespace for children is as before when this returns.
    """
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET | _socket.SOCK_CLOEXEC)
    try:
        restore = _prepare_pid_namespace(plan)
        try:
            pid = os.fork()
            if pid == 0:
                _run_child(plan, theirs.fileno())
        finally:
            if restore >= 0:
                syscalls.setns(restore, syscalls.CLONE_NEWPID)
                os.close(restore)
    except BaseException as error:
        ours.close()
        if isinstance(error, OSError):
            raise HostError.from_oserror(error, "fork", "proxy") from error
        raise
    finally:
        theirs.close()
    return Proxy(pid, ours)


def _prepare_pid_namespace(plan: ProxyPlan) -> int:
    """Make the next child live in the plan's pid namespace; return a descriptor to go back with, -1 for nothing."""
    joined = plan.join.get("pid", -1)
    if joined < 0 and "pid" not in plan.make:
        return -1
    back = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if joined >= 0:
            syscalls.setns(joined, syscalls.CLONE_NEWPID)
        else:
            syscalls.unshare(syscalls.CLONE_NEWPID)
    except BaseException:
        os.close(back)
        raise
    return back


def _run_child(plan: ProxyPlan, sync: int) -> NoReturn:
    """Everything between fork and exec. Never returns into the command's code."""
    try:
        sync = _arrange_descriptors(plan, sync)
        _enter_namespaces(plan)
        _reset(plan)
        os.write(sync, _ENTERED)
        package_root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        arguments = [sys.executable, "-I", "-S", "-c", _CODE, package_root, str(sync), "01"[plan.watches_window]]
        arguments.append(_plan_late(plan))
        os.execve(sys.executable, [*arguments, *_shorten(plan.command)], {PROXY_MARK: plan.mark} if plan.mark else {})
    except BaseException as error:  # noqa: BLE001  # whatever it is, the other side must hear of it
        text = error.message if isinstance(error, OciRuntimeError) else f"proxy: {error}"
        os.write(sync, FAILED + text.encode("utf-8", "replace")[: _MAX_REPORT_BYTES - 1])
    finally:
        os._exit(127)
    raise AssertionError("unreachable")


def _plan_late(plan: ProxyPlan) -> str:
    """What main.enter_late is to do: `mount=FD`, `user=FD`, or `user` for a new one, with commas."""
    late = [f"{kind}={plan.join[kind]}" for kind in LATE if kind in plan.join]
    return ",".join([*late, *(kind for kind in LATE if kind == "user" and kind in plan.make)])


def _shorten(command: Sequence[str]) -> list[str]:
    """The beginning of a command, for its title: all of it may be longer than a command line can be here."""
    words: list[str] = []
    left = MAX_TITLE_BYTES
    for word in command:
        data = os.fsencode(word.partition("\0")[0])[:left]
        words.append(os.fsdecode(data))
        left -= len(data) + 1
        if left <= 0:
            break
    return words


def _arrange_descriptors(plan: ProxyPlan, sync: int) -> int:
    """Standard streams in place, the socket inheritable, everything else closed on exec; a session of its own."""
    os.setsid()
    if plan.terminal >= 0:
        fcntl.ioctl(plan.terminal, termios.TIOCSCTTY, 0)
        for fd in (0, 1, 2):
            os.dup2(plan.terminal, fd)
    # Above everything that is still needed, so that closing a range cannot hit it.
    moved = fcntl.fcntl(sync, fcntl.F_DUPFD, 100)
    needed = sorted({moved, *plan.join.values()})
    for low, high in zip([2, *needed], [*needed, 1 << 20], strict=True):
        os.closerange(low + 1, high)
    return moved


def _enter_namespaces(plan: ProxyPlan) -> None:
    flags = 0
    for kind in plan.make:
        if kind not in ("pid", "user"):
            flags |= syscalls.NAMESPACE_FLAGS[kind]
    for kind, fd in plan.join.items():
        if kind in LATE:
            os.set_inheritable(fd, True)
            continue
        if kind != "pid":
            syscalls.setns(fd, syscalls.NAMESPACE_FLAGS[kind])
        os.close(fd)
    if flags:
        syscalls.unshare(flags)
    if "mount" in plan.make:
        syscalls.mount("", "/", "", syscalls.MS_REC | syscalls.MS_SLAVE)
    if "uts" in plan.make:
        if plan.hostname:
            _write("/proc/sys/kernel/hostname", plan.hostname)
        if plan.domainname:
            _write("/proc/sys/kernel/domainname", plan.domainname)


def _reset(plan: ProxyPlan) -> None:
    """Undo what a process inherits and exec keeps. Lowering the OOM score needs a capability: best effort."""
    for number in range(1, 65):
        if number not in (9, 19, 32, 33):
            _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    os.umask(0o022)
    os.chdir("/")
    if plan.oom_score is not None:
        try:
            _write("/proc/self/oom_score_adj", str(plan.oom_score))
        except OSError:
            return


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
