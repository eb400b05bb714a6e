"""`containerd-shim-vmpod-v2`: what containerd, and CRI-O with runtime_type "vm", execute."""

from __future__ import annotations

import os
import sys
import time

from oci_runtime import __version__
from oci_runtime.errors import OciRuntimeError
from oci_runtime.shim.arguments import Arguments, parse_arguments

NAME = "containerd-shim-vmpod-v2"
RUNTIME = "io.containerd.vmpod.v2"
USAGE = f"""usage: {NAME} -namespace NS -address SOCKET -publish-binary PATH -id ID [-debug] start
       {NAME} -namespace NS -address SOCKET -publish-binary PATH -id ID -bundle DIR delete
       {NAME} -v | -info
containerd runs this program; `ctr run --runtime {RUNTIME}` makes it do so.
"""


def main() -> int:
    """Run one action; return the exit code. Errors are one line on standard error."""
    origin_ns = time.monotonic_ns()
    try:
        return _run(parse_arguments(sys.argv[1:]), origin_ns)
    except OciRuntimeError as error:
        os.write(2, f"{NAME}: {error.message}\n".encode("utf-8", "backslashreplace"))
        return 1


def _run(arguments: Arguments, origin_ns: int) -> int:
    if arguments.version:
        print(f"{NAME}:\n  Version:  {__version__}\n  Runtime:  {RUNTIME}")
        return 0
    if arguments.info:
        from oci_runtime.shim.info import print_info

        return print_info()
    if arguments.help or arguments.action not in ("start", "delete"):
        os.write(1 if arguments.help else 2, USAGE.encode())
        return 0 if arguments.help else 1
    if arguments.action == "delete":
        from oci_runtime.shim.deletion import delete

        return delete(arguments)
    from oci_runtime.shim.bootstrap import Handover, start

    def serve(handover: Handover) -> int:
        from oci_runtime.shim.daemon import serve_pod

        return serve_pod(handover)

    return start(arguments, serve, origin_ns)


if __name__ == "__main__":
    sys.exit(main())
