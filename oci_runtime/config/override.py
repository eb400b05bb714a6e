"""Apply the settings that a pod asks for by annotation, as far as the administrator allows them."""

from __future__ import annotations

import os

from oci_runtime.annotations.settings import find_requests
from oci_runtime.config import model
from oci_runtime.config.load import ADMIN_FILE, VENDOR_FILE, build, check_together, suggest
from oci_runtime.config.settings import BY_NAME, SETTINGS
from oci_runtime.config.values import parse_value
from oci_runtime.errors import InvalidInput

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from oci_runtime.annotations.settings import SettingRequest
    from oci_runtime.config.settings import Setting, Value


# A pod adds to these: what the administrator put there stays.
_EXTENDED = ("vm.kernel_parameters", "agent.kernel_modules")


def apply_annotations(config: model.Config, annotations: Mapping[str, str]) -> tuple[model.Config, tuple[str, ...]]:
    """The configuration of one pod, and warnings for the user.

    Raises: InvalidInput for an unknown, forbidden or wrong setting; it names the annotation, its value, and for a
    forbidden one the line of configuration that would allow it.
    """
    requests, warnings = find_requests(annotations)
    if not requests:
        return config, warnings
    values = current_values(config)
    origins = dict(config.origins)
    for request in requests:
        setting = _allowed(config, request)
        value = parse_value(setting, request.value, f"annotation {request.key}")
        if setting.guard:
            _check_path(config, request, setting, str(value))
        _check_bound(config, request, setting, value)
        values[setting.name] = _extend(values[setting.name], value) if setting.name in _EXTENDED else value
        origins[setting.name] = f"annotation {request.key}"
    changed = build(values, origins, config.files)
    check_together(changed)
    return changed, warnings


def current_values(config: model.Config) -> dict[str, Value]:
    """All values by setting name."""
    return {setting.name: getattr(getattr(config, setting.section), setting.key) for setting in SETTINGS}


def _extend(old: Value, new: Value) -> Value:
    if isinstance(old, tuple) and isinstance(new, tuple):
        return old + tuple(item for item in new if item not in old)
    return f"{old} {new}".strip()


def _allowed(config: model.Config, request: SettingRequest) -> Setting:
    shown = f"annotation {request.key} = {_shorten(request.value)}"
    setting = BY_NAME.get(request.name)
    if setting is None:
        known = tuple(setting.name for setting in SETTINGS if setting.pod)
        raise InvalidInput(f"{shown}: there is no setting {request.name}{suggest(request.name, known)}")
    if not setting.pod:
        raise InvalidInput(f"{shown}: {setting.name} cannot be set by a pod, only in the configuration")
    import re

    if not any(re.fullmatch(pattern, setting.name) for pattern in config.runtime.enable_annotations):
        raise InvalidInput(
            f'{shown} is not allowed: add "{setting.name}" to enable_annotations in [runtime] of '
            f"{_file_to_change(config, 'runtime.enable_annotations')}"
        )
    return setting


def _check_path(config: model.Config, request: SettingRequest, setting: Setting, value: str) -> None:
    from fnmatch import fnmatchcase

    globs: tuple[str, ...] = getattr(config.runtime, setting.guard)
    depth = value.count("/")
    if not any(fnmatchcase(value, glob) and glob.count("/") == depth for glob in globs):
        raise InvalidInput(
            f"annotation {request.key} = {_shorten(value)} is not an allowed path: add it to {setting.guard} in "
            f"[runtime] of {_file_to_change(config, f'runtime.{setting.guard}')}"
        )


def _check_bound(config: model.Config, request: SettingRequest, setting: Setting, value: Value) -> None:
    """A pod may lower the administrator's upper bounds, never raise them."""
    if setting.name not in ("vm.max_vcpus", "vm.max_memory_mib"):
        return
    bound = getattr(config.vm, setting.key)
    if bound and (value == 0 or int(str(value)) > bound):
        raise InvalidInput(
            f"annotation {request.key} = {_shorten(request.value)} is more than {setting.name} = {bound} of "
            f"{_file_to_change(config, setting.name)}"
        )


def _file_to_change(config: model.Config, name: str) -> str:
    """The file that sets it; else the administrator's last one, else the one to be made."""
    source = config.origins.get(name)
    own = [file for file in config.files if not file.startswith(os.path.dirname(VENDOR_FILE) + "/")]
    return source or (own[-1] if own else ADMIN_FILE)


def _shorten(value: str) -> str:
    shown = value.encode("unicode_escape", "backslashreplace").decode("ascii")
    return f'"{shown if len(shown) <= 80 else shown[:79] + "…"}"'
