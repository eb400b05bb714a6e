"""Turn a list of system calls into the program that the kernel runs first, without a compiler.

The guest's first stage is a fixed sequence: load modules, mount, change the root, execute the agent. As a shell script
it costs a process for each step, and a process costs an emulated guest ten milliseconds. Here it is one small static
program: an interpreter of 66 bytes that walks a table of system calls, the table, and the data (modules included).
Source: System V ABI (ELF-64, calling convention of system calls); Linux arch/x86/entry/syscalls/syscall_64.tbl.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from oci_runtime.errors import InvalidInput

BASE_ADDRESS = 0x400000
_HEADER_BYTES = 64 + 56
# A row: number and five arguments of the call; where to go when it succeeds and when it fails; how often it may fail;
# where to go when it has failed that often. Addresses and numbers, 8 bytes each.
_ROW = struct.Struct("<10Q")
_PAGE_BYTES = 4096
_POINTER_BYTES = 8

_X86_64_CALLS = {
    "write": 1, "close": 3, "access": 21, "nanosleep": 35, "execve": 59, "chdir": 80, "unlink": 87, "chroot": 161,
    "mount": 165, "init_module": 175, "clock_gettime": 228, "exit_group": 231, "pipe2": 293,
}  # fmt: skip
_X86_64_CODE = bytes.fromhex(
    "48bb0000000000000000"  # movabs rbx, address of the first row
    "488b03"  # row: mov rax, [rbx]
    "488b7b08"  # mov rdi, [rbx + 8]
    "488b7310"  # mov rsi, [rbx + 16]
    "488b5318"  # mov rdx, [rbx + 24]
    "4c8b5320"  # mov r10, [rbx + 32]
    "4c8b4328"  # mov r8, [rbx + 40]
    "0f05"  # syscall
    "488b4b30"  # mov rcx, [rbx + 48]
    "483d01f0ffff"  # cmp rax, -4095
    "720e"  # jb next
    "488b4b38"  # mov rcx, [rbx + 56]
    "48ff4b40"  # dec qword [rbx + 64]
    "7504"  # jnz next
    "488b4b48"  # mov rcx, [rbx + 72]
    "4889cb"  # next: mov rbx, rcx
    "ebc8"  # jmp row
)
_FIRST_ROW_AT = 2


@dataclass(frozen=True)
class Buffer:
    """Memory that calls share, by its name: zeros at first. offset: the argument points so far into it."""

    name: str
    size: int
    offset: int = 0


# A number, bytes (a pointer to them), several strings (a pointer to their pointers, ended by NULL), or a buffer.
Argument = int | bytes | tuple[bytes, ...] | Buffer


@dataclass(frozen=True)
class Step:
    """One system call. label: its name for jumps. then: where to go on success, "" for the next step.

    otherwise: where to go on failure, "" for the next step. tries: with more than 0, the call may fail that often;
    after the last time it goes on at `exhausted`.
    """

    call: str
    arguments: tuple[Argument, ...] = ()
    label: str = ""
    then: str = ""
    otherwise: str = ""
    tries: int = 0
    exhausted: str = ""


def assemble(steps: Sequence[Step], machine: str = "x86_64") -> bytes:
    """Return the ELF program that performs `steps`, beginning with the first; the last one must lead somewhere else.

    Raises InvalidInput for an unknown machine, call or label.
    """
    if machine != "x86_64":
        raise InvalidInput(f"no first stage for {machine}: only x86_64 is written")
    labels = {step.label: index for index, step in enumerate(steps) if step.label}
    rows_at = -(-(BASE_ADDRESS + _HEADER_BYTES + len(_X86_64_CODE)) // 8) * 8
    data = _Data(rows_at + _ROW.size * len(steps))
    rows = []
    for index, step in enumerate(steps):
        following = rows_at + _ROW.size * (index + 1)

        def target(label: str, following: int = following) -> int:
            if label and label not in labels:
                raise InvalidInput(f"first stage: no step is called {label!r}")
            return rows_at + _ROW.size * labels[label] if label else following

        if step.call not in _X86_64_CALLS:
            raise InvalidInput(f"first stage: unknown system call {step.call!r}")
        arguments = [data.place(argument) for argument in step.arguments]
        arguments += [0] * (5 - len(arguments))
        ways = (target(step.then), target(step.otherwise), step.tries, target(step.exhausted))
        rows.append(_ROW.pack(_X86_64_CALLS[step.call], *arguments, *ways))
    code = bytearray(_X86_64_CODE)
    struct.pack_into("<Q", code, _FIRST_ROW_AT, rows_at)
    code += bytes(rows_at - BASE_ADDRESS - _HEADER_BYTES - len(code))
    return _elf(bytes(code) + b"".join(rows) + data.finish())


def execute(program: str, arguments: Iterable[str], environment: Iterable[str], otherwise: str) -> Step:
    """Return the step that replaces the program by another one. otherwise: where to go when that fails."""
    argv, envp = (tuple(text.encode() for text in texts) for texts in (arguments, environment))
    return Step("execve", (program.encode() + b"\0", argv, envp), otherwise=otherwise)


def fail(label: str, message: str) -> tuple[Step, Step]:
    """Return the steps, named `label`, that write a message to the console and end; the kernel then panics."""
    text = f"vmpod: first stage: {message}\n".encode()
    return Step("write", (2, text, len(text)), label), Step("exit_group", (1,), then=label, otherwise=label)


class _Data:
    """Lays out what arguments point to, from a known address on."""

    def __init__(self, address: int) -> None:
        self._address = address
        self._content = bytearray()
        self._known: dict[bytes, int] = {}
        self._buffers: dict[str, int] = {}

    def place(self, argument: Argument) -> int:
        """Return the argument as a register holds it."""
        if isinstance(argument, int):
            return argument & 0xFFFFFFFFFFFFFFFF
        if isinstance(argument, bytes):
            if argument not in self._known:
                self._known[argument] = self._append(argument)
            return self._known[argument]
        if isinstance(argument, Buffer):
            if argument.name not in self._buffers:
                self._buffers[argument.name] = self._append(bytes(argument.size))
            return self._buffers[argument.name] + argument.offset
        pointers = [self.place(text + b"\0") for text in argument]
        return self._append(struct.pack(f"<{len(pointers) + 1}Q", *pointers, 0))

    def finish(self) -> bytes:
        return bytes(self._content)

    def _append(self, content: bytes) -> int:
        self._content += bytes(-len(self._content) % _POINTER_BYTES)
        self._content += content
        return self._address + len(self._content) - len(content)


def _elf(body: bytes) -> bytes:
    """One segment, readable, writable (the table counts failures) and executable."""
    total = _HEADER_BYTES + len(body)
    entry = BASE_ADDRESS + _HEADER_BYTES
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 2, 62, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )  # fmt: skip
    return header + struct.pack("<IIQQQQQQ", 1, 7, 0, BASE_ADDRESS, BASE_ADDRESS, total, total, _PAGE_BYTES) + body
