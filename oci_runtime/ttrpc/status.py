"""gRPC codes, as ttRPC carries them, and the errors of this package: one table for each direction."""

from __future__ import annotations

from oci_runtime.errors import (
    AlreadyExists,
    InvalidInput,
    NotFound,
    OciRuntimeError,
    Unavailable,
    Unsupported,
    WrongState,
)

OK = 0
CANCELLED = 1
UNKNOWN = 2
INVALID_ARGUMENT = 3
DEADLINE_EXCEEDED = 4
NOT_FOUND = 5
ALREADY_EXISTS = 6
PERMISSION_DENIED = 7
RESOURCE_EXHAUSTED = 8
FAILED_PRECONDITION = 9
UNIMPLEMENTED = 12
INTERNAL = 13
UNAVAILABLE = 14

# The url under which an error's `detail` travels among the details of a status.
DETAIL_URL = "vmpod.agent.v1/detail"
MAX_MESSAGE_BYTES = 8 << 10
MAX_DETAIL_BYTES = 64 << 10

_CODES: dict[type[OciRuntimeError], int] = {
    NotFound: NOT_FOUND,
    AlreadyExists: ALREADY_EXISTS,
    InvalidInput: INVALID_ARGUMENT,
    WrongState: FAILED_PRECONDITION,
    Unavailable: UNAVAILABLE,
    Unsupported: UNIMPLEMENTED,
}
_KINDS: dict[int, type[OciRuntimeError]] = {
    **{code: kind for kind, code in _CODES.items()},
    DEADLINE_EXCEEDED: Unavailable,
    CANCELLED: Unavailable,
    RESOURCE_EXHAUSTED: Unavailable,
}


class StatusError(OciRuntimeError):
    """An error with a gRPC code of its own, for what the six kinds do not tell apart."""

    def __init__(self, code: int, message: str, *, detail: str = "") -> None:
        super().__init__(message, detail=detail)
        self.code = code


def code_of(error: BaseException) -> int:
    """The gRPC code that stands for `error` on the wire; UNKNOWN for what is none of ours."""
    if isinstance(error, StatusError):
        return error.code
    if isinstance(error, TimeoutError):
        return DEADLINE_EXCEEDED
    for kind in type(error).__mro__:
        if kind in _CODES:
            return _CODES[kind]
    return UNKNOWN


def message_of(error: BaseException) -> str:
    """One bounded line for the wire."""
    text = str(error) or type(error).__name__
    if not isinstance(error, OciRuntimeError):
        text = f"{type(error).__name__}: {text}"
    return clip(text, MAX_MESSAGE_BYTES)


def error_of(code: int, message: str, detail: str = "") -> OciRuntimeError:
    """The error that a status with `code` (not OK) stands for."""
    return _KINDS.get(code, OciRuntimeError)(message or f"error code {code} without a text", detail=detail)


def clip(text: str, limit_bytes: int) -> str:
    """`text` within `limit_bytes` of UTF-8, whatever it holds."""
    data = text.encode("utf-8", "replace")
    return data[:limit_bytes].decode("utf-8", "ignore")
