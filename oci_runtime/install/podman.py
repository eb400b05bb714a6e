"""podman: a drop-in of containers.conf that names the runtime `vmpod`, for `podman --runtime vmpod`."""

from __future__ import annotations

import json

DROP_INS = "/etc/containers/containers.conf.d"
NAME = "50-vmpod.conf"
_TEXT = """\
# podman's runtime "vmpod": `podman --runtime vmpod run ...`, or `runtime = "vmpod"` below [engine] for all containers.
[engine.runtimes]
vmpod = [{command}]
"""


def render_drop_in(bin_directory: str) -> bytes:
    """The drop-in's content. bin_directory: where the command is."""
    return _TEXT.replace("{command}", json.dumps(f"{bin_directory}/vmpod")).encode()
