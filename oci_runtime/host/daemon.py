"""Leave a process behind that inherits nothing from the command that starts it.

The caller of a verb waits for end-of-file on its pipes, signals its process group, and counts its cgroup: a daemon must
be in none of them.
"""

from __future__ import annotations

import fcntl
import os

from oci_runtime.errors import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Mapping, Sequence
    from typing import NoReturn
else:
    import _signal

_MAX_REPORT_BYTES = 4096


def start_daemon(
    argv: Sequence[str],
    fds: Mapping[str, int],
    *,
    output: int,
    cgroup_procs: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> int:
    """Start a daemon and return its pid; it is no child of the caller.

    argv: argv[0] is a path; for each entry of `fds` the words `--NAME-fd NUMBER` are appended. output: descriptor of
    its standard output and error; standard input is /dev/null. cgroup_procs: files to join, failures are ignored.
    Raises HostError when it cannot be executed.
    """
    report, theirs = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _first_child(argv, fds, output, cgroup_procs, environ, theirs)
    os.close(theirs)
    os.waitpid(pid, 0)
    with os.fdopen(report, "rb") as file:
        number, _, failure = file.read(_MAX_REPORT_BYTES).partition(b"\n")
    if failure or not number:
        raise HostError("start", argv[0], int(failure or 0))
    return int(number)


def _first_child(
    argv: Sequence[str],
    fds: Mapping[str, int],
    output: int,
    cgroup_procs: Sequence[str],
    environ: Mapping[str, str] | None,
    report: int,
) -> NoReturn:
    """Become a session leader and fork again: the daemon is nobody's child and can never get a terminal."""
    try:
        os.setsid()
        pid = os.fork()
        if pid:
            os._exit(0)
        report = _arrange(fds, output, report)
        os.write(report, b"%d\n" % os.getpid())
        _leave(cgroup_procs)
        numbers = [word for index, name in enumerate(fds) for word in (f"--{name}-fd", str(3 + index))]
        os.execve(argv[0], [*argv, *numbers], dict(os.environ if environ is None else environ))
    except OSError as error:
        os.write(report, b"%d" % (error.errno or 0))
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


def _leave(cgroup_procs: Sequence[str]) -> None:
    """Leave what else is inherited: directory, signals, mask, OOM score, cgroup."""
    os.chdir("/")
    os.umask(0o077)
    for number in range(1, 65):
        if number not in (9, 19, 32, 33):
            _signal.signal(number, _signal.SIG_DFL)
    _signal.pthread_sigmask(_signal.SIG_SETMASK, ())
    for path, text in (("/proc/self/oom_score_adj", "0"), *((path, "0") for path in cgroup_procs)):
        try:
            with open(path, "w", encoding="ascii") as file:
                file.write(text)
        except OSError:
            continue
