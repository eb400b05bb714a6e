#!/usr/bin/python3 -I
"""OCI hook, stage poststop: let vmpod take away what dead virtual machines have left on this host.

    cleanup.py [--command PATH] [--root DIR]

Runs `vmpod gc` on one state directory: machines whose process was killed, and containers of an earlier boot. Running
pods are not touched. Where there is no state directory there is nothing to do, so it costs other runtimes little.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

TIMEOUT_S = 60
MAX_STATE_BYTES = 4 << 20


def main() -> int:
    """Run the command; its output goes to the runtime's log when it fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--command", default="/usr/local/bin/vmpod")
    parser.add_argument("--root", default="/run/vmpod")
    options = parser.parse_args()
    # The runtime may be waiting to get rid of the container's state; none of it matters here.
    sys.stdin.buffer.read(MAX_STATE_BYTES)
    if not os.path.isdir(options.root):
        return 0
    try:
        done = subprocess.run(
            [options.command, "--root", options.root, "gc"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"cleanup: {error}", file=sys.stderr)
        return 1
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
