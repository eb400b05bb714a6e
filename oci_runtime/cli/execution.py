"""The process of an `exec`: from its description to the moment when somebody relays its streams."""

from __future__ import annotations

import json
import os

from oci_runtime.bundle.capabilities import warn_of_unknown
from oci_runtime.bundle.decode import decode_process
from oci_runtime.bundle.load import read_json_object
from oci_runtime.cli import context as lookup
from oci_runtime.cli import texts
from oci_runtime.cli.options import UsageError, parse_int
from oci_runtime.cli.stopping import shield
from oci_runtime.control.client import Absent, Client
from oci_runtime.control.frames import ConnectionLost, Silent
from oci_runtime.errors import InvalidInput, WrongState
from oci_runtime.host.files import write_atomic
from oci_runtime.host.processes import is_alive
from oci_runtime.state.records import PAUSED, STOPPED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Parsed
    from oci_runtime.proxy.launch import Proxy
    from oci_runtime.state.records import ContainerRecord

PROCESS_FILE = "process.json"
_CAPABILITY_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
# An exec under load in an emulated guest takes seconds; the sandbox process has a shorter deadline of its own.
_EXEC_TIMEOUT_S = 120.0
_NAMESPACES = ("network", "ipc", "uts", "pid", "cgroup", "mount", "user")


class Execution:
    """One exec in progress. process: the OCI process object that the guest gets.

    ignores_pause: in a paused container it begins when that is resumed, however long that takes, as with runc.
    """

    def __init__(
        self, context: Context, record: ContainerRecord, process: dict[str, Any], *, ignores_pause: bool = False
    ) -> None:
        self._ignores_pause = ignores_pause
        self.record = record
        self.process = process
        self.exec_id = os.urandom(8).hex()
        self._layout = context.layout
        self._directory = context.layout.sandbox(record.sandbox_id)

    @property
    def terminal(self) -> bool:
        """True when the process gets a terminal."""
        return bool(self.process.get("terminal"))

    def start(self) -> int:
        """Create and start the process in the guest; return the stream, which the process dies with.

        Raises NotFound with words about the program, and whatever the guest reports.
        """
        timeout_s = None if self._ignores_pause else _EXEC_TIMEOUT_S
        request = {"exec_id": self.exec_id, "process": self.process, "ignore_paused": self._ignores_pause}
        try:
            with Client.connect(self._directory, timeout_s) as client:
                with Client.connect(self._directory, timeout_s) as stream:
                    stream.begin_attach(self.record.id, self.exec_id)
                    client.call("exec", id=self.record.id, stdin=True, **request)
                    return stream.finish_attach()
        except Silent:
            raise
        except (Absent, ConnectionLost) as error:
            raise WrongState(f"{texts.NOT_RUNNING}: {self.record.id}, its virtual machine is gone") from error

    def start_detached(self, console_socket: str, pid_file: str) -> Proxy:
        """Start the process with a proxy of its own; the pid file comes last. After a failure nothing is left."""
        proxy = self._start_proxy(console_socket)
        try:
            proxy.wait_entered()
            if self.record.cgroups:
                from oci_runtime.cli.host_cgroup import join

                join(self.record.cgroups, proxy.pid)
            stream = self.start()
            try:
                proxy.hand_over(stream)
            finally:
                os.close(stream)
            if pid_file:
                write_atomic(pid_file, str(proxy.pid).encode(), 0o644, sync=False)
        except BaseException:
            shield()
            proxy.abandon()
            raise
        return proxy

    def _start_proxy(self, console_socket: str) -> Proxy:
        # An exec in the foreground does without these modules.
        from oci_runtime.cli.proxies import proxy_mark
        from oci_runtime.host.terminal import open_pty, send_master
        from oci_runtime.proxy.launch import ProxyPlan, start_proxy

        size = self.process.get("consoleSize") or {}
        master = slave = -1
        join = self._open_namespaces()
        try:
            if console_socket:
                master, slave = open_pty(int(size.get("height", 0)), int(size.get("width", 0)))
                send_master(console_socket, master)
            plan = ProxyPlan(
                self.process["args"], join=join, terminal=slave, mark=proxy_mark(self._layout, self.record.id)
            )
            return start_proxy(plan)
        finally:
            for fd in (master, slave, *join.values()):
                if fd >= 0:
                    os.close(fd)

    def _open_namespaces(self) -> dict[str, int]:
        """Open the namespaces that the container's own proxy is in, but for those of the host."""
        from oci_runtime.host import namespaces

        fds: dict[str, int] = {}
        pid = self.record.pid
        try:
            for kind in _NAMESPACES:
                fd = os.open(f"/proc/{pid}/ns/{namespaces.proc_name(kind)}", os.O_RDONLY | os.O_CLOEXEC)
                fds[kind] = fd
                if namespaces.is_own_namespace(fd, kind):
                    os.close(fds.pop(kind))
            if is_alive(pid, self.record.pid_start):
                return fds
            error: OSError | None = None
        except OSError as caught:
            error = caught
        for fd in fds.values():
            os.close(fd)
        raise WrongState(f"{texts.NOT_RUNNING}: {self.record.id}") from error


