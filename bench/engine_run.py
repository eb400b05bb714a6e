"""`python -m bench.engine_run ENGINE RUNTIME`: print the median of `ENGINE run --rm busybox true` in milliseconds.

A process of its own: it lives in mount and network namespaces with a private podman or dockerd, which go with it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from bench.measure import median_ms
from conformance import host, leftovers, reaper
from conformance.engines.daemons import Client, docker, podman
from conformance.engines.image import NAME
from conformance.runtime import Runtime
from conformance.session import Options, Session

_ENGINES: dict[str, Callable[[Session], Client]] = {"podman": podman, "docker": docker}


def main(engine: str, binary: str) -> None:
    """Measure one engine with one runtime."""
    host.isolate(network=True)
    reaper.supervise()
    program = shutil.which(binary) or binary
    name = Path(program).name
    if name == "crun":
        host.mask_unified()
    with tempfile.TemporaryDirectory(prefix="vb", dir="/tmp", ignore_cleanup_errors=True) as directory:
        scratch = Path(directory)
        scratch.chmod(0o711)
        runtime = Runtime(program, name, (), scratch / "r", 4, lambda _text: None)
        session = Session(runtime, scratch, "1.0.2", Options())
        try:
            client = session.shared(_ENGINES[engine])
            run = ("run", "--rm", "--network", "none", NAME, "true")
            client.must(*run, deadline_s=120)
            print(median_ms(lambda: client.must(*run, deadline_s=120)))
        finally:
            session.close()
            leftovers.remove_cgroups(session.tag)


if __name__ == "__main__":
    main(*sys.argv[1:3])
