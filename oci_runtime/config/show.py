"""The configuration for people and programs: `config show`, the way to another process, and the documentation."""

from __future__ import annotations

from oci_runtime.config.load import build, origin
from oci_runtime.config.override import current_values
from oci_runtime.config.settings import LIST, SECTIONS, SETTINGS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from oci_runtime.config.model import Config
    from oci_runtime.config.settings import Setting, Value


def render_text(config: Config) -> str:
    """Valid TOML with the effective value of every setting, and in a comment where it came from."""
    values = current_values(config)
    lines = [f"# read: {', '.join(config.files) or 'no file, built-in defaults only'}"]
    for section in SECTIONS:
        lines += ["", f"[{section}]"]
        for setting in SETTINGS:
            if setting.section == section:
                assignment = f"{setting.key} = {to_toml(values[setting.name])}"
                lines.append(f"{assignment:<44} # {origin(config, setting.name)}")
    return "\n".join(lines) + "\n"


def to_json(config: Config) -> dict[str, Any]:
    """`config show --format json`: {"files": [...], "settings": {"vm": {"machine": {"value", "origin"}}}}."""
    values = current_values(config)
    settings: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for setting in SETTINGS:
        value = values[setting.name]
        settings[setting.section][setting.key] = {
            "value": list(value) if isinstance(value, tuple) else value,
            "origin": origin(config, setting.name),
        }
    return {"files": list(config.files), "settings": settings}


def from_json(shown: Mapping[str, Any]) -> Config:
    """Rebuild a configuration from to_json's object, within one version of vmpod (KeyError otherwise)."""
    values: dict[str, Value] = {}
    origins: dict[str, str] = {}
    for setting in SETTINGS:
        entry = shown["settings"][setting.section][setting.key]
        values[setting.name] = tuple(entry["value"]) if setting.kind == LIST else entry["value"]
        if entry["origin"] != "default":
            origins[setting.name] = entry["origin"]
    return build(values, origins, tuple(shown["files"]))


def to_toml(value: Value) -> str:
    """One value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    import json

    # A JSON string is a TOML basic string as long as it holds no lone surrogates, which no file can bring here.
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return "[" + ", ".join(json.dumps(item, ensure_ascii=False) for item in value) + "]"


def render_reference() -> str:
    """The tables of docs/configuration.md: one per section, from the table of settings."""
    parts: list[str] = []
    for section in SECTIONS:
        parts += [f"### `[{section}]`", "", "| Key | Type | Default | Pod | Meaning |", "|---|---|---|---|---|"]
        parts += [_row(setting) for setting in SETTINGS if setting.section == section]
        parts.append("")
    return "\n".join(parts)


def _row(setting: Setting) -> str:
    kind: str = setting.kind
    if setting.choices:
        kind = " \\| ".join(f"`{choice}`" for choice in setting.choices)
    elif setting.kind == "integer":
        kind = f"integer {setting.low} to {setting.high}"
    elif setting.kind == LIST:
        kind = {"regex": "regular expressions", "glob": "path globs", "module": "modules"}.get(setting.items, "strings")
        kind = f"list of {kind}"
    pod = "yes" if setting.pod else "no"
    if setting.guard:
        pod = f"paths in `{setting.guard}`"
    return f"| `{setting.key}` | {kind} | `{to_toml(setting.default)}` | {pod} | {setting.help} |"
