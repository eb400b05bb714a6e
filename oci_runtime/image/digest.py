"""Hash the assets of an image and remember that it was done. Loaded only when something has to be hashed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable

from oci_runtime.errors import HostError, InvalidInput
from oci_runtime.host.files import write_atomic


def sha256_file(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of the file's content in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_assets(directory: str, manifest: dict[str, object], assets: Iterable[str]) -> None:
    """Raise InvalidInput for the first asset whose content is not what the manifest says."""
    table = manifest.get("assets")
    for asset in assets:
        entry = table.get(asset) if isinstance(table, dict) else None
        expected = entry.get("sha256") if isinstance(entry, dict) else None
        path = os.path.join(directory, asset)
        actual = sha256_file(path)
        if actual != expected:
            raise InvalidInput(
                f"corrupt guest image: {path} has SHA-256 {actual}, the manifest says {expected}; "
                "build it again: vmpod image build --force"
            )


def write_stamp(path: str, facts: object) -> None:
    """Write the stamp atomically. A store that cannot be written to is no error: it costs a hash per boot."""
    with contextlib.suppress(HostError):
        write_atomic(path, json.dumps(facts).encode(), 0o644, sync=False)
