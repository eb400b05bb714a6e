"""containerd: two handlers of its CRI plugin, `vmpod` and `untrusted`, in a block at the end of config.toml.

A block and not an imported file: containerd replaces whole plugin sections by those of an import, which would take the
rest of the CRI plugin's settings away.
"""

from __future__ import annotations

import json
import tomllib

from oci_runtime.errors import InvalidInput

DEFAULT_CONFIG = "/etc/containerd/config.toml"
RUNTIME_TYPE = "io.containerd.vmpod.v2"
SHIM = "containerd-shim-vmpod-v2"
HANDLERS = ("vmpod", "untrusted")
ANNOTATIONS = ("io.vmpod.*", "io.katacontainers.*")
BEGIN = "# vmpod: begin (written by `vmpod install containerd`, removed by the same with --uninstall)\n"
END = "# vmpod: end\n"
_PLUGINS = {2: "io.containerd.grpc.v1.cri", 3: "io.containerd.cri.v1.runtime"}


def render_block(version: int, config_path: str = "") -> str:
    """The two handlers for a configuration of that version (2: containerd 1.x, 3: 2.x).

    config_path: a configuration of vmpod's that the handlers use instead of the standard one. Raises: InvalidInput.
    """
    plugin = _PLUGINS.get(version)
    if plugin is None:
        raise InvalidInput(
            f"containerd's configuration has version {version}: 2 and 3 are known (`containerd config migrate` helps)"
        )
    annotations = json.dumps(list(ANNOTATIONS))
    lines = [BEGIN]
    for handler in HANDLERS:
        table = f'plugins."{plugin}".containerd.runtimes.{handler}'
        lines += [
            f"[{table}]\n",
            f'  runtime_type = "{RUNTIME_TYPE}"\n',
            "  # A privileged container gets the devices of its machine, never those of the host.\n",
            "  privileged_without_host_devices = true\n",
            "  # Settings for one pod; which of them count is decided in vmpod's own configuration.\n",
            f"  pod_annotations = {annotations}\n",
            f"  container_annotations = {annotations}\n",
        ]
        if config_path:
            lines += [
                f"  [{table}.options]\n",
                '    TypeUrl = "runtimeoptions.v1.Options"\n',
                f"    ConfigPath = {json.dumps(config_path)}\n",
            ]
    return "".join([*lines, END])


def strip_block(content: bytes) -> bytes:
    """The configuration without our block, and without the empty line that was put before it."""
    begin, end = BEGIN.encode(), END.encode()
    start = content.find(begin)
    stop = content.find(end, start)
    if start < 0 or stop < 0:
        return content
    head = content[:start]
    return head.removesuffix(b"\n") + content[stop + len(end) :]


def plan_config(content: bytes | None, config_path: str = "", *, default_version: int = 2) -> bytes:
    """The new content of config.toml; an older block of ours is replaced.

    content: None when there is no file. Raises: InvalidInput when it is not understood, or has such handlers already.
    """
    if content is None:
        return f"version = {default_version}\n\n".encode() + render_block(default_version, config_path).encode()
    rest = strip_block(content)
    try:
        parsed = tomllib.loads(rest.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"containerd's configuration is not TOML: {error}") from error
    version = parsed.get("version", 1)
    block = render_block(version if isinstance(version, int) else 0, config_path)
    runtimes = parsed.get("plugins", {}).get(_PLUGINS[version], {}).get("containerd", {}).get("runtimes", {})
    for handler in HANDLERS:
        if handler in runtimes:
            raise InvalidInput(
                f"containerd's configuration has a runtime {handler!r} already: remove it, or edit it by hand"
                " (containerd/vmpod.toml shows what it needs)"
            )
    result = rest + b"\n" + block.encode() if rest.endswith(b"\n") or not rest else rest + b"\n\n" + block.encode()
    try:
        tomllib.loads(result.decode())
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(
            f"containerd's configuration cannot take further tables at its end ({error}): add those of"
            " containerd/vmpod.toml by hand"
        ) from error
    return result
