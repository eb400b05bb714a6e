"""The record of a container (`state.json`): what later verbs need, checked against reality when it is read."""

from __future__ import annotations

import os

from oci_runtime import json_text
from oci_runtime.errors import AlreadyExists, HostError, InvalidInput, NotFound
from oci_runtime.host.files import read_limited, write_atomic
from oci_runtime.host.processes import boot_id, is_alive
from oci_runtime.log import timestamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from oci_runtime.bundle.load import Bundle
    from oci_runtime.state.layout import Layout

CREATING, CREATED, RUNNING, PAUSED, STOPPED = "creating", "created", "running", "paused", "stopped"
STATUSES = (CREATING, CREATED, RUNNING, PAUSED, STOPPED)
MAX_RECORD_BYTES = 8 << 20
_REMEDY = "remove the container with delete --force"

_DEFAULTS: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "id": "",
    "status": CREATING,
    "pid": 0,
    "pid_start": 0,
    "creator": 0,
    "creator_start": 0,
    "bundle": "",
    "rootfs": "",
    "annotations": {},
    "created": "",
    "sandbox_id": "",
    "boot_id": "",
    "exit_code": None,
    "terminal": False,
    "owner": "root",
    "hooks": {},
    "cgroups": [],
}


class ContainerRecord:
    """One container. The attributes carry the names of the file's keys (`oci_version` for `ociVersion`).

    creator: the command that is creating it, 0 once it is created. exit_code: None while unknown.
    """

    oci_version: str
    id: str
    status: str
    pid: int
    pid_start: int
    creator: int
    creator_start: int
    bundle: str
    rootfs: str
    annotations: dict[str, str]
    created: str
    sandbox_id: str
    boot_id: str
    exit_code: int | None
    terminal: bool
    owner: str
    hooks: dict[str, list[dict[str, Any]]]
    cgroups: list[str]

    def __init__(self, values: dict[str, Any]) -> None:
        """values: keys of the file; missing ones take defaults. Raises InvalidInput for a value that cannot be."""
        for key, default in _DEFAULTS.items():
            value = values.get(key, default)
            if not _is_valid(key, value, default):
                raise InvalidInput(f"record of container {values.get('id')}: {key} is {value!r:.80}")
            if isinstance(value, (dict, list)):
                value = value.copy()
            setattr(self, "oci_version" if key == "ociVersion" else key, value)
        if self.status not in STATUSES:
            raise InvalidInput(f"record of container {self.id}: unknown status {self.status!r}")

    def as_dict(self) -> dict[str, Any]:
        """Return what the file holds."""
        return {key: getattr(self, "oci_version" if key == "ociVersion" else key) for key in _DEFAULTS}

    def actual_status(self) -> str:
        """Return the status after a look at the host: without a live process it is stopped."""
        if self.status == STOPPED or self.boot_id != boot_id():
            return STOPPED
        if self.status == CREATING:
            return CREATING if is_alive(self.creator, self.creator_start) else STOPPED
        return self.status if is_alive(self.pid, self.pid_start) else STOPPED

    def oci_state(self, status: str = "") -> dict[str, Any]:
        """Return the runtime specification's state document. status: known already, else looked up."""
        status = status or self.actual_status()
        state: dict[str, Any] = {
            "ociVersion": self.oci_version,
            "id": self.id,
            "pid": 0 if status == STOPPED else self.pid,
            "status": status,
            "bundle": self.bundle,
            "rootfs": self.rootfs,
            "created": self.created,
            "annotations": self.annotations,
            "owner": self.owner,
        }
        if not self.annotations:
            del state["annotations"]
        return state


def _is_valid(key: str, value: Any, default: Any) -> bool:
    """Whether later verbs can work with a value: of the default's type, and so are the things in it."""
    if default is None:
        return value is None or type(value) is int
    if type(value) is not type(default):
        return False
    if type(value) is int:
        return 0 <= value < 1 << (32 if key in ("pid", "creator") else 64)
    if key == "hooks":
        lists = value.values()
        return all(type(hooks) is list and all(_is_hook(hook) for hook in hooks) for hooks in lists)
    parts = value.values() if type(value) is dict else value if type(value) is list else ()
    return all(type(part) is str for part in parts)


def _is_hook(hook: Any) -> bool:
    return type(hook) is dict and type(hook.get("path")) is str


def describe(
    bundle: Bundle, container_id: str, sandbox_id: str, hooks: Mapping[str, list[dict[str, Any]]]
) -> ContainerRecord:
    """The record of a container that is about to be created. hooks: all of its hooks; the later ones are kept."""
    spec = bundle.spec
    return ContainerRecord(
        {
            "ociVersion": spec.oci_version,
            "id": container_id,
            "bundle": bundle.path,
            "rootfs": bundle.rootfs,
            "annotations": dict(spec.annotations),
            "created": timestamp(),
            "sandbox_id": sandbox_id,
            "boot_id": boot_id(),
            "terminal": bool(spec.process and spec.process.terminal),
            "hooks": {kind: hooks[kind] for kind in ("poststart", "poststop") if hooks.get(kind)},
        }
    )


def load(layout: Layout, container_id: str) -> ContainerRecord:
    """Read the record of a container. Raises NotFound, InvalidInput (damaged), HostError."""
    path = layout.state_file(container_id)
    try:
        values = json_text.loads(read_limited(path, MAX_RECORD_BYTES))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFound(f"container {container_id} does not exist") from error
    except OSError as error:
        raise HostError.from_oserror(error, "read", path) from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"record {path} is damaged: {error}, {_REMEDY}") from error
    if not isinstance(values, dict) or values.get("id") != container_id:
        raise InvalidInput(f"record {path} is damaged: it is not one of container {container_id}, {_REMEDY}")
    try:
        return ContainerRecord(values)
    except InvalidInput as error:
        raise InvalidInput(f"record {path} is damaged: {error.message}, {_REMEDY}") from error


def save(layout: Layout, record: ContainerRecord, *, sync: bool = True) -> None:
    """Write a record atomically. Raises HostError, with a hint when the disk is full."""
    data = json_text.dumps(record.as_dict()).encode()
    write_atomic(layout.state_file(record.id), data, sync=sync)


def update(layout: Layout, container_id: str, **changes: Any) -> ContainerRecord | None:
    """Change some fields of a record (names as in the file); None when the container is gone.

    A deleted container's directory is not brought back. The disk is not waited for: what has to be undone is on it
    since the creation, and how a container was doing means nothing once the kernel is gone. Raises HostError,
    InvalidInput.
    """
    try:
        record = load(layout, container_id)
        record = ContainerRecord({**record.as_dict(), **changes})
        save(layout, record, sync=False)
        return record
    except NotFound:
        return None
    except HostError:
        if os.path.isdir(layout.container(container_id)):
            raise
        return None


def claim(layout: Layout, container_id: str) -> None:
    """Make the directory of a new container. Raises AlreadyExists, HostError."""
    path = layout.container(container_id)
    try:
        os.mkdir(path, 0o711)
    except FileExistsError as error:
        raise AlreadyExists(f"container with id exists: {container_id}, delete it first") from error
    except OSError as error:
        raise HostError.from_oserror(error, "mkdir", path) from error


def list_ids(layout: Layout) -> list[str]:
    """Return the ids of all containers in the state directory, sorted."""
    try:
        entries = list(os.scandir(layout.root))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise HostError.from_oserror(error, "scan", layout.root) from error
    return sorted(entry.name for entry in entries if entry.name[:1] != "." and entry.is_dir(follow_symlinks=False))
