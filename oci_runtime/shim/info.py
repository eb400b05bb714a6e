"""`-info`: what this runtime is, as a RuntimeInfo message on standard output. The options on stdin change nothing."""

from __future__ import annotations

import os
import sys

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from oci_runtime import __version__
from oci_runtime.errors import InvalidInput
from oci_runtime.shim.proto.types_pb2 import RuntimeInfo, RuntimeVersion

_MAX_OPTIONS_BYTES = 1 << 20


def print_info() -> int:
    """Write the message. Raises: InvalidInput when stdin holds no Any."""
    data = b"" if os.isatty(0) else sys.stdin.buffer.read(_MAX_OPTIONS_BYTES)
    info = RuntimeInfo(name="io.containerd.vmpod.v2", version=RuntimeVersion(version=__version__))
    try:
        options = Any.FromString(data)
    except DecodeError as error:
        raise InvalidInput("the options on standard input are not an Any") from error
    if options.type_url:
        info.options.CopyFrom(options)
    os.write(1, info.SerializeToString())
    return 0
