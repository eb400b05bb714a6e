"""Pods in virtual machines whose network namespaces a test has made, and a namespace that plays their host."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.engine import Engine, crio
from tests.network_lab import Netns

_CAPABILITIES = (
    *("CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE", "CAP_SYS_ADMIN", "CAP_KILL", "CAP_DAC_OVERRIDE"),
    *("CAP_SETUID", "CAP_SETGID", "CAP_CHOWN", "CAP_FOWNER"),
)
# Directories of the host, read-only in a container that needs more than busybox.
_HOST_DIRECTORIES = ("/usr", "/etc")
_LINKS = {"bin": "usr/bin", "sbin": "usr/sbin", "lib": "usr/lib", "lib64": "usr/lib64"}


class NetworkEngine(Engine):
    """An engine whose containers may do everything to their pod's network. VMPOD_TEST_IMAGE names another image."""

    @classmethod
    def make(cls, directory: Path, allowed: str = "", **settings: Any) -> NetworkEngine:
        """settings: of the `[network]` section. allowed: a setting that pods may choose."""
        directory.mkdir(parents=True, exist_ok=True)
        config = directory / "config.toml"
        lines = [f"{name} = {value!r}".replace("'", '"') for name, value in settings.items()]
        image = os.environ.get("VMPOD_TEST_IMAGE", "default")
        runtime = ["[runtime]", f'enable_annotations = ["{allowed}"]'] if allowed else []
        config.write_text("\n".join(["[image]", f'name = "{image}"', "[network]", *lines, *runtime, ""]))
        return cls(directory / "engine", config=config)

    def start_pod(self, name: str, netns: Netns | str | None, argv: Sequence[str] = (), **changes: Any) -> None:
        """Run a sandbox container in the namespace (None: one that the runtime makes)."""
        self.run(name, argv or ["sleep", "100000"], **self.changes(netns, crio("sandbox", name), changes))

    def refuse_pod(self, name: str, netns: Netns | str, **changes: Any) -> str:
        """Create a pod that must fail; return what the user reads."""
        result = self.create(name, ["sleep", "9"], check=False, **self.changes(netns, crio("sandbox", name), changes))
        assert result.code != 0
        return result.err

    def add_container(self, pod: str, name: str, argv: Sequence[str], *, tools: bool = False) -> None:
        """Run a further container. tools: with the host's programs, such as iptables, instead of busybox alone."""
        changes: dict[str, Any] = {}
        if tools:
            root = self._tools_root()
            binds = [
                {"destination": where, "type": "bind", "source": where, "options": ["rbind", "ro"]}
                for where in _HOST_DIRECTORIES
            ]
            trees = [{"destination": "/proc", "type": "proc", "source": "proc"}]
            trees += [{"destination": where, "type": "tmpfs", "source": "tmpfs"} for where in ("/dev", "/run", "/tmp")]
            changes = {"root": {"path": str(root)}, "mounts": [*trees, *binds]}
        # A member of a pod names the pod's namespaces; its network is the machine's whatever the path says.
        self.run(name, argv, **self.changes(None, crio("container", pod), changes))

    def changes(self, netns: Netns | str | None, annotations: dict[str, str], more: dict[str, Any]) -> dict[str, Any]:
        """The members of a bundle for a pod in that namespace."""
        path = netns.path if isinstance(netns, Netns) else netns
        network = {"type": "network"} | ({"path": path} if path else {})
        namespaces = [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]
        process = {"capabilities": {kind: list(_CAPABILITIES) for kind in ("bounding", "effective", "permitted")}}
        return {
            "annotations": annotations,
            "linux": {"namespaces": [*namespaces, network]},
            "process": process,
        } | more

    def _tools_root(self) -> Path:
        root = self.directory / "tools"
        if not root.exists():
            for name in ("proc", "dev", "run", "tmp", "usr", "etc"):
                (root / name).mkdir(parents=True)
            for name, target in _LINKS.items():
                (root / name).symlink_to(target)
        return root
