"""Direct volumes: paths for which the machine gets a disk of its own instead of what is mounted at them on the host.

A storage driver registers one with `vmpod volume add` before the pod is created; the mount whose source is that path
then becomes the disk's file system, mounted in the guest. A record is the reference's mountInfo.json, in a directory
named by a hash of the path, beside `path` and one file for each pod that has the volume. Imports little.
"""

from __future__ import annotations

import os

from oci_runtime.errors import HostError, InvalidInput, NotFound
from oci_runtime.host.files import read_limited, remove_flat, write_atomic
from oci_runtime.storage import superblock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

INFO = "mountInfo.json"
_PATH = "path"
_POD = "pod-"
_MAX_INFO_BYTES = 64 << 10
_TYPES = ("block", "blk", "directvol")
# Numbers and words of a mount's options go into one page, and not through a shell.
_MAX_OPTIONS = 64


def add(directory: str, path: str, info: str) -> None:
    """Register a volume, or replace its record. Raises: InvalidInput (path or mountInfo), HostError."""
    path = _normalised(path)
    parse(info, path)
    place = _place(directory, path)
    try:
        os.makedirs(place, mode=0o700, exist_ok=True)
    except OSError as error:
        raise HostError.from_oserror(error, "mkdir", place) from error
    write_atomic(os.path.join(place, _PATH), os.fsencode(path))
    write_atomic(os.path.join(place, INFO), info.encode())


def remove(directory: str, path: str) -> None:
    """Forget a volume. Raises: NotFound, HostError."""
    place = _place(directory, _normalised(path))
    if not os.path.isdir(place):
        raise NotFound(f"volume {path} is not registered")
    remove_flat(place)


def find(directory: str, path: str) -> dict[str, Any] | None:
    """The record of the volume at `path`, None if there is none; `volume_path` is the path.

    Raises: InvalidInput (a broken record), HostError.
    """
    if not directory or not os.path.isdir(directory):
        return None
    path = os.path.normpath(path)
    file = os.path.join(_place(directory, path), INFO)
    try:
        text = read_limited(file, _MAX_INFO_BYTES).decode()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        number = error.errno or 0 if isinstance(error, OSError) else 0
        raise HostError("read", file, number) from error
    return parse(text, path)


def parse(text: str, path: str) -> dict[str, Any]:
    """Check a mountInfo and return it with `volume_path`. Raises: InvalidInput naming what is wrong."""
    import json

    what = f"mountInfo of volume {path}"
    try:
        info = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{what} is not JSON: {error}") from error
    if not isinstance(info, dict):
        raise InvalidInput(f"{what} is not a JSON object")
    if info.get("volume-type") not in _TYPES:
        raise InvalidInput(f"{what}: volume-type {info.get('volume-type')!r} is not one of {', '.join(_TYPES)}")
    device = info.get("device")
    if not isinstance(device, str) or not device.startswith("/") or "\0" in device:
        raise InvalidInput(f"{what}: device {device!r} is not an absolute path")
    if info.get("fstype") not in superblock.NAMES:
        raise InvalidInput(f"{what}: fstype {info.get('fstype')!r} is not one of {', '.join(superblock.NAMES)}")
    options = info.get("options") or []
    if not _are_strings(options) or len(options) > _MAX_OPTIONS:
        raise InvalidInput(f"{what}: options are not a list of at most {_MAX_OPTIONS} strings")
    metadata = info.get("metadata") or {}
    if not isinstance(metadata, dict) or not str(metadata.get("fsGroup", "0")).isdigit():
        raise InvalidInput(f"{what}: metadata is not an object, or its fsGroup not a number")
    return {**info, "volume_path": path}


def _are_strings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def note_pod(directory: str, path: str, pod: str, sandbox_directory: str) -> None:
    """Write down that a pod has the volume, for those who ask for its statistics. Raises: HostError."""
    write_atomic(os.path.join(_place(directory, path), _POD + pod), os.fsencode(sandbox_directory), sync=False)


def forget_pod(directory: str, path: str, pod: str) -> None:
    """Take that back. Idempotent."""
    try:
        os.unlink(os.path.join(_place(directory, path), _POD + pod))
    except FileNotFoundError:
        return


def pods_of(directory: str, path: str) -> list[str]:
    """The directories of the sandboxes that have the volume. Raises: NotFound (not registered)."""
    place = _place(directory, _normalised(path))
    try:
        names = sorted(name for name in os.listdir(place) if name.startswith(_POD))
        return [os.fsdecode(read_limited(os.path.join(place, name), 4096)) for name in names]
    except FileNotFoundError:
        raise NotFound(f"volume {path} is not registered") from None


def _normalised(path: str) -> str:
    if not path.startswith("/") or "\0" in path:
        raise InvalidInput(f"volume path {path!r} is not an absolute path")
    return os.path.normpath(path)


def _place(directory: str, path: str) -> str:
    import hashlib

    return os.path.join(directory, hashlib.sha256(os.fsencode(path)).hexdigest())
