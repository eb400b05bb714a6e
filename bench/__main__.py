"""`python -m bench [NAME...]`: run benchmarks and print their tables as Markdown. Without a name: all of them."""

from __future__ import annotations

import argparse
import importlib
import platform
import tempfile
from pathlib import Path


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    found = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in _NOT_BENCHMARKS)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(found)}")
    names = parser.parse_args().names or found
    print(f"Machine: {platform.machine()}, kernel {platform.release()}\n", flush=True)
    for name in names:
        module = importlib.import_module(f"bench.{name}")
        with tempfile.TemporaryDirectory(prefix="vmpod-bench-") as directory:
            for table in module.run(Path(directory)):
                print(table.render(), flush=True)


_NOT_BENCHMARKS = ("__init__", "__main__", "measure", "bare_boot", "engine_run", "storage_sources")

if __name__ == "__main__":
    main()
