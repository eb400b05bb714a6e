"""Run in a container: file system operations in /work. Prints one JSON object, check by check; runs on any runtime."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import json
import mmap
import os
import random
import socket
import stat
import struct
import sys
from collections.abc import Callable, Sequence
from typing import Any

FILES = int(sys.argv[1])
SEEDS = int(sys.argv[2])
OPERATIONS = 400
_FALLOC_FL_KEEP_SIZE, _FALLOC_FL_PUNCH_HOLE, _FALLOC_FL_COLLAPSE_RANGE = 1, 2, 8
_RENAME_NOREPLACE, _RENAME_EXCHANGE, _RENAME_WHITEOUT = 1, 2, 4
_AT_FDCWD, _AT_SYMLINK_FOLLOW = -100, 0x400
_FS_IOC_GETFLAGS, _FS_IOC_SETFLAGS, _FS_NODUMP_FL = 0x80086601, 0x40086602, 0x40
_libc = ctypes.CDLL(None, use_errno=True)


def write(path: str, data: bytes = b"", mode: int = 0o644) -> str:
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, mode)
    os.write(descriptor, data)
    os.close(descriptor)
    return path


def read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def error(call: Callable[..., Any], *arguments: Any, **more: Any) -> str:
    """The name of the error that a call ends with."""
    try:
        call(*arguments, **more)
    except OSError as failure:
        return errno.errorcode[failure.errno or 0]
    return "fine"


def called(result: int) -> str:
    """The name of the error of a function of the C library, from what it returned."""
    return errno.errorcode[ctypes.get_errno()] if result < 0 else "fine"


def in_child(call: Callable[[], Any], uid: int = 0, groups: Sequence[int] = ()) -> str:
    """The output of a call in another process, as another user."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if not pid:
        if uid:
            os.setgroups(groups)
            os.setgid(uid)
            os.setuid(uid)
        try:
            result = str(call())
        except Exception as failure:  # noqa: BLE001 - whatever it is, the other process has to see it
            result = repr(failure)
        os.write(theirs, result.encode())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(theirs)
    with open(ours, "rb") as pipe:
        return pipe.read().decode()


def status(path: str) -> list[Any]:
    found = os.lstat(path)
    return [oct(found.st_mode), found.st_uid, found.st_gid, found.st_nlink, found.st_size]


def ownership() -> Any:
    write("owned")
    os.chown("owned", 1234, 5678)
    before = status("owned")
    os.chmod("owned", 0o6755)
    special = status("owned")
    os.chown("owned", 4321, 8765)
    os.mkdir("group", 0o2775)
    os.chown("group", 0, 777)
    os.chmod("group", 0o2775)
    write("group/inherits")
    os.mkdir("group/deeper")
    os.umask(0o027)
    write("masked", mode=0o666)
    os.umask(0o022)
    return [before, special, status("owned"), status("group/inherits"), status("group/deeper"), status("masked")]


def suid_is_lost_by_writing() -> Any:
    write("suid", b"x", 0o755)
    os.chown("suid", 1000, 1000)
    os.chmod("suid", 0o6755)
    in_child(lambda: write("suid", b"y"), uid=1000)
    return status("suid")


def permissions() -> Any:
    write("secret", b"x", 0o600)
    os.mkdir("sticky")
    os.chmod("sticky", 0o1777)
    write("sticky/roots")
    os.mkdir("closed", 0o700)
    write("closed/file")
    return [
        in_child(lambda: error(read, "secret"), 1000),
        in_child(lambda: error(os.unlink, "sticky/roots"), 1000),
        in_child(lambda: error(os.stat, "closed/file"), 1000),
        in_child(lambda: error(write, "sticky/mine"), 1000),
        in_child(lambda: error(os.chown, "secret", 1000, 1000), 1000),
        status("sticky/mine"),
    ]


