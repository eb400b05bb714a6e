#!/usr/bin/python3 -I
"""OCI hook, stage poststart: write the packets of a pod that asks for it into a file, until the pod ends.

    capture.py [--annotation NAME] [--directory DIR] [--max-mib N] [--ready-s N]
                                                                the container's state on standard input

The annotation's value is `true` (the pod's first interface) or the name of one of its interfaces, and nothing else: it
comes from whoever wrote the pod. The file is DIR/<container id>.pcap, then <container id>.2.pcap and so on; tcpdump may
write N MiB. A supervisor of its own ends tcpdump when the container's process ends, so nothing depends on a later hook.
Works with any runtime; refuses the network namespace of the host.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import resource
import select
import signal
import stat
import subprocess
import sys
import time
from typing import NoReturn

MAX_STATE_BYTES = 4 << 20
MAX_FILES = 100
MAX_NEWS_BYTES = 4096
STOP_S = 5
# What the supervisor may take beside tcpdump before it is given up.
MARGIN_S = 2 * STOP_S
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,200}")
_INTERFACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,14}")


class Refused(Exception):
    """Why nothing is captured; the message goes to the runtime's log."""


def main() -> int:
    """Start the capture and return once it hears packets; 1 when it cannot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--annotation", default="io.vmpod.capture")
    parser.add_argument("--directory", default="/var/log/vmpod/captures")
    parser.add_argument("--max-mib", type=int, default=64)
    parser.add_argument("--ready-s", type=float, default=10)
    options = parser.parse_args()
    try:
        container_id, pid, value = read_state(sys.stdin.buffer.read(MAX_STATE_BYTES + 1), options.annotation)
        if value in ("", "false"):
            return 0
        start(container_id, pid, value, options)
    except (Refused, OSError, ValueError) as error:
        print(f"capture: {error}", file=sys.stderr)
        return 1
    return 0


def read_state(document: bytes, annotation: str) -> tuple[str, int, str]:
    """Container id, pid and the annotation's value, "" where it is not set. Raises Refused for what is no state."""
    if len(document) > MAX_STATE_BYTES:
        raise Refused("the state on standard input is too long")
    try:
        state = json.loads(document)
        container_id, pid = state["id"], state["pid"]
        value = (state.get("annotations") or {}).get(annotation, "")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(f"no container state on standard input: {error!r}") from error
    if not isinstance(container_id, str) or not _ID.fullmatch(container_id):
        raise Refused("the state's id is no container id")
    if not isinstance(pid, int) or pid < 2:
        raise Refused(f"container {container_id} has no process")
    if not isinstance(value, str) or (value and not _INTERFACE.fullmatch(value)):
        raise Refused(f'annotation {annotation}: must be "true" or the name of an interface')
    return container_id, pid, value


def start(container_id: str, pid: int, value: str, options: argparse.Namespace) -> None:
    """Start tcpdump in the namespace of a process, and a supervisor that outlives this program.

    Raises Refused, and leaves neither process nor file then.
    """
    process = os.pidfd_open(pid)
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    interface = choose_interface(pid, value)
    if select.select([process], [], [], 0)[0]:
        raise Refused(f"container {container_id} has ended")
    # The descriptors are those of that process, as it was alive after they had been opened.
    if is_of_host(namespace):
        raise Refused(f"container {container_id} uses the network of the host, which is not captured")
    path, output = open_output(options.directory, container_id)
    news, ours = os.pipe()
    supervisor = os.fork()
    if supervisor == 0:
        supervise(process, namespace, interface, output, options.max_mib << 20, options.ready_s, ours)
    os.close(ours)
    ready, _, _ = select.select([news], [], [], options.ready_s + MARGIN_S)
    problem = os.read(news, MAX_NEWS_BYTES).decode("utf-8", "replace") if ready else ""
    if problem != "ready":
        end_session(supervisor)
        os.unlink(path)
        raise Refused(f"interface {interface}: {problem or 'tcpdump did not start'}")


def end_session(leader: int) -> None:
    """Kill a child of ours and, where it leads a session already, whatever is in it."""
    os.kill(leader, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)
    os.waitpid(leader, 0)


