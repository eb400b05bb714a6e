"""Standard streams: 200 MB through `cat` in a container, MiB per second."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from bench.measure import Runtime, Table, make_bundle

VMPOD = str(Path(sys.executable).parent / "vmpod")
SIZE_BYTES = 200_000_000


def run(directory: Path) -> Iterable[Table]:
    """Yield one table."""
    source = directory / "source"
    with source.open("wb") as file, open("/dev/urandom", "rb") as random:
        for _ in range(SIZE_BYTES // 1_000_000):
            file.write(random.read(1_000_000))
    table = Table("200 MB through cat", "MiB/s", ("runc", "vmpod"))
    for runtime in (Runtime("runc", "runc", directory / "runc"), Runtime("vmpod", VMPOD, directory / "vmpod")):
        bundle = make_bundle(directory / runtime.name / "bundle", ["cat"])
        sink = directory / f"sink-{runtime.name}"
        command = [*runtime.command, "run", "--bundle", str(bundle), "streams"]
        with source.open("rb") as stdin, sink.open("wb") as stdout:
            begin = time.perf_counter()
            subprocess.run(command, stdin=stdin, stdout=stdout, check=True)
            seconds = time.perf_counter() - begin
        runtime.try_call("delete", "--force", "streams")
        assert subprocess.run(["cmp", str(source), str(sink)], check=False).returncode == 0, "bytes were lost"
        table.add("through the container, boot included", runtime.name, SIZE_BYTES / (1 << 20) / seconds)
    yield table