def check_status(record: ContainerRecord, *, ignore_paused: bool) -> None:
    """Raise WrongState unless a process can be started in the container."""
    status = record.actual_status()
    if status == STOPPED:
        raise WrongState(f"cannot exec in a stopped container: {texts.NOT_RUNNING}: {record.id}")
    if status == PAUSED and not ignore_paused:
        raise WrongState(f"cannot exec in a paused container: {record.id} (use --ignore-paused to override)")


def describe_process(context: Context, record: ContainerRecord, parsed: Parsed) -> dict[str, Any]:
    """Return the OCI process object: from --process, or the container's own changed by options.

    Raises UsageError, InvalidInput, NotFound.
    """
    path = parsed.get("process")
    if path:
        process = read_json_object(path)
    else:
        if len(parsed.rest) < 2:
            raise UsageError("requires a command, or --process FILE")
        process = _saved_process(context, record)
        process["args"] = parsed.rest[1:]
        process["terminal"] = parsed.has("tty")
        _apply_options(process, parsed)
    decode_process(process, path or "command line")
    return process


def _saved_process(context: Context, record: ContainerRecord) -> dict[str, Any]:
    """The process of the container as it was created: later changes of config.json do not count."""
    return read_json_object(os.path.join(context.layout.container(record.id), PROCESS_FILE))


def save_process(directory: str, process: dict[str, Any]) -> None:
    """Keep a container's process for later execs. Raises HostError."""
    write_atomic(os.path.join(directory, PROCESS_FILE), json.dumps(process).encode(), sync=False)


def _apply_options(process: dict[str, Any], parsed: Parsed) -> None:
    for key, option in (("cwd", "cwd"), ("apparmorProfile", "apparmor"), ("selinuxLabel", "process-label")):
        if parsed.get(option):
            process[key] = parsed.get(option)
    if parsed.has("no-new-privs"):
        process["noNewPrivileges"] = True
    process["env"] = [*(process.get("env") or ()), *parsed.get_all("env")]
    for warning in warn_of_unknown({"capabilities": {"--cap": parsed.get_all("cap")}}):
        lookup.warn(warning)
    for capability in parsed.get_all("cap"):
        sets = process.setdefault("capabilities", {})
        for name in _CAPABILITY_SETS:
            sets[name] = [*(sets.get(name) or ()), capability]
    process["user"] = user = dict(process.get("user") or {"uid": 0, "gid": 0})
    if parsed.given("user"):
        uid, _, gid = parsed.get("user").partition(":")
        user["uid"] = parse_int(uid, "--user")
        if gid:
            user["gid"] = parse_int(gid, "--user")
    groups = [parse_int(group, "--additional-gids") for group in parsed.get_all("additional-gids")]
    if groups:
        user["additionalGids"] = [*(user.get("additionalGids") or ()), *groups]


def check_terminal(parsed: Parsed, *, terminal: bool) -> None:
    """Raise InvalidInput for a combination of terminal, console socket and --detach that nobody could serve."""
    socket, detach = parsed.get("console-socket"), parsed.has("detach")
    if socket and not (detach and terminal):
        raise InvalidInput("cannot use console socket if vmpod will not detach or allocate tty")
    if terminal and detach and not socket:
        raise InvalidInput("cannot allocate tty if vmpod will detach without setting console socket")
