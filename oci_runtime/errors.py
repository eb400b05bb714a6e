"""Every error that vmpod reports on purpose: one root and six kinds.

The kind decides what a front door answers (a gRPC code, an exit status); the message is what the user reads: the thing,
the value, the reason and, where there is one, the remedy, on one line without a full stop. `detail` carries what helps
to understand it but does not fit a line, such as the tail of the guest's console.
"""

from __future__ import annotations

import errno as _errno
import os

_MAX_DETAIL = 65536


class OciRuntimeError(Exception):
    """Root of all expected failures. `kind` is its stable name on the control socket."""

    kind = "Error"

    def __init__(self, message: str, *, detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail


class NotFound(OciRuntimeError):
    """The named container, exec, sandbox, file or program does not exist."""

    kind = "NotFound"


class AlreadyExists(OciRuntimeError):
    """The name is taken."""

    kind = "AlreadyExists"


class InvalidInput(OciRuntimeError):
    """The caller's bundle, annotation, configuration or argument is wrong."""

    kind = "InvalidInput"


class WrongState(OciRuntimeError):
    """The request is legal, but not in the state that the object is in."""

    kind = "WrongState"


class Unavailable(OciRuntimeError):
    """A peer (QEMU, guest, sandbox process) is lost or silent: the outcome is unknown."""

    kind = "Unavailable"


class Unsupported(OciRuntimeError):
    """A virtual machine cannot do this, or vmpod does not do it yet."""

    kind = "Unsupported"


class HostError(OciRuntimeError):
    """A system call or a program of the host failed.

    errno: the number, 0 where there is none. call: the system call or program. path: what it was called on.
    """

    kind = "HostError"

    def __init__(self, call: str, path: str, errno: int, *, hint: str = "", detail: str = "") -> None:
        reason = os.strerror(errno) if errno else "failed"
        super().__init__(f"{call} {path}: {reason}" + (f" ({hint})" if hint else ""), detail=detail)
        self.call = call
        self.path = path
        self.errno = errno

    @classmethod
    def from_oserror(cls, error: OSError, call: str, path: str = "", *, hint: str = "") -> HostError:
        """Wrap an OSError, keeping its number; the caller still writes `raise … from error`."""
        return cls(call, path or str(error.filename or ""), error.errno or _errno.EIO, hint=hint)


KINDS: dict[str, type[OciRuntimeError]] = {
    cls.kind: cls
    for cls in (OciRuntimeError, NotFound, AlreadyExists, InvalidInput, WrongState, Unavailable, Unsupported)
}


def to_wire(error: OciRuntimeError) -> dict[str, str]:
    """Return an error as it crosses a socket; of its detail the end, which is where a console says what happened."""
    kind = OciRuntimeError.kind if isinstance(error, HostError) else error.kind
    return {"kind": kind, "message": error.message, "detail": error.detail[-_MAX_DETAIL:]}


def from_wire(kind: str, message: str, detail: str = "") -> OciRuntimeError:
    """Rebuild an error that crossed a socket; a HostError arrives as plain OciRuntimeError with the same text."""
    return KINDS.get(kind, OciRuntimeError)(message, detail=detail)