def supplementary_groups() -> Any:
    """Directories of a group to which users belong by nothing else, as a volume with an fsGroup is."""
    for name, mode in (("of_members", 0o2770), ("of_members_alone", 0o770), ("of_all", 0o2777)):
        os.mkdir(name)
        os.chown(name, 0, 2000)
        os.chmod(name, mode)

    def make() -> list[Any]:
        results: list[Any] = []
        for where in ("of_members", "of_members_alone"):
            descriptor = os.open(f"{where}/set", os.O_CREAT | os.O_WRONLY, 0o2755)
            os.fchmod(descriptor, 0o2755)
            os.close(descriptor)
            results += [
                error(write, f"{where}/file"),
                error(os.mkdir, f"{where}/directory"),
                error(os.symlink, "file", f"{where}/link"),
                error(os.mkfifo, f"{where}/pipe"),
                error(os.mknod, f"{where}/null", stat.S_IFCHR | 0o666, os.makedev(1, 3)),
                error(os.rename, f"{where}/link", f"{where}/renamed"),
            ]
            results += [[name, status(f"{where}/{name}")] for name in sorted(os.listdir(where))]
        return results

    return [
        in_child(make, 1000, (2000,)),
        in_child(lambda: error(write, "of_members/no"), 1000),
        in_child(lambda: error(write, "of_members/no"), 1000, (2001,)),
        in_child(lambda: os.close(os.open("of_all/set", os.O_CREAT | os.O_WRONLY, 0o2755)), 1000),
        status("of_all/set"),
    ]


def extended_attributes() -> Any:
    write("attributes")
    os.setxattr("attributes", "user.one", b"1" * 2000)
    os.setxattr("attributes", "user.two", b"")
    os.setxattr("attributes", "user.one", b"again", os.XATTR_REPLACE)
    taken = error(os.setxattr, "attributes", "user.two", b"", os.XATTR_CREATE)
    os.removexattr("attributes", "user.two")
    os.setxattr("attributes", "security.capability", struct.pack("<5I", 0x02000001, 0x400, 0, 0, 0))
    return [sorted(os.listxattr("attributes")), taken, error(os.getxattr, "attributes", "user.two")]


def access_lists() -> Any:
    def access_list(*rows: tuple[int, int, int]) -> bytes:
        return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, rights, uid) for tag, rights, uid in rows)

    none = 0xFFFFFFFF
    rows = (1, 6, none), (2, 4, 1000), (4, 0, none), (16, 4, none), (32, 0, none)
    write("listed", b"for one", 0o600)
    os.setxattr("listed", "system.posix_acl_access", access_list(*rows))
    os.mkdir("lists")
    os.setxattr(
        "lists",
        "system.posix_acl_default",
        access_list((1, 7, none), (2, 5, 1000), (4, 5, none), (16, 5, none), (32, 0, none)),
    )
    write("lists/inherits", mode=0o666)
    return [
        status("listed"),
        in_child(lambda: read("listed"), 1000),
        in_child(lambda: error(read, "listed"), 1001),
        status("lists/inherits"),
        os.getxattr("lists/inherits", "system.posix_acl_access").hex(),
    ]


def links() -> Any:
    write("first", b"linked")
    for number in range(50):
        os.link("first", f"hard{number}")
    same = os.stat("first").st_ino == os.stat("hard7").st_ino
    os.unlink("first")
    os.symlink("hard0", "soft")
    os.symlink("x" * 4000, "long")
    os.symlink("loop", "loop")
    os.chown("soft", 11, 12, follow_symlinks=False)
    return [
        same,
        status("hard1"),
        status("soft"),
        read("soft").decode(),
        len(os.readlink("long")),
        error(os.stat, "loop"),
    ]


def sparse_files() -> Any:
    descriptor = os.open("sparse", os.O_CREAT | os.O_RDWR)
    os.pwrite(descriptor, b"begin", 0)
    os.pwrite(descriptor, b"end", (1 << 32) + 5)
    found = os.fstat(descriptor)
    hole = os.pread(descriptor, 100, 1 << 31) == bytes(100)
    map_ = [os.lseek(descriptor, 0, os.SEEK_HOLE), os.lseek(descriptor, 1 << 20, os.SEEK_DATA)]
    map_ += [os.lseek(descriptor, (1 << 32) + 6, os.SEEK_HOLE)]
    after = error(os.lseek, descriptor, 1 << 40, os.SEEK_DATA)
    os.ftruncate(descriptor, 1 << 33)
    size = os.fstat(descriptor).st_size
    os.posix_fallocate(descriptor, 0, 65536)
    os.pwrite(descriptor, b"x" * 16384, 0)
    punched = _fallocate(descriptor, _FALLOC_FL_KEEP_SIZE | _FALLOC_FL_PUNCH_HOLE, 4096, 4096)
    data = os.pread(descriptor, 16384, 0)
    os.close(descriptor)
    return [found.st_size, found.st_blocks < 1000, hole, *map_, after, size, punched, data.count(b"x")]


