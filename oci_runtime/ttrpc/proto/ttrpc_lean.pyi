"""Written by scripts/proto.sh. Do not edit."""

from collections.abc import Iterable

from oci_runtime.ttrpc.lean import Message

class KeyValue(Message):
    key: str
    value: str
    def __init__(self, *, key: str = ..., value: str = ...) -> None: ...

class Request(Message):
    service: str
    method: str
    payload: bytes
    timeout_nano: int
    metadata: list[KeyValue]
    def __init__(
        self,
        *,
        service: str = ...,
        method: str = ...,
        payload: bytes = ...,
        timeout_nano: int = ...,
        metadata: Iterable[KeyValue] = ...,
    ) -> None: ...

class Any(Message):
    type_url: str
    value: bytes
    def __init__(self, *, type_url: str = ..., value: bytes = ...) -> None: ...

class Status(Message):
    code: int
    message: str
    details: list[Any]
    def __init__(self, *, code: int = ..., message: str = ..., details: Iterable[Any] = ...) -> None: ...

class Response(Message):
    status: Status | None
    payload: bytes
    def __init__(self, *, status: Status | None = ..., payload: bytes = ...) -> None: ...
