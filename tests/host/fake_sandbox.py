"""A sandbox process without a virtual machine: it speaks the control protocol and runs plain processes of the host.

Takes the arguments of the real one (`--boot-fd --lock-fd --listen-fd`). Annotations of a bundle inject failures:
`fake.create` = `refuse` (answers with an error), `die` (exits without a word), `explain` (leaves error.json and exits),
`hang` (never answers), `ending` (says once that the pod is at its end, and ends); `fake.boot_s` delays the first
answer; `fake.delete` = `hang` never answers a delete, `fake.kill` = `die` exits instead of answering a kill.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import queue
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from typing import Any

from oci_runtime.control import frames, stream
from oci_runtime.errors import InvalidInput, NotFound, OciRuntimeError, Unavailable, WrongState
from oci_runtime.host.processes import start_time
from oci_runtime.host.terminal import set_window_size
from oci_runtime.state import records
from oci_runtime.state.layout import Layout
from oci_runtime.state.sandboxes import SandboxRecord


class Process:
    """A process of the host with its streams; `exited` is set once `code` is known."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.terminal = bool(document.get("terminal"))
        self.started = threading.Event()
        self.exited = threading.Event()
        self.code = -1
        self.stdin = -1
        size = document.get("consoleSize") or {}
        self.size = (int(size.get("height", 0)), int(size.get("width", 0)))
        self.outputs: dict[int, int] = {}
        self.popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run it. Raises NotFound with runc's words for a missing program."""
        child_ends = self._open_streams()
        try:
            self.popen = popen = subprocess.Popen(
                self.document["args"],
                env=dict(entry.partition("=")[::2] for entry in self.document.get("env", [])),
                cwd=self.document.get("cwd") or "/",
                stdin=child_ends[0],
                stdout=child_ends[1],
                stderr=child_ends[2],
                start_new_session=True,
                preexec_fn=(lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0)) if self.terminal else None,
            )
        except OSError as error:
            self.finish(127)
            raise NotFound(f'exec: "{self.document["args"][0]}": executable file not found in $PATH') from error
        finally:
            for fd in set(child_ends):
                os.close(fd)
        self.started.set()
        # Ends the workload with this process, as the end of a machine would.
        watch = f"read line || kill -9 -{popen.pid}"
        watcher = subprocess.Popen(["sh", "-c", watch], stdin=subprocess.PIPE, start_new_session=True)
        threading.Thread(target=self._wait, args=(popen, watcher), daemon=True).start()

    def _open_streams(self) -> list[int]:
        if self.terminal:
            master, slave = pty.openpty()
            self.stdin = master
            self.outputs = {stream.STDOUT: master}
            set_window_size(master, *self.size)
            return [slave, slave, slave]
        pipes = [os.pipe() for _ in range(3)]
        self.stdin = pipes[0][1]
        self.outputs = {stream.STDOUT: pipes[1][0], stream.STDERR: pipes[2][0]}
        return [pipes[0][0], pipes[1][1], pipes[2][1]]

    def _wait(self, popen: subprocess.Popen[bytes], watcher: subprocess.Popen[bytes]) -> None:
        code = popen.wait()
        watcher.communicate(b"ended\n")
        self.finish(code if code >= 0 else 128 - code)

    def resize(self, rows: int, columns: int) -> None:
        """Set the terminal's size, now or when there is one."""
        self.size = (rows, columns)
        if self.stdin >= 0:
            set_window_size(self.stdin, rows, columns)

    def finish(self, code: int) -> None:
        """Note the end."""
        self.code = code
        self.started.set()
        self.exited.set()

    def signal(self, number: int) -> None:
        """Send a signal; one to a process that has not been started ends it if it would be fatal."""
        if self.popen is None:
            if number in (signal.SIGKILL, signal.SIGTERM):
                self.finish(128 + number)
        elif not self.exited.is_set():
            self.popen.send_signal(number)