def _fallocate(descriptor: int, mode: int, start: int, length: int) -> str:
    return called(_libc.fallocate64(descriptor, mode, ctypes.c_int64(start), ctypes.c_int64(length)))


def locks() -> Any:
    write("lock")
    whole = open("lock", "r+b")
    fcntl.flock(whole, fcntl.LOCK_EX)

    def try_flock() -> str:
        with open("lock", "r+b") as other:
            return error(fcntl.flock, other, fcntl.LOCK_SH | fcntl.LOCK_NB)

    held = in_child(try_flock)
    fcntl.flock(whole, fcntl.LOCK_UN)
    freed = in_child(try_flock)
    fcntl.lockf(whole, fcntl.LOCK_EX, 100, 50)

    def try_range(start: int) -> str:
        with open("lock", "r+b") as other:
            return error(fcntl.lockf, other, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, start)

    return [held, freed, in_child(lambda: try_range(60)), in_child(lambda: try_range(0))]


def memory_maps() -> Any:
    write("mapped", bytes(3 * 4096))
    with open("mapped", "r+b") as file:
        memory = mmap.mmap(file.fileno(), 0)
        memory[5000:5006] = b"mapped"
        child = in_child(lambda: os.pread(os.open("mapped", os.O_RDONLY), 6, 5000).decode())
        os.pwrite(file.fileno(), b"written", 9000)
        seen = memory[9000:9007]
        memory.flush()
        private = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE)
        private[0:4] = b"mine"
    return [child, seen.decode(), hashlib.sha256(read("mapped")).hexdigest()]


def direct() -> Any:
    buffer = mmap.mmap(-1, 8192)
    buffer[:] = b"d" * 8192
    descriptor = os.open("direct", os.O_CREAT | os.O_RDWR | os.O_DIRECT)
    written = os.write(descriptor, buffer)
    os.lseek(descriptor, 4096, 0)
    back = mmap.mmap(-1, 4096)
    got = os.readv(descriptor, [back])
    os.close(descriptor)
    return [written, got, back[:] == b"d" * 4096]


def renames() -> Any:
    write("from", b"new")
    write("to", b"old")
    held = open("to", "rb")
    os.rename("from", "to")
    os.makedirs("tree/inner")
    write("tree/inner/file", b"deep")
    os.rename("tree", "moved")
    os.makedirs("full/x")
    os.mkdir("empty")
    results = [held.read().decode(), read("to").decode(), read("moved/inner/file").decode()]
    results += [error(os.rename, "empty", "full"), error(os.rename, "moved", "moved/inner/below")]
    results += [error(os.rename, "to", "empty"), error(os.rename, "empty", "to"), error(os.rmdir, "full")]
    gone = open("gone", "w+b")
    os.unlink("gone")
    gone.write(b"still there")
    gone.flush()
    os.rename("empty", "moved/empty")
    return [*results, os.pread(gone.fileno(), 20, 0).decode(), os.fstat(gone.fileno()).st_nlink]


def rename_flags() -> Any:
    def rename(source: str, target: str, flags: int) -> str:
        return called(_libc.renameat2(_AT_FDCWD, source.encode(), _AT_FDCWD, target.encode(), flags))

    write("here", b"here")
    write("there", b"there")
    os.makedirs("dir/below")
    results = [rename("here", "there", _RENAME_NOREPLACE), rename("here", "new", _RENAME_NOREPLACE)]
    results += [rename("new", "there", _RENAME_EXCHANGE), read("new").decode(), read("there").decode()]
    results += [rename("new", "dir", _RENAME_EXCHANGE), read("dir").decode(), str(os.listdir("new"))]
    results += [rename("dir", "none", _RENAME_EXCHANGE), rename("dir", "new", _RENAME_NOREPLACE | _RENAME_EXCHANGE)]
    results += [rename("there", "covered", _RENAME_WHITEOUT), read("covered").decode()]
    white = os.lstat("there")
    return [*results, oct(white.st_mode), white.st_rdev]


