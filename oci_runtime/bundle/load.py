"""Read bundles, process files and resource files from disk: bounded, with the position of whatever is wrong."""

from __future__ import annotations

import json
import os
import stat

from oci_runtime.bundle.decode import decode_resources, decode_spec
from oci_runtime.bundle.linux import Resources
from oci_runtime.bundle.model import Spec
from oci_runtime.bundle.values import format_path, show, show_path
from oci_runtime.errors import HostError, InvalidInput, NotFound, OciRuntimeError, Unsupported
from oci_runtime.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_CONFIG_BYTES = 8 << 20
MAX_DEPTH = 64


class Bundle(Record):
    """A bundle that was read and found correct.

    path: absolute. raw: config.json as `json` reads it; it travels to the guest. rootfs: absolute path of the root file
    system in the reader's mount namespace.
    """

    path: str
    spec: Spec
    raw: dict[str, Any]
    rootfs: str


def load_bundle(path: str, *, check_rootfs: bool = True) -> Bundle:
    """Read and check the bundle in a directory.

    check_rootfs: False for callers that mount the root file system later (containerd's shim API).
    Raises: NotFound for the directory, config.json or rootfs; InvalidInput; Unsupported (ociVersion); HostError.
    """
    directory = os.path.abspath(path)
    if not os.path.isdir(directory):
        raise NotFound(f"bundle {directory} does not exist or is not a directory")
    config = os.path.join(directory, "config.json")
    raw = read_json_object(config)
    try:
        spec = decode_spec(raw, config)
    except (InvalidInput, Unsupported) as error:
        raise _explain(error, raw, directory) from None
    rootfs = os.path.normpath(os.path.join(directory, spec.root.path))
    if check_rootfs and not is_rootfs(rootfs):
        raise NotFound(
            f"root file system {show_path(rootfs)} of bundle {directory} does not exist or is not a directory or disk"
        )
    return Bundle(path=directory, spec=spec, raw=raw, rootfs=rootfs)


def is_rootfs(path: str) -> bool:
    """Whether there is something that can hold a root file system: a directory, a block device or an image file."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISDIR(mode) or stat.S_ISBLK(mode) or stat.S_ISREG(mode)


def _explain(error: OciRuntimeError, raw: dict[str, Any], directory: str) -> OciRuntimeError:
    """The first error, with all others in its detail. Time does not matter any more, jsonschema does the work."""
    try:
        from oci_runtime.bundle.check import check_spec
    except ImportError:
        return error
    problems = check_spec(raw)
    more = f" (and {len(problems) - 1} more: vmpod spec check {directory})" if len(problems) > 1 else ""
    return type(error)(error.message + more, detail="\n".join(map(str, problems)) if len(problems) > 1 else "")


def load_resources(path: str, descriptor: int | None = None) -> tuple[Resources, dict[str, Any]]:
    """Read the file of `update --resources`. descriptor: read from it instead, e.g. 0 for standard input."""
    if descriptor is None:
        raw = read_json_object(path)
    else:
        raw = parse_json_object(_read_all(descriptor, path), path)
    return decode_resources(raw, path), raw


def read_json_object(path: str) -> dict[str, Any]:
    """Read a regular file of at most 8 MiB that holds one JSON object.

    Raises: NotFound; HostError for other failures to read; InvalidInput as parse_json_object.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        raise NotFound(f"{path} does not exist") from None
    except OSError as error:
        raise HostError.from_oserror(error, "open", path) from error
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidInput(f"{path} is not a regular file")
        return parse_json_object(_read_all(descriptor, path), path)
    finally:
        os.close(descriptor)


def _read_all(descriptor: int, path: str) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while size <= MAX_CONFIG_BYTES:
        try:
            chunk = os.read(descriptor, 1 << 20)
        except OSError as error:
            raise HostError.from_oserror(error, "read", path) from error
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)
        size += len(chunk)
    raise InvalidInput(f"{path} is larger than {MAX_CONFIG_BYTES} bytes")


def parse_json_object(data: bytes, source: str) -> dict[str, Any]:
    """Parse strict JSON: UTF-8, no repeated keys, no NaN, no unpaired surrogates, at most 64 levels.

    Raises: InvalidInput with source, line and column or JSON path.
    """
    try:
        content = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{source} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}") from None
    try:
        value = json.loads(content, object_pairs_hook=_unique, parse_float=_finite, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{source} is not JSON: line {error.lineno} column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise InvalidInput(f"{source} nests deeper than {MAX_DEPTH} levels") from None
    except ValueError as error:
        raise InvalidInput(f"{source}: {error}") from None
    if type(value) is not dict:
        raise InvalidInput(f"{source} must hold a JSON object, not {show(value)}")
    _check_depth(value, source)
    if "\\ud" in content or "\\uD" in content:
        _check_surrogates(value, source, [])
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {show(key)} occurs twice in one object")
            seen.add(key)
    return result


def _finite(digits: str) -> float:
    """1e999 would become infinity, which no JSON writer can pass on."""
    value = float(digits)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {show_path(digits)} is too large")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _check_depth(value: object, source: str) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            for child in (parent.values() if type(parent) is dict else parent)  # type: ignore[attr-defined]
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return
    raise InvalidInput(f"{source} nests deeper than {MAX_DEPTH} levels")


def _check_surrogates(value: object, source: str, path: list[str | int]) -> None:
    """An escape such as \\ud800 without its partner makes a string that no file name or argument can hold."""
    if type(value) is str:
        if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
            raise InvalidInput(f"{source}: {format_path(path)} holds half of a surrogate pair")
    elif type(value) is list:
        for index, element in enumerate(value):
            _check_surrogates(element, source, [*path, index])
    elif type(value) is dict:
        for key, element in value.items():
            _check_surrogates(key, source, path)
            _check_surrogates(element, source, [*path, key])
