"""Find and read the configuration: built-in defaults, then the vendor's file, then the administrator's.

Each file has drop-ins beside it, `config.d/*.toml`, read in the order of their names. Where no file exists nothing is
imported: `create` and the sandbox process come by here.
"""

from __future__ import annotations

import os
import stat

from oci_runtime.config import model
from oci_runtime.config.settings import BY_NAME, SECTIONS, SETTINGS
from oci_runtime.config.values import check_value
from oci_runtime.errors import HostError, InvalidInput, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from oci_runtime.config.settings import Value

VENDOR_FILE = "/usr/share/vmpod/config.toml"
ADMIN_FILE = "/etc/vmpod/config.toml"
ENVIRONMENT = "VMPOD_CONFIG"
DROP_INS = "config.d"
MAX_FILE_BYTES = 1 << 20

_CLASSES = {
    "vm": model.VmConfig,
    "image": model.ImageConfig,
    "storage": model.StorageConfig,
    "network": model.NetworkConfig,
    "runtime": model.RuntimeConfig,
    "agent": model.AgentConfig,
    "log": model.LogConfig,
}


def load_config(explicit: str = "", environment: Mapping[str, str] | None = None) -> model.Config:
    """Read the configuration.

    explicit: the file of --config; it takes the place of both standard files (its own config.d still counts).
    environment: where VMPOD_CONFIG is looked up, which does the same; the process's own by default.
    Raises: NotFound for an explicit file; InvalidInput naming file and key; HostError.
    """
    variables = os.environ if environment is None else environment
    chosen = explicit or variables.get(ENVIRONMENT, "")
    if chosen:
        return load_files(_with_drop_ins(os.path.abspath(chosen), required=True))
    return load_files([*_with_drop_ins(VENDOR_FILE), *_with_drop_ins(ADMIN_FILE)])


def load_files(files: list[str]) -> model.Config:
    """Read just these files, later ones over earlier ones. Raises: as load_config."""
    values: dict[str, Value] = {}
    origins: dict[str, str] = {}
    for file in files:
        for name, value in _read_file(file).items():
            values[name] = value
            origins[name] = file
    config = build(values, origins, tuple(files))
    check_together(config)
    return config


def build(values: Mapping[str, Value], origins: Mapping[str, str], files: tuple[str, ...] = ()) -> model.Config:
    """The configuration with these values (by setting name) over the defaults; they are taken as checked."""
    sections: dict[str, dict[str, Value]] = {section: {} for section in SECTIONS}
    for setting in SETTINGS:
        sections[setting.section][setting.key] = values.get(setting.name, setting.default)
    built: dict[str, Any] = {name: _CLASSES[name](**fields) for name, fields in sections.items()}
    return model.Config(**built, origins=origins, files=files)


def check_together(config: model.Config) -> None:
    """What single values cannot show. Raises: InvalidInput naming both settings and where they came from."""
    for low, high in (("default_vcpus", "max_vcpus"), ("default_memory_mib", "max_memory_mib")):
        least, most = getattr(config.vm, low), getattr(config.vm, high)
        if most and least > most:
            raise InvalidInput(
                f"vm.{low} = {least} ({origin(config, f'vm.{low}')}) is more than "
                f"vm.{high} = {most} ({origin(config, f'vm.{high}')})"
            )
    if config.vm.uid_base + config.vm.uid_count > 1 << 32:
        raise InvalidInput(
            f"vm.uid_base = {config.vm.uid_base} and vm.uid_count = {config.vm.uid_count} go beyond the last user id"
        )
    if config.runtime.vm == "untrusted" and not config.runtime.namespace_runtime:
        raise InvalidInput('runtime.vm = "untrusted" needs runtime.namespace_runtime, the path of crun or runc')


def origin(config: model.Config, name: str) -> str:
    """Where a setting's value came from: a file, an annotation, or `default`."""
    return config.origins.get(name, "default")


def _with_drop_ins(file: str, *, required: bool = False) -> list[str]:
    found = []
    if os.path.exists(file):
        found.append(file)
    elif required:
        raise NotFound(f"configuration file {file} does not exist")
    directory = os.path.join(os.path.dirname(file), DROP_INS)
    try:
        names = sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return found
    except OSError as error:
        raise HostError.from_oserror(error, "read", directory) from error
    return found + [os.path.join(directory, name) for name in names if name.endswith(".toml") and name[0] != "."]


def _read_file(file: str) -> dict[str, Value]:
    import tomllib

    data = _read_bytes(file)
    try:
        sections = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file} is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise InvalidInput(f"{file} is not TOML: {error}") from None
    values: dict[str, Value] = {}
    for section, content in sections.items():
        if section not in SECTIONS:
            raise _unknown(file, section, "section", SECTIONS)
        if not isinstance(content, dict):
            raise InvalidInput(f"{file}: {section} must be a section, written [{section}]")
        for key, value in content.items():
            setting = BY_NAME.get(f"{section}.{key}")
            if setting is None:
                raise _unknown(file, f"{section}.{key}", "setting", tuple(BY_NAME))
            values[setting.name] = check_value(setting, value, f"{file}: {setting.name}")
    return values


def _read_bytes(file: str) -> bytes:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise HostError.from_oserror(error, "open", file) from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidInput(f"configuration {file} is not a regular file")
        if status.st_mode & stat.S_IWOTH:
            raise InvalidInput(f"configuration {file} can be written by everybody: chmod o-w {file}")
        data = os.read(descriptor, MAX_FILE_BYTES + 1)
    except OSError as error:
        raise HostError.from_oserror(error, "read", file) from error
    finally:
        os.close(descriptor)
    if len(data) > MAX_FILE_BYTES:
        raise InvalidInput(f"configuration {file} is larger than {MAX_FILE_BYTES} bytes")
    return data


def _unknown(where: str, name: str, what: str, known: tuple[str, ...]) -> InvalidInput:
    return InvalidInput(f"{where}: unknown {what} {name}{suggest(name, known)}")


def suggest(name: str, known: tuple[str, ...]) -> str:
    """A remedy for a misspelt name: the nearest known one, empty where none is near."""
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    if not near:
        last = name.rpartition(".")[2]
        near = [other for other in known if other.rpartition(".")[2] == last][:1]
    return f", did you mean {near[0]}?" if near else ""