def is_of_host(namespace: int) -> bool:
    """Whether a network namespace is that of this program or, as far as it may be looked at, of process 1."""
    for other in ("self", "1"):
        with contextlib.suppress(PermissionError):
            if os.path.samestat(os.fstat(namespace), os.stat(f"/proc/{other}/ns/net")):
                return True
    return False


def choose_interface(pid: int, value: str) -> str:
    """An interface of the process's namespace: the named one, or the first that is neither lo nor vmpod's own tap."""
    with open(f"/proc/{pid}/net/dev", encoding="utf-8", errors="replace") as file:
        names = [line.partition(":")[0].strip() for line in file.readlines()[2:]]
    if value == "true":
        names = [name for name in names if name != "lo" and not name.startswith("vmtap")]
        if not names:
            raise Refused("the pod has no interface")
        return names[0]
    if value not in names:
        raise Refused(f"the pod has no interface {value}")
    return value


def open_output(directory: str, container_id: str) -> tuple[str, int]:
    """A new file in a directory that belongs to root alone; an existing file is never written to."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        found = os.fstat(place)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
            raise Refused(f"{directory} can be written to by others")
        for number in range(1, MAX_FILES + 1):
            name = f"{container_id}.pcap" if number == 1 else f"{container_id}.{number}.pcap"
            try:
                fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600, dir_fd=place)
            except FileExistsError:
                continue
            return os.path.join(directory, name), fd
    finally:
        os.close(place)
    raise Refused(f"{directory} has {MAX_FILES} captures of container {container_id} already")


def supervise(
    process: int, namespace: int, interface: str, output: int, max_bytes: int, ready_s: float, news: int
) -> NoReturn:
    """The child: run tcpdump until it or the container's process ends. Holds none of the runtime's descriptors."""
    try:
        os.setsid()
        os.chdir("/")
        null = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(null, number)
        command = ["nsenter", f"--net=/proc/self/fd/{namespace}", "tcpdump", "-i", interface, "-n", "-U", "-w", "-"]
        tcpdump = subprocess.Popen(
            [*command, "--immediate-mode"],
            stdin=null,
            stdout=output,
            stderr=subprocess.PIPE,
            pass_fds=(namespace,),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, max_bytes)),
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
        )
        # Held by tcpdump alone: the namespace must be able to end, and so must the file.
        for fd in (namespace, output):
            os.close(fd)
        assert tcpdump.stderr is not None
        problem = wait_ready(process, tcpdump.stderr.fileno(), ready_s)
        if problem:
            tcpdump.kill()
            tcpdump.wait()
        os.write(news, problem.encode()[:MAX_NEWS_BYTES] or b"ready")
        os.close(news)
        if not problem:
            wait_for_end(process, tcpdump)
    except OSError as error:
        os.write(news, str(error).encode()[:MAX_NEWS_BYTES])
    finally:
        os._exit(0)


def wait_ready(process: int, errors: int, ready_s: float) -> str:
    """Wait until tcpdump says that it listens; return "" then, else what it says, or why nobody waits any longer."""
    end = time.monotonic() + ready_s
    seen = b""
    while b"listening on" not in seen:
        ready, _, _ = select.select([errors, process], [], [], max(0.0, end - time.monotonic()))
        if process in ready:
            return "the container has ended"
        if not ready:
            return f"tcpdump did not start within {ready_s:g} s"
        data = os.read(errors, MAX_NEWS_BYTES)
        seen = (seen + data)[-MAX_NEWS_BYTES:]
        if not data:
            lines = seen.decode("utf-8", "replace").splitlines()[-3:]
            return " ".join(line.strip() for line in lines) or "tcpdump ended"
    return ""


def wait_for_end(process: int, tcpdump: subprocess.Popen[bytes]) -> None:
    """Return when tcpdump has ended; ask it to when the container's process has."""
    capture = os.pidfd_open(tcpdump.pid)
    ended, _, _ = select.select([process, capture], [], [])
    if capture not in ended:
        tcpdump.send_signal(signal.SIGTERM)
        if not select.select([capture], [], [], STOP_S)[0]:
            tcpdump.kill()
    tcpdump.wait()


if __name__ == "__main__":
    sys.exit(main())
