"""Which containers a namespace runtime (crun or runc) has, and with which global options it was given them.

One file each, `<root>/.delegated/<id>`, because `<root>/<id>` is the namespace runtime's when it has the same --root.
"""

from __future__ import annotations

import os

from oci_runtime import json_text
from oci_runtime.errors import HostError, InvalidInput
from oci_runtime.host.files import read_limited, write_atomic
from oci_runtime.record import Record
from oci_runtime.state.layout import DELEGATED, make_private_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.state.layout import Layout

_MAX_BYTES = 1 << 20


class Delegated(Record):
    """runtime: path of the namespace runtime. options: the global options that tell it where its container is."""

    runtime: str
    options: tuple[str, ...]


def load(layout: Layout, container_id: str) -> Delegated | None:
    """Return the record of a delegated container, None when it is not one. Raises InvalidInput, HostError."""
    path = layout.delegated(container_id)
    try:
        values = json_text.loads(read_limited(path, _MAX_BYTES))
        options = values["options"]
        if not all(isinstance(word, str) for word in (values["runtime"], *options)):
            raise TypeError("not all words are strings")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise HostError.from_oserror(error, "read", path) from error
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"record {path} is damaged: nothing else says which runtime has container {container_id}, remove the file"
            " once you know that the container is gone"
        ) from error
    return Delegated(runtime=values["runtime"], options=tuple(options))


def save(layout: Layout, container_id: str, record: Delegated) -> None:
    """Write a record. Raises HostError, InvalidInput (the directory is open to others)."""
    try:
        make_private_directory(os.path.join(layout.root, DELEGATED))
    except OSError as error:
        raise HostError.from_oserror(error, "mkdir", layout.root) from error
    text = json_text.dumps({"runtime": record.runtime, "options": list(record.options)})
    write_atomic(layout.delegated(container_id), text.encode())


def forget(layout: Layout, container_id: str) -> None:
    """Remove a record; one that is gone already is fine. Raises HostError."""
    path = layout.delegated(container_id)
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise HostError.from_oserror(error, "unlink", path) from error
