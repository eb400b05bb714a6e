"""A file system of the host that a process serves, as network file systems are: one directory with one file in memory.

The kernel's FUSE protocol, as much of it as one file needs. Like sshfs and its kin it may let in nobody but its user,
and its server may go away while it is mounted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import stat
import struct
import threading
from pathlib import Path

from oci_runtime.host import syscalls

FILE = "file"
_ROOT, _FILE = 1, 2
_BUFFER_BYTES = 1 << 20
_WRITE_BYTES = 64 << 10
_IN, _OUT = struct.Struct("<IIQQIIII"), struct.Struct("<IiQ")
_LOOKUP, _FORGET, _GETATTR, _SETATTR, _OPEN, _READ, _WRITE, _STATFS = 1, 2, 3, 4, 14, 15, 16, 17
_RELEASE, _FLUSH, _INIT, _OPENDIR, _READDIR, _RELEASEDIR, _INTERRUPT, _BATCH_FORGET = 18, 25, 26, 27, 28, 29, 36, 42
_SIZE_IS_SET = 1 << 3


class FuseLab:
    """Mounted as soon as it is made. uid: whose it is. options: of the mount, such as allow_other."""

    def __init__(self, point: Path, content: bytes, *, uid: int = 0, options: str = "") -> None:
        self.point = point
        self.content = bytearray(content)
        self._uid = uid
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_NONBLOCK)
        self._stop = os.eventfd(0)
        self._hangs = threading.Event()
        self.waiting = False  # somebody waits for a server that hangs
        more = f",{options}" if options else ""
        data = f"fd={self._device},rootmode=40000,user_id={uid},group_id=0{more}"
        syscalls.mount("lab", str(point), "fuse.lab", 0, data)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def hang(self) -> None:
        """Take one more request and answer nothing: who sent it waits, even when killed, until the server vanishes."""
        self._hangs.set()

    def vanish(self) -> None:
        """End the server: whoever uses the file system gets ENOTCONN from now on."""
        os.eventfd_write(self._stop, 1)
        self._thread.join(10)

    def close(self) -> None:
        """Unmount, and end the server."""
        syscalls.umount(str(self.point), syscalls.MNT_DETACH)
        self.vanish()
        os.close(self._stop)

    def _serve(self) -> None:
        """Answer requests until the end; closing the device ends the connection with the kernel."""
        try:
            while self._stop not in select.select([self._device, self._stop], [], [])[0] and self._serve_one():
                if self._hangs.is_set():
                    select.select([self._device, self._stop], [], [])
                    self.waiting = self._take()
                    select.select([self._stop], [], [])
        finally:
            os.close(self._device)

    def _take(self) -> bool:
        """Read a request without an answer; False if there is none."""
        try:
            return bool(os.read(self._device, _BUFFER_BYTES))
        except OSError:
            return False

    def _serve_one(self) -> bool:
        """Answer a request; False when nobody can ask any more."""
        try:
            request = os.read(self._device, _BUFFER_BYTES)
        except OSError as error:
            return error.errno not in (errno.ENODEV, errno.ECONNABORTED)  # else it was taken back
        _, opcode, unique, node, *_ = _IN.unpack_from(request)
        if opcode in (_FORGET, _BATCH_FORGET, _INTERRUPT):
            return True
        answer = self._answer(opcode, node, request[_IN.size :])
        number, data = (answer, b"") if isinstance(answer, int) else (0, answer)
        with contextlib.suppress(OSError):  # whoever asked is gone
            os.write(self._device, _OUT.pack(_OUT.size + len(data), -number, unique) + data)
        return True

    def _answer(self, opcode: int, node: int, body: bytes) -> bytes | int:
        """The body of an answer, or the number of an error."""
        if opcode == _INIT:
            return struct.pack("<IIIIHHII", 7, 31, 0, 0, 8, 8, _WRITE_BYTES, 1).ljust(64, b"\0")
        if opcode == _LOOKUP:
            if body.rstrip(b"\0") != FILE.encode():
                return errno.ENOENT
            return struct.pack("<QQQQII", _FILE, 0, 0, 0, 0, 0) + self._attributes(_FILE)
        if opcode == _SETATTR and struct.unpack_from("<I", body)[0] & _SIZE_IS_SET:
            size = struct.unpack_from("<Q", body, 16)[0]
            self.content[:] = self.content[:size].ljust(size, b"\0")
        if opcode in (_GETATTR, _SETATTR):
            return struct.pack("<QII", 0, 0, 0) + self._attributes(node)
        if opcode in (_OPEN, _OPENDIR):
            return struct.pack("<QII", 0, 0, 0)
        if opcode in (_RELEASE, _RELEASEDIR, _FLUSH):
            return b""
        if opcode == _STATFS:
            return struct.pack("<5Q4I", 1000, 500, 500, 10, 8, 4096, 255, 4096, 0).ljust(80, b"\0")
        return self._transfer(opcode, body)

    def _transfer(self, opcode: int, body: bytes) -> bytes | int:
        if opcode not in (_READ, _WRITE, _READDIR):
            return errno.ENOSYS
        _, start, size = struct.unpack_from("<QQI", body)
        if opcode == _READ:
            return bytes(self.content[start : start + size])
        if opcode == _WRITE:
            self.content.extend(bytes(max(0, start - len(self.content))))
            self.content[start : start + size] = body[40 : 40 + size]
            return struct.pack("<II", size, 0)
        names = [(_ROOT, "."), (_ROOT, ".."), (_FILE, FILE)]
        entries = b""
        for number, (node, name) in enumerate(names[start:], start + 1):
            kind = 4 if node == _ROOT else 8
            entry = struct.pack("<QQII", node, number, len(name), kind) + name.encode()
            entries += entry.ljust(-(-len(entry) // 8) * 8, b"\0")
        return entries

    def _attributes(self, node: int) -> bytes:
        mode = stat.S_IFDIR | 0o755 if node == _ROOT else stat.S_IFREG | 0o644
        size = 0 if node == _ROOT else len(self.content)
        times = (1, 1, 1, 0, 0, 0)
        return struct.pack("<6Q10I", node, size, 1, *times, mode, 1, self._uid, 0, 0, 4096, 0)
