"""Written by scripts/proto.sh. Do not edit."""

from oci_runtime.ttrpc.lean import Message, build

_TABLE: dict[str, tuple[tuple[int, str, str, str], ...]] = {
    "KeyValue": ((1, "key", "s", ""), (2, "value", "s", "")),
    "Request": (
        (1, "service", "s", ""),
        (2, "method", "s", ""),
        (3, "payload", "b", ""),
        (4, "timeout_nano", "i", ""),
        (5, "metadata", "rm", "KeyValue"),
    ),
    "Any": ((1, "type_url", "s", ""), (2, "value", "b", "")),
    "Status": ((1, "code", "i", ""), (2, "message", "s", ""), (3, "details", "rm", "Any")),
    "Response": ((1, "status", "m", "Status"), (2, "payload", "b", "")),
}


def __getattr__(name: str) -> type[Message]:
    if name not in _TABLE:
        raise AttributeError(name)

    def find(other: str) -> type[Message]:
        return globals().get(other) or __getattr__(other)

    globals()[name] = made = build(name, _TABLE[name], find)
    return made
