"""Start virtiofsd for a share: the C one that Debian 12 has in QEMU's packages, or the Rust one of newer systems.

The listening socket is made, connected and unlinked here before the daemon starts: nobody else can connect, nothing is
left in the directory, and nobody waits for a socket file to appear. The daemon stays root (it serves files of every
owner) inside namespaces, a root directory and a seccomp filter of its own making.
"""

from __future__ import annotations

import errno
import functools
import os
import resource
import select
import socket
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from oci_runtime.errors import HostError, InvalidInput, NotFound, Unsupported
from oci_runtime.host import syscalls
from oci_runtime.host.processes import read_stat
from oci_runtime.host.spawn import Child, SpawnPlan, describe_exit, kill, kill_and_reap, reap, spawn
from oci_runtime.storage.virtiofsd_arguments import check_extra_arguments

CANDIDATES = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/lib/virtiofsd")
HINT = "apt install qemu-system-common on Debian 12, virtiofsd on newer systems"
CACHE_MODES = ("auto", "always", "never", "metadata")
_SOCKET_FD = 3
_FD_LIMIT = 1_000_000
_PROBE_BYTES = 4096
_STDERR_BYTES = 64 * 1024
_PROBE_DEADLINE_S = 5.0


@dataclass(frozen=True)
class VirtiofsdSettings:
    """path: the program, empty to search CANDIDATES. cache: auto (1 s of trust in attributes), always, never, or
    metadata (Rust only). threads: size of the request pool, 0 to serve requests one after the other. extra: further
    arguments of the configuration, which come last and so win."""

    path: str = ""
    cache: str = "auto"
    threads: int = 0
    posix_acl: bool = True
    extra: tuple[str, ...] = ()


@dataclass(frozen=True)
class VirtiofsdLaunch:
    """A running virtiofsd. socket: connected, for QEMU (`Machine.plug_share`); the caller closes it after the plug.

    files: how many descriptors it can have: about one for each file that the guest knows.
    stderr: the reading end of a pipe with its messages; what does not fit is lost, the daemon never waits for a reader.
    """

    child: Child
    socket: socket.socket
    stderr: int
    argv: tuple[str, ...]
    files: int

    @property
    def pid(self) -> int:
        return self.child.pid

    @property
    def pidfd(self) -> int:
        return self.child.pidfd

    def messages(self) -> str:
        """What the daemon has written since the last call."""
        try:
            return os.read(self.stderr, _STDERR_BYTES).decode("utf-8", "replace").strip()
        except BlockingIOError:
            return ""

    async def end(self) -> str:
        """Wait for the daemon's end and reap it; return how it ended and what it said last. Call once."""
        import asyncio  # the daemon is started before anything heavy is loaded

        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self.pidfd, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(self.pidfd)
        return f"{self.argv[0]}: {describe_exit(reap(self.child) or 0, self.messages())}"

    def kill(self) -> None:
        """SIGKILL and reap the daemon. Idempotent.

        So its child, which serves the files in namespaces of its own: by itself it would only get a SIGTERM then, for
        which it has no time while it waits for a file system that hangs.
        """
        servers = _children(self.child)
        kill_and_reap(self.child)
        for server in servers:
            kill(server)
            server.close()

    def close(self) -> None:
        """Close our ends; the process must have been reaped. Call once."""
        self.socket.close()
        os.close(self.stderr)
        self.child.close()