def device_nodes() -> Any:
    """As an image that is unpacked makes them, whiteouts of its layers among them."""
    results = []
    for name, kind, major, minor in (("null", stat.S_IFCHR, 1, 3), ("far", stat.S_IFBLK, 259, 1048575),
                                     ("whiteout", stat.S_IFCHR, 0, 0)):  # fmt: skip
        os.mknod(name, kind | 0o640, os.makedev(major, minor))
        os.chown(name, 5, 6)
        found = os.lstat(name)
        results.append([oct(found.st_mode), found.st_uid, os.major(found.st_rdev), os.minor(found.st_rdev)])
    return [*results, read("null").decode(), error(read, "whiteout")]


def copies() -> Any:
    """What copies inside the kernel, and names made from descriptors."""
    write("original", bytes(range(256)) * 1000)
    source = os.open("original", os.O_RDONLY)
    target = os.open("copied", os.O_CREAT | os.O_RDWR)
    amounts = [os.copy_file_range(source, target, 100_000, 1000, 0), os.sendfile(target, source, 200_000, 50_000)]
    place = f"/proc/self/fd/{target}".encode()
    linked = called(_libc.linkat(_AT_FDCWD, place, _AT_FDCWD, b"linked", _AT_SYMLINK_FOLLOW))
    again = os.open(f"/proc/self/fd/{os.open('original', os.O_PATH)}", os.O_RDONLY)
    digest = hashlib.sha256(read("linked")).hexdigest()
    return [amounts, linked, os.fstat(target).st_nlink, digest, os.read(again, 9)[8]]


def what_differs() -> Any:
    """What a share cannot do and the host's own file systems can: a line of the documentation each."""
    flags = ctypes.c_int(_FS_NODUMP_FL)
    found = ctypes.c_int(0)
    descriptor = os.open("differs", os.O_CREAT | os.O_RDWR)
    os.write(descriptor, bytes(16384))
    asked = called(_libc.ioctl(descriptor, _FS_IOC_GETFLAGS, ctypes.byref(found)))
    results = {
        "O_TMPFILE": error(os.open, ".", os.O_TMPFILE | os.O_RDWR),
        "collapse": _fallocate(descriptor, _FALLOC_FL_COLLAPSE_RANGE, 0, 4096),
        "get flags": asked,
        "set flags": called(_libc.ioctl(descriptor, _FS_IOC_SETFLAGS, ctypes.byref(flags))),
        "trusted": error(os.setxattr, "differs", "trusted.overlay.opaque", b"y"),
        "security": error(os.setxattr, "differs", "security.other", b"y"),
    }
    os.close(descriptor)
    os.unlink("differs")
    return results


