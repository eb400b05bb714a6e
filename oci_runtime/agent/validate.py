"""Bounds for what a hostile guest may answer, by field name: long texts, long lists and odd numbers are refused."""

from __future__ import annotations

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from oci_runtime.errors import Unavailable

_MAX_TEXT = 4096
_MAX_LIST = 4096
_MAX_DATA_BYTES = 1 << 20
# Fields that may hold more.
_MAX_TEXTS = {"text": 1 << 20, "command": 64 << 10}
_MAX_LISTS = {"processes": 32768, "image_packages": 8192}
_MAX_DATAS = {"rules": 3 << 20}
# Far above what can be, and low enough that sums, and microseconds as nanoseconds, still fit into 64 bits.
_MAX_NUMBER = 1 << 62
_MAX_FIGURE = 1 << 53
_UNLIMITED = (1 << 64) - 1
_MAX_NUMBERS = dict.fromkeys(("memory_limit", "swap_limit", "pids_limit", "max"), _UNLIMITED)
_MAX_NUMBERS |= {"exit_code": 255, "pid": 1 << 22, "ppid": 1 << 22, "container_pid": 1 << 22, "vcpus": 1 << 16}


def check(method: str, message: Message) -> None:
    """Raises Unavailable naming the method and the field that is out of bounds."""
    for field, value in message.ListFields():
        name = field.name
        if _is_list(field):
            if len(value) > _MAX_LISTS.get(name, _MAX_LIST):
                raise _refusal(method, name, f"{len(value)} entries")
            items = value
            if hasattr(value, "values"):
                items = [*value, *value.values()]
                if any(isinstance(figure, int) and figure > _MAX_FIGURE for figure in items):
                    raise _refusal(method, name, "an absurd figure")
            for item in items:
                _check_value(method, name, item)
        else:
            _check_value(method, name, value)


def _is_list(field: FieldDescriptor) -> bool:
    return bool(field.is_repeated)


def _check_value(method: str, name: str, value: object) -> None:
    if isinstance(value, Message):
        check(method, value)
    elif isinstance(value, str):
        if len(value) > _MAX_TEXTS.get(name, _MAX_TEXT):
            raise _refusal(method, name, f"{len(value)} characters")
        if name != "text" and not value.isprintable():
            raise _refusal(method, name, "control characters")
    elif isinstance(value, bytes):
        if len(value) > _MAX_DATAS.get(name, _MAX_DATA_BYTES):
            raise _refusal(method, name, f"{len(value)} bytes")
    elif isinstance(value, int) and value > _MAX_NUMBERS.get(name, _MAX_NUMBER):
        raise _refusal(method, name, str(value))


def _refusal(method: str, name: str, what: str) -> Unavailable:
    return Unavailable(f"{method}: the guest's agent answers with {what} in {name}, which cannot be")