class Pod:
    """Everything the fake knows."""

    def __init__(self, boot: dict[str, Any], listener: socket.socket) -> None:
        self.boot = boot
        self.layout = Layout(boot["root"])
        self.listener = listener
        self.processes: dict[tuple[str, str], Process] = {}
        self.changed = threading.Condition()
        self.creating: set[str] = set()
        self.sources: dict[str, list[dict[str, Any]]] = {}
        self.annotations: dict[str, dict[str, str]] = {}

    # Operations

    def op_create(self, request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        self.creating.add(request["id"])
        try:
            return self._create(request, fds)
        finally:
            self.creating.discard(request["id"])

    def _create(self, request: dict[str, Any], fds: list[int]) -> dict[str, Any]:
        annotations = request["spec"].get("annotations") or {}
        time.sleep(float(annotations.get("fake.boot_s", "0")))
        failure = annotations.get("fake.create", "")
        if failure == "refuse":
            raise InvalidInput("the guest refuses this container", detail="last words\nof the console")
        if failure == "explain":
            with open(os.path.join(self.boot["directory"], "error.json"), "w") as file:
                json.dump({"kind": "NotFound", "message": "guest image is missing", "detail": "why"}, file)
        marker = self.layout.root + ".ended"
        if failure == "ending" and not os.path.exists(marker):
            open(marker, "w").close()
            threading.Timer(0.3, os._exit, (0,)).start()
            raise WrongState("cannot create the container: its sandbox is not running any more")
        if failure in ("die", "explain", "killed", "hang up"):
            print("the fake sandbox dies", flush=True)
            if failure == "hang up":
                raise ConnectionError("the end of this connection")
            if failure == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(1)
        while failure == "hang":
            time.sleep(1)
        if len(fds) != len(request["fds"]) or {"kind": "rootfs"} not in request["fds"]:
            raise InvalidInput(f"descriptors {request['fds']} do not match {len(fds)}")
        self.sources[request["id"]] = request["fds"]
        self.annotations[request["id"]] = annotations
        self._add(request["id"], "", Process(request["spec"]["process"]))
        pid = request["pid"]
        created = {"status": "created", "creator": 0, "creator_start": 0}
        records.update(self.layout, request["id"], **created, pid=pid, pid_start=start_time(pid))
        path = self.layout.state_file(request["id"])
        with open(os.path.join(os.path.dirname(path), "written.json"), "w") as file:
            json.dump([os.stat(path).st_ino, os.stat(path).st_mtime_ns], file)
        return {"warnings": []}

    def _add(self, container_id: str, exec_id: str, process: Process) -> None:
        with self.changed:
            if (container_id, exec_id) in self.processes:
                raise InvalidInput(f"{container_id} exists")
            self.processes[container_id, exec_id] = process
            self.changed.notify_all()

    def _init(self, request: dict[str, Any]) -> Process:
        process = self.processes.get((request["id"], request.get("exec_id", "")))
        if process is None:
            raise NotFound(f"container {request['id']} does not exist")
        return process

    def op_start(self, request: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
        process = self._init(request)
        if process.started.is_set():
            raise WrongState("cannot start an already running container")
        process.start()
        records.update(self.layout, request["id"], status="running")
        threading.Thread(target=self._follow, args=(request["id"], process), daemon=True).start()
        return {}

    def _follow(self, container_id: str, process: Process) -> None:
        process.exited.wait()
        records.update(self.layout, container_id, status="stopped", exit_code=process.code)

    def op_exec(self, request: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
        self._init({"id": request["id"]})
        process = Process(request["process"])
        process.start()
        self._add(request["id"], request["exec_id"], process)
        assert process.popen is not None
        return {"pid": process.popen.pid}

    def op_kill(self, request: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
        process = self._init(request)
        if self.annotations[request["id"]].get("fake.kill") == "die":
            os._exit(1)
        if process.exited.is_set():
            raise WrongState("container not running")
        process.signal(request["signal"])
        if process.exited.is_set():
            records.update(self.layout, request["id"], status="stopped", exit_code=process.code)
        return {}

    def op_delete(self, request: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
        if request["id"] in self.creating:
            # A thread cannot be cancelled: here a creation ends with its pod.
            return {"exit_code": 137, **self.op_shutdown(request, []), "last": True}
        process = self._init(request)
        while self.annotations[request["id"]].get("fake.delete") == "hang":
            time.sleep(1)
        if not process.exited.is_set():
            if not request.get("force"):
                raise WrongState("cannot delete a container that is not stopped")
            process.signal(signal.SIGKILL)
            process.exited.wait(10)
        for key in [key for key in self.processes if key[0] == request["id"]]:
            self.processes.pop(key).signal(signal.SIGKILL)
        last = not self.processes
        if last:
            threading.Timer(0.1, os._exit, (0,)).start()
        return {"exit_code": process.code, "last": last}

    def op_state(self, request: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
        return {"status": "stopped" if self._init(request).exited.is_set() else "running"}

    def op_ps(self, request: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
        process = self._init(request)
        pid = process.popen.pid if process.popen else 0
        row = {"pid": pid, "ppid": 1, "uid": 0, "command": " ".join(process.document["args"]), "user": "root"}
        return {"processes": [row]}

    def op_pause(self, request: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
        self._init(request).signal(signal.SIGSTOP)
        records.update(self.layout, request["id"], status="paused")
        return {}

    def op_resume(self, request: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
        self._init(request).signal(signal.SIGCONT)
        records.update(self.layout, request["id"], status="running")
        return {}

    def op_update(self, request: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
        self._init(request)
        with open(os.path.join(self.boot["directory"], "updated.json"), "w") as file:
            json.dump(request["resources"], file)
        return {"warnings": ["cannot change the moon"]}

    def op_stats(self, request: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
        self._init(request)
        return {"stats": {"cpu": {"usage": {"total": 5}}, "memory": {"usage": {"usage": 4096}}, "pids": {"current": 1}}}

    def op_info(self, _request: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
        created = [{"id": name, "status": "created"} for name in sorted({key[0] for key in self.processes})]
        creating = [{"id": name, "status": "creating"} for name in sorted(self.creating)]
        return {"info": {"sandbox_id": self.boot["sandbox_id"]}, "containers": created + creating}

    def op_timeline(self, _request: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
        return {"phases": [{"name": "boot", "start_ms": 0.0, "duration_ms": 12.5}]}

    def op_network(self, request: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
        return {"request": request}

    def op_shutdown(self, _request: dict[str, Any], _fds: list[int]) -> dict[str, Any]:
        for process in self.processes.values():
            process.signal(signal.SIGKILL)
        threading.Timer(0.1, os._exit, (0,)).start()
        return {}

    # Connections

    def serve(self) -> None:
        """Accept for ever."""
        while True:
            sock, _ = self.listener.accept()
            threading.Thread(target=self._serve_connection, args=(sock,), daemon=True).start()

    def _serve_connection(self, sock: socket.socket) -> None:
        with contextlib.suppress(Unavailable), sock:
            while True:
                request, fds = frames.receive_frame(sock)
                op = request.pop("op")
                if op == "attach":
                    self._attach(sock, request)
                    return
                if op == "events":
                    frames.send_frame(sock, {"ok": True})
                    frames.send_frame(sock, {"kind": "oom", "id": request["id"], "exec_id": ""})
                    self._init(request).exited.wait()
                    frames.send_frame(sock, {"kind": "exit", "id": request["id"], "exec_id": ""})
                    return
                try:
                    answer = {"ok": True, **getattr(self, f"op_{op}")(request, fds)}
                except OciRuntimeError as error:
                    reason = {"kind": error.kind, "message": error.message, "detail": error.detail}
                    answer = {"error": reason}
                finally:
                    for fd in fds:
                        os.close(fd)
                frames.send_frame(sock, answer)

    def _attach(self, sock: socket.socket, request: dict[str, Any]) -> None:
        key = (request["id"], request.get("exec_id", ""))
        with self.changed:
            if not self.changed.wait_for(lambda: key in self.processes, 30):
                return
            process = self.processes[key]
        frames.send_frame(sock, {"ok": True})
        Stream(sock, process).run()


class Stream:
    """The stream of one process, with a thread per direction."""

    def __init__(self, sock: socket.socket, process: Process) -> None:
        self.sock = sock
        self.process = process
        self.lock = threading.Lock()
        self.input: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def run(self) -> None:
        threading.Thread(target=self._read_proxy, daemon=True).start()
        threading.Thread(target=self._feed, daemon=True).start()
        self.process.started.wait()
        pumps = [
            threading.Thread(target=self._pump, args=(kind, fd), daemon=True)
            for kind, fd in self.process.outputs.items()
        ]
        for pump in pumps:
            pump.start()
        for pump in pumps:
            pump.join()
        self.process.exited.wait()
        self._send(stream.encode_exit(self.process.code))

    def _send(self, frame: bytes) -> None:
        with self.lock, contextlib.suppress(OSError):
            self.sock.sendall(frame)

    def _pump(self, kind: int, fd: int) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(fd, 1 << 16):
                self._send(stream.encode(kind, data))

    def _read_proxy(self) -> None:
        decoder = stream.StreamDecoder()
        with contextlib.suppress(OSError):
            while data := self.sock.recv(1 << 16):
                for kind, payload in decoder.feed(data):
                    self._handle(kind, payload)
        if not self.process.exited.is_set():
            self.process.signal(signal.SIGKILL)

    def _handle(self, kind: int, payload: bytes) -> None:
        process = self.process
        if kind == stream.SIGNAL:
            process.signal(stream.decode_number(payload))
            return
        if kind in (stream.STDIN, stream.STDIN_EOF):
            self.input.put(payload)
        elif kind == stream.WINDOW and process.terminal:
            process.resize(*stream.decode_window(payload))

    def _feed(self) -> None:
        """Write input as fast as the process takes it; an empty piece is its end."""
        process = self.process
        process.started.wait()
        while payload := self.input.get():
            with contextlib.suppress(OSError):
                view = memoryview(payload)
                while view:
                    view = view[os.write(process.stdin, view) :]
            self._send(stream.encode_credit(len(payload)))
        if not process.terminal:
            os.close(process.stdin)


def main() -> None:
    """Serve one pod."""
    words = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    fds = {name: int(value) for name, value in words.items() if name.endswith("-fd")}
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.pthread_sigmask(
        signal.SIG_SETMASK, ()
    )  # the command holds SIGTERM back; our processes must not inherit that
    with os.fdopen(fds["--boot-fd"]) as file:
        boot = json.load(file)
    record = SandboxRecord.load(boot["directory"])
    assert record is not None
    record.values |= {"pid": os.getpid(), "pid_start": start_time(os.getpid())}
    record.save()
    Pod(boot, socket.socket(fileno=fds["--listen-fd"])).serve()


if __name__ == "__main__":
    main()