def names() -> Any:
    write("n" * 255)
    write("ünïcode ☃ name")
    write('new\nline \\ "quoted" \t\'')
    write("-rf")
    os.write(os.open(b"bytes-\xff\xfe", os.O_CREAT | os.O_WRONLY), b"x")
    deep = "/".join(["d" * 200] * 15)
    os.makedirs(deep)
    write(deep + "/file")
    longest = "./" * ((4095 - len("-rf")) // 2) + "-rf"
    results = [error(os.stat, longest), error(os.stat, "./" + longest)]
    return [*results, error(write, "n" * 256), error(os.stat, "x/" * 3000), len(os.listdir(deep))]


def times() -> Any:
    write("timed")
    os.utime("timed", ns=(1_234_567_890_123_456_789, 987_654_321_987_654_321))
    found = os.stat("timed")
    changed = found.st_ctime_ns
    os.chmod("timed", 0o640)
    later = os.stat("timed").st_ctime_ns >= changed
    os.mkdir("parent")
    before = os.stat("parent").st_mtime_ns
    write("parent/child")
    return [found.st_atime_ns, found.st_mtime_ns, later, os.stat("parent").st_mtime_ns >= before]


def appends() -> Any:
    write("appended")

    def append(letter: bytes) -> None:
        descriptor = os.open("appended", os.O_WRONLY | os.O_APPEND)
        for _ in range(100):
            os.write(descriptor, letter * 10)

    child = os.fork()
    if not child:
        append(b"a")
        os._exit(0)
    append(b"b")
    os.waitpid(child, 0)
    data = read("appended")
    whole = all(len(set(data[start : start + 10])) == 1 for start in range(0, len(data), 10))
    write("appended", bytes(sorted(data)))
    return [len(data), whole]


def special_files() -> Any:
    os.mkfifo("fifo", 0o600)
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket")
    os.chmod("socket", 0o700)
    server.listen()
    client = socket.socket(socket.AF_UNIX)
    client.connect("socket")
    return [stat.S_ISFIFO(os.stat("fifo").st_mode), stat.S_ISSOCK(os.stat("socket").st_mode), status("socket")]


def errors() -> Any:
    write("plain")
    calls: list[tuple[Any, ...]] = [
        (os.mkdir, "plain"), (os.rmdir, "plain"), (os.unlink, "nothing"), (os.listdir, "plain"), (os.unlink, "group"),
        (os.open, "plain/x", os.O_RDONLY), (os.open, "plain", os.O_CREAT | os.O_EXCL), (os.link, "group", "other"),
        (os.open, "plain", os.O_RDONLY | os.O_DIRECTORY), (os.open, "soft", os.O_RDONLY | os.O_NOFOLLOW),
        (os.truncate, "plain", -1),
    ]  # fmt: skip
    return [error(*call) for call in calls]


def small_files() -> Any:
    """Create, look at, read and remove many."""
    for number in range(FILES):
        if number % 500 == 0:
            os.mkdir(f"many{number // 500}")
        write(f"many{number // 500}/file{number}", b"%d" % number)
    listed = sum(len(os.listdir(f"many{number}")) for number in range(FILES // 500))
    size = sum(os.stat(f"many{number // 500}/file{number}").st_size for number in range(0, FILES, 7))
    text = b"".join(read(f"many{number // 500}/file{number}") for number in range(0, FILES, 97))
    for number in range(0, FILES, 2):
        os.unlink(f"many{number // 500}/file{number}")
    left = sum(len(os.listdir(f"many{number}")) for number in range(FILES // 500))
    return [listed, size, hashlib.sha256(text).hexdigest(), left]


def random_io() -> Any:
    """Random reads, writes, truncations and maps of one file, each compared with what it must be."""
    digests = []
    for seed in range(SEEDS):
        digests.append(_random_io(random.Random(seed), f"fsx{seed}"))
    return digests


def _random_io(chance: random.Random, path: str) -> str:
    limit = 256 << 10
    model = bytearray()
    descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
    for step in range(OPERATIONS):
        kind = chance.choice(("read", "write", "write", "truncate", "map", "append", "reopen"))
        start, length = chance.randrange(limit), chance.randrange(1, 32 << 10)
        data = chance.randbytes(length)
        if kind == "write":
            os.pwrite(descriptor, data, start)
            model.extend(bytes(max(0, start + length - len(model))))
            model[start : start + length] = data
        elif kind == "truncate":
            os.ftruncate(descriptor, start)
            model = model[:start] + bytes(max(0, start - len(model)))
        elif kind == "append" and len(model) < 2 * limit:
            with open(path, "ab", buffering=0) as file:
                file.write(data)
            model.extend(data)
        elif kind == "map" and model:
            start %= len(model)
            length = min(length, len(model) - start)
            with mmap.mmap(descriptor, len(model)) as memory:
                if memory[start : start + length] != model[start : start + length]:
                    raise AssertionError(f"{path}: step {step}: mapped bytes differ")
                memory[start : start + length] = data[:length]
            model[start : start + length] = data[:length]
        elif kind == "reopen":
            os.fsync(descriptor)
            os.close(descriptor)
            descriptor = os.open(path, os.O_RDWR)
        elif os.pread(descriptor, length, start) != bytes(model[start : start + length]):
            raise AssertionError(f"{path}: step {step}: {kind} of {length} at {start} differs")
    os.close(descriptor)
    if read(path) != bytes(model):
        raise AssertionError(f"{path}: the whole differs")
    return hashlib.sha256(model).hexdigest()


CHECKS = (
    ownership, suid_is_lost_by_writing, permissions, supplementary_groups, extended_attributes, access_lists, links,
    sparse_files, locks, memory_maps, direct, renames, rename_flags, device_nodes, copies, what_differs, names, times,
    appends, special_files, errors, small_files, random_io,
)  # fmt: skip


def main() -> None:
    os.umask(0o022)
    os.chdir("/work")
    results = {}
    for check in CHECKS:
        try:
            results[check.__name__] = check()
        except Exception as failure:  # noqa: BLE001 - it is that check's result
            results[check.__name__] = repr(failure)
    print(json.dumps(results))


main()
