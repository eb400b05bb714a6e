"""Leave a process behind that inherits nothing from the command that starts it.

The caller of a verb waits for end-of-file on its pipes, signals its process group, and counts its cgroup: a daemon must
be in none of them. It is the command's child while that lasts, so that the command can tell how it ended.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select

from oci_runtime.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Iterable, Mapping, Sequence
    from typing import NoReturn
else:
    import _signal

_MAX_REPORT_BYTES = 4096
_SIGNALS = tuple(number for number in range(1, 65) if number not in (9, 19, 32, 33))


def start_daemon(
    argv: Sequence[str],
    fds: Mapping[str, int],
    *,
    output: int,
    cgroup_procs: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    held: Iterable[int] = (),
) -> int:
    """Start a daemon, the leader of a session of its own, and return its pid.

    argv: argv[0] is a path; for each entry of `fds` the words `--NAME-fd NUMBER` are appended. output: descriptor of
    its standard output and error; standard input is /dev/null. cgroup_procs: files to join, failures are ignored.
    held: signals that are blocked from its first instruction on, until it can act on them.
    Raises HostError when it cannot be executed; `describe_end` tells what happens to it later.
    """
    report, theirs = os.pipe2(os.O_CLOEXEC)
    # The child must not run the command's handlers: until it has its own, signals wait.
    before = _signal.pthread_sigmask(_signal.SIG_BLOCK, _SIGNALS)
    try:
        pid = os.fork()
        if pid == 0:
            _become(argv, fds, output, cgroup_procs, environ, held, theirs)
    except OSError as error:
        os.close(report)
        raise HostError.from_oserror(error, "fork for", argv[0]) from error
    finally:
        _signal.pthread_sigmask(_signal.SIG_SETMASK, before)
        os.close(theirs)
    with os.fdopen(report, "rb") as file:
        number, _, words = file.read(_MAX_REPORT_BYTES).decode("utf-8", "replace").partition(" ")
    if number:
        os.waitpid(pid, 0)
        raise HostError("start", argv[0], int(number), hint=words)
    return pid


def describe_end(pid: int, timeout_s: float) -> str:
    """How a daemon of this process has ended, "" for one that still runs after `timeout_s`, or is not its child."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return ""
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(timeout_s * 1000)
        ended, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return ""
    finally:
        os.close(pidfd)
    if not ended:
        return ""
    code = os.waitstatus_to_exitcode(status)
    return f"killed by signal {-code}" if code < 0 else f"exit status {code}"


def _become(
    argv: Sequence[str],
    fds: Mapping[str, int],
    output: int,
    cgroup_procs: Sequence[str],
    environ: Mapping[str, str] | None,
    held: Iterable[int],
    report: int,
) -> NoReturn:
    """Everything between fork and exec. Whatever fails is reported: nothing ends here without a word."""
    try:
        os.setsid()
        report = _arrange(fds, output, report)
        _leave(cgroup_procs, held)
        numbers = [word for index, name in enumerate(fds) for word in (f"--{name}-fd", str(3 + index))]
        os.execve(argv[0], [*argv, *numbers], dict(os.environ if environ is None else environ))
    except OSError as error:
        os.write(report, b"%d" % (error.errno or errno.EIO))
    except BaseException as error:  # noqa: BLE001 - the command must not take it for success
        os.write(report, f"{errno.EINVAL} {error!r}".encode("utf-8", "replace")[:_MAX_REPORT_BYTES])
    finally:
        os._exit(127)
    raise AssertionError("unreachable")


def _arrange(fds: Mapping[str, int], output: int, report: int) -> int:
    """Give each descriptor its number: 0-2 standard, then those of `fds` from 3 on; close all others."""
    above = 3 + len(fds)
    report = fcntl.fcntl(report, fcntl.F_DUPFD_CLOEXEC, above)
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in (null, output, output, *fds.values())]
    for target, copy in enumerate(copies):
        os.dup2(copy, target, inheritable=True)
    for low, high in ((above, report), (report + 1, 1 << 20)):
        os.closerange(low, high)
    return report


def _leave(cgroup_procs: Sequence[str], held: Iterable[int]) -> None:
    """Leave what else is inherited: directory, signals, mask, OOM score, cgroup."""
    os.chdir("/")
    os.umask(0o077)
    for number in _SIGNALS:
        _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, held)
    for path, text in (("/proc/self/oom_score_adj", "0"), *((path, "0") for path in cgroup_procs)):
        try:
            with open(path, "w", encoding="ascii") as file:
                file.write(text)
        except OSError:
            continue
