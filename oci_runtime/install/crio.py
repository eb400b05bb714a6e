"""CRI-O: one drop-in for each interface, handlers `vmpod` (command line) and `vmpod-vm` (shim)."""

from __future__ import annotations

DROP_INS = "/etc/crio/crio.conf.d"
DEFAULT_BIN = "/usr/local/bin"
_ANNOTATIONS = """allowed_annotations = [
  "io.kubernetes.cri-o.ShmSize",
  "io.kubernetes.cri-o.umask",
  "io.kubernetes.cri-o.UnifiedCgroup",
]
"""
_COMMAND_LINE = """\
# CRI-O handler "vmpod": every pod in a virtual machine of its own, through the OCI command line.
# Copy to /etc/crio/crio.conf.d/ and restart CRI-O. docs/crio.md explains each line.

[crio.runtime.runtimes.vmpod]
runtime_path = "{bin}/vmpod"
runtime_type = "oci"
# vmpod's state directory: give each handler one of its own.
runtime_root = "/run/vmpod"
monitor_path = "/usr/bin/conmon"
# "pod" counts conmon with the pod that it watches.
monitor_cgroup = "pod"
# A privileged container gets the devices of its machine, never those of the host.
privileged_without_host_devices = true
# What CRI-O itself understands and passes on for pods of this handler.
{annotations}"""
_SHIM = """\
# CRI-O handler "vmpod-vm": the same through containerd's shim API, one shim process per pod and no conmon.
# Copy to /etc/crio/crio.conf.d/ and restart CRI-O. docs/crio.md says how to choose between the two.

[crio.runtime.runtimes.vmpod-vm]
# CRI-O insists on a name of the form containerd-shim-NAME-v2.
runtime_path = "{bin}/containerd-shim-vmpod-v2"
runtime_type = "vm"
runtime_root = "/run/vmpod-vm"
# An absolute path to a configuration of its own; CRI-O refuses to start when the file does not exist.
# runtime_config_path = "/etc/vmpod/config.toml"
privileged_without_host_devices = true
{annotations}"""


def render_drop_ins(bin_directory: str = DEFAULT_BIN) -> dict[str, bytes]:
    """File name to content. bin_directory: where the two commands are."""
    texts = {"10-vmpod.conf": _COMMAND_LINE, "20-vmpod-vm.conf": _SHIM}
    return {
        name: text.replace("{bin}", bin_directory).replace("{annotations}", _ANNOTATIONS).encode()
        for name, text in texts.items()
    }
