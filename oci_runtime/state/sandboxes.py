"""The record of a sandbox (`sandbox.json`): what it put on the host, written down before it is made."""

from __future__ import annotations

import os

from oci_runtime import json_text
from oci_runtime.errors import HostError, InvalidInput
from oci_runtime.host.files import read_limited, write_atomic
from oci_runtime.host.processes import boot_id
from oci_runtime.state.layout import SANDBOX_FILE, SANDBOXES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from oci_runtime.state.layout import Layout

_MAX_RECORD_BYTES = 8 << 20
_TYPES = {"id": str, "boot_id": str, "pid": int, "pid_start": int, "created": str, "resources": list}


class SandboxRecord:
    """The record of one sandbox in its directory; only the holder of the sandbox's lock may change it.

    `values` is the document of docs/internals.md; `values["resources"]` lists what must be undone, oldest first.
    """

    def __init__(self, directory: str, values: dict[str, Any]) -> None:
        self.directory = directory
        self.values = values

    @classmethod
    def new(cls, directory: str, sandbox_id: str, created: str) -> SandboxRecord:
        """Return an unsaved record of a sandbox that is about to boot."""
        values = {"id": sandbox_id, "boot_id": boot_id(), "pid": 0, "pid_start": 0, "created": created, "resources": []}
        return cls(directory, values)

    @classmethod
    def load(cls, directory: str) -> SandboxRecord | None:
        """Read the record in a sandbox directory; None when there is none. Raises InvalidInput, HostError."""
        path = os.path.join(directory, SANDBOX_FILE)
        try:
            values = json_text.loads(read_limited(path, _MAX_RECORD_BYTES))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise HostError.from_oserror(error, "read", path) from error
        except (ValueError, RecursionError) as error:
            raise InvalidInput(f"record {path} is damaged: {error}") from error
        if not isinstance(values, dict):
            raise InvalidInput(f"record {path} is damaged: it is not an object")
        for key, kind in _TYPES.items():
            if type(values.get(key, kind())) is not kind:
                raise InvalidInput(f"record {path} is damaged: {key} is {values[key]!r:.80}")
        return cls(directory, values)

    @property
    def id(self) -> str:
        """The sandbox's full id."""
        return str(self.values.get("id", ""))

    @property
    def is_of_this_boot(self) -> bool:
        """False when the kernel has been restarted since: its processes and mounts are gone."""
        return bool(self.values.get("boot_id") == boot_id())

    @property
    def resources(self) -> list[dict[str, Any]]:
        """What was put on the host, oldest first; anything malformed is left out."""
        return [entry for entry in self.values.get("resources", []) if isinstance(entry, dict)]

    def save(self) -> None:
        """Write the record atomically. Raises HostError."""
        data = json_text.dumps(self.values).encode()
        write_atomic(os.path.join(self.directory, SANDBOX_FILE), data)

    def add(self, resource: dict[str, Any]) -> None:
        """Record a resource; call it before making the resource. Raises HostError."""
        self.values.setdefault("resources", []).append(resource)
        self.save()

    def remove(self, resource: dict[str, Any]) -> None:
        """Forget a resource after undoing it. Raises HostError."""
        self.values["resources"] = [entry for entry in self.values.get("resources", []) if entry != resource]
        self.save()


def sandbox_directories(layout: Layout) -> Iterator[str]:
    """Yield the directories of all sandboxes, dead or alive."""
    try:
        names = sorted(os.listdir(os.path.join(layout.root, SANDBOXES)))
    except FileNotFoundError:
        return
    except OSError as error:
        raise HostError.from_oserror(error, "scan", os.path.join(layout.root, SANDBOXES)) from error
    for name in names:
        yield os.path.join(layout.root, SANDBOXES, name)