def launch_virtiofsd(
    served: Path, directory: Path, settings: VirtiofsdSettings | None = None, *, cgroup_procs: Sequence[str] = ()
) -> VirtiofsdLaunch:
    """Start virtiofsd on `served` (see Share). directory: of the sandbox, for the moment that the socket needs a name.

    Raises: NotFound (no virtiofsd; names the packages), InvalidInput, HostError. After a failure nothing is left.
    """
    settings = settings or VirtiofsdSettings()
    program = find_virtiofsd(settings.path)
    rust = is_rust(program)
    argv = plan_virtiofsd_argv(program, rust, str(served), settings)
    with ExitStack() as inherited, ExitStack() as on_failure:
        listener = socket.socket(socket.AF_UNIX)
        inherited.callback(listener.close)
        near = socket.socket(socket.AF_UNIX)
        on_failure.callback(near.close)
        _connect(listener, near, directory)
        stderr, stderr_far = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        on_failure.callback(os.close, stderr)
        inherited.callback(os.close, stderr_far)
        files = _fd_limit(argv)
        plan = SpawnPlan(
            argv=argv,
            fds={1: stderr_far, 2: stderr_far, _SOCKET_FD: listener.fileno()},
            environ={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            # What the guest's users make, QEMU's virtiofsd makes as them, but without their supplementary groups, and
            # so is refused where only one of these may write. Who may write is decided by the guest's kernel already.
            # The Rust one keeps its rights by itself.
            securebits=0 if rust else syscalls.SECBIT_NO_SETUID_FIXUP,
            umask=0,
            rlimits=((resource.RLIMIT_NOFILE, files, files), (resource.RLIMIT_CORE, 0, 0)),
            cgroup_procs=cgroup_procs,
            hint=HINT,
        )
        child = spawn(plan)
        on_failure.pop_all()
        return VirtiofsdLaunch(child, near, stderr, argv, files)


def plan_virtiofsd_argv(program: str, rust: bool, served: str, settings: VirtiofsdSettings) -> tuple[str, ...]:
    """Return the command line. Pure. Raises: InvalidInput, Unsupported.

    Submounts are not announced, which the Rust one would do by itself: the guest would mount each of them on its own in
    every container's mount namespace, and Linux 6.1 dies ("busy inodes after unmount", a BUG) when such a namespace
    ends while a file of it is being released.
    """
    if settings.cache not in CACHE_MODES:
        raise InvalidInput(f"virtiofsd cache {settings.cache!r}: not one of {', '.join(CACHE_MODES)}")
    if not 0 <= settings.threads <= 64:
        raise InvalidInput(f"virtiofsd threads = {settings.threads}: must be 0 to 64")
    if "," in served and not rust:
        raise InvalidInput(f"share {served}: virtiofsd cannot serve a path with a comma (choose another --root)")
    if settings.cache == "metadata" and not rust:
        raise Unsupported("virtiofsd cache 'metadata': QEMU's virtiofsd has only auto, always and never")
    pool = f"--thread-pool-size={settings.threads}"
    extra = check_extra_arguments(settings.extra, rust)
    if rust:
        options = [f"--shared-dir={served}", f"--fd={_SOCKET_FD}", "--sandbox=namespace", "--seccomp=kill"]
        options += [f"--cache={settings.cache}", "--xattr", "--log-level=error", "--no-announce-submounts", pool]
        return (program, *options, *(["--posix-acl"] if settings.posix_acl else []), *extra)
    cache = "none" if settings.cache == "never" else settings.cache
    options = [f"source={served}", "sandbox=namespace", f"cache={cache}", "xattr"]
    options += ["log_level=err", *(["posix_acl"] if settings.posix_acl else [])]
    return (program, f"--fd={_SOCKET_FD}", "-f", pool, "-o", ",".join(options), *extra)


def find_virtiofsd(configured: str = "") -> str:
    """Return the program's path. Raises: NotFound naming the packages."""
    places = (configured,) if configured else CANDIDATES
    for path in places:
        if os.access(path, os.X_OK):
            return path
    there = next(filter(os.path.exists, places), "")
    what = f"{there} is not executable" if there else f"not found at {', '.join(places)}"
    raise NotFound(f"virtiofsd: {what} ({HINT})")


@functools.cache
def is_rust(program: str) -> bool:
    """Tell the Rust virtiofsd (1.x) from QEMU's C one, which describes its FUSE interface and authors at --version.

    Asked once per program and process. Raises: HostError when the program does not answer.
    """
    if program == "/usr/lib/qemu/virtiofsd" and not os.path.islink(program):
        return False  # QEMU's own directory: no need to ask; since Debian 13 it has a link to the Rust one
    output, far = os.pipe2(os.O_CLOEXEC)
    try:
        child = spawn(SpawnPlan(argv=(program, "--version"), fds={1: far, 2: far}, hint=HINT))
    finally:
        os.close(far)
    try:
        text = _read_all(output, program)
    finally:
        os.close(output)
        kill_and_reap(child)
        child.close()
    return b"virtiofsd version" not in text


def _read_all(descriptor: int, program: str) -> bytes:
    text = b""
    while len(text) < _PROBE_BYTES:
        if not select.select([descriptor], [], [], _PROBE_DEADLINE_S)[0]:
            raise HostError("run", f"{program} --version", errno.ETIMEDOUT, hint=HINT)
        data = os.read(descriptor, _PROBE_BYTES)
        if not data:
            break
        text += data
    return text


def _children(parent: Child) -> list[Child]:
    """The children of a process; none of one that has been reaped, whose number may be somebody else's."""
    found: list[Child] = []
    with suppress(OSError):  # it, or a child, has ended meanwhile
        with open(f"/proc/self/fdinfo/{parent.pidfd}", encoding="ascii") as file:
            if f"\nPid:\t{parent.pid}\n" not in file.read():
                return found
        with open(f"/proc/{parent.pid}/task/{parent.pid}/children", encoding="ascii") as file:
            pids = file.read().split()
        for pid in map(int, pids):
            child = Child(pid, os.pidfd_open(pid))
            stat = read_stat(pid)
            if stat is not None and stat.parent == parent.pid:
                found.append(child)
            else:
                child.close()
    return found


def _connect(listener: socket.socket, near: socket.socket, directory: Path) -> None:
    """Join the two sockets through a name that exists only for this moment, reached by a path short enough for bind."""
    try:
        directory_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError.from_oserror(error, "open", str(directory)) from error
    path = f"/proc/self/fd/{directory_fd}/virtiofs.sock"
    try:
        _unlink(path)
        listener.bind(path)
        listener.listen(1)
        near.connect(path)
    except OSError as error:
        raise HostError.from_oserror(error, "make socket", str(directory / "virtiofs.sock")) from error
    finally:
        _unlink(path)
        os.close(directory_fd)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return


def _fd_limit(arguments: Sequence[str]) -> int:
    """One descriptor per file that the guest knows: as many as the host lets us have, unless an argument says less."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = _FD_LIMIT if hard == resource.RLIM_INFINITY else min(hard, _FD_LIMIT)
    given = [int(argument.partition("=")[2]) for argument in arguments if argument.startswith("--rlimit-nofile=")]
    return min(limit, *filter(None, given), limit)
