"""`vmpod volume`: register disks as volumes of pods, and look at and grow those that pods have."""

from __future__ import annotations

import json
import os

from oci_runtime.cli import podops
from oci_runtime.cli.options import Option, UsageError
from oci_runtime.errors import InvalidInput, NotFound, OciRuntimeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oci_runtime.cli.context import Context
    from oci_runtime.cli.options import Parsed

SUMMARY = "register, measure and grow volumes that are disks of their own"
USAGE = "add --volume-path PATH --mount-info JSON|FILE|- | remove|stats --volume-path PATH | resize … --size BYTES"
OPTIONS = (
    Option("volume-path", "PATH", "the mount source that the volume stands for"),
    Option("mount-info", "JSON", "what to mount there: volume-type, device, fstype, options, metadata"),
    Option("size", "BYTES", "the size that the disk has now, for resize"),
)
_NEEDED = {"add": {"mount-info"}, "remove": set(), "stats": set(), "resize": {"size"}}
_TIMEOUT_S = 90.0


def run(context: Context, parsed: Parsed) -> int:
    """Perform the verb; `stats` prints the reference's JSON. Raises NotFound when no running pod has the volume."""
    from oci_runtime.config.load import load_config
    from oci_runtime.storage import volumes

    verb = parsed.rest[0] if len(parsed.rest) == 1 else ""
    path = parsed.get("volume-path")
    if verb not in _NEEDED or not path or _NEEDED[verb] != set(parsed.values) - {"volume-path"}:
        raise UsageError("requires a verb and its options")
    directory = load_config(context.config).storage.direct_volumes
    if verb == "add":
        volumes.add(directory, path, podops.read_input(parsed.get("mount-info"), "mount info"))
    elif verb == "remove":
        volumes.remove(directory, path)
    else:
        arguments = {"path": os.path.normpath(path)}
        if verb == "resize":
            size = parsed.get_int("size")
            if size is None or size <= 0:
                raise InvalidInput(f"--size {parsed.get('size')} is not a number of bytes")
            arguments |= {"size": size}  # type: ignore[dict-item]
        answer = _ask(volumes.pods_of(directory, path), path, verb, arguments)
        if verb == "stats":
            print(json.dumps(_as_reference(answer)))
    return 0


def _ask(pods: list[str], path: str, verb: str, arguments: dict[str, str]) -> dict[str, int]:
    """Send a request to the first pod that answers: a record may outlive its pod."""
    from oci_runtime.control.client import Client

    failure: OciRuntimeError = NotFound(f"no running pod has volume {path}")
    for directory in pods:
        try:
            client = Client.connect(directory, _TIMEOUT_S)
        except (OciRuntimeError, OSError):
            continue
        with client:
            try:
                return dict(client.call("volume", verb=verb, **arguments)["stats"])
            except NotFound as error:
                failure = error
    raise failure


def _as_reference(stats: dict[str, int]) -> dict[str, object]:
    """The Container Storage Interface's units: 1 for bytes, 2 for inodes."""
    usage = [
        {
            "available": stats[f"available_{unit}"],
            "total": stats[f"total_{unit}"],
            "used": stats[f"used_{unit}"],
            "unit": number,
        }
        for unit, number in (("bytes", 1), ("inodes", 2))
    ]
    return {"usage": usage, "volume_condition": {"abnormal": False, "message": ""}}
