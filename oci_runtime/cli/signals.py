"""Signal names and numbers as `kill` takes them. Numbers are those of Linux on x86-64 and arm64."""

from __future__ import annotations

from oci_runtime.errors import InvalidInput

_NAMES = (
    "HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG"
    " XCPU XFSZ VTALRM PROF WINCH IO PWR SYS"
).split()
_NUMBERS = {name: number for number, name in enumerate(_NAMES, 1)} | {"IOT": 6, "CLD": 17, "POLL": 29}
_RTMIN, _RTMAX = 34, 64


def parse_signal(text: str) -> int:
    """Return the number of a signal given as TERM, SIGTERM, sigterm, 15, RTMIN+3 or RTMAX-1.

    Number 0 (is it alive?) is allowed. Raises InvalidInput for anything else.
    """
    if text.isascii() and text.isdigit() and len(text) <= 3 and int(text) <= _RTMAX:
        return int(text)
    name = text.upper().removeprefix("SIG")
    if name in _NUMBERS:
        return _NUMBERS[name]
    for base, start, sign in (("RTMIN", _RTMIN, 1), ("RTMAX", _RTMAX, -1)):
        offset = name.removeprefix(base)
        if offset == name:
            continue
        offset = offset.removeprefix("+" if sign == 1 else "-") or "0"
        if offset.isascii() and offset.isdigit() and int(offset[:3]) <= _RTMAX - _RTMIN:
            return start + sign * int(offset[:3])
    raise InvalidInput(f"unknown signal {text[:40]!r}")
